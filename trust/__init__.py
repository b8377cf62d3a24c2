"""Identity, canonical statements and signatures: pure functions."""
