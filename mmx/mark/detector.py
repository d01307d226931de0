"""Finding the mark, without the sound as it was before.

Each tile's worth of sound is compared with the key's signs, at each of 125 places for its beginning. The speech itself
knows nothing of the signs, so that over a random key this score has mean 0, variance 1 and the tails of a normal
distribution or lighter, whatever the sound is (Hoeffding's inequality for a sum of signs). Its likelihood ratio
against chance, summed over all ways that marked and unmarked stretches may follow each other (a hidden Markov model),
is an e-value: chance makes it larger than x with a probability of 1 / x at most (Ville's inequality; Vovk and Wang,
"E-values: calibration, combination and applications", Annals of Statistics 49(3), 2021).

Letters: N samples, T frames, B bands, S slots, P places of a tile's beginning, K different tiles,
J tiles until they repeat, W tiles' worth of sound.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmx.mark.pattern import (
    BANDS,
    KEY,
    LOW_HZ,
    PAYLOADS,
    SLOT_S,
    SLOTS,
    TILE_S,
    TILES,
    TURNS,
    WIDTH_HZ,
    band_of,
    loudness,
    pattern,
)

RATE = 8_000
"""Samples per second that the detector reads."""
STEP_S = 0.008
PER_SLOT = round(SLOT_S / STEP_S)
PLACES = SLOTS * PER_SLOT
FALSE_ALARM = 1e-6
"""Probability of a false alarm per recording, at most, unless asked otherwise."""

_STEP, _FRAME, _FFT = round(STEP_S * RATE), round(0.043 * RATE), 512
_AROUND_S, _AROUND_BANDS = 0.4, 9
"""Over how much time and how many bands a cell's neighbours are averaged, of which it is the difference that counts."""
_CLIP = 0.4
_FLOOR = 1e-6
"""Differences beyond this, in nepers, are the speech's; energies below this part of the mean are nothing."""
_PIECE = 60 * PLACES
"""Frames that are scored at a time."""
_STRENGTHS = (1.5, 3.0, 5.0)
"""Scores that a tile of marked speech may have, from a bad codec to none."""
_CLEAR = 2.5
"""By how much the score of the best payload has to be above the second's."""
_BEGIN, _END, _JUMP = 0.02, 0.02, 0.05
"""Probabilities that a mark begins, ends, or starts anew in the next tile's worth of sound."""


@dataclass(frozen=True)
class Span:
    """A marked stretch, in seconds of the recording, to about a second."""

    start_s: float
    end_s: float


@dataclass(frozen=True)
class Detection:
    """What was found.

    Attributes:
        found: whether there is a mark.
        false_alarm: probability, at most, that chance alone gives so clear a result.
        payload: the number in the mark; None where none was found, or too little of it to tell.
        spans: the marked stretches, in order.
    """

    found: bool
    false_alarm: float
    payload: int | None = None
    spans: tuple[Span, ...] = ()

    @property
    def probability(self) -> float:
        """That it is marked, for somebody to whom both were as likely before."""
        return 1 / (1 + self.false_alarm)


def detect_blocks(blocks: Iterable[NDArray[np.float32]], key: str = KEY, false_alarm: float = FALSE_ALARM) -> Detection:
    """Look for a mark in a recording of any length.

    Args:
        blocks: samples `(N,)` at `RATE`; memory grows by some 30 MB an hour.
        key: name of the pattern.
        false_alarm: above this probability of a false alarm nothing is said to be found.
    """
    scores = [_scores(piece, key) for piece in _pieces(blocks)]
    if not scores:
        return Detection(False, 1.0)
    mark_TK, payload_TV = (np.concatenate(parts) for parts in zip(*scores, strict=True))
    log_ratio, at_WPJ = _decode(mark_TK.reshape(-1, PLACES, TILES))
    chance = min(1.0, math.exp(-min(log_ratio, 700.0)))
    if chance > false_alarm:
        return Detection(False, chance)
    payload = _payload(payload_TV.reshape(-1, PLACES, PAYLOADS), at_WPJ)
    return Detection(True, chance, payload, tuple(_spans(at_WPJ)))


# -------------------- scores


