"""Weights of losses in an update."""

from collections.abc import Mapping


def mean_of_each(counts: Mapping[str, int]) -> dict[str, float]:
    """Weights that make the mean of each loss of its sum."""
    return {name: 1.0 / n for name, n in counts.items() if n}
