"""Vocos: mels to a waveform through the inverse Fourier transform (Siuzdak 2023, arXiv 2306.00814).

    mels (T) -> conv 7 -> norm -> L ConvNeXt blocks -> norm -> linear: log magnitude and phase of each bin
        -> inverse short-time Fourier transform -> R samples a frame

There is no upsampling: the network works at the rate of the mels, those of `mmx.media.mel.LogMel`.

Letters: B rows, T frames, N samples of a window, F mels, D width, H bins, R samples for each frame.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmx.media.mel import LogMel
from mmx.model import Model
from mmx.nn.block import Linear
from mmx.seq import Seq
from mmx.state import State
from mmx.weights.convert import Rule, count, needed
from mmx.weights.formats import LazyTensors

MODEL_TYPES = ("vocos",)
LOUDEST = 1e2
"""Past which a magnitude is cut, so that no weight makes an infinite sound."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The numbers of a Vocos; the defaults are those of charactr/vocos-mel-24khz.

    Attributes:
        mels: F.
        hidden: width inside the ConvNeXt blocks.
        n_fft: samples of a window, four times `hop`.
        hop: R.
    """

    mels: int = 100
    width: int = 512
    hidden: int = 1536
    layers: int = 8
    n_fft: int = 1024
    hop: int = 256


# -------------------- the network


class ConvNeXt(nn.Module):
    """Depthwise convolution, norm, two linear layers, a scale for each channel (Liu et al. 2022, arXiv 2201.03545)."""

    def __init__(self, width: int, hidden: int, kernel: int = 7):
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.ln = nn.LayerNorm(width, eps=1e-6)
        self.up, self.down = Linear(width, hidden), Linear(hidden, width)
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x_BTD: Tensor, mask_BT1: Tensor | None) -> Tensor:
        """`(B, T, D)` to the same, given which frames there are; None for all."""
        inner = x_BTD if mask_BT1 is None else x_BTD.where(mask_BT1, 0.0)
        h = self.ln(self.depthwise(inner.transpose(1, 2)).transpose(1, 2))
        return x_BTD + self.scale * self.down(F.gelu(self.up(h)))


class Vocos(nn.Module):
    """Mels to a waveform; a `Block` of R samples for each frame."""

    stride, lookahead = 1, math.inf

    def __init__(self, c: Config):
        super().__init__()
        self.hop, self.n_fft = c.hop, c.n_fft
        if c.n_fft % c.hop:
            raise ValueError(f"expected windows of whole hops, got n_fft {c.n_fft} and hop {c.hop}")
        self.pre = nn.Conv1d(c.mels, c.width, 7, padding=3)
        self.pre_ln = nn.LayerNorm(c.width, eps=1e-6)
        self.layers = nn.ModuleList(ConvNeXt(c.width, c.hidden) for _ in range(c.layers))
        self.ln = nn.LayerNorm(c.width, eps=1e-6)
        self.out = Linear(c.width, c.n_fft + 2)
        self.register_buffer("window", torch.hann_window(c.n_fft, device="cpu"), persistent=False)
        self.window: Tensor

    def init_state(self, batch: int, capacity: int = 0) -> State:
        """Nothing is remembered."""
        return {}

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        """`(B, T, F)` to `(B, T, R)`; sample 0 of a frame is in the middle of the window that its mels are of."""
        whole = bool((seq.lengths == seq.x.shape[1]).all())
        mask_BT1 = None if whole else seq.mask[..., None]
        x_BTD = self.pre_ln(self.pre(seq.masked.to(self.pre.weight.dtype).transpose(1, 2)).transpose(1, 2))
        for layer in self.layers:
            x_BTD = layer(x_BTD, mask_BT1)
        size_BTH, phase_BTH = self.out(self.ln(x_BTD)).float().chunk(2, dim=-1)
        spectrum = torch.polar(size_BTH.exp().clamp(max=LOUDEST), phase_BTH)
        return seq._replace(x=self.sound(spectrum, seq.mask))

    def sound(self, spectrum_BTH: Tensor, mask_BT: Tensor) -> Tensor:
        """Windows added where they overlap, over the sum of the squares of what they were weighed by: `(B, T, R)`."""
        frames_BTN = torch.fft.irfft(spectrum_BTH, self.n_fft) * self.window
        frames_BTN = torch.where(mask_BT[..., None], frames_BTN, 0.0)
        weight_BTN = mask_BT[..., None] * self.window.square()
        return overlap(frames_BTN, self.hop) / overlap(weight_BTN, self.hop).clamp(min=1e-11)


def overlap(frames_BTN: Tensor, hop: int) -> Tensor:
    """The sum of overlapping windows, from the middle of the first to that of the one after the last: `(B, T, R)`."""
    n_frames = frames_BTN.shape[1]
    parts_BTKR = frames_BTN.unflatten(2, (-1, hop))
    k = parts_BTKR.shape[2]
    total = frames_BTN.new_zeros(len(frames_BTN), n_frames + k - 1, hop)
    for i in range(k):
        total[:, i : i + n_frames] += parts_BTKR[:, :, i]
    return total[:, k // 2 : k // 2 + n_frames]


def build(c: Config) -> Model:
    """Mels and what makes them sound again: `memory` of speech is its copy."""
    front = LogMel(c.mels, c.n_fft, c.hop, floor=1e-7)
    return Model(front={"speech": front}, encoders={"speech": Vocos(c)})


# -------------------- checkpoints


def hf_rules(prefix: str, ours: str) -> list[Rule]:
    """The table.

    Args:
        prefix: what stands before the published names, as a pattern.
        ours: our prefix, such as `encoders.speech.`.
    """
    block, to = rf"{prefix}backbone\.convnext\.(\d+)\.", rf"{ours}layers.\1."
    return [
        Rule(rf"{prefix}backbone\.embed\.(.+)", rf"{ours}pre.\1"),
        Rule(rf"{prefix}backbone\.norm\.(.+)", rf"{ours}pre_ln.\1"),
        Rule(rf"{block}dwconv\.(.+)", rf"{to}depthwise.\2"),
        Rule(rf"{block}norm\.(.+)", rf"{to}ln.\2"),
        Rule(rf"{block}pwconv1\.(.+)", rf"{to}up.\2"),
        Rule(rf"{block}pwconv2\.(.+)", rf"{to}down.\2"),
        Rule(rf"{block}gamma", rf"{to}scale"),
        Rule(rf"{prefix}backbone\.final_layer_norm\.(.+)", rf"{ours}ln.\1"),
        Rule(rf"{prefix}head\.out\.(.+)", rf"{ours}out.\1"),
        Rule(rf"{prefix}head\.istft\.window", None, "a Hann window, which we compute"),
        Rule(rf"{prefix}feature_extractor\..+", None, "windows and filters of the mels, which we compute"),
    ]


KEYS: Mapping[str, Sequence[Rule]] = {"hf": hf_rules("", "encoders.speech.")}
"""Published key to ours, by format."""


def sniff(format: str, source: LazyTensors) -> bool:
    """Whether a checkpoint is a Vocos: its `config.yaml` is not read."""
    return format == "hf" and "backbone.convnext.0.gamma" in source.shapes and "head.out.weight" in source.shapes


def config_from(format: str, meta: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The `Config` numbers of a checkpoint that comes without a card; windows are four hops, as all that are published.

    Args:
        format: a key of `KEYS`.
        meta: not used.
        shapes: source key to shape.
    """
    return numbers(shapes)


def numbers(shapes: Mapping[str, tuple[int, ...]], prefix: str = "") -> dict[str, Any]:
    """See `config_from`; `prefix`, a pattern, stands before the published names."""
    width, mels, _ = needed(shapes, rf"{prefix}backbone\.embed\.weight")
    n_fft = needed(shapes, rf"{prefix}head\.out\.bias")[0] - 2
    return {
        "mels": mels, "width": width, "hidden": needed(shapes, rf"{prefix}backbone\.convnext\.0\.pwconv1\.bias")[0],
        "layers": count(shapes, rf"{prefix}backbone\.convnext\.(\d+)\..+"), "n_fft": n_fft, "hop": n_fft // 4,
    }  # fmt: skip
