"""Several channels to one: by the layout of the loudspeakers, as a listener of a single one should hear them.

Letters: c channels, n samples.
"""

from collections.abc import Generator, Iterator
from contextlib import closing
from functools import cache
from typing import NamedTuple

import numpy as np

from mmx.errors import MediaError

SIDES = ("left", "right")

# ITU-R BS.775: five channels to two, with the surrounds at -6 dB, the middle one of the parts that it names, and
# two to one. Speech is in the centre; what stands beside or behind, or above, is as a surround.
_WEIGHTS = {"FC": 1.0, "FL": 0.7071, "FR": 0.7071, "FLC": 0.7071, "FRC": 0.7071, "DL": 0.7071, "DR": 0.7071}
_SURROUND = 0.5 * 0.7071
_BASS = ("LFE", "LFE2")
# In sound for films the centre is for the dialogue, and the same music in four channels adds up: at half of what BS.775
# gives to all but the centre, music as loud as speech in each channel is as loud in the mix, and not 6 dB louder.
_BESIDE_CENTRE = 0.5

# Channels of which a file says only how many they are, named as FFmpeg does by default. But a third one without a
# name is more likely a microphone than rumble, so three are those of FLAC.
_BY_COUNT = {
    1: "FC",
    2: "FL FR",
    3: "FL FR FC",
    4: "FL FR FC BC",
    5: "FL FR FC BL BR",
    6: "FL FR FC LFE BL BR",
    7: "FL FR FC LFE BC SL SR",
    8: "FL FR FC LFE BL BR SL SR",
}

BLOCK_S = 0.5
"""Stereo is judged by stretches of this length."""
INVERTED, UPRIGHT = -0.8, -0.4
"""Correlation of two channels below which they cancel each other, and above which they no longer do."""
FADE_S = 0.02
"""In which one way to mix passes into another: a step would be a click."""
SILENT = 1e-4
"""Power of a channel, as a part of the other one's, below which nothing is on it (-40 dB)."""


class ChannelAudio(NamedTuple):
    """Samples `(c, n)` float32, what their channels are called ("FL"; any name when unknown), their rate in Hz."""

    x_cn: np.ndarray
    names: tuple[str, ...]
    rate: int


Sounds = Generator[ChannelAudio, None, None]
"""Stretches that follow each other; closed when nothing more is asked of them."""


def names_by_count(count: int) -> tuple[str, ...]:
    """The channels of a recording that does not say what they are."""
    return tuple(_BY_COUNT.get(count, " ".join(["?"] * count)).split())


@cache
def weights(names: tuple[str, ...]) -> np.ndarray:
    """Each channel's part in the mix `(c,)` float32; they sum to 1, so that nothing is clipped."""
    if all(name in ("?", "NONE", "UNK", "") for name in names):
        names = names_by_count(len(names))
    of_each = [0.0 if name in _BASS else _WEIGHTS.get(name, _SURROUND) for name in names]
    if "FC" in names and any(name not in _WEIGHTS and name not in _BASS for name in names):
        of_each = [w if name == "FC" else w * _BESIDE_CENTRE for w, name in zip(of_each, names, strict=True)]
    if not any(of_each):
        of_each = [1.0] * len(names)
    return np.asarray(of_each, np.float32) / np.float32(sum(of_each))


def downmix(
    sounds: Sounds, channels: str, remarks: list[str], label: str
) -> Generator[tuple[np.ndarray, int], None, None]:
    """One channel `(n,)` and its rate, for each stretch of sound.

    Args:
        sounds: stretches that follow each other.
        channels: "mix", "left" or "right"; the left and the right are the first and the second channel.
        remarks: what a user should know of the mix is added at the end.
        label: of the recording, for errors.

    Raises:
        MediaError: one side is asked for and there is one channel only.
    """
    if channels in SIDES:
        return _side(sounds, SIDES.index(channels), label)
    return _mix(sounds, remarks)


def _side(sounds: Sounds, index: int, label: str) -> Generator[tuple[np.ndarray, int], None, None]:
    several = False
    with closing(sounds):
        for x_cn, _, rate in sounds:
            if len(x_cn) == 1 and not several:
                raise MediaError(
                    f"{label}: expected two channels or more for the {SIDES[index]} one, got one: leave channels at mix"
                )
            several = True
            yield x_cn[min(index, len(x_cn) - 1)], rate  # a stretch of one channel is on both sides


