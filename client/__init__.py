"""The Python client and the terminal chat; imports no torch."""
