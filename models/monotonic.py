"""Monotonic attention heads: whether what was heard suffices to write the next token.

Serves the text decoder of SeamlessStreaming (Ma et al. 2023, "Efficient Monotonic Multihead Attention", arXiv
2312.04515; Seamless 2023, arXiv 2312.05187), which has a head for every one of cross-attention's, and small heads that
were trained for another decoder. The heads decide only when to write: cross-attention itself reads all that was heard.

Letters: B rows, U tokens, M memory frames, P pooled memory frames, D width, V vocabulary, H heads of a layer, N heads
of all layers, C head width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn

from mmx.model import Model
from mmx.models import nllb
from mmx.nn.block import split_heads
from mmx.nn.decoder import DecoderLayer, SinusoidalPositions, TextDecoder
from mmx.seq import Seq, take
from mmx.state import State, subtree
from mmx.weights.convert import Rule, count, needed
from mmx.weights.formats import LazyTensors


@dataclass(frozen=True, kw_only=True)
class Config:
    """The numbers of a monotonic text decoder; the defaults are SeamlessStreaming's.

    Attributes:
        vocab: V.
        ctx: tokens that a text may have.
        width: D.
        heads: of each attention, and monotonic ones of each layer.
        layers: of the decoder.
        hidden: width inside the feed-forwards.
        energy_layers: of the networks of a head's query and key.
        pooling: memory frames to one decision.
        temperature: what energies are divided by.
    """

    vocab: int = 256_102
    ctx: int = 4096
    width: int = 1024
    heads: int = 16
    layers: int = 24
    hidden: int = 8192
    energy_layers: int = 4
    pooling: int = 2
    temperature: float = 0.2


def energy_projection(width: int, hidden: int, layers: int) -> nn.Sequential:
    """Linear layers to `hidden`, each with a ReLU after it, the last one too."""
    widths = [width, *[hidden] * layers]
    parts = [(nn.Linear(a, b), nn.ReLU()) for a, b in pairwise(widths)]
    return nn.Sequential(*(module for pair in parts for module in pair))


class PChoose(nn.Module):
    """The monotonic heads of one decoder layer (EMMA).

    `p = sigmoid((q . k / sqrt(C) + bias) / temperature)`, where q is made from the decoder's state and k from a mean of
    memory frames, each by a network of its own.

    Args:
        width: D of the decoder and of the memory.
        heads: H.
        hidden: width of queries and keys over all heads.
        layers: of each network.
        pooling: memory frames to one key; the last key may have fewer.
        temperature: what energies are divided by.
        bias: first value of the bias; below 0, an untrained head would rather wait.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        layers: int,
        pooling: int,
        temperature: float = 1.0,
        bias: float = -0.5,
    ):
        super().__init__()
        if hidden % heads:
            raise ValueError(f"expected a width of queries divisible by {heads} heads, got {hidden}")
        self.heads, self.pooling, self.temperature = heads, pooling, temperature
        self.query = energy_projection(width, hidden, layers)
        self.key = energy_projection(width, hidden, layers)
        self.bias = nn.Parameter(torch.full((1,), bias))

    def forward(self, h_BUD: Tensor, memory: Seq) -> Tensor:
        """Energies `(B, H, U, P)`, whose sigmoid is p; those of padding are undefined.

        Args:
            h_BUD: what the layer's cross-attention asks with.
            memory: `(B, M, D)`; its lengths say what was heard.
        """
        q_BHUC = split_heads(self.query(h_BUD), self.heads)
        k_BHPC = split_heads(self.key(pooled(memory, self.pooling).x), self.heads)
        energy_BHUP = q_BHUC @ k_BHPC.transpose(-1, -2) * q_BHUC.shape[-1] ** -0.5
        return (energy_BHUP + self.bias) / self.temperature


