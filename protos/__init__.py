"""The wire contract: what nodes and coordinators say to each other, and the codec for tensors."""
