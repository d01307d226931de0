"""The velocity field of F5-TTS (Chen et al. 2024, arXiv 2410.06885) and of E2-TTS (Eskimez et al. 2024, 2406.18009).

    noisy mels, prompt's mels, text (T each) -> linear -> + convolutional positions -> backbone -> linear -> velocity

There is no alignment: characters are written one a frame, the rest of the frames is filled with a filler token, and
the backbone finds where each is said. The two papers differ in the text path (ConvNeXt-V2 blocks or none) and in the
backbone: `dit.DiT` or `unet.FlatUNet`.

Letters: B rows, S times, T frames, U tokens, F mels, E width of the text, D width.
"""

import math
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmx.nn.block import Linear
from mmx.seq import Seq

CLOCK = 256
"""Sines and cosines of a time, which is counted in thousandths."""

Steps = list[Tensor]
"""What a backbone knows of S times, or of one for each row: `(S or B, *)` each."""


class Backbone(Protocol):
    """What makes of the mixed inputs at a time what the velocity is read from."""

    def steps(self, clock_SD: Tensor, /) -> Steps:
        """All that depends on the time alone, of S times at once."""
        ...

    def __call__(self, h_BTD: Tensor, step: Steps, mask_BT: Tensor | None, /) -> Tensor:
        """`(B, T, D)` to the same; `step` is of one time for all rows, or of one for each."""
        ...


def at_step(steps: Steps, i: int) -> Steps:
    """What is known of the i-th of several times, for all rows."""
    return [value[i : i + 1] for value in steps]


# -------------------- text


class ResponseNorm(nn.Module):
    """Global response normalization (Woo et al. 2023, arXiv 2301.00808, equation 3), over the frames of a row."""

    def __init__(self, width: int):
        super().__init__()
        self.gain, self.bias = (nn.Parameter(torch.zeros(1, 1, width)) for _ in range(2))

    def forward(self, x_BTD: Tensor, mask_BT1: Tensor | None) -> Tensor:
        """`(B, T, D)` to the same; frames that are none count for nothing."""
        inner = x_BTD if mask_BT1 is None else x_BTD.where(mask_BT1, 0.0)
        size_B1D = inner.norm(dim=1, keepdim=True)
        return self.gain * (x_BTD * (size_B1D / (size_B1D.mean(-1, keepdim=True) + 1e-6))) + self.bias + x_BTD


class ConvNeXtV2(nn.Module):
    """Depthwise convolution, norm, two linear layers with a response norm between them (arXiv 2301.00808)."""

    def __init__(self, width: int, hidden: int, kernel: int = 7):
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.ln = nn.LayerNorm(width, eps=1e-6)
        self.up, self.down = Linear(width, hidden), Linear(hidden, width)
        self.response = ResponseNorm(hidden)

    def forward(self, x_BTD: Tensor, mask_BT1: Tensor | None) -> Tensor:
        """`(B, T, D)`, zero where a row has no frames, to the same."""
        h = self.ln(self.depthwise(x_BTD.transpose(1, 2)).transpose(1, 2))
        h = x_BTD + self.down(self.response(F.gelu(self.up(h)), mask_BT1))
        return h if mask_BT1 is None else h.where(mask_BT1, 0.0)


class TextPath(nn.Module):
    """Tokens, filler tokens after them up to the last frame, positions, ConvNeXt-V2 blocks.

    Args:
        vocab: tokens; the filler is one more.
        width: E.
        layers: blocks; without any there are no positions either, as in E2-TTS.
        clears: whether what the blocks make of fillers is set to zero, as from version 1 of F5-TTS on.
    """

    def __init__(self, vocab: int, width: int, layers: int, clears: bool):
        super().__init__()
        self.clears, self.width = clears, width
        self.token = nn.Embedding(vocab + 1, width)
        self.layers = nn.ModuleList(ConvNeXtV2(width, 2 * width) for _ in range(layers))

    def forward(self, tokens: Seq, frames_B: Tensor, drop: bool = False) -> Tensor:
        """`(B, T, E)`, T the most of the frames.

        Args:
            tokens: `(B, U)` from 0 on; those past a row's frames are cut off.
            frames_B: of each row.
            drop: whether the text is to be unknown: all are fillers.
        """
        n_frames = int(frames_B.max())
        filled_BU = torch.where(tokens.mask, tokens.x + 1, 0)[:, :n_frames]
        filled_BT = F.pad(filled_BU, (0, n_frames - filled_BU.shape[1]))
        inside_BT = torch.arange(n_frames, device=filled_BT.device) < frames_B[:, None]
        # Without a text, the places of its fillers are cleared all the same: so the network was trained.
        kept_BT = inside_BT & (filled_BT > 0) if self.clears else inside_BT
        x_BTE = self.token(torch.zeros_like(filled_BT) if drop else filled_BT)
        if not len(self.layers):
            return x_BTE.where(inside_BT[..., None], 0.0)
        x_BTE = (x_BTE + positions(n_frames, self.width, x_BTE.device).to(x_BTE.dtype)).where(kept_BT[..., None], 0.0)
        return self.blocks(x_BTE, inside_BT[..., None], kept_BT[..., None])

    def blocks(self, x_BTE: Tensor, inside_BT1: Tensor, kept_BT1: Tensor) -> Tensor:
        """The ConvNeXt blocks, after each of which only what is kept remains."""
        whole = bool(inside_BT1.all())
        for layer in self.layers:
            x_BTE = layer(x_BTE, None if whole else inside_BT1)
            x_BTE = x_BTE.where(kept_BT1, 0.0) if self.clears else x_BTE
        return x_BTE


