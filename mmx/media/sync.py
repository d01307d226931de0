"""Whether the sound of a video is that of a mouth in it: how its opening goes with loudness, and how far apart in time.

An estimate of two curves with 25 numbers a second, no more: vowels open the mouth and are loud. It needs some seconds
of speech with pauses, says nothing of music or of a voice over the picture, and does not know a good dubbing.

Where the points of a face are known, its opening is theirs; of a film that is cut to the mouth, it is how dark the
middle of the picture is.

Letters: T frames, H height, W width, N samples.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmx.clip import Clip, Input
from mmx.media.audio import open_audio

FURTHEST_S = 0.6
"""Offset that is looked for, either way."""
LEAST_S = 3.0
"""Of a face that is seen beside sound, for an estimate."""
SURE = 0.3
"""Least correlation at the best offset. Of mouths and sounds that have nothing to do with each other, in some seconds,
one of many pairs reaches it: it is no proof."""
QUIETEST_DB = -60.0
FOLLOWED_S = 8.0
"""Of a film of a mouth before its offset is told: in less, one of six estimates on synthetic mouths was wrong."""
TOLD_S = 0.12
"""Least offset that is told: three pictures, beyond what the estimate is wrong by."""


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
        return _loudness(samples, round(reader.rate / rate))


def _loudness(samples_N: np.ndarray, size: int) -> np.ndarray:
    """In dB, of frames of that size; what is left over is dropped."""
    frames_TN = samples_N[: len(samples_N) // size * size].reshape(-1, size)
    power_T = (frames_TN.astype(np.float64) ** 2).mean(1)
    return np.maximum(10 * np.log10(power_T + 1e-12), QUIETEST_DB)


def darkness(mouths: np.ndarray) -> np.ndarray:
    """How much darker the middle of pictures of a mouth is than the whole, `(T,)`: an open mouth is dark inside.

    Args:
        mouths: `(T, H, W)`, or `(T, H, W, 3)`. Black pictures show no mouth: not a number.
    """
    x_THW = mouths.reshape(*mouths.shape[:3], -1).mean(-1, dtype=np.float64)
    height, width = x_THW.shape[1:]
    middle = x_THW[:, height // 3 : 2 * height // 3, width // 4 : 3 * width // 4]
    return np.where(x_THW.any((1, 2)), x_THW.mean((1, 2)) - middle.mean((1, 2)), np.nan)


class InStep:
    """Follows a film that is cut to a mouth, and the sound beside it.

    Args:
        inputs: what is read of it, by modality.

    Attributes:
        follows: whether there is both.
    """

    def __init__(self, inputs: Mapping[str, Input]):
        by_medium = {what.medium: (name, what) for name, what in inputs.items()}
        self.follows = {"audio", "video"} <= by_medium.keys()
        if self.follows:
            (self._sound, sound), (self._mouth, mouth) = by_medium["audio"], by_medium["video"]
            self._rate = mouth.rate or 25.0
            self._size = round((sound.rate or 16_000.0) / self._rate)
        self._opening, self._loudness = np.zeros(0), np.zeros(0)
        self._rest = np.zeros(0, np.float32)

    def push(self, clip: Clip) -> None:
        """Take what comes next of one row; a modality that is not there is not seen, or silent."""
        if not self.follows:
            return
        if self._mouth in clip and clip[self._mouth].x.shape[1]:
            self._opening = np.concatenate([self._opening, darkness(clip[self._mouth].x[0].numpy())])
        if self._sound in clip:
            samples_N = np.concatenate([self._rest, clip[self._sound].x[0].numpy()])
            self._loudness = np.concatenate([self._loudness, _loudness(samples_N, self._size)])
            self._rest = samples_N[len(samples_N) // self._size * self._size :]

    def told(self) -> str:
        """What is to be said of the offset; nothing where sound and mouth are in step, or it cannot be told."""
        n = min(len(self._opening), len(self._loudness)) if self.follows else 0
        if np.isfinite(self._opening[:n]).sum() < FOLLOWED_S * (self._rate if n else 1):
            return ""
        found = offset(self._opening, self._loudness, self._rate)
        if found is None or not found.sure or abs(found.seconds) < TOLD_S:
            return ""
        late = "late" if found.seconds > 0 else "early"
        return f"the sound seems {abs(found.seconds):.2f} s too {late} for the mouth: an estimate; the text may suffer"


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
