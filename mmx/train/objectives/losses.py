"""What an objective gives."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Losses:
    """What a model has to learn from a batch, by name.

    Attributes:
        total: the sum of each loss over what it counts, differentiable; the batches of an update add up.
        counts: how much that is (tokens, rows, frames): of what each loss is the mean.
        figures: sums to be reported beside them, each over the count of its name, or over 1.
    """

    total: Mapping[str, Tensor]
    counts: Mapping[str, int]
    figures: Mapping[str, Tensor] = field(default_factory=dict)


def mean_of_each(counts: Mapping[str, int]) -> dict[str, float]:
    """Weights that make the mean of each loss of its sum."""
    return {name: 1.0 / n for name, n in counts.items() if n}
