"""Sound as AV-HuBERT hears it: four frames of 26 log filterbank energies side by side, 25 times a second.

The energies are those of python_speech_features (rectangular windows, triangles on whole bins), which its authors used.

Letters: B rows, N samples, T frames, S samples of a window, F energies.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmx.errors import InputError
from mmx.seq import Seq, after, concat
from mmx.state import State, tensor

SAMPLE_RATE = 16_000.0
WINDOW, HOP, N_FFT, ENERGIES, STACKED = 400, 160, 512, 26, 4
STEP, SPAN = HOP * STACKED, HOP * (STACKED - 1) + WINDOW
"""Samples between two stacks, and that one covers."""
PREEMPHASIS = 0.97
EPS = 2.220446049250313e-16
"""In the place of no energy."""


def filterbank() -> Tensor:
    """Triangles `(N_FFT // 2 + 1, F)` between whole bins, even on HTK's mel scale from 0 to 8 kHz."""
    exact: Any = {"dtype": torch.float64, "device": "cpu"}  # also of a model that is built without memory
    top = 2595 * torch.log10(torch.tensor(1 + SAMPLE_RATE / 2 / 700, **exact))
    mels = torch.linspace(0, 1, ENERGIES + 2, **exact) * top
    edges = ((N_FFT + 1) * 700 * (10 ** (mels / 2595) - 1) / SAMPLE_RATE + 1e-9).floor()
    bins = torch.arange(N_FFT // 2 + 1, **exact)[:, None]
    low, peak, high = edges[:-2], edges[1:-1], edges[2:]
    rising = (bins - low) / (peak - low).clamp(min=1)
    falling = (high - bins) / (high - peak).clamp(min=1)
    return torch.where((bins >= low) & (bins < peak), rising, torch.where((bins >= peak) & (bins < high), falling, 0.0))


class StackedFilterbank(nn.Module):
    """Samples `(B, N)` at 16 kHz in [-1, 1] to `(B, T, 104)` at 25 Hz, each frame of zero mean and unit variance.

    A frame covers 880 samples from `640 * t` on. Windows at the end are filled up with zeros, and a stack that lacks
    windows is filled up with energies of 0. It streams.
    """

    medium, rate, shape = "audio", SAMPLE_RATE, ()
    stride, lookahead = STEP, SPAN - STEP
    width = STACKED * ENERGIES

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filters", filterbank(), persistent=False)
        self.filters: Tensor

    def init_state(self, batch: int, capacity: int = 0) -> State:
        """Samples that wait, with the one before them (0 at first), and whether any were used."""
        device = self.filters.device
        return {
            "rest": torch.zeros(batch, SPAN + HOP + 1, device=device),
            "n_rest": torch.ones(batch, dtype=torch.int64, device=device),
            "begun": torch.zeros(batch, dtype=torch.bool, device=device),
        }

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        """See above.

        Raises:
            InputError: the rate is not 16 kHz.
        """
        if seq.x.dim() != 2 or seq.rate not in (None, SAMPLE_RATE):
            got = f"{tuple(seq.x.shape)} at {seq.rate} Hz"
            raise InputError(f"expected samples (batch, time) at {SAMPLE_RATE:g} Hz, got {got}: resample them")
        state = self.init_state(len(seq.x)) if state is None else state
        seq = seq._replace(x=seq.masked).to(torch.float32)
        seq = concat(Seq(tensor(state, "rest"), tensor(state, "n_rest")), seq)
        begun_B = tensor(state, "begun")
        frames_B = self._frames(seq.lengths - 1, begun_B, seq.final)
        made_B = (frames_B + STACKED - 1 if seq.final else frames_B) // STACKED
        rest = after(seq, made_B * STEP, SPAN + HOP + 1)
        state["rest"], state["n_rest"], state["begun"] = rest.x, rest.lengths, begun_B | (made_B > 0)
        n_made = int(made_B.max()) if len(made_B) else 0
        if not n_made:
            return Seq(seq.x.new_zeros(len(seq.x), 0, self.width), made_B, SAMPLE_RATE / STEP, seq.final)
        wanted = (n_made - 1) * STEP + SPAN + 1
        x_BN = F.pad(seq.masked, (0, max(0, wanted - seq.x.shape[1])))[:, :wanted].double() * 2.0**15
        own_BN = torch.arange(wanted - 1, device=x_BN.device) < seq.lengths[:, None] - 1
        sharp_BN = torch.where(own_BN, x_BN[:, 1:] - PREEMPHASIS * x_BN[:, :-1], 0.0)
        energies_BTF = self._energies(sharp_BN.unfold(1, WINDOW, HOP))
        there_BT = torch.arange(energies_BTF.shape[1], device=x_BN.device) < frames_B[:, None]
        stacked = torch.where(there_BT[..., None], energies_BTF, 0.0).unflatten(1, (-1, STACKED)).flatten(2).float()
        return Seq(F.layer_norm(stacked, stacked.shape[-1:]), made_B, SAMPLE_RATE / STEP, seq.final)

    @staticmethod
    def _frames(samples_B: Tensor, begun_B: Tensor, final: bool) -> Tensor:
        """Windows that there are samples for; at the end, those that have some of their own."""
        if not final:
            return ((samples_B - WINDOW).div(HOP, rounding_mode="floor") + 1).clamp(min=0)
        own_B = ((samples_B - WINDOW + HOP - 1).div(HOP, rounding_mode="floor") + 1).clamp(min=0)
        return torch.where(~begun_B & (samples_B > 0), own_B.clamp(min=1), own_B)

    def _energies(self, x_BTS: Tensor) -> Tensor:
        spectrum = torch.view_as_real(torch.fft.rfft(x_BTS, N_FFT)).square().sum(-1) / N_FFT
        energies = spectrum @ self.filters.to(spectrum)
        return torch.where(energies == 0, EPS, energies).log()
