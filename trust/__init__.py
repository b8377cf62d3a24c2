"""Identity, statements, signatures, receipts, audits, evidence and the public log: pure functions."""
