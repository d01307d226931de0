"""The backbone of E2-TTS: a Transformer with skip connections between its halves, the time as its first frame.

Eskimez et al. 2024, arXiv 2406.18009, section 2.1; Voicebox (Le et al. 2023, arXiv 2306.15687) has the same.

Letters: B rows, S times, T frames, D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmx.models.f5_tts.dit import RotaryAttention, rotations, tanh_gelu
from mmx.models.f5_tts.field import Steps
from mmx.nn.block import FeedForward


class RootMeanSquareNorm(nn.Module):
    """To length sqrt(D), whatever the length was (Zhang and Sennrich 2019, arXiv 1910.07467), then a gain."""

    def __init__(self, width: int):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x_BTD: Tensor) -> Tensor:
        """`(B, T, D)` to the same."""
        return F.normalize(x_BTD, dim=-1) * x_BTD.shape[-1] ** 0.5 * self.gain


class SkipLayer(nn.Module):
    """Pre-norm attention and feed-forward; in the second half, over what the layer opposite was given as well."""

    def __init__(self, width: int, heads: int, hidden: int, rotary_heads: int | None, joins: bool):
        super().__init__()
        self.skip = nn.Linear(2 * width, width, bias=False) if joins else None
        self.attn_norm, self.mlp_norm = RootMeanSquareNorm(width), RootMeanSquareNorm(width)
        self.attn = RotaryAttention(width, heads, rotary_heads)
        self.mlp = FeedForward(width, hidden, tanh_gelu)

    def forward(self, x_BTD: Tensor, turns_TC: Tensor, mask_BT: Tensor | None) -> Tensor:
        """`(B, T, D)` to the same."""
        x_BTD = x_BTD + self.attn(self.attn_norm(x_BTD), turns_TC, mask_BT)
        return x_BTD + self.mlp(self.mlp_norm(x_BTD))


class FlatUNet(nn.Module):
    """An even number of layers and a last norm; a `field.Backbone`. Arguments as of `dit.DiT`."""

    def __init__(self, width: int, heads: int, hidden: int, layers: int, rotary_heads: int | None):
        super().__init__()
        if layers % 2:
            raise ValueError(f"expected an even number of layers, whose halves are joined, got {layers}")
        self.head_width = width // heads
        self.layers = nn.ModuleList(
            SkipLayer(width, heads, hidden, rotary_heads, joins=i >= layers // 2) for i in range(layers)
        )
        self.norm = RootMeanSquareNorm(width)

    def steps(self, clock_SD: Tensor) -> Steps:
        """The times themselves: each is a frame."""
        return [clock_SD]

    def forward(self, h_BTD: Tensor, step: Steps, mask_BT: Tensor | None) -> Tensor:
        """See `field.Backbone`."""
        h_BTD = torch.cat([step[0][:, None].expand(len(h_BTD), 1, -1), h_BTD], dim=1)
        mask_BT = None if mask_BT is None else F.pad(mask_BT, (1, 0), value=True)
        turns_TC = rotations(h_BTD.shape[1], self.head_width, h_BTD.device)
        skips: list[Tensor] = []
        for layer in self.layers:
            assert isinstance(layer, SkipLayer)
            if layer.skip is None:
                skips.append(h_BTD)
            else:
                h_BTD = layer.skip(torch.cat([h_BTD, skips.pop()], dim=-1))
            h_BTD = layer(h_BTD, turns_TC, mask_BT)
        return self.norm(h_BTD[:, 1:])
