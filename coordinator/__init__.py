"""The operator's process: links, dispatch, placement, engine, API."""
