"""`TextDecoder`: the Transformer decoder that every text-writing family uses (Vaswani et al. 2017, pre-norm).

Letters: B rows, R hypotheses over them, U tokens, M memory frames, D width, V vocabulary, H heads, C head width, N
chosen heads.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmx.nn.block import (
    Attention,
    FeedForward,
    Groups,
    HypothesisCache,
    Keys,
    Linear,
    attend,
    padding_mask,
    require_room,
    sinusoids,
    split_heads,
)  # fmt: skip
from mmx.nn.quantize import side_by_side
from mmx.seq import Seq
from mmx.state import State, subtree, tensor

Watch = Callable[[int, Tensor], None]
"""Called with each layer's number and with what its cross-attention asks with, `(R, U, D)`."""


class LearnedPositions(nn.Module):
    """One trained vector for each position.

    Args:
        ctx: positions.
        width: D.
        offset: rows of the table before the first position, which are never read (mBART keeps two).
    """

    def __init__(self, ctx: int, width: int, offset: int = 0):
        super().__init__()
        self.ctx, self.offset = ctx, offset
        self.weight = nn.Parameter(torch.empty(ctx + offset, width))
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, positions: Tensor) -> Tensor:
        """Any shape of int64 to that shape and `D`."""
        return self.weight[positions + self.offset]


class SinusoidalPositions(nn.Module):
    """Fixed waves; see `mmx.nn.block.sinusoids` for the arguments."""

    def __init__(self, ctx: int, width: int, offset: int = 0):
        super().__init__()
        self.ctx, self.offset = ctx, offset
        self.register_buffer("table", sinusoids(ctx + offset, width), persistent=False)
        self.table: Tensor

    def forward(self, positions: Tensor) -> Tensor:
        """Any shape of int64 to that shape and `D`."""
        return self.table[positions + self.offset]


class Sight(Protocol):
    """What the layers of a decoder attend to, by number: where keys and values are kept, and who sees whom."""

    def own(self, layer: int, q_RHUC: Tensor, k_RHUC: Tensor, v_RHUC: Tensor) -> Tensor:
        """Attention of the tokens to themselves and to those before them, `(R, H, U, C)`."""
        ...

    def memory(self, layer: int, q_RHUC: Tensor) -> Tensor:
        """Attention of the tokens to the memory, `(R, H, U, C)`."""
        ...


