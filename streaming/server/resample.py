"""Sound of a live client at another rate, to 16 kHz: a filter whose memory can be saved.

Letters: N samples in, M samples out, K taps.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmx.errors import InputError
from mmx.media.audio import SAMPLE_RATE as RATE

HALF = 16
"""Zero crossings of the filter at each side."""
PLACES = 1024
"""Between two inputs at most, where the filter is tabulated; between them it is interpolated (error below -110 dB)."""
BLOCK = 2048
"""Outputs that are made at once."""


def check_rate(rate: int) -> None:
    """Raise `InputError` for a rate that `Resampler` does not take; costs nothing."""
    if not 8_000 <= rate <= 96_000:
        raise InputError(f"expected a rate of 8000 to 96000 Hz, got {rate}")


@dataclass(frozen=True)
class _Filter:
    """Taps for each place that an output may have between two inputs, `(P + 1, K)`, and the zeros of one side."""

    taps: NDArray[np.float64]
    half: int
    places: int


@lru_cache(maxsize=8)
def _filter(rate: int) -> _Filter:
    """The filter of a rate, which all that hear at that rate share; at most 1.6 MB."""
    cutoff = min(1.0, RATE / rate)
    half = math.ceil(HALF / cutoff)
    offsets_K = np.arange(-half + 1, half + 1)
    places = min(RATE // math.gcd(rate, RATE), PLACES)
    x_PK = offsets_K[None] - np.arange(places + 1)[:, None] / places
    window = np.interp(x_PK / half, np.linspace(-1, 1, 1001), np.kaiser(1001, 9.0))
    return _Filter(cutoff * np.sinc(cutoff * x_PK) * window, half, places)


class Resampler:
    """Windowed-sinc interpolation (Smith, Digital Audio Resampling, 2002), piece by piece.

    However the sound is cut into pieces, the samples that come out are the same.

    Args:
        rate: of what comes in, 8000 to 96000 Hz.

    Raises:
        InputError: another rate.
    """

    def __init__(self, rate: int):
        check_rate(rate)
        common = math.gcd(rate, RATE)
        self.rate, self.up, self.down = rate, RATE // common, rate // common
        self.filter = _filter(rate)
        self.half = self.filter.half
        self.reset()

    def reset(self) -> None:
        """Forget what was heard."""
        self.held = np.zeros(self.half - 1, np.float32)  # silence before the first sample
        self.out = 0  # samples given out; the next lies at out * down / up of the input
        self.dropped = -(self.half - 1)  # sample of the input at which `held` begins

    def push(self, samples: NDArray[np.float32], final: bool = False) -> NDArray[np.float32]:
        """The next samples at 16 kHz; `final` gives also those that wait for what comes after."""
        if self.up == self.down:
            return samples
        tail = np.zeros(self.half if final else 0, np.float32)
        self.held = np.concatenate([self.held, samples, tail])
        end = self.dropped + len(self.held)
        # An output at place p needs the inputs up to floor(p) + half.
        count = max(0, -((-(end - self.half) * self.up) // self.down) - self.out)
        blocks = [self._block(self.out + i, min(BLOCK, count - i)) for i in range(0, count, BLOCK)]
        y_M = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
        self.out += count
        keep = (self.out * self.down) // self.up - self.half + 1
        if keep > self.dropped:
            self.held, self.dropped = self.held[keep - self.dropped :], keep
        return y_M

    def _block(self, first: int, count: int) -> NDArray[np.float32]:
        """Outputs from a number on: few at once, for each takes K inputs of its own."""
        at_M = first + np.arange(count)
        base_M, phase_M = (at_M * self.down) // self.up, (at_M * self.down) % self.up
        windows_MK = (base_M - self.dropped)[:, None] + np.arange(-self.half + 1, self.half + 1)[None]
        place_M, part_M = np.divmod(phase_M * self.filter.places, self.up)
        taps_MK = self.filter.taps[place_M]
        if self.up > self.filter.places:  # between two places of the filter
            part_M1 = (part_M / self.up)[:, None]
            taps_MK = taps_MK + part_M1 * (self.filter.taps[place_M + 1] - taps_MK)
        return (self.held[windows_MK] * taps_MK).sum(1).astype(np.float32)

    def state(self) -> dict[str, Any]:
        """Plain values that `restore` needs."""
        return {"held": self.held.tolist(), "out": self.out, "dropped": self.dropped}

    def restore(self, values: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.held = np.array(values["held"], np.float32)
        self.out, self.dropped = values["out"], values["dropped"]
