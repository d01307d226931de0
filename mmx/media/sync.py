"""Whether the sound of a video is that of a mouth in it: how its opening goes with loudness, and how far apart in time.

An estimate of two curves with 25 numbers a second, no more: vowels open the mouth and are loud. It needs some seconds
of speech with pauses, says nothing of music or of a voice over the picture, and does not know a good dubbing.

Letters: T frames.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from mmx.media.audio import open_audio

FURTHEST_S = 0.6
"""Offset that is looked for, either way."""
LEAST_S = 3.0
"""Of a face that is seen beside sound, for an estimate."""
SURE = 0.3
"""Least correlation at the best offset. Of mouths and sounds that have nothing to do with each other, in some seconds,
one of many pairs reaches it: it is no proof."""
QUIETEST_DB = -60.0


@dataclass(frozen=True)
class Offset:
    """How sound and mouth go together.

    Attributes:
        seconds: by how much the sound comes too late; below 0 too early.
        correlation: of the two curves at that offset.
        sure: whether the offset can be believed: `SURE`, and a peak inside of what is looked at.
    """

    seconds: float
    correlation: float
    sure: bool


def loudness(source: Any, rate: float = 25.0) -> np.ndarray:
    """Loudness of a recording in dB below full scale, `(T,)` at `rate`, not below `QUIETEST_DB`.

    Raises:
        MediaError: there is no sound in it.
    """
    with open_audio(source) as reader:
        samples = np.concatenate([*reader, np.zeros(0, np.float32)])
        size = round(reader.rate / rate)
    frames_TN = samples[: len(samples) // size * size].reshape(-1, size)
    power_T = (frames_TN.astype(np.float64) ** 2).mean(1)
    return np.maximum(10 * np.log10(power_T + 1e-12), QUIETEST_DB)


def offset(opening_T: np.ndarray, loudness_T: np.ndarray, rate: float = 25.0) -> Offset | None:
    """The offset at which an opening (not a number where the mouth is not seen) goes best with loudness.

    Returns:
        None where less than `LEAST_S` of the mouth is seen beside sound, or nothing moves.
    """
    n = min(len(opening_T), len(loudness_T))
    mouth_T, sound_T = _risen(opening_T[:n], rate), _risen(loudness_T[:n], rate)
    most = round(FURTHEST_S * rate)
    found = [_correlation(mouth_T, sound_T, lag, round(LEAST_S * rate)) for lag in range(-most, most + 1)]
    if any(c is None for c in found):
        return None
    values = np.array(found, np.float64)
    k = int(values.argmax())
    inside = 0 < k < 2 * most
    part = 0.0
    if inside:  # between frames: the top of the parabola through three values
        left, top, right = values[k - 1 : k + 2]
        bend = left - 2 * top + right
        part = 0.5 * (left - right) / bend if bend < -1e-9 else 0.0
    return Offset((k - most + part) / rate, float(values[k]), inside and float(values[k]) >= SURE)


def _risen(x_T: np.ndarray, rate: float) -> np.ndarray:
    """A curve without what changes slower than in two seconds (the distance to the camera, a fade)."""
    seen = np.isfinite(x_T)
    size = 2 * round(rate) + 1
    kernel = np.ones(size)
    weight = np.convolve(seen, kernel, "full")[size // 2 : size // 2 + len(x_T)]
    total = np.convolve(np.where(seen, x_T, 0.0), kernel, "full")[size // 2 : size // 2 + len(x_T)]
    return np.where(seen, x_T - total / np.maximum(weight, 1), np.nan)


def _correlation(mouth_T: np.ndarray, sound_T: np.ndarray, lag: int, least: int) -> float | None:
    """Of the mouth with the sound `lag` frames later."""
    n = len(mouth_T)
    a, b = (mouth_T[: n - lag], sound_T[lag:]) if lag >= 0 else (mouth_T[-lag:], sound_T[: n + lag])
    both = np.isfinite(a) & np.isfinite(b)
    if both.sum() < least:
        return None
    a, b = a[both] - a[both].mean(), b[both] - b[both].mean()
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / norm if norm > 1e-6 else None
