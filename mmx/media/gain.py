"""Quiet sound brought to the level at which a detector of voice activity is reliable, in files and in streams."""

import numpy as np
from numpy.typing import NDArray

from mmx.media.audio import SAMPLE_RATE

FRAME = 512
"""Samples that one probability of a detector speaks for: loudness is measured, and the gain changes, over as many."""


class Gain:
    """Amplifies one recording, a chunk after the other.

    Of clips scaled to -40 dB, Silero finds two thirds of the speech, in some none. The level is that of the loudest
    frame of the chunk, or of those before, which is forgotten with time: pauses of a loud speaker are not blown up, and
    a quiet speaker after a loud one is heard in time.

    Args:
        most_db: the gain is no more than this.

    Attributes:
        level: loudest root mean square of a frame so far, as far as it is remembered.
        last: the gain of the chunk before; None before the first.
    """

    TARGET = 0.1
    HALF_LIFE_S = 4.096  # of the level

    def __init__(self, most_db: float = 40.0) -> None:
        self.most = 10 ** (most_db / 20)
        self.level = 0.0
        self.last: float | None = None

    def apply(self, chunk: NDArray[np.float32]) -> NDArray[np.float32]:
        """The chunk `(N,)` at 16 kHz amplified, never attenuated; a new array."""
        frames = chunk[: len(chunk) // FRAME * FRAME].reshape(-1, FRAME)
        rms = float(np.sqrt(np.square(frames, dtype=np.float64).mean(1).max(initial=0.0)))
        self.level = max(rms, self.level * 0.5 ** (len(chunk) / (self.HALF_LIFE_S * SAMPLE_RATE)))
        gain = min(max(self.TARGET / max(self.level, 1e-9), 1.0), self.most)
        last, self.last = gain if self.last is None else self.last, gain
        if gain == last == 1.0:
            return chunk.copy()
        # Over one frame, for a step in level is a click.
        ramp = np.full(len(chunk), gain, np.float32)
        n = min(FRAME, len(chunk))
        ramp[:n] = np.linspace(last, gain, n, dtype=np.float32)
        return chunk * ramp
