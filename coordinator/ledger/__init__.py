"""What the coordinator puts on public record: an append-only log of signed entries."""
