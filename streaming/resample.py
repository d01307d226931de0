"""Sound of a live client at another rate, to 16 kHz: a filter whose memory can be saved.

Letters: N samples in, M samples out, K taps.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmx.errors import InputError

RATE = 16_000
HALF = 16
"""Zero crossings of the filter at each side."""


class Resampler:
    """Windowed-sinc interpolation (Smith, Digital Audio Resampling, 2002), piece by piece.

    However the sound is cut into pieces, the samples that come out are the same.

    Args:
        rate: of what comes in, 8000 to 96000 Hz.

    Raises:
        InputError: another rate.
    """

    def __init__(self, rate: int):
        if not 8_000 <= rate <= 96_000:
            raise InputError(f"expected a rate of 8000 to 96000 Hz, got {rate}")
        common = math.gcd(rate, RATE)
        self.rate, self.up, self.down = rate, RATE // common, rate // common
        cutoff = min(1.0, RATE / rate)
        self.half = math.ceil(HALF / cutoff)
        offsets_K = np.arange(-self.half + 1, self.half + 1)
        # One filter for each place that an output may have between two inputs.
        x_PK = offsets_K[None] - np.arange(self.up)[:, None] / self.up
        self.taps_PK = (
            cutoff
            * np.sinc(cutoff * x_PK)
            * np.kaiser(1001, 9.0)[np.clip(np.rint((x_PK / self.half + 1) * 500), 0, 1000).astype(int)]
        )
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
        at_M = self.out + np.arange(count)
        base_M, phase_M = (at_M * self.down) // self.up, (at_M * self.down) % self.up
        windows_MK = (base_M - self.dropped)[:, None] + np.arange(-self.half + 1, self.half + 1)[None]
        y_M = (self.held[windows_MK] * self.taps_PK[phase_M]).sum(1).astype(np.float32)
        self.out += count
        keep = (self.out * self.down) // self.up - self.half + 1
        if keep > self.dropped:
            self.held, self.dropped = self.held[keep - self.dropped :], keep
        return y_M

    def state(self) -> dict[str, Any]:
        """Plain values that `restore` needs."""
        return {"held": self.held.tolist(), "out": self.out, "dropped": self.dropped}

    def restore(self, values: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.held = np.array(values["held"], np.float32)
        self.out, self.dropped = values["out"], values["dropped"]
