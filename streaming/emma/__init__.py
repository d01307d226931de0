"""Monotonic attention heads: the alignment, their weights, their training."""
