"""The NLLB family: a text encoder and a text decoder that share one embedding.

Serves NLLB-200 (NLLB team 2022, arXiv 2207.04672), M2M-100 (Fan et al. 2020, arXiv 2010.11125), the text half of
SeamlessM4T (arXiv 2308.11596, 2312.05187) and mBART-50 (Tang et al. 2020, arXiv 2008.00401), which differ in numbers
and in their positions only.

Letters: B rows, T tokens of the source, U tokens of the target, D width, V vocabulary.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmx.errors import CheckpointError
from mmx.model import Model
from mmx.nn.block import EncoderLayer, padding_mask
from mmx.nn.decoder import DecoderLayer, LearnedPositions, SinusoidalPositions, TextDecoder
from mmx.seq import Seq
from mmx.state import State
from mmx.text import byte_tokenizer
from mmx.text.hf import tokenizer_config, tokenizer_json
from mmx.text.translation_tokenizer import TranslationTokenizer
from mmx.weights.card import Card
from mmx.weights.convert import ZERO, Rule, count, needed
from mmx.weights.formats import LazyTensors

MODEL_TYPES = ("m2m_100", "mbart", "nllb")
"""What Hugging Face's `config.json` calls the models that are built here."""

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU}


@dataclass(frozen=True, kw_only=True)
class Config:
    """The numbers of a text-to-text model.

    Attributes:
        vocab: V.
        ctx: tokens that a source or a target may have, language and end token included.
        width: D.
        heads: of the encoder and of the decoder.
        layers: of the encoder and of the decoder.
        hidden: width inside the feed-forwards of the encoder and of the decoder.
        activation: of the feed-forwards, a key of `ACTIVATIONS`.
        scaled: whether embeddings are multiplied by the square root of D.
        positions: fixed waves or trained vectors.
        offset: row of the position table where position 0 is: fairseq counts from the padding token's id plus one.
        embed_ln: whether the sum of token and position is normalized.
    """

    vocab: int
    ctx: int = 1024
    width: int = 1024
    heads: Sequence[int] = (16, 16)
    layers: Sequence[int] = (12, 12)
    hidden: Sequence[int] = (4096, 4096)
    activation: str = "relu"
    scaled: bool = True
    positions: Literal["sinusoidal", "learned"] = "sinusoidal"
    offset: int = 2
    embed_ln: bool = False


class Encoder(nn.Module):
    """Token embedding, positions, pre-norm Transformer layers that see the whole text.

    Args:
        token: the embedding, shared with the decoder.
        layers: `EncoderLayer`s.
        positions: maps positions to vectors and says how many there are (`ctx`).
        scale: of the token embeddings.
        embed_ln: whether the sum of token and position is normalized.

    Attributes:
        dropout: share of the embeddings that is dropped; in training only.
    """

    stride = 1
    lookahead = math.inf

    def __init__(
        self,
        token: nn.Embedding,
        layers: Sequence[EncoderLayer],
        positions: LearnedPositions | SinusoidalPositions,
        scale: float = 1.0,
        embed_ln: bool = False,
    ):
        super().__init__()
        self.dropout = 0.0
        self.ctx, self.scale = positions.ctx, scale
        self.token = token
        self.positions = positions
        self.embed_ln = nn.LayerNorm(token.embedding_dim) if embed_ln else nn.Identity()
        self.layers = nn.ModuleList(layers)
        self.ln = nn.LayerNorm(token.embedding_dim)

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        """`(B, T)` int64 tokens, T <= ctx, to `(B, T, D)`. Raises `ValueError` when there are more tokens."""
        n_tokens = seq.x.shape[1]
        if n_tokens > self.ctx:
            raise ValueError(f"expected at most {self.ctx} tokens, got {n_tokens}: split the text")
        steps = torch.arange(n_tokens, device=seq.x.device)
        x_BTD = self.token(seq.masked) * self.scale + self.positions(steps)
        # The decoder, which shares the embedding, may compute in another precision than these layers.
        x_BTD = self.embed_ln(x_BTD.to(self.ln.weight.dtype))
        x_BTD = F.dropout(x_BTD, self.dropout, self.training)
        mask = padding_mask(seq)
        for layer in self.layers:
            x_BTD = layer(x_BTD, mask)
        return seq._replace(x=self.ln(x_BTD))

    def init_state(self, batch: int, capacity: int = 0) -> State:
        """Nothing is remembered."""
        return {}


