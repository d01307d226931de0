"""Kaldi's log-mel filterbank as a `Block`, in the variant that w2v-BERT 2.0 and SeamlessM4T were trained on.

Letters: B rows, N samples, S samples of one frame, T frames of 10 ms, P pairs of frames, F mel bins.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmx.errors import InputError
from mmx.media.audio import SAMPLE_RATE
from mmx.seq import Seq, after, concat
from mmx.state import State, tensor

FRAME = 400
HOP = 160
N_FFT = 512
PAIR = 2 * HOP
"""Samples from one output frame to the next."""
STRETCH = 4096
"""Frames worked on at once; it bounds memory and changes no result."""
PREEMPHASIS = 0.97
FLOOR = 2.0**-23
"""Smallest mel energy, float32's epsilon as in Kaldi; samples count from -32768 to 32767 there."""


def kaldi_filterbank(n_mels: int, low_hz: float = 20.0, high_hz: float = SAMPLE_RATE / 2) -> Tensor:
    """Filters that are triangles on the mel axis 1127 ln(1 + f / 700), of height 1: `(N_FFT // 2 + 1, n_mels)`."""

    def mel(hz: Tensor) -> Tensor:
        return 1127.0 * torch.log1p(hz / 700.0)

    low, high = mel(torch.tensor([low_hz, high_hz], dtype=torch.float64, device="cpu")).tolist()
    edges = torch.linspace(low, high, n_mels + 2, dtype=torch.float64, device="cpu")
    bins = mel(torch.arange(N_FFT // 2 + 1, dtype=torch.float64, device="cpu") * SAMPLE_RATE / N_FFT)[:, None]
    width = edges.diff()
    rising = (bins - edges[:-2]) / width[:-1]
    falling = (edges[2:] - bins) / width[1:]
    return torch.minimum(rising, falling).clamp(min=0).float()


class Fbank(nn.Module):
    """Waveform to Kaldi log-mel features, normalized, two frames of 10 ms side by side.

    Frames lie wholly inside the recording (Kaldi's `snip_edges`). A last frame without a partner counts in the
    statistics but makes no output: the reference implementations pad it to a pair and mask that pair out.

    Args:
        n_mels: mel bins of one frame.
        normalize: subtract the mean and divide by the standard deviation of each bin over the recording. Then every
            output depends on the whole input; without it the block streams.
    """

    stride = PAIR

    def __init__(self, n_mels: int = 80, normalize: bool = True):
        super().__init__()
        self.n_mels, self.normalize = n_mels, normalize
        self.register_buffer("filters", kaldi_filterbank(n_mels), persistent=False)
        self.filters: Tensor

    @property
    def lookahead(self) -> float:
        """Samples past the 320 of an output frame: its second window ends 240 later."""
        return math.inf if self.normalize else HOP + FRAME - PAIR

    def init_state(self, batch: int, capacity: int = 0) -> State:
        """The samples that wait for their pair of frames to fill: `rest (B, 559)`, `n_rest (B,)` of them."""
        if self.normalize:
            return {}
        none = torch.zeros(batch, dtype=torch.int64, device=self.filters.device)
        return {"rest": self.filters.new_zeros(batch, HOP + FRAME - 1), "n_rest": none}

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        """`(B, N)` samples at 16 kHz in [-1, 1] to `(B, P, 2 F)` at 50 Hz.

        Raises:
            InputError: the rate is not 16 kHz, or `final=False` where the statistics of the whole input are needed.
        """
        if seq.x.dim() != 2 or seq.rate not in (None, SAMPLE_RATE):
            got = f"{tuple(seq.x.shape)} at {seq.rate} Hz"
            raise InputError(f"expected samples (batch, time) at {SAMPLE_RATE} Hz, got {got}: mix down and resample")
        if self.normalize and not seq.final:
            raise InputError("expected the whole recording, got final=False: build Fbank(normalize=False) to stream")
        seq = seq._replace(x=seq.masked).to(torch.float32)
        if state:
            seq = concat(Seq(tensor(state, "rest"), tensor(state, "n_rest")), seq)
        frames_B = ((seq.lengths - FRAME).div(HOP, rounding_mode="floor") + 1).clamp(min=0)
        pairs_B = frames_B // 2
        if state:
            rest = after(seq, pairs_B * PAIR, HOP + FRAME - 1)
            state["rest"], state["n_rest"] = rest.x, rest.lengths
        mel_BTF = self._log_mel(seq.x[:, : _span(int(frames_B.max()) if len(frames_B) else 0)])
        if self.normalize:
            mel_BTF = standardize(Seq(mel_BTF, frames_B))
        n_pairs = mel_BTF.shape[1] // 2
        x_BPF = mel_BTF[:, : 2 * n_pairs].reshape(len(mel_BTF), n_pairs, 2 * self.n_mels)
        return Seq(x_BPF, pairs_B, SAMPLE_RATE / PAIR, seq.final)

    def _log_mel(self, wav_BN: Tensor) -> Tensor:
        if not wav_BN.shape[1]:
            return wav_BN.new_zeros(len(wav_BN), 0, self.n_mels)
        return torch.cat([self._energies(x_BTS) for x_BTS in wav_BN.unfold(1, FRAME, HOP).split(STRETCH, 1)], 1)

    def _energies(self, x_BTS: Tensor) -> Tensor:
        # The weakest bins lie under float32's rounding of the strongest ones; Apple's GPUs have nothing finer.
        x_BTS = (x_BTS if x_BTS.device.type == "mps" else x_BTS.double()) * 2.0**15
        x_BTS = x_BTS - x_BTS.mean(-1, keepdim=True)
        x_BTS = x_BTS - PREEMPHASIS * F.pad(x_BTS, (1, 0), mode="replicate")[..., :-1]
        povey_S = torch.hann_window(FRAME, periodic=False, dtype=x_BTS.dtype, device=x_BTS.device).pow(0.85)
        spectrum = torch.view_as_real(torch.fft.rfft(x_BTS * povey_S, N_FFT))
        return (spectrum.square().sum(-1).float() @ self.filters).clamp(min=FLOOR).log()


def _span(frames: int) -> int:
    """Samples that so many frames cover."""
    return FRAME + (frames - 1) * HOP if frames else 0


def standardize(seq: Seq, eps: float = 1e-7) -> Tensor:
    """Zero mean and unit variance (n - 1 in the divisor) of each feature over the valid frames of each row."""
    n_B11 = seq.lengths[:, None, None]
    mean_B1F = seq.masked.sum(1, keepdim=True) / n_B11.clamp(min=1)
    # The first mean is rounded in proportion to its size, which may be far above the spread; the second takes that out.
    centred = Seq(seq.x - mean_B1F, seq.lengths).masked
    centred = Seq(centred - centred.sum(1, keepdim=True) / n_B11.clamp(min=1), seq.lengths).masked
    variance_B1F = centred.square().sum(1, keepdim=True) / (n_B11 - 1).clamp(min=1)
    return centred / (variance_B1F + eps).sqrt()
