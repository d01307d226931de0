"""Augmentation of speech: masks on features, other speeds, noise.

Everything is drawn from a key, the seed, epoch and number of an example, and from nothing else: a training that was
stopped sees the same again.

Letters: N samples, T feature frames, F features.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from mmx.errors import InputError, nearest
from mmx.extras import import_augmentation
from mmx.media.audio import SAMPLE_RATE, read_audio
from mmx.media.source import recordings


@dataclass(frozen=True)
class MaskPolicy:
    """How much SpecAugment hides (Park et al. 2019, arXiv 1904.08779, table 1, where time is not warped).

    Attributes:
        frequency: widest band, in bins (F).
        bands: how many bands (m_F).
        time: longest stretch, in frames of 10 ms (T).
        stretches: how many stretches (m_T).
        share: of the speech, which a stretch may at most hide (p).
    """

    frequency: int
    bands: int
    time: int
    stretches: int
    share: float = 1.0


POLICIES = {
    "LB": MaskPolicy(27, 1, 100, 1),
    "LD": MaskPolicy(27, 2, 100, 2),
    "SM": MaskPolicy(15, 2, 70, 2, 0.2),
    "SS": MaskPolicy(27, 2, 70, 2, 0.2),
}
"""By the paper's names: LibriSpeech basic and double, Switchboard mild and strong. They are made for 80 bins."""


def mask_features(features_TF: Tensor, policy: MaskPolicy, key: str, frames: int | None = None) -> Tensor:
    """Features with bands and stretches replaced by their mean.

    Args:
        features_TF: `(T, F)`; not changed.
        policy: how much is hidden.
        key: of the random numbers.
        frames: of them that are speech and not padding; all when None.
    """
    rng = random.Random(key)
    out, mean = features_TF.clone(), features_TF.mean()
    length = out.shape[0] if frames is None else frames
    for _ in range(policy.bands):
        start, stop = _span(rng, policy.frequency, out.shape[1])
        out[:, start:stop] = mean
    for _ in range(policy.stretches):
        start, stop = _span(rng, min(policy.time, int(policy.share * length)), length)
        out[start:stop] = mean
    return out


def masker(policy: MaskPolicy) -> Callable[[Tensor, int, str], Tensor]:
    """`mask_features` with a policy, given features, how many of them are speech, and a key."""
    return lambda features_TF, frames, key: mask_features(features_TF, policy, f"masks/{key}", frames)


def _span(rng: random.Random, longest: int, room: int) -> tuple[int, int]:
    width = rng.randint(0, min(longest, room))
    start = rng.randint(0, room - width)
    return start, start + width


def shown_otherwise(text: str, lowercase: float, unpunctuated: float, key: str) -> str:
    """A text in lower case, or without its final punctuation, in these shares of the cases."""
    if not (lowercase or unpunctuated):
        return text
    rng = random.Random(key)
    if rng.random() < lowercase:
        text = text.lower()
    if rng.random() < unpunctuated:
        text = text.rstrip(" .!?;:,\"'") or text
    return text


