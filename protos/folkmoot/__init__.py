"""Generated modules live below; see ../generate.py."""