class DecoderLayer(nn.Module):
    """Pre-norm causal self-attention, cross-attention and feed-forward; see `mmx.nn.block.EncoderLayer`."""

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
        self.cross_ln = nn.LayerNorm(width)
        self.cross = Attention(width, heads, key_bias)
        self.mlp_ln = nn.LayerNorm(width)
        self.mlp = FeedForward(width, hidden, activation)

    def forward(self, x_RUD: Tensor, layer: int, sight: Sight, watch: Watch | None = None) -> Tensor:
        """`(R, U, D)` tokens through the layer, whose number is `layer`; see `TextDecoder.hidden` for `watch`."""
        q, k, v = self.attn.queries_keys_values(self.attn_ln(x_RUD))
        x_RUD = x_RUD + self._drop(self.attn.merged(sight.own(layer, q, k, v)))
        h = self.cross_ln(x_RUD)
        if watch is not None:
            watch(layer, h)
        x_RUD = x_RUD + self._drop(self.cross.merged(sight.memory(layer, self.cross.queries(h))))
        return x_RUD + self._drop(self.mlp(self.mlp_ln(x_RUD)))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class TextDecoder(nn.Module):
    """Writes tokens over any memory; the output projection is the token embedding.

    Args:
        vocab: V.
        layers: `DecoderLayer`s.
        positions: maps positions to vectors and says how many there are (`ctx`).
        scale: of the token embeddings.
        embed_ln: whether the sum of token and position is normalized, as mBART does.

    Attributes:
        dropout: share of the embeddings that is dropped; in training only.
        keys_dtype: in which the memory's keys and values are kept and attended to, at inference; that of the weights
            when None.
    """

    def __init__(
        self,
        vocab: int,
        layers: Sequence[DecoderLayer],
        positions: LearnedPositions | SinusoidalPositions,
        scale: float = 1.0,
        embed_ln: bool = False,
    ):
        super().__init__()
        self.dropout = 0.0
        self.keys_dtype: torch.dtype | None = None
        width, self.heads = layers[0].attn.query.in_features, layers[0].attn.heads
        self.ctx, self.scale = positions.ctx, scale
        self.token = nn.Embedding(vocab, width)
        self.positions = positions
        self.embed_ln = nn.LayerNorm(width) if embed_ln else nn.Identity()
        self.layers = nn.ModuleList(layers)
        self.ln = nn.LayerNorm(width)
        self.head = Linear(width, vocab, bias=False)
        self.head.weight = self.token.weight

    @property
    def width(self) -> int:
        """D of the memory."""
        return self.ln.normalized_shape[0]

    @property
    def dtype(self) -> torch.dtype:
        """Of the memory."""
        return self.ln.weight.dtype

    @property
    def device(self) -> torch.device:
        """Of the weights."""
        return self.ln.weight.device

    @property
    def alignment_heads(self) -> tuple[tuple[int, int], ...]:
        """The heads that may follow the source where nobody knows better: those of the later half of the layers."""
        n = len(self.layers)
        return tuple((i, h) for i in range(n // 2, n) for h in range(self.heads))

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """`(R, U)` tokens and their positions to `(R, U, D)`."""
        return self.embed_ln(self.token(tokens) * self.scale + self.positions(positions))

    def forward(
        self,
        tokens: Tensor,
        memory: Seq,
        state: State | None = None,
        at: Sequence[int] | None = None,
        owner: Sequence[int] | None = None,
    ) -> Tensor:
        """Logits of the next token.

        Args:
            tokens: `(R, U)` int64; with a state, only those that it has not seen.
            memory: encoder output `(B, M, D)`.
            state: from `init_state`; advanced in place.
            at: positions of the U whose logits are wanted; all when None.
            owner: memory row of each hypothesis, ascending; shared out evenly when None.

        Returns:
            `(R, U or len(at), V)`.
        """
        x_RUD = self.hidden(tokens, memory, state, owner)
        return self.head(x_RUD if at is None else x_RUD[:, list(at)])

    def hidden(
        self,
        tokens: Tensor,
        memory: Seq,
        state: State | None = None,
        owner: Sequence[int] | None = None,
        watch: Watch | None = None,
    ) -> Tensor:
        """What the output projection reads, `(R, U, D)`; arguments as in `forward`.

        Without a state nothing is kept: whole texts, also in training, with dropout there.
        """
        groups, n_new = Groups(owner, len(tokens), len(memory.x)), tokens.shape[1]
        if state is None:
            require_room(n_new, self.ctx)
            positions = torch.arange(n_new, device=tokens.device)
            if len(tokens) != len(memory.x) or owner is not None:
                memory = memory.rows(torch.tensor(groups.owner, device=memory.x.device))
            sight: Sight = _Whole(self, memory)
        else:
            cache = HypothesisCache(subtree(state, "self"), groups)
            positions = cache.begin(n_new, self.token.weight.dtype, self.ctx)
            sight = _Steps(cache, self.memory_keys(memory, state))
        return self.through(self.embed(tokens, positions), sight, watch)

    def through(self, x_RUD: Tensor, sight: Sight, watch: Watch | None = None) -> Tensor:
        """Embedded tokens `(R, U, D)` through all layers, to what the output projection reads."""
        x_RUD = F.dropout(x_RUD, self.dropout, self.training)
        for i, layer in enumerate(self.layers):
            x_RUD = layer(x_RUD, i, sight, watch)
        return self.ln(x_RUD)

    def memory_keys(self, memory: Seq, state: State) -> list[Keys]:
        """Every layer's keys and values of the memory: computed once, shared by all hypotheses of a row."""
        held = subtree(state, "memory")
        if not held:
            held.update(self._keys_values(memory.x))
        lengths = memory.lengths.tolist()
        valid = None if all(n == memory.x.shape[1] for n in lengths) else lengths
        entries = (subtree(held, str(i)) for i in range(len(self.layers)))
        return [Keys(tensor(e, "k"), tensor(e, "v"), valid) for e in entries]

    def _keys_values(self, x_BMD: Tensor) -> State:
        """Every layer's keys and values. Together they are the largest thing a search holds: one block, so that its
        memory goes back whole."""
        readers = [m for layer in self.layers for m in (layer.cross.key, layer.cross.value)]  # type: ignore[union-attr]
        parts = (split_heads(part_BMD, self.heads) for part_BMD in side_by_side(x_BMD, *readers))  # type: ignore[arg-type]
        pairs = zip(parts, parts, strict=True)  # keys and values in turn
        if torch.is_grad_enabled():
            return {str(i): {"k": k, "v": v} for i, (k, v) in enumerate(pairs)}
        b, m, width = x_BMD.shape
        dtype = self.keys_dtype or x_BMD.dtype
        room = x_BMD.new_empty(len(self.layers), 2, b, self.heads, m, width // self.heads, dtype=dtype)
        out: State = {}
        for i, (k_BHMC, v_BHMC) in enumerate(pairs):
            out[str(i)] = {"k": room[i, 0].copy_(k_BHMC), "v": room[i, 1].copy_(v_BHMC)}
        return out

    def cross_weights(
        self,
        tokens: Tensor,
        memory: Seq,
        heads: Sequence[tuple[int, int]],
        shared: State | None = None,
        below: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Cross-attention of chosen heads over given text, for timing.

        Args:
            tokens: `(B, U)`, one hypothesis a row.
            memory: `(B, M, D)`.
            heads: (layer, head) pairs, N of them.
            shared: `state["memory"]` of an earlier call with the same memory, to save its cost.
            below: take probabilities among the tokens below this one (the text tokens); among all when None.

        Returns:
            Scores before the softmax `(B, N, U, M)`, and `(B, U - 1)`: the probability of each next token.
        """
        state = self.init_state(len(tokens), tokens.shape[1])
        if shared is not None:
            state["memory"] = shared
        keys = self.memory_keys(memory, state)
        found: dict[tuple[int, int], Tensor] = {}

        def watch(i: int, h_BUD: Tensor) -> None:
            if mine := [head for at, head in heads if at == i]:
                cross: Any = self.layers[i].cross
                scores = cross.weights(h_BUD, keys[i].k, torch.tensor(mine, device=h_BUD.device))
                found.update({(i, head): scores[:, j] for j, head in enumerate(mine)})

        hidden_BUD = self.hidden(tokens, memory, state, watch=watch)
        rows = []
        for hidden_UD, row in zip(hidden_BUD, tokens, strict=True):  # one row's logits at a time: they are large
            probs_UV = self.head(hidden_UD[:-1])[:, :below].float().softmax(-1)
            rows.append(probs_UV.gather(1, row[1:, None].clamp(max=probs_UV.shape[1] - 1))[:, 0])
        return torch.stack([found[h] for h in heads], dim=1), torch.stack(rows)

    def init_state(self, batch: int, capacity: int, hypotheses: int = 1) -> State:
        """An empty state for `batch` windows of `hypotheses` each, with room for `capacity` tokens before it grows."""
        like = self.token.weight
        head_width = like.shape[1] // self.heads
        own = HypothesisCache.init(batch, len(self.layers), self.heads, capacity, hypotheses, head_width, like)
        return {"self": own, "memory": {}}


class _Whole:
    """Whole texts over their memory, one a row: nothing is kept, padding is masked."""

    def __init__(self, decoder: TextDecoder, memory: Seq):
        self.cross = [layer.cross for layer in decoder.layers]
        self.mask = padding_mask(memory)
        self.x_BMD = memory.x if self.mask is None else memory.masked

    def own(self, layer: int, q_RHUC: Tensor, k_RHUC: Tensor, v_RHUC: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q_RHUC, k_RHUC, v_RHUC, is_causal=True)

    def memory(self, layer: int, q_RHUC: Tensor) -> Tensor:
        return attend(q_RHUC, *self.cross[layer].keys_values(self.x_BMD), self.mask)  # type: ignore[operator]


class _Steps:
    """New tokens of hypotheses, over those that a cache holds."""

    def __init__(self, cache: HypothesisCache, keys: Sequence[Keys]):
        self.cache, self.keys = cache, keys

    def own(self, layer: int, q_RHUC: Tensor, k_RHUC: Tensor, v_RHUC: Tensor) -> Tensor:
        return self.cache.groups.attend(q_RHUC, self.cache.append(layer, k_RHUC, v_RHUC))

    def memory(self, layer: int, q_RHUC: Tensor) -> Tensor:
        return self.cache.groups.attend(q_RHUC, self.keys[layer])