def pooled(memory: Seq, size: int) -> Seq:
    """Means of `size` frames, the last one of a row over those that are left: `(B, P, D)`, P = ceil(M / size)."""
    frames = memory.x.shape[1]
    n = -(-frames // size)
    x_BMD = nn.functional.pad(memory.masked, (0, 0, 0, n * size - frames))
    starts_P = torch.arange(n, device=x_BMD.device) * size
    counts_BP = (memory.lengths[:, None] - starts_P).clamp(1, size)
    x_BPD = x_BMD.unflatten(1, (n, size)).sum(2) / counts_BP[..., None].to(x_BMD.dtype)
    rate = None if memory.rate is None else memory.rate / size
    return Seq(x_BPD, -(-memory.lengths // size), rate, memory.final)


class MonotonicHeads(nn.Module):
    """Monotonic heads for some layers of a text decoder.

    Args:
        layers: heads by the number of the decoder's layer.
    """

    def __init__(self, layers: Mapping[int, PChoose]):
        super().__init__()
        self.layers = nn.ModuleDict({str(i): heads for i, heads in layers.items()})

    def energies(self, decoder: TextDecoder, tokens: Tensor, memory: Seq, state: State | None = None) -> Tensor:
        """Energies of all heads for the token after each of `tokens`.

        Args:
            decoder: whose layers the heads belong to.
            tokens: `(B, U)`; with a state, only those that it has not seen.
            memory: `(B, M, D)`; its lengths say what was heard of the source, and what the heads may look at.
            state: as in `TextDecoder.forward`.

        Returns:
            `(B, N, U, P)`, layer by layer.
        """
        return self._energies(decoder, tokens, memory, memory, state)

    def p_choose(
        self,
        decoder: TextDecoder,
        tokens: Tensor,
        memory: Seq,
        heard: Tensor | None = None,
        shared: State | None = None,
    ) -> Tensor:
        """The probability of each head that what was heard suffices for the token after each of `tokens`.

        Args:
            decoder: whose layers the heads belong to.
            tokens: `(B, U)`, whole texts with their prompt.
            memory: `(B, M, D)`.
            heard: frames `(B,)` after which the memory is of padding that the model was given; all when None.
            shared: `state["memory"]` of an earlier call with the same memory, to save its cost.

        Returns:
            `(B, N, U)` in [0, 1], at the last pooled frame of what was heard.
        """
        state = decoder.init_state(len(tokens), tokens.shape[1])
        if shared:
            subtree(state, "memory").update(shared)
        frames_B = memory.lengths if heard is None else heard.clamp(min=1)
        first_B = (frames_B - 1) // self.pooling * self.pooling
        index_BP = first_B[:, None] + torch.arange(self.pooling, device=memory.x.device)
        last_BPD = take(memory.x, index_BP)
        end = Seq(last_BPD, frames_B - first_B, memory.rate)
        return self._energies(decoder, tokens, memory, end, state)[..., 0].float().sigmoid()

    @property
    def pooling(self) -> int:
        """Memory frames to one decision."""
        return int(next(iter(self.layers.values())).pooling)  # type: ignore[arg-type]

    def _energies(
        self, decoder: TextDecoder, tokens: Tensor, memory: Seq, looked_at: Seq, state: State | None
    ) -> Tensor:
        found: list[Tensor] = []

        def watch(i: int, h_BUD: Tensor) -> None:
            if str(i) in self.layers:
                heads = cast(PChoose, self.layers[str(i)])
                dtype = heads.bias.dtype
                found.append(heads(h_BUD.to(dtype), looked_at.to(dtype)))

        decoder.hidden(tokens, memory, state, watch=watch)
        return torch.cat(found, dim=1)


class MonotonicDecoder(nn.Module):
    """A text decoder with monotonic heads in every layer; an `mmx.interfaces.Aligner`.

    Args:
        text: writes.
        heads: say when.
    """

    def __init__(self, text: TextDecoder, heads: MonotonicHeads):
        super().__init__()
        self.text, self.heads = text, heads

    @property
    def width(self) -> int:
        """D of the memory."""
        return self.text.width

    @property
    def ctx(self) -> int:
        """Tokens that a text may have."""
        return self.text.ctx

    @property
    def dtype(self) -> torch.dtype:
        """Of the memory."""
        return self.text.dtype

    @property
    def device(self) -> torch.device:
        """Of the weights."""
        return self.text.device

    @property
    def alignment_heads(self) -> tuple[tuple[int, int], ...]:
        """Of cross-attention, as in `TextDecoder`."""
        return self.text.alignment_heads

    def forward(
        self,
        tokens: Tensor,
        memory: Seq,
        state: State | None = None,
        at: Sequence[int] | None = None,
        owner: Sequence[int] | None = None,
    ) -> Tensor:
        """Logits of the next token; arguments as in `TextDecoder.forward`."""
        return self.text(tokens, memory, state, at, owner)

    def hidden(
        self, tokens: Tensor, memory: Seq, state: State | None = None, owner: Sequence[int] | None = None
    ) -> Tensor:
        """As in `TextDecoder`."""
        return self.text.hidden(tokens, memory, state, owner)

    def head(self, hidden: Tensor) -> Tensor:
        """As in `TextDecoder`."""
        return self.text.head(hidden)

    def cross_weights(
        self,
        tokens: Tensor,
        memory: Seq,
        heads: Sequence[tuple[int, int]],
        shared: State | None = None,
        below: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As in `TextDecoder`."""
        return self.text.cross_weights(tokens, memory, heads, shared, below)

    def p_choose(self, tokens: Tensor, memory: Seq, state: State | None = None) -> Tensor:
        """Probabilities `(B, N, U, P)` that each pooled frame suffices for the token after each of `tokens`."""
        return self.heads.energies(self.text, tokens, memory, state).sigmoid()

    def init_state(self, batch: int, capacity: int, hypotheses: int = 1) -> State:
        """As in `TextDecoder`."""
        return self.text.init_state(batch, capacity, hypotheses)


def build(config: Config) -> Model:
    """The decoder alone: its encoder is published apart from it."""
    c = config
    layers = [DecoderLayer(c.width, c.heads, c.hidden, nn.ReLU, key_bias=True) for _ in range(c.layers)]
    text = TextDecoder(c.vocab, layers, SinusoidalPositions(c.ctx, c.width, offset=2), c.width**0.5)
    heads = {i: PChoose(c.width, c.heads, c.width, c.energy_layers, c.pooling, c.temperature) for i in range(c.layers)}
    return Model(front={}, encoders={}, decoder=MonotonicDecoder(text, MonotonicHeads(heads)))


# -------------------- checkpoints


_OURS = r"decoder.heads.layers.\1."

KEYS: Mapping[str, Sequence[Rule]] = {
    "fairseq2": [
        nllb.embedding_rule(r"text_decoder_frontend\.embed|final_proj", "decoder.text.token"),
        *nllb.decoder_rules(r"text_decoder\.", "decoder.text.", nllb.FAIRSEQ2),
        Rule(r"text_decoder\.layers\.(\d+)\.p_choose_layer\.energy_bias", _OURS + "bias"),
        Rule(r"text_decoder\.layers\.(\d+)\.p_choose_layer\.q_energy_proj\.layers\.(.+)", _OURS + r"query.\2"),
        Rule(r"text_decoder\.layers\.(\d+)\.p_choose_layer\.k_energy_proj\.layers\.(.+)", _OURS + r"key.\2"),
    ],
    "fairseq": [
        nllb.embedding_rule(r"decoder\.embed_tokens|decoder\.output_projection", "decoder.text.token"),
        *nllb.decoder_rules(r"decoder\.", "decoder.text."),
        Rule(r"decoder\.layers\.(\d+)\.encoder_attn\.energy_bias", _OURS + "bias"),
        Rule(r"decoder\.layers\.(\d+)\.encoder_attn\.target_energy_layer\.layers\.(.+)", _OURS + r"query.\2"),
        Rule(r"decoder\.layers\.(\d+)\.encoder_attn\.source_energy_layer\.layers\.(.+)", _OURS + r"key.\2"),
        Rule(r"decoder\.(?:version|embed_positions\._float_tensor)", None, "a mark of fairseq, not a weight"),
    ],
}
"""Published key to ours, by format."""

FAIRSEQ_ROWS = (1, 3, 0, 2)
"""Where each of Seamless' first four tokens, (pad, unk, bos, eos), is among fairseq's (bos, pad, eos, unk)."""

PUBLISHED_ROWS = 256_103
"""Of an embedding by fairseq that has one row too many at its end, which stands for no token."""


def prepare_source(format: str, source: LazyTensors) -> LazyTensors:
    """The tokens in the order of Seamless' tokenizer, which is fairseq2's: fairseq has the four special ones apart."""
    if format != "fairseq":
        return source
    names = [k for k in ("decoder.embed_tokens.weight", "decoder.output_projection.weight") if k in source.shapes]
    shapes = dict(source.shapes)
    for name in names:
        rows, width = shapes[name]
        shapes[name] = (rows - (rows == PUBLISHED_ROWS), width)

    def read(key: str) -> Tensor:
        value = source[key]
        if key not in names:
            return value
        return torch.cat([value[list(FAIRSEQ_ROWS)], value[len(FAIRSEQ_ROWS) : shapes[key][0]]])

    return LazyTensors(shapes, read, source.meta)


def config_from(format: str, meta: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The `Config` numbers of a checkpoint that comes without a card.

    No tensor's shape tells heads, pooling and temperature: where `meta`, what a card of fairseq2 says, does not give
    them, they are those of the one model that is published.
    """
    layer = r"(?:text_)?decoder\.layers\.0\."
    vocab, width = needed(shapes, r"(?:text_decoder_frontend\.embed|decoder\.embed_tokens)\.weight")
    last = count(
        shapes, layer + r"(?:p_choose_layer\.q_energy_proj|encoder_attn\.target_energy_layer)\.layers\.(\d+)\..+"
    )
    published = Config()
    return {
        "vocab": vocab,
        "ctx": meta.get("max_seq_len", published.ctx),
        "width": width,
        "heads": meta.get("num_decoder_attn_heads", published.heads),
        "layers": count(shapes, r"(?:text_)?decoder\.layers\.(\d+)\..+"),
        "hidden": needed(shapes, layer + r"(?:ffn\.inner_proj|fc1)\.bias")[0],
        "energy_layers": (last + 1) // 2,  # a ReLU stands between two
        "pooling": meta.get("pre_decision_ratio", published.pooling),
        "temperature": meta.get("monotonic_temperature", published.temperature),
    }
