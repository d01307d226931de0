"""The visual front end of lip readers: one convolution over five pictures, then ResNet-18 on each (Stafylakis and
Tzimiropoulos 2017, arXiv 1703.04105, section 2.2).

Letters: B rows, T frames, H height, W width, N pictures, C channels, D width.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from mmx.nn.resnet import WIDTH, Trunk
from mmx.seq import Seq, after, concat
from mmx.state import State, tensor

STEM = 64
"""Channels of the first convolution."""
KERNEL = 5
"""Pictures that the first convolution sees, two on either side."""

Activation = Callable[[int], nn.Module]
"""Makes the activation for so many channels."""


class LipResNet(nn.Module):
    """Pictures `(B, T, H, W)` to `(B, T, D)`: a 3-D convolution, max pooling, ResNet-18, the mean over places, linear.

    It sees two pictures ahead and streams: a state holds the last four.

    Args:
        width: D.
        activation: after each convolution.
        bias: of the last linear layer.
    """

    stride, lookahead = 1, KERNEL // 2

    def __init__(self, width: int, activation: Activation, bias: bool = True):
        super().__init__()
        self.conv = nn.Conv3d(1, STEM, (KERNEL, 7, 7), (1, 2, 2), (0, 3, 3), bias=False)
        self.norm, self.act = nn.BatchNorm3d(STEM), activation(STEM)
        self.trunk = Trunk(activation)
        self.project = nn.Linear(WIDTH, width, bias)

    def init_state(self, batch: int, capacity: int = 0) -> State:
        """The last pictures that are needed again; two of zeros stand before the first. Their size is known with the
        first call."""
        n_B = torch.full((batch,), KERNEL // 2, dtype=torch.int64, device=self.project.weight.device)
        return {"rest": self.project.weight.new_zeros(batch, KERNEL - 1, 0, 0), "n_rest": n_B}

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        """See above."""
        weight = self.project.weight
        state = self.init_state(len(seq.x)) if state is None else state
        seq = seq._replace(x=seq.masked).to(weight.dtype)
        rest = tensor(state, "rest")
        if rest.shape[2:] != seq.x.shape[2:]:
            rest = seq.x.new_zeros(len(seq.x), KERNEL - 1, *seq.x.shape[2:])
        made = self._complete(Seq(rest, tensor(state, "n_rest")), seq, state)
        out_BTD = weight.new_zeros(*made.x.shape[:1], max(0, made.x.shape[1] - KERNEL + 1), len(weight))
        made = made._replace(x=made.x if out_BTD.shape[1] else made.x[:, :0])
        if out_BTD.shape[1]:
            there_BT = made._replace(x=out_BTD).mask
            h_BCTHW = self.act(self.norm(self.conv(made.x[:, None])))
            h_NCHW = F.max_pool3d(h_BCTHW, (1, 3, 3), (1, 2, 2), (0, 1, 1)).transpose(1, 2)[there_BT]
            if len(h_NCHW):
                seen_ND = self.project(self.trunk(h_NCHW))
                out_BTD = out_BTD.masked_scatter(there_BT[..., None], seen_ND)
        return made._replace(x=out_BTD)

    def _complete(self, rest: Seq, seq: Seq, state: State) -> Seq:
        """The pictures that windows of `KERNEL` cover, `(B, T + KERNEL - 1, H, W)`; the lengths are those of T."""
        final = seq.final
        seq = concat(rest, seq)
        if final:
            behind = seq.x.new_zeros(len(seq.x), KERNEL // 2, *seq.x.shape[2:])
            seq = concat(seq, seq._replace(x=behind, lengths=torch.full_like(seq.lengths, KERNEL // 2)))
        made_B = (seq.lengths - (KERNEL - 1)).clamp(min=0)
        kept = after(seq, made_B, KERNEL - 1)
        state["rest"], state["n_rest"] = kept.x, kept.lengths
        n_made = int(made_B.max()) if len(made_B) else 0
        return seq._replace(x=seq.masked[:, : n_made + KERNEL - 1 if n_made else 0], lengths=made_B)
