"""Steps, KV pages, scheduling and sampling."""
