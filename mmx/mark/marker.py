"""Marking: the levels of cells are changed in a short-time Fourier transform, block by block as the sound is made.

Letters: N samples, K frames, F frequencies, n samples of a frame.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from mmx.errors import InputError
from mmx.mark.pattern import BANDS, DEPTH, KEY, PAYLOADS, SLOT_S, SLOTS, TURNS, band_of, loudness, pattern

FRAME_S = 0.0427
"""Length of a frame; half of it is the hop."""
_AT_ONCE = 64
"""Frames whose spectra are in memory: what fits in a processor's cache is quicker."""
_EASY = sorted(2 * 2**a * 3**b * 5**c for a in range(13) for b in range(6) for c in range(4))
"""Even lengths whose transform is quick."""


class _Plan(NamedTuple):
    """What all sounds of a rate have in common.

    Attributes:
        size: samples of a frame.
        window: `(n,)`, a sine going in and a sine coming out: overlapping frames add up to one.
        low: first frequency that is changed.
        high: behind the last one.
        gains: change `(slots, F)` of each slot.
    """

    size: int
    window: torch.Tensor
    low: int
    high: int
    gains: torch.Tensor


@lru_cache(8)
def _plan(rate: float, payload: int, key: str) -> _Plan:
    n = min(_EASY, key=lambda size: abs(size - FRAME_S * rate))
    hz = np.fft.rfftfreq(n, 1 / rate)
    band = band_of(hz)
    inside = np.flatnonzero((band >= 0) & (band < BANDS))
    low, high = (int(inside[0]), int(inside[-1]) + 1) if len(inside) else (1, 1)
    signs = pattern(key).tiles(payload)[:, :, band[inside]].reshape(len(TURNS) * SLOTS, -1)
    gains = torch.from_numpy(np.expm1(DEPTH * loudness(hz[inside]) * signs).astype(np.float32))
    return _Plan(n, torch.sin(torch.pi * (torch.arange(n) + 0.5) / n), low, high, gains)


class Marker:
    """Marks one sound, in pieces of any size: joined, they are what the whole would give.

    What comes out is up to `FRAME_S` behind what went in, until the end. Silence stays silence. Below 8,000 samples per
    second some bands of the mark, or all, are past what the sound can hold, and are left out.

    Args:
        rate: samples per second.
        payload: number below 16 that the detector reads back.
        key: name of the pattern.

    Raises:
        InputError: a payload that is none.
    """

    def __init__(self, rate: float, payload: int = 0, key: str = KEY) -> None:
        if not 0 <= payload < PAYLOADS:
            raise InputError(f"expected a payload from 0 to {PAYLOADS - 1}, got {payload}")
        self._plan, self._rate = _plan(rate, payload, key), rate
        self._n, self._hop = self._plan.size, self._plan.size // 2
        self._clock = 0
        self._start()

    def _start(self) -> None:
        self._held = torch.zeros(self._hop)  # the first frame is half before the beginning
        self._over = torch.zeros(self._hop)
        self._frames = self._taken = self._given = 0

    def push(self, samples: NDArray[np.float32], final: bool = False) -> NDArray[np.float32]:
        """Marked samples, as far as the sound so far allows; with `final` all that are left.

        After the last piece the marker is ready for another sound, whose tiles continue those of the sound before.
        """
        self._taken += len(samples)
        parts = [self._held, torch.from_numpy(np.ascontiguousarray(samples, np.float32))]
        x = torch.cat([*parts, torch.zeros(self._n)] if final else parts)
        count = max(0, (len(x) - self._n) // self._hop + 1)
        at_start = self._frames == 0
        out = x[: count * self._hop].clone()
        for first in range(0, count, _AT_ONCE):
            some, begin = min(_AT_ONCE, count - first), first * self._hop
            self._change(out[begin : begin + some * self._hop].view(some, -1), x[begin:])
            self._frames += some
        self._held = x[count * self._hop :]
        out = out[self._hop :] if at_start else out
        if final:
            out = out[: self._taken - self._given]
            self._clock += self._taken
            self._start()
        else:
            self._given += len(out)
        return out.numpy()

    def _change(self, hops_Kn: torch.Tensor, x: torch.Tensor) -> None:
        """Add to hops what is marked in the frames that begin with them in `x`."""
        count, (n, window, low, high, _) = len(hops_Kn), self._plan
        spectrum_KF = torch.fft.rfft(x.as_strided((count, n), (self._hop, 1)) * window)[:, :high]
        spectrum_KF[:, :low] = 0
        spectrum_KF[:, low:] *= self._gains_of(count)
        begin_Kn, end_Kn = torch.fft.irfft(spectrum_KF, n).mul_(window).split(self._hop, 1)  # 0 from `high` on
        hops_Kn += begin_Kn
        hops_Kn[1:] += end_Kn[:-1]
        hops_Kn[0] += self._over
        self._over = end_Kn[-1]

    def _gains_of(self, count: int) -> torch.Tensor:
        """Change `(count, F)` of the next frames: from the middle half of a slot to the next one's in a line."""
        at = (np.arange(self._frames, self._frames + count) * self._hop + self._clock) / (self._rate * SLOT_S) - 0.5
        slot = np.floor(at)
        weight = torch.from_numpy((2 * (at - slot) - 0.5).clip(0, 1).astype(np.float32))[:, None]
        gains, slot = self._plan.gains, slot.astype(np.int64)
        now, later = (gains.index_select(0, torch.from_numpy(k % len(gains))) for k in (slot, slot + 1))
        return torch.lerp(now, later, weight)


def mark(samples: NDArray[np.float32], rate: float, payload: int = 0, key: str = KEY) -> NDArray[np.float32]:
    """A whole sound `(N,)` marked; arguments and errors as of `Marker`."""
    return Marker(rate, payload, key).push(samples, final=True)
