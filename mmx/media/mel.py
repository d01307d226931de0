"""Acoustic features shared by model families."""

import math

import torch
from torch import Tensor


def hz_to_mel(hz: float) -> float:
    """Slaney's mel scale: linear below 1 kHz, logarithmic above (Auditory Toolbox, 1998)."""
    return 15.0 + 27.0 * math.log(hz / 1000.0) / math.log(6.4) if hz >= 1000.0 else 3.0 * hz / 200.0


def mel_to_hz(mel: float) -> float:
    """Inverse of `hz_to_mel`."""
    return 1000.0 * math.exp((mel - 15.0) * math.log(6.4) / 27.0) if mel >= 15.0 else 200.0 * mel / 3.0


def mel_filterbank(rate_hz: int, n_fft: int, n_mels: int) -> Tensor:
    """Triangular filters of equal area, `(n_mels, n_fft // 2 + 1)` float32, from 0 Hz to half the rate."""
    top = hz_to_mel(rate_hz / 2)
    edges = torch.tensor(
        [mel_to_hz(top * i / (n_mels + 1)) for i in range(n_mels + 2)], dtype=torch.float64, device="cpu"
    )
    return (_triangles(edges, rate_hz, n_fft) * (2.0 / (edges[2:] - edges[:-2]))[:, None]).float()


def htk_filterbank(rate_hz: int, n_fft: int, n_mels: int) -> Tensor:
    """Triangular filters of equal height, evenly spaced on HTK's scale, 2595 log10(1 + f / 700); shape as above."""
    top = 2595.0 * math.log10(1.0 + rate_hz / 2 / 700.0)
    steps = torch.linspace(0.0, top, n_mels + 2, dtype=torch.float64, device="cpu")
    return _triangles(700.0 * (10.0 ** (steps / 2595.0) - 1.0), rate_hz, n_fft).float()


def _triangles(edges: Tensor, rate_hz: int, n_fft: int) -> Tensor:
    """Filters of height 1 between every third of the edges, in Hz; `(n_mels, n_fft // 2 + 1)`."""
    bins = torch.arange(n_fft // 2 + 1, dtype=torch.float64, device="cpu") * rate_hz / n_fft
    width = edges.diff()
    rising = (bins[None] - edges[:-2, None]) / width[:-1, None]
    falling = (edges[2:, None] - bins[None]) / width[1:, None]
    return torch.minimum(rising, falling).clamp(min=0)
