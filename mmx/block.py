"""The two protocols that every part satisfies, and the layers that more than one family uses.

Letters: B rows, K hypotheses of a row, T frames or positions, M memory frames, U tokens, D width, H heads, C head
width, V vocabulary.
"""

import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmx.seq import Seq
from mmx.state import State, subtree, tensor


@runtime_checkable
class Block(Protocol):
    """Anything that maps a `Seq` to a `Seq`: front ends, encoders, adapters, vocoders.

    The same `forward` serves offline use and training (`state=None`) and streaming (a state from `init_state`, updated
    by the call). `tests/contract.py` checks that both agree.

    Attributes:
        stride: input frames for each output frame, or None where it depends on the data.
        lookahead: input frames past the current one that an output frame may depend on; `math.inf` for the whole
            input.
    """

    stride: int | None
    lookahead: float

    def forward(self, seq: Seq, state: State | None = None) -> Seq: ...

    def init_state(self, batch: int, capacity: int) -> State: ...


@runtime_checkable
class Decoder(Protocol):
    """Anything that scores the next token given the tokens so far and a memory.

    `tokens` is `(B*K, U)` where `memory` has B rows: rows `b*K .. b*K+K-1` are the K hypotheses of row b and share its
    memory. With a state, only the new tokens are given and the state is advanced in place.
    """

    def forward(
        self, tokens: Tensor, memory: Seq, state: State | None = None, at: Sequence[int] | None = None
    ) -> Tensor:
        """Logits `(B*K, U, V)`, or `(B*K, len(at), V)` for the positions `at` of the U only."""
        ...

    def init_state(self, batch: int, capacity: int, hypotheses: int = 1) -> State: ...


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


class Attention(nn.Module):
    """Multi-head attention whose keys have no bias, as in Whisper.

    Args:
        width: D, divided evenly among `heads`.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        if width % heads:
            raise ValueError(f"expected a width divisible by {heads} heads, got {width}")
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def keys_values(self, x_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of `x`, each `(B, H, T, C)`."""
        return split_heads(self.key(x_BTD), self.heads), split_heads(self.value(x_BTD), self.heads)

    def forward(
        self, x_BTD: Tensor, k_BHMC: Tensor, v_BHMC: Tensor, mask: Tensor | None = None, causal: bool = False
    ) -> Tensor:
        """Attend from `x` to given keys and values; `mask` is additive or bool, broadcastable to `(B, H, T, M)`."""
        q_BHTC = split_heads(self.query(x_BTD), self.heads)
        o_BHTC = F.scaled_dot_product_attention(q_BHTC, k_BHMC, v_BHMC, attn_mask=mask, is_causal=causal)
        return self.out(merge_heads(o_BHTC))

    def weights(self, x_BTD: Tensor, k_BHMC: Tensor, heads: Tensor) -> Tensor:
        """Attention scores before the softmax of the chosen `heads` `(N,)`: `(B, N, T, M)`, float32."""
        q_BHTC = split_heads(self.query(x_BTD), self.heads)[:, heads]
        return (q_BHTC @ k_BHMC[:, heads].transpose(-1, -2)).float() * q_BHTC.shape[-1] ** -0.5


class FeedForward(nn.Sequential):
    """Linear, GELU, Linear."""

    def __init__(self, width: int, hidden: int):
        super().__init__(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


class HypothesisCache:
    """A view on the part of a `State` that holds the self-attention keys and values of K hypotheses in B rows.

    Layout `(B, H, capacity, K, C)`: what the K hypotheses wrote at one position lies together, so all entries up to a
    position are one contiguous stretch per head and a step attends to them without a copy. `ancestors` `(B, K,
    capacity)` says in which of the K slots the entry of each position lies that a hypothesis descends from; the
    entries of its rivals are masked. Thus a beam search moves no keys and values, ever. A full cache doubles.
    """

    def __init__(self, state: State, hypotheses: int):
        self.state = state
        self.k = hypotheses

    @staticmethod
    def init(
        batch: int, layers: int, heads: int, capacity: int, hypotheses: int, head_width: int, like: Tensor
    ) -> State:
        """An empty cache; `like` gives dtype and device."""
        shape = (batch, heads, capacity, hypotheses, head_width)
        return {
            "ancestors": torch.zeros(batch, hypotheses, capacity, dtype=torch.int64, device=like.device),
            "length": torch.zeros(batch, dtype=torch.int64, device=like.device),
            "layers": {str(i): {"k": like.new_zeros(shape), "v": like.new_zeros(shape)} for i in range(layers)},
        }

    def begin(self, n_new: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Reserve `n_new` positions in every row.

        Returns:
            The new positions `(B, U)` and an additive mask `(B, 1, K*U, end*slots)` of `dtype` for the attention.
        """
        length = tensor(self.state, "length")
        device = length.device
        pos_BU = length[:, None] + torch.arange(n_new, device=device)
        self.first, self.end = int(length.min()), int(length.max()) + n_new
        self.aligned = self.end - self.first == n_new  # all rows stand at the same position
        self._grow(self.end)
        slots_BKT = tensor(self.state, "ancestors")
        own_K = torch.arange(self.k, device=device)
        rows_B = torch.arange(len(length), device=device)
        slots_BKT[rows_B[:, None, None], own_K[None, :, None], pos_BU[:, None, :]] = own_K[None, :, None]
        self.pos_BU = pos_BU
        self.state["length"] = length + n_new
        slot = torch.arange(slots_BKT.shape[1], device=device)
        mine_BKTS = slots_BKT[:, : self.k, : self.end, None] == slot
        past_BUT = torch.arange(self.end, device=device) <= pos_BU[..., None]
        visible = (mine_BKTS[:, :, None] & past_BUT[:, None, :, :, None]).flatten(3).flatten(1, 2)
        mask = torch.zeros(visible.shape, dtype=dtype, device=device).masked_fill_(~visible, -math.inf)
        return pos_BU, mask[:, None]

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

    def append(self, layer: int, k_BHNC: Tensor, v_BHNC: Tensor) -> tuple[Tensor, Tensor]:
        """Write the new entries (N = K*U, hypothesis-major) and return all keys and values, `(B, H, end*slots, C)`."""
        entry = subtree(subtree(self.state, "layers"), str(layer))
        return self._write(tensor(entry, "k"), k_BHNC), self._write(tensor(entry, "v"), v_BHNC)

    def _write(self, cache: Tensor, new_BHNC: Tensor) -> Tensor:
        fresh_BHUKC = new_BHNC.unflatten(2, (self.k, -1)).transpose(2, 3)
        if self.aligned:
            cache[:, :, self.first : self.end, : self.k] = fresh_BHUKC
        else:
            rows_B1 = torch.arange(len(cache), device=cache.device)[:, None]
            cache[:, :, :, : self.k].transpose(1, 2)[rows_B1, self.pos_BU] = fresh_BHUKC.transpose(1, 2)
        return cache[:, :, : self.end].flatten(2, 3)
