"""How a prepared model is made: hashing what is published, cutting what is dense, reading what is GGUF."""
