"""The contributor's daemon: limits, expert store, executor, link."""
