"""Checking signed results after they were used: challenges, verdicts, evidence, and what follows for a node."""
