"""Benchmarks, and the models that they run on."""
