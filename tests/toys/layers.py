"""Layers that the toys share.

Letters: B rows, T frames, M output frames, N frames that count, D width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmx.nn.adapters import gather_windows, new_wait
from mmx.nn.decoder import DecoderLayer, SinusoidalPositions, TextDecoder
from mmx.seq import Seq
from mmx.state import State


def normalized(norm: nn.Module, seq: Seq) -> Seq:
    """Batch norm over the frames that count: in training, padding is no part of its statistics."""
    x_BTD, mask_BT = torch.zeros_like(seq.x), seq.mask
    if mask_BT.any():
        x_BTD = x_BTD.masked_scatter(mask_BT[..., None], norm(seq.x[mask_BT]))
    return seq._replace(x=x_BTD)


class ConvNorm(nn.Module):
    """A convolution that looks only back, batch norm, ReLU; `(B, T, D_in)` to `(B, ceil(T / stride), D_out)`."""

    lookahead = 0

    def __init__(self, width_in: int, width_out: int, kernel: int = 3, stride: int = 1):
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.conv = nn.Conv1d(width_in, width_out, kernel, stride)
        self.norm = nn.BatchNorm1d(width_out)

    def init_state(self, batch: int, capacity: int = 0) -> State:
        """Zeros stand before the first frame."""
        return new_wait(batch, self.kernel - self.stride, self.kernel, self.conv.weight[0, :, 0])

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        """See above."""
        state = self.init_state(len(seq.x)) if state is None else state
        made = gather_windows(seq, state, self.kernel, self.stride)
        if not made.x.shape[1]:
            return made._replace(x=made.x.new_zeros(len(made.x), 0, self.conv.out_channels))
        made = normalized(self.norm, made._replace(x=self.conv(made.x.transpose(1, 2)).transpose(1, 2)))
        return made._replace(x=F.relu(made.x))


class Stack(nn.Module):
    """Layers one after the other, as one block."""

    def __init__(self, *layers: nn.Module):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.stride = math.prod(int(layer.stride) for layer in layers)  # type: ignore[arg-type]
        self.lookahead = 0

    def init_state(self, batch: int, capacity: int = 0) -> State:
        """The state of each layer."""
        return {str(i): layer.init_state(batch, capacity) for i, layer in enumerate(self.layers)}  # type: ignore[operator]

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        """Through all of them."""
        for i, layer in enumerate(self.layers):
            seq = layer(seq, None if state is None else state[str(i)])
        return seq


def text_decoder(vocab: int, width: int, ctx: int) -> TextDecoder:
    """mmx's own, of one layer."""
    positions = SinusoidalPositions(ctx, width)
    return TextDecoder(vocab, [DecoderLayer(width, 2, 2 * width)], positions, scale=math.sqrt(width))


def mean_square(x_BTD: Tensor, seq: Seq) -> Tensor:
    """`(B,)` mean square of the frames that count of each row."""
    square_BTD = torch.where(seq.mask[..., None], x_BTD, 0.0).square()
    return square_BTD.mean(2).sum(1) / seq.lengths.clamp(min=1)