def build(c: Config) -> Model:
    """Encoder and decoder around one embedding."""
    decoder = build_decoder(c)
    return Model(front={}, encoders={"text": build_encoder(c, decoder.token)}, decoder=decoder)


def build_encoder(c: Config, token: nn.Embedding) -> Encoder:
    """The text encoder over the decoder's embedding."""
    layers = [
        EncoderLayer(c.width, c.heads[0], c.hidden[0], ACTIVATIONS[c.activation], key_bias=True)
        for _ in range(c.layers[0])
    ]
    return Encoder(token, layers, build_positions(c), _scale(c), c.embed_ln)


def build_decoder(c: Config) -> TextDecoder:
    """The text decoder, with an embedding that others may share."""
    layers = [
        DecoderLayer(c.width, c.heads[1], c.hidden[1], ACTIVATIONS[c.activation], key_bias=True)
        for _ in range(c.layers[1])
    ]
    return TextDecoder(c.vocab, layers, build_positions(c), _scale(c), c.embed_ln)


def build_positions(c: Config) -> LearnedPositions | SinusoidalPositions:
    kinds = {"sinusoidal": SinusoidalPositions, "learned": LearnedPositions}
    return kinds[c.positions](c.ctx, c.width, c.offset)


def _scale(c: Config) -> float:
    return math.sqrt(c.width) if c.scaled else 1.0


def tokenizer(file: Path, c: Config) -> TranslationTokenizer:
    """The tokenizer of `tokenizer.json`, of a SentencePiece model, or of bytes."""
    read = byte_tokenizer.from_file if file.name == byte_tokenizer.FILE else TranslationTokenizer.from_file
    return read(file, c.vocab)


# -------------------- checkpoints


def embedding_rule(theirs: str, ours: str) -> Rule:
    """The one embedding, which a checkpoint may hold under several names.

    Args:
        theirs: pattern of the names without `.weight`.
        ours: our name without `.weight`.
    """
    return Rule(rf"(?:{theirs})\.weight", f"{ours}.weight", tied=True)


@dataclass(frozen=True, kw_only=True)
class Names:
    """How a publisher calls the parts of a Transformer, as patterns without groups.

    Attributes:
        up: first layer of the feed-forward.
        down: second layer of the feed-forward.
        mlp_ln: norm before the feed-forward.
        cross: attention to the encoder.
        out: last projection of an attention.
    """

    up: str = "fc1"
    down: str = "fc2"
    mlp_ln: str = "final_layer_norm"
    cross: str = "encoder_attn"
    out: str = "out_proj"


BART = Names()
"""fairseq's names, which Hugging Face kept in M2M-100, NLLB and mBART."""
SEAMLESS = Names(up=r"ffn\.fc1", down=r"ffn\.fc2", mlp_ln="ffn_layer_norm", cross="cross_attention")
"""Hugging Face's names in SeamlessM4T."""
FAIRSEQ2 = Names(
    up=r"ffn\.inner_proj", down=r"ffn\.output_proj", mlp_ln="ffn_layer_norm", cross="encoder_decoder_attn",
    out="output_proj",
)  # fmt: skip


def encoder_rules(theirs: str, ours: str, names: Names = BART) -> list[Rule]:
    """The encoder's table without its embedding.

    Args:
        theirs: pattern of the published prefix, such as `model\\.encoder\\.`; without groups.
        ours: our prefix, such as `encoders.text.`.
        names: how the publisher calls the parts.
    """
    return [*_layer_rules(theirs, ours, names, {"self_attn": "attn"}), *_edge_rules(theirs, ours)]


def decoder_rules(theirs: str, ours: str, names: Names = BART) -> list[Rule]:
    """The decoder's table without its embedding; arguments as in `encoder_rules`."""
    attentions = {"self_attn": "attn", names.cross: "cross"}
    return [*_layer_rules(theirs, ours, names, attentions), *_edge_rules(theirs, ours)]


