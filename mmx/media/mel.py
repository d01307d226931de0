"""Acoustic features shared by model families.

Letters: B rows, N samples, T frames, F mels.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmx.clip import Medium
from mmx.seq import Seq
from mmx.state import State


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


class LogMel(nn.Module):
    """Log mel magnitudes of a waveform at 24 kHz, 93.75 frames a second; an `mmx.interfaces.Front`.

    The features of Vocos and of the voices over it (F5-TTS, E2-TTS). Windows are centred and the ends mirrored, so N
    samples make N // hop + 1 frames.

    Args:
        mels: F.
        n_fft: samples of a Hann window.
        hop: samples between two.
        floor: the least magnitude. F5-TTS takes 1e-5, Vocos alone 1e-7.
    """

    medium: Medium = "audio"
    rate = 24_000.0
    shape: tuple[int, ...] = ()
    lookahead = math.inf

    def __init__(self, mels: int = 100, n_fft: int = 1024, hop: int = 256, floor: float = 1e-5):
        super().__init__()
        self.n_fft, self.stride, self.floor = n_fft, hop, floor
        self.register_buffer("filters", htk_filterbank(int(self.rate), n_fft, mels), persistent=False)
        self.register_buffer("window", torch.hann_window(n_fft, device="cpu"), persistent=False)
        self.filters: Tensor
        self.window: Tensor

    def init_state(self, batch: int, capacity: int = 0) -> State:
        """Nothing is remembered: the last frames mirror the end."""
        return {}

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        """`(B, N)` samples in [-1, 1] to `(B, T, F)`."""
        half = self.n_fft // 2
        at_N = torch.arange(-half, seq.x.shape[1] + half, device=seq.x.device).abs()
        last_B1 = (seq.lengths - 1).clamp(min=0)[:, None]
        # What even the mirror does not reach, of rows shorter than half a window, is their last sample.
        at_BN = torch.where(at_N > last_B1, 2 * last_B1 - at_N, at_N).clamp(min=0).minimum(last_B1)
        x_BN = F.pad(seq.masked, (0, int(seq.x.shape[1] == 0))).gather(1, at_BN).float()
        spectrum = torch.stft(x_BN, self.n_fft, self.stride, window=self.window, center=False, return_complex=True)
        mel_BTF = (self.filters @ spectrum.abs()).transpose(1, 2).clamp(min=self.floor).log()
        return Seq(mel_BTF, seq.lengths // self.stride + 1, self.rate / self.stride, seq.final)
