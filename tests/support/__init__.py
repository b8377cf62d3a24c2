"""What several test files share: tiny checkpoints, running networks, faults."""
