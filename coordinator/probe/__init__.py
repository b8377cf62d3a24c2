"""Rows with known answers, which a node computes before it gets traffic."""
