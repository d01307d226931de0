"""Features of signing from film: I3D over windows of 16 frames, as CiCo and its like take them (arXiv 2303.12793).

The weights are those that learned signs on BSL-1K and its successors (Varol, Albanie and others; a file of torch's with
`state_dict`, `mmx` opens it by its path where it ends in .pth), whose classifier is left out. `python -m
mmx.make.features` writes what it makes of films for a model that reads features (`gfslt`).

Letters: B rows, T frames, H height, W width, M windows, D width.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmx.model import Model
from mmx.nn.i3d import I3D, WIDTH
from mmx.seq import Seq
from mmx.state import State
from mmx.weights.convert import Rule
from mmx.weights.formats import LazyTensors

MODEL_TYPES = ()
SIGNS = "signs"
RATE = 25.0
PIXELS, CROP = 256, 224


@dataclass(frozen=True, kw_only=True)
class Config:
    """Frames of a window, frames from one to the next (1 as published), and windows that are computed at once."""

    window: int = 16
    step: int = 1
    at_once: int = 8

    def __post_init__(self) -> None:
        if min(self.window, self.step, self.at_once) < 1:
            raise ValueError(f"window, step and at_once from 1, not {self.window}, {self.step} and {self.at_once}")


class Pictures(nn.Module):
    """The middle of pictures of bytes `(B, T, 256, 256, 3)`, around 0 in -0.5 to 0.5: `(B, T, 3, 224, 224)`."""

    medium, rate, shape = "video", RATE, (PIXELS, PIXELS, 3)
    stride, lookahead = 1, 0

    def init_state(self, batch: int, capacity: int = 0) -> State:
        """Nothing is remembered."""
        return {}

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        """See above."""
        at = (PIXELS - CROP) // 2
        x_BTHWC = seq.masked[:, :, at : at + CROP, at : at + CROP]
        return seq._replace(x=(x_BTHWC.float() / 255 - 0.5).permute(0, 1, 4, 2, 3))


class Windows(nn.Module):
    """A vector for each window of a clip, `(B, T, 3, H, W)` to `(B, M, D)`, the first from its first frame on.

    Windows lie within the clip. One that is shorter than a window stands still on its last frame.
    """

    lookahead = math.inf
    width = WIDTH

    def __init__(self, config: Config):
        super().__init__()
        self.window, self.stride, self.at_once = config.window, config.step, config.at_once
        self.net = I3D()

    def init_state(self, batch: int, capacity: int = 0) -> State:
        """Nothing is remembered: it reads the whole input."""
        return {}

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        """See above."""
        counts_B = ((seq.lengths - self.window).clamp(min=0) // self.stride + 1).where(seq.lengths > 0, 0)
        dtype = next(self.net.parameters()).dtype
        x_BMD = seq.x.new_zeros(len(seq.x), int(counts_B.max()) if len(counts_B) else 0, WIDTH, dtype=dtype)
        for b, (count, length) in enumerate(zip(counts_B.tolist(), seq.lengths.tolist(), strict=True)):
            for first in range(0, count, self.at_once):
                starts = range(first, min(count, first + self.at_once))
                x_BMD[b, first : first + len(starts)] = self.net(self._clips(seq.x[b, :length], starts).to(dtype))
        return Seq(x_BMD, counts_B, None if seq.rate is None else seq.rate / self.stride, seq.final)

    def _clips(self, x_TCHW: Tensor, windows: range) -> Tensor:
        """`(N, 3, window, H, W)`."""
        starts_N1 = torch.tensor(windows, device=x_TCHW.device)[:, None] * self.stride
        at_NT = (starts_N1 + torch.arange(self.window, device=x_TCHW.device)).clamp(max=len(x_TCHW) - 1)
        return x_TCHW[at_NT].transpose(1, 2)


def build(config: Config) -> Model:
    """The model with random weights."""
    return Model(front={SIGNS: Pictures()}, encoders={SIGNS: Windows(config)})


KEYS: Mapping[str, Sequence[Rule]] = {
    "fairseq2": [
        Rule(r"((?:Conv3d|Mixed)_.+)", rf"encoders.{SIGNS}.net.\1"),
        Rule(r"logits\..+", None, "names signs of its own training"),
    ]
}
"""A flat file of torch's, which `mmx.weights.formats` tells apart by its first layer."""


def sniff(format: str, source: LazyTensors) -> bool:
    """Whether a checkpoint is of this family."""
    return {"Conv3d_1a_7x7.conv3d.weight", "Mixed_5c.b3b.conv3d.weight"} <= source.shapes.keys()


def config_from(format: str, meta: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The usual numbers: a file does not say them."""
    return {}
