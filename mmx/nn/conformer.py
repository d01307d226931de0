"""The parts of a Conformer layer (Gulati et al. 2020, arXiv 2005.08100), offline and streaming.

New frames come behind remembered ones. A `ChunkView` says which exist and who attends to whom; it is computed once for
all layers. With a state, each part keeps the last frames that it needs, and no more.

Letters: B rows, T new frames, P remembered ones, S keys (P + T), D width, H heads, C head width, N distances.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmx.nn.block import merge_heads, split_heads
from mmx.seq import Seq, take
from mmx.state import State, tensor

# -------------------- who sees whom


class ChunkView(NamedTuple):
    """What the layers need to know of a stretch of new frames.

    Attributes:
        valid: `(B, T)` bool, the frames that exist.
        lengths: `(B,)`, how many they are.
        mask: `(B, 1, T, S)` bool, the keys that each frame attends to.
    """

    valid: Tensor
    lengths: Tensor
    mask: Tensor


def chunk_view(seq: Seq, filled_B: Tensor, past: int, chunk: int | None, left_chunks: int) -> ChunkView:
    """The view of new frames behind `past` remembered ones, the last `filled_B` of which exist.

    A chunk begins with the first new frame, and a whole number of chunks is remembered, so chunks count from there. A
    frame always sees itself: a padded one that saw nothing would be NaN.
    """
    t_T1 = torch.arange(seq.x.shape[1], device=seq.x.device)[:, None]
    s_S = torch.arange(-past, seq.x.shape[1], device=seq.x.device)
    exists_BS = (s_S >= -filled_B[:, None]) & (s_S < seq.lengths[:, None])
    mask_BTS = exists_BS[:, None]
    if chunk is not None:
        back_TS = t_T1 // chunk - s_S.div(chunk, rounding_mode="floor")
        mask_BTS = mask_BTS & (back_TS >= 0) & (back_TS <= left_chunks)
    return ChunkView(seq.mask, seq.lengths, (mask_BTS | (t_T1 == s_S))[:, None])


def remember(state: State | None, key: str, new_BTD: Tensor, view: ChunkView) -> Tensor:
    """Remembered frames and the new ones, `(B, P + T, D)`; the state keeps the last P of them that exist."""
    if state is None:
        return new_BTD
    past_BPD = tensor(state, key)
    joined_BSD = torch.cat([past_BPD, new_BTD], dim=1)
    last_BP = view.lengths[:, None] + torch.arange(past_BPD.shape[1], device=new_BTD.device)
    state[key] = take(joined_BSD, last_BP)
    return joined_BSD


# -------------------- attention


def by_distance(scores_BHTN: Tensor, index_TS: Tensor) -> Tensor:
    """Scores of each frame for N distances, spread over the S keys: `(B, H, T, S)`.

    This is what spares relative positions a tensor of T x S x C.
    """
    return scores_BHTN.gather(-1, index_TS.expand(*scores_BHTN.shape[:2], -1, -1))


class RelativeKey(nn.Module):
    """A learnt key for each distance, clipped (Shaw et al. 2018, equation 4, without relative values)."""

    def __init__(self, left: int, right: int, head_width: int):
        super().__init__()
        self.left, self.right = left, right
        self.keys = nn.Embedding(left + 1 + right, head_width)

    def forward(self, q_BHTC: Tensor, n_keys: int) -> tuple[Tensor, Tensor]:
        """The query as it is, and `(B, H, T, S)` to add to its scaled scores."""
        index_TS = _offsets(q_BHTC.shape[2], n_keys, q_BHTC.device).clamp(-self.left, self.right) + self.left
        scores_BHTN = q_BHTC @ self.keys.weight.T * q_BHTC.shape[-1] ** -0.5
        return q_BHTC, by_distance(scores_BHTN, index_TS)


class RelativeSinusoid(nn.Module):
    """Projected sinusoids of the distance (Transformer-XL: Dai et al. 2019, section 3.3)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.project = nn.Linear(width, width, bias=False)
        self.content = nn.Parameter(torch.zeros(heads, width // heads))
        self.position = nn.Parameter(torch.zeros(heads, width // heads))

    def forward(self, q_BHTC: Tensor, n_keys: int) -> tuple[Tensor, Tensor]:
        """The query with the content bias, and `(B, H, T, S)` to add to its scaled scores."""
        n_new, width = q_BHTC.shape[2], self.content.numel()
        back_N = n_keys - 1 - torch.arange(n_keys + n_new - 1, device=q_BHTC.device)
        octave = torch.arange(0, width, 2, device=q_BHTC.device) * (-math.log(10_000.0) / width)
        angle = back_N[:, None] * octave.exp()
        waves_ND = torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1).to(q_BHTC.dtype)
        p_1HNC = split_heads(self.project(waves_ND)[None], len(self.position))
        scores_BHTN = (q_BHTC + self.position[:, None]) @ p_1HNC.transpose(-1, -2) * q_BHTC.shape[-1] ** -0.5
        index_TS = _offsets(n_new, n_keys, q_BHTC.device) + n_keys - 1
        return q_BHTC + self.content[:, None], by_distance(scores_BHTN, index_TS)


def _offsets(n_new: int, n_keys: int, device: torch.device) -> Tensor:
    """`(T, S)`: how far each key lies after each of the new frames, which are the last of the keys."""
    s_S = torch.arange(n_keys, device=device) - (n_keys - n_new)
    return s_S - torch.arange(n_new, device=device)[:, None]


class Attention(nn.Module):
    """Multi-head self-attention over remembered and new frames.

    Args:
        width: D, divided evenly among `heads`.
        positions: `RelativeKey` or `RelativeSinusoid`; None for attention without positions.
    """

    def __init__(self, width: int, heads: int, positions: nn.Module | None = None):
        super().__init__()
        if width % heads:
            raise ValueError(f"expected a width divisible by {heads} heads, got {width}")
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.positions = positions

    def forward(self, x_BTD: Tensor, view: ChunkView, state: State | None = None) -> Tensor:
        k_BHSC = split_heads(remember(state, "k", self.key(x_BTD), view), self.heads)
        v_BHSC = split_heads(remember(state, "v", self.value(x_BTD), view), self.heads)
        q_BHTC, mask = split_heads(self.query(x_BTD), self.heads), view.mask
        if self.positions is not None:
            q_BHTC, bias_BHTS = self.positions(q_BHTC, k_BHSC.shape[2])
            mask = bias_BHTS.masked_fill_(~view.mask, -math.inf)
        return self.out(merge_heads(F.scaled_dot_product_attention(q_BHTC, k_BHSC, v_BHSC, attn_mask=mask)))


# -------------------- Conformer


def feed_forward(width: int, hidden: int, activation: nn.Module) -> nn.Sequential:
    """Linear, activation, Linear."""
    return nn.Sequential(nn.Linear(width, hidden), activation, nn.Linear(hidden, width))


class FrozenBatchNorm(nn.Module):
    """Batch normalization by fixed statistics, `(B, T, D)`: what a pretrained one does outside of pretraining.

    Statistics of a small padded batch would depend on its padding; so they stay as they were learnt.
    """

    def __init__(self, width: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.mean = nn.Parameter(torch.zeros(width), requires_grad=False)
        self.variance = nn.Parameter(torch.ones(width), requires_grad=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        scale = (self.variance.detach() + self.eps).rsqrt() * self.weight
        return (x_BTD - self.mean.detach()) * scale + self.bias


class Convolution(nn.Module):
    """The Conformer's convolution module: gated linear unit, depthwise convolution, norm, swish.

    Args:
        width: D.
        kernel: frames that the depthwise convolution sees.
        causal: the last of them is the current frame; else the middle one.
        norm: normalizes `(B, T, D)` after the depthwise convolution.
        bias: of the three convolutions, as ESPnet has them.
    """

    def __init__(self, width: int, kernel: int, causal: bool, norm: nn.Module, bias: bool = False):
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"expected an odd kernel, got {kernel}")
        self.kernel, self.causal = kernel, causal
        self.ln = nn.LayerNorm(width)
        self.expand = nn.Conv1d(width, 2 * width, 1, bias=bias)
        self.depthwise = nn.Conv1d(width, width, kernel, groups=width, bias=bias)
        self.norm = norm
        self.project = nn.Conv1d(width, width, 1, bias=bias)

    def forward(self, x_BTD: Tensor, view: ChunkView, state: State | None = None) -> Tensor:
        h_BTD = F.glu(self.expand(self.ln(x_BTD).transpose(1, 2)), dim=1).transpose(1, 2)
        h_BTD = torch.where(view.valid[..., None], h_BTD, torch.zeros((), dtype=h_BTD.dtype, device=h_BTD.device))
        around = (self.kernel - 1, 0) if self.causal else (self.kernel // 2, self.kernel // 2)
        padded = F.pad(h_BTD, (0, 0, *around)) if state is None else remember(state, "conv", h_BTD, view)
        h_BTD = self.depthwise(padded.transpose(1, 2)).transpose(1, 2)
        return self.project(F.silu(self.norm(h_BTD)).transpose(1, 2)).transpose(1, 2)


class EncoderLayer(nn.Module):
    """A Conformer layer: half feed-forward, attention, convolution, half feed-forward, norm.

    Args:
        attn: self-attention.
        conv: convolution module.
        width: D.
        hidden: width inside the feed-forward parts.
    """

    def __init__(self, attn: Attention, conv: Convolution, width: int, hidden: int):
        super().__init__()
        self.mlp1_ln, self.mlp1 = nn.LayerNorm(width), feed_forward(width, hidden, nn.SiLU())
        self.attn_ln, self.attn = nn.LayerNorm(width), attn
        self.conv = conv
        self.mlp2_ln, self.mlp2 = nn.LayerNorm(width), feed_forward(width, hidden, nn.SiLU())
        self.ln = nn.LayerNorm(width)

    def forward(self, x_BTD: Tensor, view: ChunkView, state: State | None = None) -> Tensor:
        x_BTD = x_BTD + 0.5 * self.mlp1(self.mlp1_ln(x_BTD))
        x_BTD = x_BTD + self.attn(self.attn_ln(x_BTD), view, state)
        x_BTD = x_BTD + self.conv(x_BTD, view, state)
        return self.ln(x_BTD + 0.5 * self.mlp2(self.mlp2_ln(x_BTD)))
