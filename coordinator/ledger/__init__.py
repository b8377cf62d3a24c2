"""What the coordinator puts on public record: the log of enrolments and verdicts."""
