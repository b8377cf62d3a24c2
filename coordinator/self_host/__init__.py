"""Experts that the coordinator hosts itself, beside the nodes."""
