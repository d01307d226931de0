"""The layers that more than one family uses, and their caches.

Letters: B rows, K hypotheses of a row, T frames or positions, M memory frames, U tokens, D width, H heads, C head
width, V vocabulary.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmx.nn import quantize
from mmx.seq import Seq
from mmx.state import State, subtree, tensor


def sinusoids(length: int, channels: int, max_timescale: float = 10_000.0) -> Tensor:
    """`(length, channels)` position embedding: sines in the first half of the channels, cosines in the second."""
    if channels % 2:
        raise ValueError(f"expected an even number of channels, got {channels}")
    step = math.log(max_timescale) / (channels // 2 - 1)
    inv = torch.exp(-step * torch.arange(channels // 2, device="cpu"))
    angle = torch.arange(length, device="cpu")[:, None] * inv[None, :]
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def split_heads(x_BTD: Tensor, heads: int) -> Tensor:
    """`(B, T, D)` to `(B, H, T, C)`."""
    return x_BTD.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(x_BHTC: Tensor) -> Tensor:
    """`(B, H, T, C)` to `(B, T, D)`."""
    return x_BHTC.transpose(1, 2).flatten(2)


class Linear(nn.Linear):
    """A linear layer whose result for a row does not depend on how many rows there are.

    Matrix products in float32 on a CPU sum up in another order where a thread is left with one to three rows; beside
    other rows a text would then differ by its last bits, and at times by a word. The rows are filled up with zeros.
    """

    def forward(self, input: Tensor) -> Tensor:
        """`(*, in)` to `(*, out)`."""
        if torch.is_grad_enabled() or input.dtype != torch.float32 or input.device.type != "cpu":
            return super().forward(input)
        return quantize.filled(super().forward, input)


class Attention(nn.Module):
    """Multi-head attention.

    Args:
        width: D, divided evenly among `heads`.
        heads: H.
        key_bias: whether keys have a bias, which softmax cancels out; Whisper has none.
    """

    def __init__(self, width: int, heads: int, key_bias: bool = False):
        super().__init__()
        if width % heads:
            raise ValueError(f"expected a width divisible by {heads} heads, got {width}")
        self.heads = heads
        self.query = Linear(width, width)
        self.key = Linear(width, width, bias=key_bias)
        self.value = Linear(width, width)
        self.out = Linear(width, width)

    def queries_keys_values(self, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of `x`, each `(B, H, T, C)`."""
        # In this order gradients add up as they do where keys and values come first.
        made = quantize.side_by_side(x_BTD, self.key, self.value, self.query)
        k, v, q = (split_heads(part_BTD, self.heads) for part_BTD in made)
        return q, k, v

    def keys_values(self, x_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of `x`, each `(B, H, T, C)`."""
        k, v = (split_heads(part_BTD, self.heads) for part_BTD in quantize.side_by_side(x_BTD, self.key, self.value))
        return k, v

    def forward(self, x_BTD: Tensor, k_BHMC: Tensor, v_BHMC: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend from `x` to the keys and values.

        Args:
            x_BTD: `(B, T, D)`.
            k_BHMC: keys.
            v_BHMC: values.
            mask: who sees whom, `(B, 1, T or 1, M)` bool; everyone everything when None.
        """
        return self.merged(attend(self.queries(x_BTD), k_BHMC, v_BHMC, mask))

    def merged(self, o_BHTC: Tensor) -> Tensor:
        """What the heads found, `(B, H, T, C)`, put together: `(B, T, D)`."""
        return self.out(merge_heads(o_BHTC))

    def queries(self, x_RUD: Tensor) -> Tensor:
        """Queries of `x` `(R, U, D)`, `(R, H, U, C)`."""
        return split_heads(self.query(x_RUD), self.heads)

    def weights(self, x_BTD: Tensor, k_BHMC: Tensor, heads: Tensor) -> Tensor:
        """Attention scores before the softmax of the chosen `heads` `(N,)`: `(B, N, T, M)`, float32."""
        q_BHTC = split_heads(self.query(x_BTD), self.heads)[:, heads]
        k_BNMC = k_BHMC[:, heads].to(q_BHTC.dtype)
        return (q_BHTC @ k_BNMC.transpose(-1, -2)).float() * q_BHTC.shape[-1] ** -0.5


BLOCK = 500
"""Queries whose scores against some thousand keys stay in a core's cache, in bfloat16."""
FEW = 32
"""Queries up to which two products take less than the fused kernel, in bfloat16."""


def in_blocks(q_BHTC: Tensor) -> bool:
    """Whether attention is `attend_in_blocks`: bfloat16 on a CPU, where the fused kernel multiplies in float32."""
    return (
        q_BHTC.dtype == torch.bfloat16
        and q_BHTC.device.type == "cpu"
        and q_BHTC.shape[2] > BLOCK
        and not torch.is_grad_enabled()
    )


def attend(q_BHTC: Tensor, k_BHMC: Tensor, v_BHMC: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention of whole sequences; shapes and `mask` as in `Attention`."""
    if mask is None and in_blocks(q_BHTC):
        return attend_in_blocks(q_BHTC, k_BHMC, v_BHMC)
    return F.scaled_dot_product_attention(q_BHTC, k_BHMC, v_BHMC, attn_mask=mask)


def attend_in_blocks(q_BHTC: Tensor, k_BHMC: Tensor, v_BHMC: Tensor) -> Tensor:
    """Everyone attends to everyone, a block of one head's queries at a time; shapes as in `Attention`."""
    q_BHTC = q_BHTC * q_BHTC.shape[-1] ** -0.5
    out_BTHC = q_BHTC.new_empty(q_BHTC.transpose(1, 2).shape)
    for b, h in itertools.product(range(q_BHTC.shape[0]), range(q_BHTC.shape[1])):
        k_CM, v_MC = k_BHMC[b, h].T.contiguous(), v_BHMC[b, h].contiguous()
        for at in range(0, q_BHTC.shape[2], BLOCK):
            block = slice(at, at + BLOCK)
            out_BTHC[b, block, h] = (q_BHTC[b, h, block] @ k_CM).softmax(-1) @ v_MC
    return out_BTHC.transpose(1, 2)


def attend_few(q_BHTC: Tensor, k_BHMC: Tensor, v_BHMC: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of few queries with an additive mask; what one row gives does not depend on the rows beside it.

    On a CPU the fused kernel is slow on few queries in bfloat16; on up to three in float32 it sums up in another order
    in one row than in several.
    """
    n = q_BHTC.shape[2]
    if q_BHTC.device.type == "cpu" and n <= (FEW if q_BHTC.dtype == torch.bfloat16 else 1):
        q_BHTC = (q_BHTC * q_BHTC.shape[-1] ** -0.5).contiguous()  # its layout, too, decides the kernel
        scores = q_BHTC @ k_BHMC.transpose(-1, -2)
        return (scores if mask is None else scores + mask).softmax(-1) @ v_BHMC
    if q_BHTC.device.type == "cpu" and n < 4:
        q_BHTC = F.pad(q_BHTC, (0, 0, 0, 4 - n))
        mask = None if mask is None else F.pad(mask, (0, 0, 0, 4 - n))
    return F.scaled_dot_product_attention(q_BHTC, k_BHMC, v_BHMC, attn_mask=mask)[:, :, :n]


class FeedForward(nn.Sequential):
    """Linear, activation, Linear."""

    def __init__(self, width: int, hidden: int, activation: Callable[[], nn.Module] = nn.GELU):
        super().__init__(Linear(width, hidden), activation(), Linear(hidden, width))


class EncoderLayer(nn.Module):
    """Pre-norm self-attention and feed-forward.

    Args:
        width: D.
        heads: H.
        hidden: width inside the feed-forward.
        activation: of the feed-forward.
        key_bias: see `Attention`.

    Attributes:
        dropout: share of each sub-layer's output that is dropped; in training only.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        activation: Callable[[], nn.Module] = nn.GELU,
        key_bias: bool = False,
    ):
        super().__init__()
        self.dropout = 0.0
        self.attn_ln = nn.LayerNorm(width)
        self.attn = Attention(width, heads, key_bias)
        self.mlp_ln = nn.LayerNorm(width)
        self.mlp = FeedForward(width, hidden, activation)

    def forward(self, x_BTD: Tensor, mask: Tensor | None = None) -> Tensor:
        """`mask` `(B, 1, T or 1, T)` bool says who sees whom; everyone everyone when None."""
        h = self.attn_ln(x_BTD)
        x_BTD = x_BTD + F.dropout(self.attn(h, *self.attn.keys_values(h), mask), self.dropout, self.training)
        return x_BTD + F.dropout(self.mlp(self.mlp_ln(x_BTD)), self.dropout, self.training)


def padding_mask(seq: Seq) -> Tensor | None:
    """Which frames may be attended to, `(B, 1, 1, T)` bool; None when all rows are full, which is faster."""
    if bool((seq.lengths == seq.x.shape[1]).all()):
        return None
    return seq.mask[:, None, None]


class Chosen(NamedTuple):
    """The entries that the hypotheses of one row attend to.

    Attributes:
        entries: `(N,)` int64, ascending.
        mask: additive `(K*U, N)`, hypothesis-major.
    """

    entries: Tensor
    mask: Tensor


class Keys(NamedTuple):
    """What a group of hypotheses attends to.

    Attributes:
        k: `(B, H, M, C)`.
        v: `(B, H, M, C)`.
        lengths: valid entries of each row, or None when all M are.
        mask: additive `(B, K*U, M)`, hypothesis-major, or None.
        chosen: of each row that has hypotheses, what it attends to, in place of `lengths` and `mask`.
    """

    k: Tensor
    v: Tensor
    lengths: Sequence[int] | None = None
    mask: Tensor | None = None
    chosen: Mapping[int, Chosen] | None = None

    def row(self, row: int, queries: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keys and values `(1, H, N, C)` of a row and the mask `(queries, N)` of its first queries."""
        if self.chosen is not None:
            entries, mask = self.chosen[row]
            return self.k[row].index_select(1, entries)[None], self.v[row].index_select(1, entries)[None], mask
        end = self.k.shape[2] if self.lengths is None else self.lengths[row]
        mask = None if self.mask is None else self.mask[row, :queries, :end]
        return self.k[row : row + 1, :, :end], self.v[row : row + 1, :, :end], mask


class Groups:
    """Which of B rows owns each of R hypotheses.

    Where all rows have equally many and all keys are valid, attention is one call; else one call for each row, which
    costs nothing for rows that have finished and reads only the keys that are valid or chosen.
    """

    def __init__(self, owner: Sequence[int] | None, hypotheses: int, rows: int):
        if owner is None:
            if hypotheses % rows:
                raise ValueError(f"expected a multiple of {rows} hypotheses, got {hypotheses}: name their owners")
            owner = [r for r in range(rows) for _ in range(hypotheses // rows)]
        counts = [0] * rows
        slots = []
        for r in owner:
            slots.append(counts[r])
            counts[r] += 1
        self.owner, self.slots, self.counts = list(owner), slots, counts
        self.width = max(counts, default=0)
        self.even = all(c == self.width for c in counts)

    def attend(self, q_RHUC: Tensor, keys: Keys) -> Tensor:
        """`(R, H, U, C)` queries to `(R, H, U, C)` outputs in their dtype, computed in that of the keys."""
        return self._attend(q_RHUC.to(keys.k.dtype), keys).to(q_RHUC.dtype)

    def _attend(self, q_RHUC: Tensor, keys: Keys) -> Tensor:
        n_new = q_RHUC.shape[2]
        if self.even and keys.lengths is None and keys.chosen is None:
            q = q_RHUC.unflatten(0, (-1, self.width)).transpose(1, 2).flatten(2, 3)
            mask = None if keys.mask is None else keys.mask[:, None]
            o = attend_few(q, keys.k, keys.v, mask)
            return o.unflatten(2, (self.width, n_new)).transpose(1, 2).flatten(0, 1)
        out, at = [], 0
        for row, count in enumerate(self.counts):
            if count == 0:
                continue
            q = q_RHUC[at : at + count].transpose(0, 1).flatten(1, 2)[None]  # 1, H, K*U, C
            o = attend_few(q, *keys.row(row, count * n_new))
            out.append(o[0].unflatten(1, (count, n_new)).transpose(0, 1))
            at += count
        return torch.cat(out)


def untouched_zeros(shape: Sequence[int], like: Tensor) -> Tensor:
    """Zeros with the dtype and device of `like`, as one allocation.

    On a CPU the operating system hands out its zeroed pages only as they are written (NumPy asks for them so, torch
    fills them), and takes one large block back whole, where many middling ones fragment the heap.
    """
    if like.device.type != "cpu":
        return like.new_zeros(shape)
    raw = torch.from_numpy(np.zeros(math.prod(shape) * like.element_size(), np.uint8))
    return raw.view(like.dtype).view(*shape)


def require_room(tokens: int, most: int) -> None:
    """Raise `ValueError` for more tokens than a decoder has positions."""
    if tokens > most:
        raise ValueError(f"expected at most {most} tokens, got {tokens}: shorten the text")


class HypothesisCache:
    """A view on the part of a `State` that holds the self-attention keys and values of up to K hypotheses in B rows.

    Layout `(B, H, capacity, K, C)`: what the K hypotheses wrote at one position lies together, so all entries up to a
    position are one contiguous stretch per head. `ancestors` `(B, K, capacity)` says in which of the K slots the entry
    of each position lies that a hypothesis descends from; the entries of its rivals are masked. Thus a beam search
    moves no keys and values, ever. The hypotheses of a row soon have most ancestors in common: on a CPU a step gathers
    the entries that any of them descends from, which reads a K-th of the cache; elsewhere it reads all of them without
    a copy. A full cache doubles.
    """

    def __init__(self, state: State, groups: Groups):
        self.state, self.groups = state, groups

    @staticmethod
    def init(
        batch: int, layers: int, heads: int, capacity: int, hypotheses: int, head_width: int, like: Tensor
    ) -> State:
        """An empty cache; `like` gives dtype and device. Room that is never reached costs no memory on a CPU."""
        shape = (batch, heads, capacity, hypotheses, head_width)
        room: Sequence[Sequence[Tensor]] | Tensor
        if torch.is_grad_enabled():  # autograd wants blocks of their own for what is written in place
            room = [[like.new_zeros(shape) for _ in "kv"] for _ in range(layers)]
        else:
            room = untouched_zeros((layers, 2, *shape), like)
        return {
            "ancestors": torch.zeros(batch, hypotheses, capacity, dtype=torch.int64, device=like.device),
            "length": torch.zeros(batch, dtype=torch.int64, device=like.device),
            "layers": {str(i): {"k": room[i][0], "v": room[i][1]} for i in range(layers)},
        }

    def begin(self, n_new: int, dtype: torch.dtype, most: int) -> Tensor:
        """Reserve `n_new` positions in every row, `most` in all, and prepare the attention mask, in `dtype`.

        Returns:
            The new positions of each hypothesis, `(R, U)`.

        Raises:
            ValueError: there are more; the state is as it was.
        """
        length_B = tensor(self.state, "length")
        device = length_B.device
        pos_BU = length_B[:, None] + torch.arange(n_new, device=device)
        lengths = length_B.tolist()
        self.end = max(lengths) + n_new
        require_room(self.end, most)
        aligned = self.groups.even and min(lengths) == max(lengths)
        self.at = lengths[0] if aligned else None  # where everyone writes
        self._grow(self.end)
        slots_BKT = tensor(self.state, "ancestors")
        self.owner_R1 = torch.tensor(self.groups.owner, device=device)[:, None]
        self.slot_R1 = torch.tensor(self.groups.slots, device=device)[:, None]
        self.pos_RU = pos_BU[self.owner_R1[:, 0]]
        slots_BKT[self.owner_R1, self.slot_R1, self.pos_RU] = self.slot_R1
        self.state["length"] = length_B + n_new
        self.mask, self.chosen = None, None
        if slots_BKT.shape[1] == 1 and n_new == 1 and min(lengths) == max(lengths):
            return self.pos_RU  # one hypothesis, one token, all rows at the same position: everything is visible
        visible_BQM = self._visible(slots_BKT, pos_BU)
        if slots_BKT.shape[1] > 1 and device.type == "cpu":
            rows = ((b, visible_BQM[b, : count * n_new]) for b, count in enumerate(self.groups.counts) if count)
            self.chosen = {b: _chosen(visible_QM, dtype) for b, visible_QM in rows}
        else:
            self.mask = _additive(visible_BQM, dtype)
        return self.pos_RU

    def _visible(self, slots_BKT: Tensor, pos_BU: Tensor) -> Tensor:
        """Who sees which entry, `(B, K*U, end*K)`."""
        slot = torch.arange(slots_BKT.shape[1], device=slots_BKT.device)
        mine_BKTS = slots_BKT[:, : self.groups.width, : self.end, None] == slot
        past_BUT = torch.arange(self.end, device=slots_BKT.device) <= pos_BU[..., None]
        return (mine_BKTS[:, :, None] & past_BUT[:, None, :, :, None]).flatten(3).flatten(1, 2)

    def _grow(self, end: int) -> None:
        capacity = tensor(self.state, "ancestors").shape[2]
        if end <= capacity:
            return
        extra = max(capacity, end - capacity)
        self.state["ancestors"] = F.pad(tensor(self.state, "ancestors"), (0, extra))
        for entry in subtree(self.state, "layers").values():
            assert isinstance(entry, dict)
            for name in ("k", "v"):
                entry[name] = F.pad(tensor(entry, name), (0, 0, 0, 0, 0, extra))

    def append(self, layer: int, k_RHUC: Tensor, v_RHUC: Tensor) -> Keys:
        """Write the new entries and return all keys and values up to now."""
        entry = subtree(subtree(self.state, "layers"), str(layer))
        for name, new in (("k", k_RHUC), ("v", v_RHUC)):
            if self.at is None:
                tensor(entry, name)[self.owner_R1, :, self.pos_RU, self.slot_R1] = new.transpose(1, 2)
            else:  # one slice takes a quarter of the time
                here = tensor(entry, name)[:, :, self.at : self.end, : self.groups.width]
                here.copy_(new.unflatten(0, (-1, self.groups.width)).permute(0, 2, 3, 1, 4))
        k, v = (tensor(entry, name)[:, :, : self.end].flatten(2, 3) for name in ("k", "v"))
        return Keys(k, v, mask=self.mask, chosen=self.chosen)


def _chosen(visible_QM: Tensor, dtype: torch.dtype) -> Chosen:
    entries = visible_QM.any(0).nonzero()[:, 0]
    return Chosen(entries, _additive(visible_QM.index_select(1, entries), dtype))


def _additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, -math.inf)