def positions(length: int, width: int, device: torch.device, base: float = 10_000.0) -> Tensor:
    """`(T, E)`: cosines in the first half of the channels, sines in the second."""
    frequency = base ** -(torch.arange(0, width, 2, device=device).float() / width)
    angle = torch.arange(length, device=device)[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=1)


# -------------------- the field


class ConvPositions(nn.Module):
    """Two grouped convolutions that tell a frame where it is by what is around it (arXiv 2006.11477, section 2)."""

    def __init__(self, width: int, kernel: int = 31, groups: int = 16):
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv1d(width, width, kernel, groups=groups, padding=kernel // 2) for _ in range(2)
        )

    def forward(self, x_BTD: Tensor, mask_BT: Tensor | None) -> Tensor:
        """`(B, T, D)` to the same."""
        x_BDT, mask_B1T = x_BTD.transpose(1, 2), None if mask_BT is None else mask_BT[:, None]
        for conv in self.convs:
            x_BDT = F.mish(conv(x_BDT if mask_B1T is None else x_BDT.where(mask_B1T, 0.0)))
        return x_BDT.transpose(1, 2)


class Clock(nn.Module):
    """Times in [0, 1] to vectors `(S, D)`."""

    def __init__(self, width: int):
        super().__init__()
        self.up, self.down = nn.Linear(CLOCK, width), nn.Linear(width, width)

    def forward(self, time_S: Tensor) -> Tensor:
        """`(S,)` to `(S, D)`."""
        half = CLOCK // 2
        step = math.log(10_000) / (half - 1)
        frequency = torch.exp(torch.arange(half, device=time_S.device).float() * -step)
        angle = 1000.0 * time_S.float()[:, None] * frequency
        waves = torch.cat([angle.sin(), angle.cos()], dim=1).to(self.up.weight.dtype)
        return self.down(F.silu(self.up(waves)))


class Field(nn.Module):
    """The velocity of mels `(B, T, F)` at a time, given mels that are known and a text.

    Args:
        mels: F.
        width: D.
        text: tokens to `(B, T, E)`.
        backbone: see `Backbone`.
    """

    def __init__(self, mels: int, width: int, text: TextPath, backbone: nn.Module):
        super().__init__()
        self.mels, self.text, self.backbone = mels, text, backbone
        self.clock = Clock(width)
        self.mix = nn.Linear(2 * mels + text.width, width)
        self.positions = ConvPositions(width)
        self.out = Linear(width, mels)

    @property
    def dtype(self) -> torch.dtype:
        """That it computes in."""
        return self.mix.weight.dtype

    def condition(self, known: Seq, tokens: Seq, drop: bool = False) -> Seq:
        """What the velocity depends on beside point and time, `(B, T, F + E)`.

        Args:
            known: mels `(B, T, F)`, zero where they are to be found.
            tokens: `(B, U)`, of what is known and of what is not.
            drop: whether neither is told, for guidance.
        """
        text_BTE = self.text(tokens, known.lengths, drop)
        mels_BTF = known.masked.to(text_BTE.dtype)
        return known._replace(x=torch.cat([torch.zeros_like(mels_BTF) if drop else mels_BTF, text_BTE], dim=-1))

    def velocity(self, x_BTF: Tensor, time_B: Tensor, condition: Seq) -> Tensor:
        """`(B, T, F)` where the points of the paths go at a time in [0, 1] for each row; what training calls."""
        return self.move(x_BTF, self.steps(time_B), self.read(condition), condition)

    def steps(self, time_S: Tensor) -> Steps:
        """All that depends on the time alone, of S times at once."""
        return cast("Backbone", self.backbone).steps(self.clock(time_S))

    def read(self, condition: Seq) -> Tensor:
        """What is mixed in of a condition, `(B, T, D)`: the same at every time."""
        return F.linear(condition.x, self.mix.weight[:, self.mels :], self.mix.bias)

    def move(self, x_BTF: Tensor, step: Steps, read_RTD: Tensor, condition: Seq) -> Tensor:
        """The velocity at one time.

        Args:
            x_BTF: the points.
            step: what is known of the time.
            read_RTD: of `read`; where R is a multiple of B, each point is looked at under several conditions.
            condition: R rows, whose lengths count.

        Returns:
            `(R, T, F)` float32.
        """
        whole = bool((condition.lengths == condition.x.shape[1]).all())
        mask_RT = None if whole else condition.mask
        point_BTD = F.linear(x_BTF.to(self.dtype), self.mix.weight[:, : self.mels])
        h_RTD = (read_RTD.unflatten(0, (-1, len(point_BTD))) + point_BTD).flatten(0, 1)
        h_RTD = h_RTD + self.positions(h_RTD, mask_RT)
        return self.out(cast("Backbone", self.backbone)(h_RTD, step, mask_RT)).float()
