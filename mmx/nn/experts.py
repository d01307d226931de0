"""Experts of several modalities, fused frame by frame: each reads its own (hands, mouth, body), any may be absent.

What each of them makes is brought to one width, put side by side and joined; layers that follow see all of them over
time. An expert that is absent, in a row or from some frame on, has a vector of its own in its place. In training rows
lose experts by chance (modality dropout, Neverova et al. 2016, arXiv 1501.00102), so that each is also read alone.

Letters: B rows, T frames, M memory frames, E experts, D width.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmx.interfaces import Block
from mmx.nn.adapters import new_wait
from mmx.seq import Seq, after, concat
from mmx.state import State, subtree, tensor


class Experts(nn.Module):
    """By modality `(B, T, D_e)`, all at one rate, to one memory `(B, M, D)`: an `mmx.interfaces.Fuse`.

    A stream is told by the keys of its first call which experts it has; it gives the frames that all of them have come
    to. Who loses one in mid-stream goes on giving its frames as zeros, as `mmx.clip.Rolling.fill` does. At the end, the
    rest of the longest goes on alone.

    Args:
        widths: D_e of each expert, by modality.
        width: D.
        rate: frames a second, of the experts and of the memory.
        drop: share of the rows in training that lose some of their experts, never all.
        layers: blocks over the joined frames, of stride 1 and without look-ahead.
    """

    def __init__(
        self, widths: Mapping[str, int], width: int, rate: float, drop: float = 0.0, layers: Sequence[nn.Module] = ()
    ):
        super().__init__()
        self.rate, self.drop, self.width = rate, drop, width
        self.project = nn.ModuleDict({name: nn.Linear(w, width) for name, w in widths.items()})
        self.absent = nn.ParameterDict({name: nn.Parameter(0.02 * torch.randn(width)) for name in widths})
        self.norm, self.join = nn.LayerNorm(len(widths) * width), nn.Linear(len(widths) * width, width)
        self.layers = nn.ModuleList(layers)

    def init_state(self, batch: int, capacity: int = 0) -> State:
        """Frames that wait for another expert, and of the layers."""
        like = self.join.bias
        layers: State = {
            str(i): x.init_state(batch, capacity) for i, x in enumerate(self.layers) if isinstance(x, Block)
        }
        return {"waiting": {name: new_wait(batch, 0, 0, like) for name in self.absent}, "layers": layers}

    def forward(self, memories: Mapping[str, Seq], state: State | None = None) -> Seq:
        """See above. Raises `ValueError` for experts of different rates."""
        if off := {name: seq.rate for name, seq in memories.items() if seq.rate not in (None, self.rate)}:
            raise ValueError(f"expected experts at {self.rate:g} frames a second, got {off}: bring them to one clock")
        first = next(iter(memories.values()))
        own = self.init_state(len(first.x)) if state is None else state
        waiting = subtree(own, "waiting")
        parts = {name: self._arrived(name, seq, subtree(waiting, name)) for name, seq in memories.items()}
        counts_EB = torch.stack([part.lengths for part in parts.values()])
        made_B = counts_EB.amax(0) if first.final else counts_EB.amin(0)
        for name, part in parts.items():
            rest = after(part, made_B.minimum(part.lengths), int((part.lengths - made_B).clamp(min=0).max()))
            waiting[name] = {"rest": rest.x, "n_rest": rest.lengths}
        seq = Seq(self._joined(parts, made_B), made_B, self.rate, first.final)
        for i, layer in enumerate(self.layers):
            seq = layer(seq, None if state is None else subtree(subtree(own, "layers"), str(i)))
        return seq

    def _arrived(self, name: str, memory: Seq, wait: State) -> Seq:
        """The frames of an expert that are not given yet, in the common width."""
        made = memory._replace(x=self.project[name](memory.masked))
        before = Seq(tensor(wait, "rest"), tensor(wait, "n_rest"))
        return concat(before, made) if before.x.shape[1] else made

    def _joined(self, parts: Mapping[str, Seq], made_B: Tensor) -> Tensor:
        """`(B, M, D)` of all experts, present or not."""
        n, kept, columns = int(made_B.max()), self._kept(parts), []
        for name, absent_D in self.absent.items():
            x_BMD = absent_D.expand(len(made_B), n, -1)
            if name in parts:
                part, more = parts[name], max(0, n - parts[name].x.shape[1])
                there_BM = F.pad(part.mask & kept[name][:, None], (0, more))[:, :n]
                x_BMD = torch.where(there_BM[..., None], F.pad(part.x, (0, 0, 0, more))[:, :n], absent_D)
            columns.append(x_BMD)
        return F.gelu(self.join(self.norm(torch.cat(columns, -1))))

    def _kept(self, parts: Mapping[str, Seq]) -> dict[str, Tensor]:
        """`(B,)` which rows keep each of the experts that they have.

        A row that loses some keeps each with even odds, and one at least: of two, either.
        """
        there_EB = torch.stack([part.lengths > 0 for part in parts.values()])
        if self.training and self.drop:
            drawn_EB = torch.rand(there_EB.shape, device=there_EB.device).masked_fill(~there_EB, -1.0)
            keeps_EB = (drawn_EB > 0.5) | (drawn_EB == drawn_EB.amax(0))
            loses_B = torch.rand(there_EB.shape[1:], device=there_EB.device) < self.drop
            there_EB = torch.where(loses_B, there_EB & keeps_EB, there_EB)
        return dict(zip(parts, there_EB, strict=True))