def _layer_rules(theirs: str, ours: str, names: Names, attentions: Mapping[str, str]) -> list[Rule]:
    layer, to = rf"{theirs}layers\.(\d+)\.", rf"{ours}layers.\1."
    rules = [
        Rule(rf"{layer}{names.up}\.(.+)", rf"{to}mlp.0.\2"),
        Rule(rf"{layer}{names.down}\.(.+)", rf"{to}mlp.2.\2"),
        Rule(rf"{layer}{names.mlp_ln}\.(.+)", rf"{to}mlp_ln.\2"),
    ]
    for name, own in attentions.items():
        rules.append(Rule(rf"{layer}{name}_layer_norm\.(.+)", rf"{to}{own}_ln.\2"))
        for part in ("query", "key", "value"):
            rules.append(Rule(rf"{layer}{name}\.{part[0]}_proj\.(.+)", rf"{to}{own}.{part}.\2"))
        rules.append(Rule(rf"{layer}{name}\.{names.out}\.(.+)", rf"{to}{own}.out.\2"))
    return rules


def _edge_rules(theirs: str, ours: str) -> list[Rule]:
    return [
        Rule(rf"{theirs}layer_norm\.(.+)", rf"{ours}ln.\1"),
        Rule(rf"{theirs}layernorm_embedding\.(.+)", rf"{ours}embed_ln.\1"),
        Rule(rf"{theirs}embed_positions\.weight", rf"{ours}positions.weight"),
        Rule(rf"{theirs}embed_positions\.weights", None, "fixed waves, which we compute"),
    ]


def fairseq2_rules(prefix: str = "") -> list[Rule]:
    """Embedding, encoder and decoder in fairseq2's names; `prefix` stands before `encoder`, `decoder` and frontends."""
    return [
        embedding_rule(rf"{prefix}(?:en|de)coder_frontend\.embed|final_proj", "encoders.text.token"),
        *encoder_rules(rf"{prefix}encoder\.", "encoders.text.", FAIRSEQ2),
        *decoder_rules(rf"{prefix}decoder\.", "decoder.", FAIRSEQ2),
    ]


KEYS: Mapping[str, Sequence[Rule]] = {
    "hf": [
        embedding_rule(r"model\.shared|model\.(?:en|de)coder\.embed_tokens|lm_head", "encoders.text.token"),
        *encoder_rules(r"model\.encoder\.", "encoders.text."),
        *decoder_rules(r"model\.decoder\.", "decoder."),
        Rule("final_logits_bias", [ZERO]),
    ],
    "fairseq2": fairseq2_rules(),
    "fairseq": [
        embedding_rule(r"(?:en|de)coder\.embed_tokens|decoder\.output_projection", "encoders.text.token"),
        *encoder_rules(r"encoder\.", "encoders.text."),
        *decoder_rules(r"decoder\.", "decoder."),
        Rule(r"(?:en|de)coder\.(?:version|embed_positions\._float_tensor)", None, "a mark of fairseq, not a weight"),
    ],
}
"""Published key to ours, by format."""

FAIRSEQ2_ROWS = (2, 0, 3, 1)
"""Where each of our first four rows, (bos, pad, eos, unk), is among fairseq2's (pad, unk, bos, eos)."""


def prepare_source(format: str, source: LazyTensors) -> LazyTensors:
    """The tokens in the order of Hugging Face's and fairseq's vocabulary: fairseq2 swaps the four special ones."""
    if format != "fairseq2":
        return source

    def read(key: str) -> Tensor:
        value = source[key]
        if not re.fullmatch(r"(?:(?:en|de)coder_frontend\.embed|final_proj)\.weight", key):
            return value
        return torch.cat([value[list(FAIRSEQ2_ROWS)], value[4:]])

    return LazyTensors(source.shapes, read, source.meta)


TOKEN_IDS = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
"""Of the vocabulary that `prepare_source` gives; what `config.json` says for the tokenizer."""

PUBLISHED_HEADS = 16
"""Of all NLLB checkpoints that fairseq2 publishes. No tensor's shape tells it; a card may say another number."""


