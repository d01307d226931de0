"""The backbone of F5-TTS: a Transformer whose norms the time modulates (DiT, Peebles and Xie 2022, arXiv 2212.09748).

Letters: B rows, S times, T frames, H heads, C head width, D width.
"""

from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmx.models.f5_tts.field import Steps
from mmx.nn.block import Attention, FeedForward, attend

EPS = 1e-6
tanh_gelu = partial(nn.GELU, approximate="tanh")


def rotations(length: int, head_width: int, device: torch.device, base: float = 10_000.0) -> Tensor:
    """`(T, C / 2)` complex of modulus 1: what turns each pair of channels at each position (arXiv 2104.09864)."""
    frequency = base ** -(torch.arange(0, head_width, 2, device=device).float() / head_width)
    angle = torch.arange(length, device=device).float()[:, None] * frequency
    return torch.polar(torch.ones_like(angle), angle)


def turned(x_BHTC: Tensor, turns_TC: Tensor, heads: int | None) -> Tensor:
    """Queries or keys with their positions.

    Args:
        x_BHTC: of attention; neighbours are pairs.
        turns_TC: of `rotations`.
        heads: how many of the first heads know positions; all when None.
    """
    if heads is not None and heads < x_BHTC.shape[1]:
        return torch.cat([turned(x_BHTC[:, :heads], turns_TC, None), x_BHTC[:, heads:]], dim=1)
    pairs = torch.view_as_complex(x_BHTC.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns_TC).flatten(-2).to(x_BHTC.dtype)


class RotaryAttention(Attention):
    """Self-attention of all frames to all, with rotary positions.

    Args:
        width: D.
        heads: H.
        rotary_heads: how many of the heads know positions; all when None.
    """

    def __init__(self, width: int, heads: int, rotary_heads: int | None):
        super().__init__(width, heads, key_bias=True)
        self.rotary_heads = rotary_heads

    def forward(self, x_BTD: Tensor, turns_TC: Tensor, mask_BT: Tensor | None) -> Tensor:  # pyright: ignore
        """`(B, T, D)` to the same, given where the rows have frames."""
        q, k, v = self.queries_keys_values(x_BTD)
        q, k = (turned(part, turns_TC, self.rotary_heads) for part in (q, k))
        return self.merged(attend(q, k, v, None if mask_BT is None else mask_BT[:, None, None]))


def modulated(x_BTD: Tensor, scale_BD: Tensor, shift_BD: Tensor) -> Tensor:
    """A layer norm whose weights are given, for each row or for all."""
    if len(scale_BD) == 1:
        return F.layer_norm(x_BTD, x_BTD.shape[-1:], 1 + scale_BD[0], shift_BD[0], EPS)
    return F.layer_norm(x_BTD, x_BTD.shape[-1:], eps=EPS) * (1 + scale_BD[:, None]) + shift_BD[:, None]


class DiTLayer(nn.Module):
    """AdaLN-Zero: attention and feed-forward, each after a norm and before a gate that the time sets."""

    def __init__(self, width: int, heads: int, hidden: int, rotary_heads: int | None):
        super().__init__()
        self.time = nn.Linear(width, 6 * width)
        self.attn = RotaryAttention(width, heads, rotary_heads)
        self.mlp = FeedForward(width, hidden, tanh_gelu)

    def forward(self, x_BTD: Tensor, six_BD: Tensor, turns_TC: Tensor, mask_BT: Tensor | None) -> Tensor:
        """`(B, T, D)` to the same; `six_BD` `(B or 1, 6D)` is what `time` makes of the time."""
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = six_BD.chunk(6, dim=1)
        x_BTD = torch.addcmul(x_BTD, gate[:, None], self.attn(modulated(x_BTD, scale, shift), turns_TC, mask_BT))
        return torch.addcmul(x_BTD, mlp_gate[:, None], self.mlp(modulated(x_BTD, mlp_scale, mlp_shift)))


class DiT(nn.Module):
    """Layers and a last norm; a `field.Backbone`.

    Args:
        width: D.
        heads: H.
        hidden: width inside the feed-forwards.
        layers: how many.
        rotary_heads: how many of the heads know positions; all when None, one in version 0.
    """

    def __init__(self, width: int, heads: int, hidden: int, layers: int, rotary_heads: int | None):
        super().__init__()
        self.head_width = width // heads
        self.layers = nn.ModuleList(DiTLayer(width, heads, hidden, rotary_heads) for _ in range(layers))
        self.time = nn.Linear(width, 2 * width)
        for name, value in self.named_parameters():
            if "time." in name:
                nn.init.zeros_(value)

    def steps(self, clock_SD: Tensor) -> Steps:
        """Shift, scale and gate of each layer, and scale and shift of the last norm."""
        active, layers = F.silu(clock_SD), cast("list[DiTLayer]", list(self.layers))
        return [*(layer.time(active) for layer in layers), self.time(active)]

    def forward(self, h_BTD: Tensor, step: Steps, mask_BT: Tensor | None) -> Tensor:
        """See `field.Backbone`."""
        turns_TC = rotations(h_BTD.shape[1], self.head_width, h_BTD.device)
        *sixes, last_BD = step
        for layer, six_BD in zip(self.layers, sixes, strict=True):
            h_BTD = layer(h_BTD, six_BD, turns_TC, mask_BT)
        return modulated(h_BTD, *last_BD.chunk(2, dim=1))
