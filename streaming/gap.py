"""Times of a session in which nothing is there of any modality: black pictures and sound of exact zeros together.

A model that fuses takes zeros for absent. It learned to do without one modality, not without all of them, and two
seconds of that cost it words that follow. So they are not encoded.

Letters: N samples, T frames.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmx.clip import Clip, frame_at
from mmx.media.audio import SAMPLE_RATE as RATE

SHORT_S = 0.5
"""A gap that is shorter is encoded as it is: a cut, or a loss on the line."""
GRID = 25.0
"""Frames a second, at the beginning of one of which a gap ends, where there is sound alone."""


@dataclass
class Gap:
    """Follows a session, part by part.

    Attributes:
        absent: samples of the clock for which nothing has been there.
    """

    absent: int = 0

    @property
    def open(self) -> bool:
        """Whether nothing has been there for so long that it is not encoded."""
        return self.absent >= SHORT_S * RATE

    def take(self, samples: NDArray[np.float32], others: Clip, heard: int) -> int:
        """How many samples of the next part go by before the frame in which something is there.

        Args:
            samples: `(N,)` of the next part.
            others: frames `(1, T, *)` of other modalities in the same time.
            heard: samples of the clock before it.
        """
        starts_s = [(heard + i) / RATE for i in np.flatnonzero(samples)[:1]]
        for seq in others.values():
            rate = seq.rate or GRID
            there_T = seq.x[0].flatten(1).any(1).numpy()
            starts_s += [(frame_at(heard / RATE, rate) + t) / rate for t in np.flatnonzero(there_T)[:1]]
        if not starts_s:
            self.absent += len(samples)
            return len(samples)
        self.absent = 0
        slowest = min([seq.rate or GRID for seq in others.values()], default=GRID)
        start = round(math.floor(min(starts_s) * slowest + 1e-6) / slowest * RATE)
        return min(max(0, start - heard), len(samples))


def without_first(
    count: int, samples: NDArray[np.float32], others: Clip, heard: int
) -> tuple[NDArray[np.float32], Clip]:
    """A part of a session without its first samples, and without what other modalities have in their time."""
    cut = {}
    for name, seq in others.items():
        rate = seq.rate or GRID
        first = frame_at((heard + count) / RATE, rate) - frame_at(heard / RATE, rate)
        cut[name] = seq._replace(x=seq.x[:, first:], lengths=(seq.lengths - first).clamp(min=0))
    return samples[count:], cut
