"""Nodes that cheat, on the real wire: what the network's defences are measured against."""
