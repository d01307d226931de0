"""`Seq`: the one value that travels between blocks: a padded batch with its lengths and its rate.

Letters used across mmx: B batch, T input frames, M memory frames, U tokens, D width, V vocabulary, F features,
H heads, K head width.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Seq(NamedTuple):
    """A padded batch of sequences: waveforms, video, features, encodings, units alike.

    Attributes:
        x: `(B, T, *)`, any dtype. What lies beyond a row's length is undefined: blocks must not read it.
        lengths: `(B,)` int64, valid frames of each row, each in `[0, T]`.
        rate: frames per second, or None where it depends on the data (tokens, CIF output).
        final: False when more of the same sequences follows (a stream); True replaces every `flush()`.
    """

    x: Tensor
    lengths: Tensor
    rate: float | None = None
    final: bool = True

    @property
    def mask(self) -> Tensor:
        """`(B, T)` bool, True on valid frames."""
        steps = torch.arange(self.x.shape[1], device=self.x.device)
        return steps[None, :] < self.lengths.to(self.x.device)[:, None]

    @property
    def masked(self) -> Tensor:
        """`x` with zeros beyond each length. A select, not a product: NaN in the padding must not survive."""
        mask_BT = self.mask
        mask = mask_BT.reshape(*mask_BT.shape, *([1] * (self.x.dim() - 2)))
        return torch.where(mask, self.x, torch.zeros((), dtype=self.x.dtype, device=self.x.device))

    @property
    def durations_s(self) -> Tensor:
        """`(B,)` float, seconds of each row. Raises `ValueError` when the rate is unknown."""
        if self.rate is None:
            raise ValueError("expected a Seq with a rate, got rate=None: durations need frames per second")
        return self.lengths.double() / self.rate

    def to(self, *args, **kwargs) -> "Seq":
        """Move or cast `x` as `Tensor.to` does; lengths follow the device only."""
        x = self.x.to(*args, **kwargs)
        return self._replace(x=x, lengths=self.lengths.to(x.device))

    def rows(self, index: Tensor) -> "Seq":
        """The rows that `index` `(N,)` selects, in its order."""
        return self._replace(x=self.x.index_select(0, index), lengths=self.lengths.index_select(0, index))


def pad(items: Sequence[Tensor], rate: float | None = None, final: bool = True) -> Seq:
    """Stack sequences of unequal length, each `(T_i, *)`, into one `Seq`; the padding is zero."""
    if not items:
        raise ValueError("expected at least one sequence to pad, got none")
    lengths = torch.tensor([len(i) for i in items], device=items[0].device)
    x = items[0].new_zeros(len(items), int(lengths.max()), *items[0].shape[1:])
    for row, item in zip(x, items, strict=True):
        row[: len(item)] = item
    return Seq(x, lengths, rate, final)


def take(x: Tensor, index_BN: Tensor) -> Tensor:
    """Frames `index_BN` of each row of `x` `(B, T, *)`: `(B, N, *)`; an index past the end takes the last frame."""
    index = index_BN.clamp(0, max(0, x.shape[1] - 1)).reshape(*index_BN.shape, *([1] * (x.dim() - 2)))
    return x.gather(1, index.expand(*index_BN.shape, *x.shape[2:]))


def concat(first: Seq, second: Seq) -> Seq:
    """Each row of `second` right after the valid frames of the same row of `first`; rate and `final` of `second`."""
    width = first.x.shape[1]
    at_N = torch.arange(width + second.x.shape[1], device=second.x.device)
    hole_B1 = (width - first.lengths)[:, None]
    index_BN = at_N + torch.where(at_N < first.lengths[:, None], 0, hole_B1)
    x = take(torch.cat([first.x.to(second.x.dtype), second.x], dim=1), index_BN)
    return second._replace(x=x, lengths=first.lengths + second.lengths)


def after(seq: Seq, start_B: Tensor, width: int) -> Seq:
    """What follows the first `start_B` frames of each row, in `width` frames, zeros beyond the lengths."""
    index_BN = start_B[:, None] + torch.arange(width, device=seq.x.device)
    if not seq.x.shape[1]:
        x = seq.x.new_zeros(len(seq.x), width, *seq.x.shape[2:])
    else:
        x = take(seq.x, index_BN)
    rest = seq._replace(x=x, lengths=(seq.lengths - start_B).clamp(0, width))
    return rest._replace(x=rest.masked)
