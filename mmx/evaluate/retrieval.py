"""How well a search ranks: recall at k and the median rank, with several right answers and with ties.

Letters: Q queries, K documents.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmx.errors import InputError

DRAWS = 10_000


@dataclass(frozen=True)
class Retrieval:
    """Shares of the queries with a right answer among the first 1, 5 and 10; the median rank; how many queries; and the
    95 % interval of the first share, over queries drawn anew."""

    r1: float
    r5: float
    r10: float
    median_rank: float
    queries: int
    r1_interval: tuple[float, float]

    def __str__(self) -> str:
        low, high = (f"{100 * x:.1f}" for x in self.r1_interval)
        shares = f"{100 * self.r5:.1f} | {100 * self.r10:.1f}"
        return f"{100 * self.r1:.1f} ({low} to {high}) | {shares} | {self.median_rank:g} | {self.queries}"


def ranks(scores_QK: NDArray[np.floating], right_QK: NDArray[np.bool_], counted_QK: NDArray[np.bool_]) -> NDArray:
    """`(Q',)`: the place, from 1, of the best right answer of each query that has one.

    Documents with the score of the best right answer share places: it has their mean, as the right ones among them were
    drawn at random, so that a search that tells nothing apart ranks as chance does.

    Args:
        scores_QK: higher is better.
        right_QK: which documents answer.
        counted_QK: which documents take part (a query's own recording does not).
    """
    right_QK = right_QK & counted_QK
    asked = right_QK.any(1)
    if not asked.any():
        raise InputError("expected a query with a right answer, got none: check the labels")
    scores, right, counted = scores_QK[asked], right_QK[asked], counted_QK[asked]
    best = np.where(right, scores, -np.inf).max(1, keepdims=True)
    before = ((scores > best) & counted).sum(1)
    tied = (scores == best) & counted
    # The first of m right ones among n in random order is at place (n + 1) / (m + 1) on average.
    return before + (tied.sum(1) + 1) / ((tied & right).sum(1) + 1)


def measure(scores_QK: NDArray[np.floating], right_QK: NDArray[np.bool_], counted_QK: NDArray[np.bool_]) -> Retrieval:
    """Of `ranks`."""
    found = ranks(scores_QK, right_QK, counted_QK)
    at = [float((found <= k).mean()) for k in (1, 5, 10)]
    drawn = np.random.default_rng(0).binomial(len(found), at[0], DRAWS) / len(found)  # as drawing yes and no anew is
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Retrieval(at[0], at[1], at[2], float(np.median(found)), len(found), (float(low), float(high)))