def config_from(format: str, meta: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The `Config` numbers of a checkpoint that comes without a card.

    Args:
        format: a key of `KEYS`.
        meta: `config.json`, or what a card of fairseq2 says of the model.
        shapes: source key to shape.

    Raises:
        CheckpointError: the model is of this kind but differs in a part that is not built here.
    """
    if format in ("fairseq2", "fairseq"):
        return fairseq2_numbers(meta, shapes)
    if meta["activation_function"] not in ACTIVATIONS:
        raise CheckpointError(
            f"expected an activation among {', '.join(ACTIVATIONS)}, got {meta['activation_function']!r}: "
            "this variant is not supported"
        )
    learned = "model.encoder.embed_positions.weight" in shapes
    sides = ("encoder", "decoder")
    return {
        "vocab": meta["vocab_size"],
        "ctx": meta["max_position_embeddings"],
        "width": meta["d_model"],
        "heads": tuple(meta[f"{s}_attention_heads"] for s in sides),
        "layers": tuple(meta[f"{s}_layers"] for s in sides),
        "hidden": tuple(meta[f"{s}_ffn_dim"] for s in sides),
        "activation": meta["activation_function"],
        "scaled": meta.get("scale_embedding", False),
        "positions": "learned" if learned else "sinusoidal",
        "offset": 2 if learned else meta.get("pad_token_id", 1) + 1,
        "embed_ln": "model.encoder.layernorm_embedding.weight" in shapes,
    }


def fairseq2_numbers(
    meta: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], prefix: str = "", ctx: int = 1024
) -> dict[str, Any]:
    """The numbers of fairseq2's NLLB from its shapes.

    Args:
        meta: `num_encoder_attn_heads`, `num_decoder_attn_heads` and `max_seq_len`, where a card gives them.
        shapes: source key to shape, in fairseq2's or fairseq's names.
        prefix: what stands before `encoder` and `decoder`.
        ctx: tokens that a text may have, when the card does not say.
    """
    embedding = needed(shapes, rf"{prefix}decoder(?:_frontend\.embed|\.embed_tokens)\.weight")
    sides = [f"{prefix}encoder", f"{prefix}decoder"]
    up = r"\.layers\.0\.(?:ffn\.inner_proj|fc1)\.bias"
    return {
        "vocab": embedding[0],
        "ctx": meta.get("max_seq_len", ctx),
        "width": embedding[1],
        "heads": tuple(meta.get(f"num_{s}_attn_heads", PUBLISHED_HEADS) for s in ("encoder", "decoder")),
        "layers": tuple(count(shapes, rf"{s}\.layers\.(\d+)\..+") for s in sides),
        "hidden": tuple(needed(shapes, s + up)[0] for s in sides),
        # fairseq2 always begins where fairseq's padding token, 1, would have put it.
        "offset": 2,
    }


# -------------------- Hugging Face's folder


def hf_config(config: Config) -> dict[str, Any]:
    """The `config.json` of a model without learned positions, whose checkpoint `KEYS["hf"]` describes.

    Raises:
        CheckpointError: for mBART's variants, whose settings beside these numbers are not known here.
    """
    c = config
    if c.positions != "sinusoidal" or c.embed_ln or c.offset != 2:
        raise CheckpointError("expected an NLLB or M2M-100 model to write in Hugging Face's shape, got another variant")
    sides = {f"{side}_{name}": values[i] for name, values in (
        ("layers", c.layers), ("attention_heads", c.heads), ("ffn_dim", c.hidden),
    ) for i, side in enumerate(("encoder", "decoder"))}  # fmt: skip
    return {
        "model_type": "m2m_100", "architectures": ["M2M100ForConditionalGeneration"], "vocab_size": c.vocab,
        "d_model": c.width, "max_position_embeddings": c.ctx, "activation_function": c.activation,
        "scale_embedding": c.scaled, "tie_word_embeddings": True, "is_encoder_decoder": True,
        "decoder_start_token_id": 2, **TOKEN_IDS, **sides,
    }  # fmt: skip


def hf_files(config: Config, tokenizer: TranslationTokenizer, card: Card, folder: Path) -> dict[str, str]:
    """What transformers' `AutoTokenizer` and `generate` read next to the weights, by name.

    A text is taken as one of the first language; `generate(forced_bos_token_id=...)` chooses the target, which is the
    other one where there are two.
    """
    model = folder / "sentencepiece.bpe.model"
    if not model.is_file():
        return {}
    first, *others = sorted(tokenizer.language_ids, key=tokenizer.language_ids.__getitem__)
    forced = {"forced_bos_token_id": tokenizer.language_ids[others[0]]} if len(others) == 1 else {}
    writing = {**TOKEN_IDS, "decoder_start_token_id": TOKEN_IDS["eos_token_id"], "max_length": config.ctx, **forced}
    return {
        "tokenizer.json": tokenizer_json(model.read_bytes(), tokenizer, first),
        "tokenizer_config.json": tokenizer_config(tokenizer, first, config.ctx),
        "generation_config.json": json.dumps(writing, indent=1),
    }
