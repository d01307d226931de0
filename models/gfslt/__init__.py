"""Sign language to text without glosses: GFSLT (Zhou et al. 2023, arXiv 2307.14768), and its two stages of training.

    stage 1: the embedding of a sentence's signs near that of its text, and its masked text restored by the decoder
    stage 2: the decoder writes the text from the signs

Both stages are trainings of one model, so that stage 2 inherits all of stage 1 by `init`. The decoder and the text
encoder are the NLLB family's in mBART's shape.

Letters: B rows, T frames, D width, V vocabulary.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from mmx.clip import EXTRACTOR
from mmx.errors import CheckpointError
from mmx.model import Model
from mmx.models import nllb
from mmx.models.gfslt.encoder import EachFrame, PoseConv, SignEmbedding, SignEncoder, TemporalConv
from mmx.models.gfslt.front import Features, Mixed, Pictures, Points
from mmx.nn.block import EncoderLayer, Linear
from mmx.nn.resnet import WIDTH, ResNet18
from mmx.nn.similarity import SIMILARITY, Similarity
from mmx.nn.vit import ImageTower
from mmx.text import byte_tokenizer
from mmx.text.translation_tokenizer import TranslationTokenizer
from mmx.weights.convert import Rule, count, needed

MODEL_TYPES = ()
SIGNS = "signs"


@dataclass(frozen=True, kw_only=True)
class Config:
    """The numbers of the model; by default those that are published for PHOENIX-2014T.

    Attributes:
        vocab: V.
        reads: what is read of a signer.
        tower: over each picture: ResNet-18, or CLIP's ViT-B/32.
        pixels: of a side of a picture.
        features: numbers of a frame, where features are read.
        extractor: what found the points, where poses are read.
        mix: of features that two models made, side by side in each frame: the share of the first. None where one did.
        ctx: tokens of a text, and memory frames of a recording.
        width: D.
        heads: of all attention.
        layers: of the Transformer over signs, of the text encoder (0 without stage 1) and of the decoder.
        hidden: width inside the feed-forwards.
        positions: fixed waves or trained vectors.
        offset: see `nllb.Config`.
        scaled: whether embeddings are multiplied by the square root of D.
        tied: whether the output projection is the embedding of tokens.
    """

    vocab: int = 2454
    reads: Literal["video", "pose", "features"] = "video"
    tower: Literal["resnet18", "vit"] = "resnet18"
    pixels: int = 224
    features: int = 1024
    extractor: str = EXTRACTOR
    mix: float | None = None
    ctx: int = 1024
    width: int = 1024
    heads: int = 8
    layers: Sequence[int] = (3, 0, 3)
    hidden: int = 4096
    positions: Literal["sinusoidal", "learned"] = "learned"
    offset: int = 2
    scaled: bool = True
    tied: bool = False


def build(config: Config) -> Model:
    """The model with random weights."""
    c = config
    text = _text_config(c)
    decoder = nllb.build_decoder(text)
    if not c.tied:
        decoder.head = Linear(c.width, c.vocab, bias=False)
    encoders: dict[str, nn.Module] = {SIGNS: _sign_encoder(c)}
    heads: dict[str, nn.Module] = {}
    if c.layers[1]:
        encoders["text"] = nllb.build_encoder(text, decoder.token)
        heads = {SIGNS: nn.Linear(c.width, c.width, bias=False), SIMILARITY: Similarity()}
    return Model(front={SIGNS: _front(c)}, encoders=encoders, decoder=decoder, heads=heads)


def _text_config(c: Config) -> nllb.Config:
    return nllb.Config(
        vocab=c.vocab, ctx=c.ctx, width=c.width, heads=(c.heads, c.heads), layers=(c.layers[1], c.layers[2]),
        hidden=(c.hidden, c.hidden), scaled=c.scaled, positions=c.positions, offset=c.offset, embed_ln=True,
    )  # fmt: skip


def _front(c: Config) -> nn.Module:
    if c.reads == "video":
        return Pictures(c.pixels)
    if c.reads == "pose":
        return Points(c.extractor)
    return Features(c.features) if c.mix is None else Mixed(c.features, c.mix)


def _sign_encoder(c: Config) -> SignEncoder:
    layers = [EncoderLayer(c.width, c.heads, c.hidden, nn.ReLU, key_bias=True) for _ in range(c.layers[0])]
    positions = nllb.build_positions(_text_config(c))
    frames, temporal = None, TemporalConv(c.features, c.width)
    if c.reads == "pose":
        temporal = PoseConv(math.prod(Points.shape), c.width)
    elif c.reads == "video":
        tower = ResNet18() if c.tower == "resnet18" else ImageTower(c.pixels)
        width = WIDTH if isinstance(tower, ResNet18) else tower.out
        frames, temporal = EachFrame(tower, width), TemporalConv(width, c.width)
    scale = math.sqrt(c.width) if c.scaled else 1.0
    return SignEncoder(frames, temporal, SignEmbedding(c.width, c.width), layers, positions, scale)


def tokenizer(file: Path, config: Config) -> TranslationTokenizer:
    """The tokenizer of `tokenizer.json`, of a SentencePiece model, or of bytes."""
    read = byte_tokenizer.from_file if file.name == byte_tokenizer.FILE else TranslationTokenizer.from_file
    return read(file, config.vocab)


# -------------------- checkpoints


def _backbone(theirs: str) -> list[Rule]:
    ours = "encoders.signs."
    norm = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
    convs = [
        rule
        for i, at in enumerate((0, 4))
        for rule in (
            Rule(rf"{theirs}conv_1d\.temporal_conv\.{at}\.(.+)", rf"{ours}temporal.convs.{i}.\1"),
            Rule(rf"{theirs}conv_1d\.temporal_conv\.{at + 1}\.{norm}", rf"{ours}temporal.norms.{i}.\1"),
        )
    ]
    return [Rule(rf"{theirs}conv_2d\.resnet\.(.+)", rf"{ours}frames.tower.\1"), *convs]


KEYS: Mapping[str, Sequence[Rule]] = {
    "gfslt": [
        *_backbone(r"backbone\."),
        Rule(r"sign_emb\.src_emb\.(.+)", r"encoders.signs.embed.project.\1"),
        Rule(r"sign_emb\.bn_ac\.0\.(.+)", r"encoders.signs.embed.norm.\1"),
        *nllb.encoder_rules(r"mbart\.model\.encoder\.", "encoders.signs."),
        *nllb.decoder_rules(r"mbart\.model\.decoder\.", "decoder."),
        nllb.embedding_rule(r"mbart\.model\.(?:shared|(?:en|de)coder\.embed_tokens)", "decoder.token"),
        Rule(r"mbart\.lm_head\.weight", "decoder.head.weight"),
        Rule(r"mbart\.final_logits_bias", ["<zero>"]),
    ],
}
"""Published key to ours, of a checkpoint of stage 2."""


def config_from(format: str, meta: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The `Config` numbers of a checkpoint that comes without a card.

    Raises:
        CheckpointError: it is none of stage 2.
    """
    if not any(key.startswith("backbone.") for key in shapes):
        raise CheckpointError("expected a checkpoint of GFSLT's second stage, got one without a backbone")
    layers = r"mbart\.model\.{}coder\.layers\.(\d+)\..+"
    positions = needed(shapes, r"mbart\.model\.decoder\.embed_positions\.weight")
    return {
        "vocab": needed(shapes, r"mbart\.model\.shared\.weight")[0],
        "ctx": positions[0] - 2,
        "width": positions[1],
        "layers": (count(shapes, layers.format("en")), 0, count(shapes, layers.format("de"))),
        "hidden": needed(shapes, r"mbart\.model\.decoder\.layers\.0\.fc1\.bias")[0],
    }
