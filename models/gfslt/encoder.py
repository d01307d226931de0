"""From frames to a memory: a tower for each picture, convolutions over time, a Transformer over all of it.

Letters: B rows, T frames, M memory frames, N frames that count, D width.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmx.nn.adapters import Conv
from mmx.nn.block import EncoderLayer, padding_mask
from mmx.nn.decoder import LearnedPositions, SinusoidalPositions
from mmx.seq import Seq, take
from mmx.state import State, subtree

EDGE = 8
"""Frames by which a clip is made longer at either end, so that the convolutions reach its edges."""


class EachFrame(nn.Module):
    """A tower over each frame that counts: `(B, T, *)` to `(B, T, D)`."""

    stride, lookahead = 1, 0

    def __init__(self, tower: nn.Module, width: int):
        super().__init__()
        self.tower, self.width = tower, width

    def init_state(self, batch: int, capacity: int = 0) -> State:
        """Nothing is remembered."""
        return {}

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        """See above."""
        mask_BT, dtype = seq.mask, next(self.tower.parameters()).dtype
        x_BTD = seq.x.new_zeros(*mask_BT.shape, self.width, dtype=dtype)
        if mask_BT.any():
            made_ND = self.tower(seq.x[mask_BT].to(dtype))
            x_BTD = x_BTD.masked_scatter(mask_BT[..., None], made_ND.to(dtype))
        return seq._replace(x=x_BTD)


class TemporalConv(nn.Module):
    """Twice a convolution over 5 frames, batch norm, ReLU and the larger of two: `(B, T, D)` to `(B, T / 4 + 1, D')`.

    A clip is filled up to a multiple of 4 frames, and by `EDGE` at either end, with its first and last frame.
    """

    stride, lookahead = 4, math.inf

    def __init__(self, width_in: int, width: int):
        super().__init__()
        made = [(width_in, width), (width, width)]
        self.convs = nn.ModuleList(nn.Conv1d(a, b, 5) for a, b in made)
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in made)

    def init_state(self, batch: int, capacity: int = 0) -> State:
        """Nothing is remembered: it reads the whole input."""
        return {}

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        """See above."""
        whole_B = (seq.lengths + 3) // 4 * 4
        count = (int(whole_B.max()) if len(whole_B) else 0) + 2 * EDGE
        at_T = torch.arange(count, device=seq.x.device) - EDGE
        index_BT = at_T.clamp(min=0).minimum((seq.lengths.to(at_T.device)[:, None] - 1).clamp(min=0))
        x_BDT, lengths_B = take(seq.masked, index_BT).transpose(1, 2), whole_B + 2 * EDGE
        for conv, norm in zip(self.convs, self.norms, strict=True):
            lengths_B = lengths_B - 4
            h_BTD = counted(norm, Seq(conv(x_BDT).transpose(1, 2), lengths_B))
            x_BDT = F.max_pool1d(F.relu(h_BTD.x).transpose(1, 2), 2)
            lengths_B = lengths_B // 2
        lengths_B = torch.where(seq.lengths > 0, lengths_B, 0)
        return Seq(x_BDT.transpose(1, 2), lengths_B, None if seq.rate is None else seq.rate / 4, seq.final)


def counted(norm: nn.Module, seq: Seq) -> Seq:
    """Batch norm over the frames that count: in training, padding is no part of its statistics."""
    mask_BT = seq.mask
    x_BTD = torch.zeros_like(seq.x)
    if mask_BT.any():
        x_BTD = x_BTD.masked_scatter(mask_BT[..., None], norm(seq.x[mask_BT]).to(x_BTD.dtype))
    return seq._replace(x=x_BTD)


class PoseConv(nn.Module):
    """Numbers of each frame, joined by what the frame alone shows, then by time: causal, in a bounded window.

    `(B, T, F)` to `(B, ceil(T / 4), D)`: a layer for each frame, then two gated convolutions over 5 frames that halve
    the rate. A memory frame knows the 13 frames up to its own, and none that follow, so that it streams.
    """

    stride, lookahead = 4, 0

    def __init__(self, width_in: int, width: int):
        super().__init__()
        self.spatial = nn.Sequential(nn.Linear(width_in, width), nn.GELU(), nn.Linear(width, width))
        self.temporal = Conv(width, width, layers=2, kernel=5, stride=2)

    def init_state(self, batch: int, capacity: int = 0) -> State:
        """Of the convolutions."""
        return {"temporal": self.temporal.init_state(batch, capacity)}

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        """See above."""
        x_BTD = self.spatial(seq.masked.to(self.spatial[0].weight.dtype))  # type: ignore[union-attr, arg-type]
        seq = seq._replace(x=x_BTD)
        return self.temporal(seq, None if state is None else subtree(state, "temporal"))


class SignEmbedding(nn.Module):
    """A projection, batch norm and ReLU: what stands for a token's embedding."""

    stride, lookahead = 1, 0

    def __init__(self, width_in: int, width: int):
        super().__init__()
        self.project, self.norm = nn.Linear(width_in, width), nn.BatchNorm1d(width)

    def init_state(self, batch: int, capacity: int = 0) -> State:
        """Nothing is remembered."""
        return {}

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        """`(B, T, D)` to `(B, T, D')`."""
        made = counted(self.norm, seq._replace(x=self.project(seq.masked)))
        return made._replace(x=F.relu(made.x))