def _mix(sounds: Sounds, remarks: list[str]) -> Generator[tuple[np.ndarray, int], None, None]:
    stereo = _Stereo()
    with closing(sounds):
        for sound in sounds:
            if len(sound.x_cn) == 2:
                yield from stereo.push(sound)
                continue
            yield from stereo.flush()
            x_cn = sound.x_cn
            yield (x_cn[0] if len(x_cn) == 1 else weights(sound.names) @ x_cn), sound.rate
        yield from stereo.flush()
    remarks += stereo.remarks()


class _Stereo:
    """Two channels to one by their mean, or, where one is the other turned over and the mean is silence, by one."""

    MEAN = (0.5, 0.5)

    def __init__(self) -> None:
        self.held: list[np.ndarray] = []
        self.count, self.rate = 0, 1
        self.parts = self.MEAN
        self.now_s = 0.0
        self.inverted_s, self.first_s = 0.0, 0.0
        self.power = [0.0, 0.0]

    def push(self, sound: ChannelAudio) -> Iterator[tuple[np.ndarray, int]]:
        """Take a stretch; gives out what is whole blocks by now."""
        if sound.rate != self.rate:
            yield from self.flush()
            self.rate = sound.rate
        self.held.append(sound.x_cn)
        self.count += sound.x_cn.shape[1]
        size = max(1, round(BLOCK_S * self.rate))
        if self.count < size:
            return
        joined = np.concatenate(self.held, axis=1)
        whole = self.count - self.count % size
        for start in range(0, whole, size):
            yield self._block(joined[:, start : start + size]), self.rate
        self.held, self.count = [joined[:, whole:].copy()], self.count - whole

    def flush(self) -> Iterator[tuple[np.ndarray, int]]:
        """What is left, as a shorter block."""
        if self.count:
            yield self._block(np.concatenate(self.held, axis=1)), self.rate
        self.held, self.count = [], 0

    def _block(self, x_2n: np.ndarray) -> np.ndarray:
        left, right = (float(np.dot(x, x)) for x in x_2n)
        self.power = [self.power[0] + left, self.power[1] + right]
        before, self.parts = self.parts, self._judge(x_2n, left, right)
        seconds = x_2n.shape[1] / self.rate
        if self.parts != self.MEAN:
            self.first_s = self.first_s if self.inverted_s else self.now_s
            self.inverted_s += seconds
        self.now_s += seconds
        mono = self.parts[0] * x_2n[0] + self.parts[1] * x_2n[1]
        if before != self.parts and seconds < self.now_s:
            n = min(round(FADE_S * self.rate), len(mono))
            old = before[0] * x_2n[0, :n] + before[1] * x_2n[1, :n]
            mono[:n] = old + np.linspace(0, 1, n, dtype=np.float32) * (mono[:n] - old)
        return mono

    def _judge(self, x_2n: np.ndarray, left: float, right: float) -> tuple[float, float]:
        """Each channel's part, from here on."""
        likeness = _likeness(x_2n, self.rate)
        if likeness is None or INVERTED <= likeness <= UPRIGHT:
            return self.parts
        if likeness > UPRIGHT:
            return self.MEAN
        if self.parts != self.MEAN:
            return self.parts
        return (1.0, 0.0) if left >= right else (0.0, 1.0)

    def remarks(self) -> list[str]:
        """What the listener should know of both channels."""
        said = []
        if self.inverted_s:
            always = self.inverted_s > 0.9 * self.now_s
            when = "" if always else f" in {self.inverted_s:.1f} s of it, first at {self.first_s:.1f} s"
            said.append(f"the two channels cancel each other{when} (one is inverted): only one of them is used there")
        for side, other in ((0, 1), (1, 0)):
            if self.power[side] < SILENT * self.power[other]:
                said.append(f"only the {SIDES[other]} channel has a signal, the {SIDES[side]} one is silent")
        return said


def _likeness(x_2n: np.ndarray, rate: int) -> float | None:
    """Correlation of two channels, -1 to 1; None for silence.

    Of differences over 0.25 ms: these weigh rumble, which says nothing of speech, by little. Every fourth is enough.
    """
    step = max(1, rate // 4000)
    left, right = x_2n[:, step::4] - x_2n[:, :-step:4]
    power = float(np.dot(left, left) + np.dot(right, right))
    return 2 * float(np.dot(left, right)) / power if power > 1e-12 * max(1, len(left)) else None