def _pieces(blocks: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
    """The samples around `_PIECE` frames at a time; before the first of them stands a tile's worth of silence."""
    margin = _margin()
    size, ahead = _PIECE * _STEP, (PLACES + 2 * margin - 1) * _STEP + _FRAME
    held = np.zeros((PLACES + margin) * _STEP + _FRAME // 2, np.float32)
    heard = 0
    for block in blocks:
        held, heard = np.concatenate([held, block]), heard + len(block)
        while len(held) >= size + ahead:
            yield held[: size + ahead]
            held = held[size:]
    if heard:
        # Tiles that begin before the end of the sound, in whole tiles' worths.
        left = max(0, len(held) - margin * _STEP - _FRAME // 2)
        size = -(-left // (PLACES * _STEP)) * PLACES * _STEP
        yield np.pad(held, (0, max(0, size + ahead - len(held))))[: size + ahead]


def _margin() -> int:
    """Frames that the averages around a frame reach."""
    return round(_AROUND_S / STEP_S) // 2 + 1


def _scores(samples: NDArray[np.float32], key: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """How well the tile that begins at each frame fits the signs: of the mark `(T, K)`, of each payload `(T, 16)`."""
    level_TB = _differences(samples)
    sums = np.cumsum(np.pad(level_TB, ((1, 0), (0, 0))), 0, dtype=np.float64)
    slot_TB = (sums[PER_SLOT:] - sums[:-PER_SLOT]).astype(np.float32)
    count = len(level_TB) - PLACES
    signs = pattern(key)
    wanted = np.concatenate([signs.mark, signs.payloads])
    fit = _over_tile(slot_TB, wanted, count)
    spread = _over_tile(slot_TB**2, np.stack([signs.mark[0] != 0, signs.payloads[0] != 0]).astype(np.float32), count)
    spread = np.sqrt(np.maximum(spread, 1e-12))
    mark, payload = fit[:, :TILES] / spread[:, :1], fit[:, TILES:] / spread[:, 1:]
    return mark.astype(np.float32), payload.astype(np.float32)


def _over_tile(slot_TB: NDArray[np.float32], sets: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Sums `(count, sets)` over the cells of the tile that begins at each frame, by the weights `(sets, S, B)`."""
    product = slot_TB @ sets.transpose(2, 1, 0).reshape(BANDS, -1)
    product = product.reshape(len(slot_TB), SLOTS, len(sets))
    total = np.zeros((count, len(sets)), np.float32)
    for s in range(SLOTS):
        total += product[s * PER_SLOT : s * PER_SLOT + count, s]
    return total


def _differences(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Levels `(T, B)` of the bands, less those around them in time and frequency, in units of their loudness."""
    frames = np.lib.stride_tricks.sliding_window_view(samples, _FRAME)[::_STEP]
    power = np.abs(np.fft.rfft(frames * np.hanning(_FRAME).astype(np.float32), _FFT)) ** 2
    level = 0.5 * np.log(power @ _bands() + power.mean() * _FLOOR + 1e-20)
    around = 2 * (round(_AROUND_S / STEP_S) // 2) + 1
    level = level - _smooth(level, around, 0)
    level = np.clip(level - _smooth(level, _AROUND_BANDS, 1), -_CLIP, _CLIP)
    centres = LOW_HZ + (np.arange(BANDS) + 0.5) * WIDTH_HZ
    margin = _margin()
    return (level * loudness(centres)).astype(np.float32)[margin:-margin]


def _bands() -> NDArray[np.float64]:
    """Mean over the frequencies of each band, as a matrix `(F, B)`."""
    inside = (band_of(np.fft.rfftfreq(_FFT, 1 / RATE))[:, None] == np.arange(BANDS)).astype(np.float64)
    return inside / inside.sum(0)


def _smooth(x: NDArray[np.float64], size: int, axis: int) -> NDArray[np.float64]:
    """Mean over `size` neighbours, an odd number, along an axis; the edges are repeated."""
    widths = [(0, 0), (0, 0)]
    widths[axis] = (size // 2 + 1, size // 2)
    sums = np.cumsum(np.pad(x, widths, mode="edge"), axis)
    count = x.shape[axis]
    return (np.take(sums, range(size, size + count), axis) - np.take(sums, range(count), axis)) / size


# -------------------- stretches


def _decode(score_WPK: NDArray[np.float32]) -> tuple[float, NDArray[np.float32]]:
    """Log of the e-value, and the probabilities `(W, P, J)` of a tile that begins at each place."""
    fits = _Fits(score_WPK)
    forward, totals = _forward(fits)
    return float(np.log(totals).sum()), _backward(fits, forward, totals)


class _Fits:
    """Likelihood ratios `(P, J)` of each tile's worth of sound, by how its tile is turned."""

    def __init__(self, score_WPK: NDArray[np.float32]) -> None:
        z = score_WPK.astype(np.float64)
        self._as_is, self._turned = _ratio(z), _ratio(-z)
        self._tile = np.arange(len(TURNS)) % TILES

    def __len__(self) -> int:
        return len(self._as_is)

    def __getitem__(self, w: int) -> NDArray[np.float64]:
        return np.where(TURNS > 0, self._as_is[w][:, self._tile], self._turned[w][:, self._tile])


def _ratio(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of scores, for marks of several strengths against none; its mean over chance is 1 at most."""
    return np.mean([np.exp(m * z - m * m / 2) for m in _STRENGTHS], axis=0)


def _forward(fits: _Fits) -> tuple[list[NDArray[np.float32]], list[float]]:
    """Probabilities of the states given the sound so far, and the ratio that each tile's worth adds."""
    enters = _entering()
    unmarked, marked = 0.5, np.tile(0.5 * enters, (PLACES, 1))
    forward, totals = list[NDArray[np.float32]](), list[float]()
    for w in range(len(fits)):
        if w:
            any_marked = marked.sum()
            stays = (1 - _END - _JUMP) * np.roll(marked, 1, 1)
            marked = stays + (_BEGIN * unmarked + _JUMP * any_marked) * enters
            unmarked = (1 - _BEGIN) * unmarked + _END * any_marked
        marked = marked * fits[w]
        total = float(unmarked + marked.sum())
        unmarked, marked = unmarked / total, marked / total
        forward.append(marked.astype(np.float32))
        totals.append(total)
    return forward, totals


def _entering() -> NDArray[np.float64]:
    """Probabilities `(J,)` of the state that a mark begins in, at each place."""
    enters = np.full(len(TURNS), 0.5 / len(TURNS))
    enters[0] += 0.5  # its first tile, unless that was cut off
    return enters / PLACES


def _backward(fits: _Fits, forward: list[NDArray[np.float32]], totals: list[float]) -> NDArray[np.float32]:
    """Probabilities of the marked states given all of the sound, in the place of `forward`."""
    enters, unmarked, marked = _entering(), 1.0, np.ones((PLACES, len(TURNS)))
    for w in reversed(range(len(forward))):
        forward[w] = (forward[w] * marked).astype(np.float32)
        ahead = marked * fits[w] / totals[w]
        then, mean = unmarked / totals[w], float((ahead * enters).sum())
        unmarked = (1 - _BEGIN) * then + _BEGIN * mean
        marked = (1 - _END - _JUMP) * np.roll(ahead, -1, 1) + _END * then + _JUMP * mean
    return np.stack(forward)


def _spans(at_WPJ: NDArray[np.float32]) -> Iterator[Span]:
    """Stretches whose tiles are rather marked than not."""
    marked_W = at_WPJ.sum((1, 2)) > 0.5
    edges = np.flatnonzero(np.diff(np.pad(marked_W, 1).astype(np.int8)))
    for first, end in edges.reshape(-1, 2):
        # A tile's worth of silence stands before the beginning of the recording.
        start_s, last_s = (float(_place_s(at_WPJ[w]) + (w - 1) * TILE_S) for w in (first, end - 1))
        yield Span(max(0.0, start_s), last_s + TILE_S)


def _place_s(at_PJ: NDArray[np.float32]) -> float:
    return int(at_PJ.sum(1).argmax()) * STEP_S


def _payload(score_WPV: NDArray[np.float32], at_WPJ: NDArray[np.float32]) -> int | None:
    """The payload whose signs fit best over all tiles; None where another one fits nearly as well."""
    turned_WP = (at_WPJ * TURNS).sum(2)
    score_V = np.einsum("wp,wpv->v", turned_WP, score_WPV) / math.sqrt(float((turned_WP**2).sum()) + 1e-9)
    *_, second, best = np.sort(score_V)
    return int(score_V.argmax()) if best - second > _CLEAR else None