class FrameSpeeds:
    """Pictures, poses or features at the speed that `Speeds` draws for the sound of the same example.

    Args:
        percent: as of `Speeds`.
    """

    def __init__(self, percent: Sequence[int]):
        self.percent = list(percent)

    def __call__(self, frames_T: Tensor, key: str) -> Tensor:
        """`(T, *)` to `(T * 100 / percent, *)`: each frame is the one whose time is nearest."""
        percent = random.Random(f"speed/{key}").choice(self.percent)
        n = -(-len(frames_T) * 100 // percent)
        return frames_T[(torch.arange(n) * percent / 100).round().long().clamp(max=len(frames_T) - 1)]


class TimeMasks:
    """Stretches of frames that show the mean of all, one for each second (Ma et al. 2022, arXiv 2202.13084, table 1).

    Args:
        longest_s: of a stretch.
        rate: frames a second.
    """

    def __init__(self, longest_s: float, rate: float):
        self.longest, self.rate = round(longest_s * rate), rate

    def __call__(self, frames_T: Tensor, key: str) -> Tensor:
        """`(T, *)` to `(T, *)`."""
        rng, out = random.Random(f"masks/{key}"), frames_T.clone()
        mean = frames_T.float().mean(0).to(frames_T.dtype)
        for _ in range(math.ceil(len(out) / self.rate)):
            start, stop = _span(rng, self.longest, len(out))
            out[start:stop] = mean
        return out


class Speeds:
    """Speech at another speed and so at another pitch (Ko et al. 2015, "Audio augmentation for speech recognition").

    Args:
        percent: the speeds that are drawn from; 100 leaves the speech as it is.

    Raises:
        InputError: speechbrain is not installed, or a speed cannot be.
    """

    def __init__(self, percent: Sequence[int] = (90, 100, 110)):
        if not percent or min(percent) < 1:
            raise InputError(f"expected speeds in percent such as 90, 100, 110, got {list(percent)}")
        tools = import_augmentation()
        self.resamplers = [tools.SpeedPerturb(SAMPLE_RATE, [p]) for p in percent]

    def __call__(self, samples_N: Tensor, key: str) -> Tensor:
        """`(N,)` to `(N * 100 / percent,)`."""
        rng = random.Random(f"speed/{key}")
        with torch.random.fork_rng(devices=[]):  # speechbrain draws from torch's, which is the training's
            return rng.choice(self.resamplers)(samples_N[None])[0]


def with_noise(speech_N: Tensor, noise_N: Tensor, snr_db: float) -> Tensor:
    """Speech and noise at a ratio of their powers, each over what is not quieter than 1/1000 of its loudest 20 ms.

    So the pauses of the speech do not count, and the ratio is that of what is heard at once.

    Args:
        speech_N: samples; silence stays as it is.
        noise_N: as many.
        snr_db: 10 log10 of the ratio.
    """
    gain = (active_power(speech_N) / active_power(noise_N).clamp(min=1e-12) / 10 ** (snr_db / 10)).sqrt()
    return speech_N + gain * noise_N


def active_power(x_N: Tensor, frame: int = SAMPLE_RATE // 50) -> Tensor:
    """Mean square of the frames that are not much quieter than the loudest one."""
    n = -(-len(x_N) // frame) * frame
    power_T = F.pad(x_N.float(), (0, n - len(x_N))).unflatten(0, (-1, frame)).square().mean(1)
    return power_T[power_T >= power_T.max() / 1000].mean()


class Noise:
    """Noise added at a signal-to-noise ratio, drawn evenly between two.

    Args:
        snr_db: lowest and highest ratio. That a model is to stand much noise takes many examples with much of it: of
            -10 to 15 dB a fifth are below -5.
        share: of the examples that get noise.
        folder: of recordings of noise, from which one is drawn, whatever it is of (babble, music); white noise when
        None.

    Raises:
        InputError: the ratios cannot be, or the folder holds no recordings.
    """

    def __init__(self, snr_db: Sequence[float] = (5.0, 25.0), share: float = 1.0, folder: str | Path | None = None):
        if len(snr_db) != 2 or not snr_db[0] <= snr_db[1]:
            raise InputError(f"expected the lowest and the highest ratio in dB, such as 5, 25, got {list(snr_db)}")
        self.low, self.high, self.share = *snr_db, share
        self.files = [] if folder is None else recordings(Path(folder))
        if folder is not None and not self.files:
            raise InputError(f"expected recordings of noise in {folder}, got none")
        self.read = cache(lambda file: torch.from_numpy(read_audio(file)))

    def __call__(self, samples_N: Tensor, key: str) -> Tensor:
        """`(N,)` to `(N,)`."""
        rng = random.Random(f"noise/{key}")
        if rng.random() >= self.share or not len(samples_N):
            return samples_N
        snr_db = rng.uniform(self.low, self.high)
        return with_noise(samples_N, self._noise(rng, len(samples_N)), snr_db)

    def _noise(self, rng: random.Random, n: int) -> Tensor:
        """A stretch of one of the recordings, repeated where it is shorter; or white noise."""
        if not self.files:
            return torch.randn(n, generator=torch.Generator().manual_seed(rng.getrandbits(63)))
        noise_N = self.read(rng.choice(self.files))
        start = rng.randrange(max(1, len(noise_N) - n + 1))
        return noise_N[(start + torch.arange(n)) % len(noise_N)]


def in_turn(steps: Sequence[Callable[[Tensor, str], Tensor]]) -> Callable[[Tensor, str], Tensor] | None:
    """All steps, one after the other; None for none."""

    def run(samples_N: Tensor, key: str) -> Tensor:
        for step in steps:
            samples_N = step(samples_N, key)
        return samples_N

    return run if steps else None


def mask_policy(name: str) -> MaskPolicy:
    """The policy of a name. Raises `InputError` for an unknown one."""
    if name not in POLICIES:
        known = list(POLICIES)
        raise InputError(f"expected a SpecAugment policy among {', '.join(known)}, got {name!r}.{nearest(name, known)}")
    return POLICIES[name]
