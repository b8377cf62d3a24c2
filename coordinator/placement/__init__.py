"""Who hosts what."""
