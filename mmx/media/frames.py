"""Frames of a recording at one rate: what the readers of videos, poses and features have in common.

Letters: T frames, and whatever a frame has behind it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

Run = tuple[np.ndarray, int]
"""A frame and how often it stands."""


def blocks_of(runs: Iterable[Run], size: int) -> Iterator[np.ndarray]:
    """The frames, each as often as it stands, in blocks of exactly `size`, the last one shorter."""
    held: list[np.ndarray] = []
    for frame, count in runs:
        while count:
            taken = min(count, size - len(held))
            held += [frame] * taken
            count -= taken
            if len(held) == size:
                yield np.stack(held)
                held = []
    if held:
        yield np.stack(held)


def at_rate(frames_T: np.ndarray, source_rate: float, rate: float) -> np.ndarray:
    """Numbers `(T, *)` that a person's movement or a feature has at one rate, at another: float32, by straight lines.

    Frame `i` is of the time `i / rate`, so that 0 stays where it is.
    """
    x = np.asarray(frames_T, np.float32)
    if source_rate == rate or not len(x):
        return x
    at = np.arange(max(1, round(len(x) * rate / source_rate))) * (source_rate / rate)
    low = np.minimum(at.astype(np.int64), len(x) - 1)
    high = np.minimum(low + 1, len(x) - 1)
    part = np.minimum(at - low, 1.0).astype(np.float32).reshape(-1, *[1] * (x.ndim - 1))
    return x[low] * (1 - part) + x[high] * part


def points_at_rate(x_TJC: np.ndarray, source_rate: float, rate: float) -> np.ndarray:
    """Points at another rate, as `at_rate`; those that are 0, which were not found, are not mixed with others.

    Where a point was found in one of two frames, the nearer frame says whether it is there.
    """
    mixed = at_rate(x_TJC, source_rate, rate)
    if source_rate == rate or not len(mixed):
        return mixed
    found = np.any(np.asarray(x_TJC) != 0, -1, keepdims=True)
    both = at_rate(found, source_rate, rate)
    near = np.minimum(np.rint(np.arange(len(mixed)) * (source_rate / rate)).astype(np.int64), len(x_TJC) - 1)
    return np.where(both > 0.999, mixed, np.asarray(x_TJC, np.float32)[near])
