"""Benchmarks: how good different ways of cropping are, and what they cost."""
