"""Discriminators of waveforms: small networks that learn to tell what a vocoder made from what was recorded.

Two kinds, each several times. One folds the wave at a period and sees which of its samples stand together (Kong et al.
2020, arXiv 2010.05646, section 2.3); the other sees a complex spectrum, phases included, at one resolution (Défossez et
al. 2022, arXiv 2210.13438, section 3.4). They are there in training alone.

Letters: B rows, N samples, P period, J frames, F frequencies, C channels, R points that are judged.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NAME = "discriminators"
"""Of the head of a model that has them."""
PERIODS = (2, 3, 5, 7, 11)
SIZES = (512, 1024, 2048)
"""Samples of a window; a quarter of it is the hop."""
SLOPE = 0.1
"""Of the leaky rectifiers."""
LOUDER = 10.0
"""What samples in [-1, 1], of which speech has a tenth as deviation, are multiplied by."""
COMPRESSION = 0.5
"""Power to which magnitudes are raised, so that what is faint is judged too."""


class Judged(NamedTuple):
    """What one discriminator finds in a wave.

    Attributes:
        score: `(B, R)`, near 1 where it takes the wave for recorded, near 0 where for made.
        seen: what its layers made on the way there.
    """

    score: Tensor
    seen: list[Tensor]


class _Layers(nn.Module):
    """Convolutions with leaky rectifiers between them; the last one gives the score."""

    def __init__(self, layers: Sequence[nn.Conv2d], last: nn.Conv2d):
        super().__init__()
        self.layers, self.last = nn.ModuleList(layers), last
        for layer in layers:  # so that what is far from the score is as loud as what is near
            nn.init.kaiming_normal_(layer.weight, SLOPE)

    def judge(self, x_BCJF: Tensor) -> Judged:
        """What the layers find; channels last in memory, which is half as fast again on a CPU."""
        x_BCJF, seen = x_BCJF.contiguous(memory_format=torch.channels_last), []
        for layer in self.layers:
            x_BCJF = F.leaky_relu(layer(x_BCJF), SLOPE)
            seen.append(x_BCJF)
        return Judged(self.last(x_BCJF).flatten(1), seen)


class PeriodDiscriminator(_Layers):
    """Reads the samples that are a multiple of a period apart, for each place in the period the same way.

    Args:
        period: P, in samples.
        channels: C of the first layer.
    """

    def __init__(self, period: int, channels: int = 16):
        widths = [1, channels, 4 * channels, 8 * channels, 8 * channels]
        layers = [nn.Conv2d(a, b, (5, 1), (3, 1), (2, 0)) for a, b in pairwise(widths)]  # along time alone
        super().__init__(layers, nn.Conv2d(widths[-1], 1, (3, 1), padding=(1, 0)))
        self.period = period

    def forward(self, wave_BN: Tensor) -> Judged:
        """Judges a wave."""
        whole = wave_BN.shape[1] // self.period * self.period
        wave_BN = LOUDER * wave_BN[:, :whole]
        return self.judge(wave_BN.unflatten(1, (-1, self.period)).unsqueeze(1))


class SpectrumDiscriminator(_Layers):
    """Reads real and imaginary parts of a spectrum, with compressed magnitudes.

    Args:
        size: of the window, in samples.
        channels: C.
    """

    def __init__(self, size: int, channels: int = 16):
        layers = [nn.Conv2d(width, channels, (3, 9), (1, 2), (1, 4)) for width in (2, channels, channels, channels)]
        super().__init__(layers, nn.Conv2d(channels, 1, 3, padding=1))
        self.size = size

    def forward(self, wave_BN: Tensor) -> Judged:
        """Judges a wave that is at least as long as its window."""
        with torch.autocast(wave_BN.device.type, enabled=False):
            window = torch.hann_window(self.size, device=wave_BN.device)
            spectrum_BFJ = torch.stft(
                wave_BN.float(), self.size, self.size // 4, window=window, center=False, return_complex=True
            )
            parts_BFJ2 = torch.view_as_real(spectrum_BFJ)
            power_BFJ1 = parts_BFJ2.square().sum(3, keepdim=True)
            parts_BFJ2 = parts_BFJ2 * (power_BFJ1 + 1e-4) ** ((COMPRESSION - 1) / 2)
        return self.judge(parts_BFJ2.permute(0, 3, 2, 1))


class Discriminators(nn.Module):
    """All of them.

    Args:
        channels: of a layer of each, C.
    """

    def __init__(self, channels: int = 16):
        super().__init__()
        periods = [PeriodDiscriminator(p, channels) for p in PERIODS]
        self.parts = nn.ModuleList([*periods, *(SpectrumDiscriminator(size, channels) for size in SIZES)])

    def forward(self, wave_BN: Tensor) -> list[Judged]:
        """What each finds."""
        return [part(wave_BN) for part in self.parts]
