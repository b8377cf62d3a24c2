"""Version 1 of the wire contract: generated modules beside the .proto files that they come from."""
