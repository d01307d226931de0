"""Comparisons with other engines, in one interleaved run."""
