"""Marking: the levels of cells are changed in a short-time Fourier transform, block by block as the sound is made.

Letters: N samples, K frames, F frequencies that are changed, n samples of a frame.
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
    gains: NDArray[np.float32]


@lru_cache(8)
def _plan(rate: float, payload: int, key: str) -> _Plan:
    n = min(_EASY, key=lambda size: abs(size - FRAME_S * rate))
    hz = np.fft.rfftfreq(n, 1 / rate)
    band = band_of(hz)
    inside = np.flatnonzero((band >= 0) & (band < BANDS))
    low, high = (int(inside[0]), int(inside[-1]) + 1) if len(inside) else (1, 1)
    signs = pattern(key).tiles(payload)[:, :, band[inside]].reshape(len(TURNS) * SLOTS, -1)
    gains = np.expm1(DEPTH * loudness(hz[inside]) * signs).astype(np.float32)
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
        self._held = np.zeros(self._hop, np.float32)  # the first frame is half before the beginning
        self._over = np.zeros(self._hop, np.float32)
        self._frames = self._taken = self._given = 0
        self._known, self._known_from = np.empty((0, 0), np.float32), 0

    def push(self, samples: NDArray[np.float32], final: bool = False) -> NDArray[np.float32]:
        """Marked samples, as far as the sound so far allows; with `final` all that are left.

        After the last piece the marker is ready for another sound, whose tiles continue those of the sound before.
        """
        self._taken += len(samples)
        # All but the transforms is numpy: on pieces as short as these a call of torch costs more than its work.
        parts = [self._held, np.asarray(samples, np.float32)]
        x = np.concatenate([*parts, np.zeros(self._n, np.float32)] if final else parts)
        count = max(0, (len(x) - self._n) // self._hop + 1)
        at_start = self._frames == 0
        out = x[: count * self._hop].copy()
        done = 0
        while done < count:
            gains_KF = self._gains_of(count - done)
            begin, some = done * self._hop, len(gains_KF)
            self._change(out[begin : begin + some * self._hop].reshape(some, -1), x[begin:], gains_KF)
            self._frames, done = self._frames + some, done + some
        self._held = x[count * self._hop :]
        out = out[self._hop :] if at_start else out
        if final:
            out = out[: self._taken - self._given]
            self._clock += self._taken
            self._start()
        else:
            self._given += len(out)
        return out

    def _change(self, hops_Kn: NDArray[np.float32], x: NDArray[np.float32], gains_KF: NDArray[np.float32]) -> None:
        """Add to hops what is marked in the frames that begin with them in `x`."""
        count, (n, window, low, high, _) = len(hops_Kn), self._plan
        frames_Kn = torch.from_numpy(x).as_strided((count, n), (self._hop, 1)) * window
        spectrum_KF = torch.fft.rfft(frames_Kn).numpy()[:, :high]
        spectrum_KF[:, :low] = 0
        spectrum_KF[:, low:] *= gains_KF
        changed_Kn = torch.fft.irfft(torch.from_numpy(spectrum_KF), n).mul_(window).numpy()  # 0 from `high` on
        hops_Kn += changed_Kn[:, : self._hop]
        hops_Kn[1:] += changed_Kn[:-1, self._hop :]
        hops_Kn[0] += self._over
        self._over = changed_Kn[-1, self._hop :]

    def _gains_of(self, count: int) -> NDArray[np.float32]:
        """Change `(K, F)` of the next frames, at most `count`; found for `_AT_ONCE` frames at a time.

        From the middle half of a slot to the next one's in a line.
        """
        begin = self._frames - self._known_from
        if begin >= len(self._known):
            begin, self._known_from = 0, self._frames
            frame_K = np.arange(self._frames, self._frames + _AT_ONCE)
            at_K = (frame_K * self._hop + self._clock) / (self._rate * SLOT_S) - 0.5
            slot_K = np.floor(at_K).astype(np.int64)
            weight_K1 = (2 * (at_K - slot_K) - 0.5).clip(0, 1)[:, None]
            now_KF, later_KF = (self._plan.gains[k % len(self._plan.gains)] for k in (slot_K, slot_K + 1))
            self._known = (now_KF + weight_K1 * (later_KF - now_KF)).astype(np.float32)
        return self._known[begin : begin + count]


def mark(samples: NDArray[np.float32], rate: float, payload: int = 0, key: str = KEY) -> NDArray[np.float32]:
    """A whole sound `(N,)` marked; arguments and errors as of `Marker`."""
    return Marker(rate, payload, key).push(samples, final=True)