class SignEncoder(nn.Module):
    """Frames, convolutions over time, embedding, and a pre-norm Transformer that sees the whole sentence.

    Args:
        frames: a block over single frames; none where they are numbers already.
        temporal: a block that divides the rate by 4.
        embed: of what that gives.
        layers: of the Transformer.
        positions: of the memory's frames.
        scale: of the embeddings.
    """

    stride, lookahead = 4, math.inf

    def __init__(
        self,
        frames: EachFrame | None,
        temporal: TemporalConv | PoseConv,
        embed: SignEmbedding,
        layers: Sequence[EncoderLayer],
        positions: LearnedPositions | SinusoidalPositions,
        scale: float,
    ):
        super().__init__()
        width = embed.project.out_features
        self.dropout, self.scale, self.ctx = 0.0, scale, positions.ctx
        self.frames, self.temporal, self.embed = frames, temporal, embed
        self.positions, self.embed_ln = positions, nn.LayerNorm(width)
        self.layers, self.ln = nn.ModuleList(layers), nn.LayerNorm(width)

    @property
    def window_s(self) -> float:
        """Seconds that its positions reach, up to half a minute."""
        return min(30.0, (self.ctx - 1) * 4 / 25)

    def init_state(self, batch: int, capacity: int = 0) -> State:
        """Nothing is remembered: it reads the whole input."""
        return {}

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        """`(B, T, *)` to `(B, M, D)`. Raises `ValueError` for more frames than there are positions."""
        seq = seq if self.frames is None else self.frames(seq)
        seq = self.embed(self.temporal(seq.to(self.ln.weight.dtype)))
        count = seq.x.shape[1]
        if count > self.ctx:
            raise ValueError(f"expected at most {4 * self.ctx} frames, got {4 * count}: cut the recording")
        x_BMD = seq.x * self.scale + self.positions(torch.arange(count, device=seq.x.device))
        x_BMD = F.dropout(self.embed_ln(x_BMD), self.dropout, self.training)
        mask = _attended(seq)
        for layer in self.layers:
            x_BMD = layer(x_BMD, mask)
        return seq._replace(x=self.ln(x_BMD))


def _attended(seq: Seq) -> Tensor | None:
    """Which frames are attended to; a row without any attends to its first, which nobody reads."""
    return padding_mask(seq._replace(lengths=seq.lengths.clamp(min=1)))
