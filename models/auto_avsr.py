"""Auto-AVSR's lip readers (Ma et al. 2023, arXiv 2303.14307): ResNet-18 and a Conformer, pictures of a mouth to a
memory at 25 Hz; and of files that have them, the Transformer decoder and the CTC head over it.

Their tokens are the pieces of a list beside the file (`unigram5000_units.txt`); before them is CTC's blank, behind them
what begins and ends a text. The licence of the published weights is that of their data and forbids commercial use: read
it with them.

Letters: B rows, T frames, H height, W width, D width of the model, M memory frames, V vocabulary.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmx.errors import InputError
from mmx.model import Model
from mmx.models.av_hubert import LIPS, MouthFront, resnet_rules
from mmx.nn.block import Linear
from mmx.nn.conformer import Attention, Convolution, EncoderLayer, FrozenBatchNorm, RelativeSinusoid, chunk_view
from mmx.nn.ctc import NAME as CTC
from mmx.nn.decoder import DecoderLayer, SinusoidalPositions, TextDecoder
from mmx.nn.lip_resnet import LipResNet
from mmx.seq import Seq
from mmx.state import State
from mmx.text import piece_tokenizer
from mmx.weights.convert import Rule
from mmx.weights.formats import LazyTensors

MODEL_TYPES = ()
PIECES = "*_units.txt"
EPS = 1e-12
"""Of ESPnet's layer norms."""
MOST_TOKENS = 5000
LINEAR = (("linear_q", "query"), ("linear_k", "key"), ("linear_v", "value"), ("linear_out", "out"))
"""Layers of an attention, theirs and ours."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Numbers of the model; the defaults are those of all published lip readers.

    Attributes:
        kernel: frames that the Conformer's convolutions see.
        vocab: tokens of the decoder and of CTC, 5,049 in those published; 0 for a model that only encodes.
        decoder_layers: of the decoder, which has the encoder's width and heads.
        decoder_hidden: width inside its feed-forward parts.
    """

    width: int = 768
    heads: int = 12
    layers: int = 12
    hidden: int = 3072
    kernel: int = 31
    vocab: int = 0
    decoder_layers: int = 6
    decoder_hidden: int = 3072


class LipEncoder(nn.Module):
    """Pictures `(B, T, 88, 88)` to `(B, T, D)`; it sees the whole input."""

    stride, lookahead = 1, math.inf

    def __init__(self, config: Config):
        super().__init__()
        c = config
        self.front = LipResNet(c.width, _swish)
        self.scale = math.sqrt(c.width)
        self.layers = nn.ModuleList(_layer(c) for _ in range(c.layers))
        self.ln = nn.LayerNorm(c.width)
        for module in (*self.layers.modules(), self.ln):
            if isinstance(module, nn.LayerNorm):
                module.eps = EPS

    def init_state(self, batch: int, capacity: int = 0) -> State:
        """It takes the whole input: nothing is remembered."""
        return {}

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        """See above.

        Raises:
            InputError: a part of the input.
        """
        if not seq.final:
            raise InputError("expected the whole input, got final=False: auto-AVSR attends to all of it")
        seq = self.front(seq)
        view = chunk_view(seq, torch.zeros_like(seq.lengths), 0, None, 0)
        x_BTD = seq.x * self.scale
        for layer in self.layers:
            x_BTD = layer(x_BTD, view)
        return seq._replace(x=self.ln(x_BTD))


def _swish(channels: int) -> nn.Module:
    return nn.SiLU()


def _layer(c: Config) -> EncoderLayer:
    attention = Attention(c.width, c.heads, RelativeSinusoid(c.width, c.heads))
    convolution = Convolution(c.width, c.kernel, False, FrozenBatchNorm(c.width), bias=True)
    return EncoderLayer(attention, convolution, c.width, c.hidden)


class Waves(SinusoidalPositions):
    """Fixed waves, sine and cosine in turn."""

    def __init__(self, ctx: int, width: int):
        super().__init__(ctx, width)
        step = torch.exp(torch.arange(0, width, 2, device="cpu") * (-math.log(10_000.0) / width))
        angle = torch.arange(ctx, device="cpu")[:, None] * step
        self.table = torch.stack([angle.sin(), angle.cos()], -1).flatten(1)


class PieceHead(nn.Module):
    """CTC logits `(B, M, V + 1)` of a memory: their blank, the first of theirs, is the last, and piece 0 never."""

    def __init__(self, width: int, vocab: int):
        super().__init__()
        self.out = nn.Linear(width, vocab)

    def forward(self, x_BMD: Tensor) -> Tensor:
        """See above."""
        blank_BM1, pieces_BMV = self.out(x_BMD).split([1, self.out.out_features - 1], -1)
        return torch.cat([F.pad(pieces_BMV, (1, 0), value=-math.inf), blank_BM1], -1)


def _decoder(c: Config) -> TextDecoder:
    layers = [DecoderLayer(c.width, c.heads, c.decoder_hidden, nn.ReLU, key_bias=True) for _ in range(c.decoder_layers)]
    decoder = TextDecoder(c.vocab, layers, Waves(MOST_TOKENS, c.width), math.sqrt(c.width))
    decoder.head = Linear(c.width, c.vocab)  # its own, not that of the embedding
    for module in decoder.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = EPS
    return decoder


def build(config: Config) -> Model:
    """The model with random weights; call it under `torch.device("meta")` to allocate nothing."""
    return Model(
        front={LIPS: MouthFront()},
        encoders={LIPS: LipEncoder(config)},
        decoder=_decoder(config) if config.vocab else None,
        heads={CTC: PieceHead(config.width, config.vocab)} if config.vocab else {},
    )


def tokenizer(file: Path, config: Config) -> piece_tokenizer.PieceTokenizer | None:
    """The pieces of `unigram5000_units.txt` or its like; None for a model that only encodes."""
    return piece_tokenizer.from_list(file, ["<blank>"], ["</s>"], config.vocab) if config.vocab else None


# -------------------- published checkpoints


def _layer_rules() -> list[Rule]:
    """A Conformer layer of ESPnet; "cov" is spelled so there."""
    theirs, ours = r"encoder\.encoders\.(\d+)\.", rf"encoders.{LIPS}.layers.\1."
    norms = (("norm_ff_macaron", "mlp1_ln"), ("norm_mha", "attn_ln"), ("norm_conv", "conv.ln"), ("norm_ff", "mlp2_ln"),
             ("norm_final", "ln"))  # fmt: skip
    convolutions = (("pointwise_cov1", "expand"), ("depthwise_conv", "depthwise"), ("pointwise_cov2", "project"))
    statistics = (("weight", "weight"), ("bias", "bias"), ("running_mean", "mean"), ("running_var", "variance"))
    return [
        *(Rule(theirs + rf"self_attn\.{a}\.(.+)", ours + rf"attn.{b}.\2") for a, b in LINEAR),
        Rule(theirs + r"self_attn\.linear_pos\.weight", ours + "attn.positions.project.weight"),
        Rule(theirs + r"self_attn\.pos_bias_u", ours + "attn.positions.content"),
        Rule(theirs + r"self_attn\.pos_bias_v", ours + "attn.positions.position"),
        *(Rule(theirs + rf"{a}\.(.+)", ours + rf"{b}.\2") for a, b in norms),
        *(Rule(theirs + rf"conv_module\.{a}\.(.+)", ours + rf"conv.{b}.\2") for a, b in convolutions),
        *(Rule(theirs + rf"conv_module\.norm\.{a}", ours + f"conv.norm.{b}") for a, b in statistics),
        Rule(theirs + r"conv_module\.norm\.num_batches_tracked", None, "counts batches of a training"),
        *(
            Rule(theirs + rf"{a}\.w_{n + 1}\.(.+)", ours + rf"{b}.{2 * n}.\2")
            for a, b in (("feed_forward_macaron", "mlp1"), ("feed_forward", "mlp2"))
            for n in range(2)
        ),
    ]


def _decoder_rules() -> list[Rule]:
    """ESPnet's decoder and CTC; the norms of a layer are numbered."""
    theirs, ours = r"decoder\.decoders\.(\d+)\.", r"decoder.layers.\1."
    parts = (("self_attn", "attn"), ("src_attn", "cross"))
    norms = (("norm1", "attn_ln"), ("norm2", "cross_ln"), ("norm3", "mlp_ln"))
    return [
        Rule(r"decoder\.embed\.0\.weight", "decoder.token.weight"),
        *(Rule(theirs + rf"{p}\.{a}\.(.+)", ours + rf"{q}.{b}.\2") for p, q in parts for a, b in LINEAR),
        *(Rule(theirs + rf"feed_forward\.w_{n + 1}\.(.+)", ours + rf"mlp.{2 * n}.\2") for n in range(2)),
        *(Rule(theirs + rf"{a}\.(.+)", ours + rf"{b}.\2") for a, b in norms),
        Rule(r"decoder\.after_norm\.(.+)", r"decoder.ln.\1"),
        Rule(r"decoder\.output_layer\.(.+)", r"decoder.head.\1"),
        Rule(r"ctc\.ctc_lo\.(.+)", rf"heads.{CTC}.out.\1"),
    ]


def _rules() -> list[Rule]:
    return [
        *resnet_rules(r"frontend\.", f"encoders.{LIPS}.front."),
        Rule(r"proj_encoder\.(.+)", rf"encoders.{LIPS}.front.project.\1"),
        *_layer_rules(),
        Rule(r"encoder\.after_norm\.(.+)", rf"encoders.{LIPS}.ln.\1"),
        *_decoder_rules(),
    ]


KEYS: Mapping[str, Sequence[Rule]] = {"fairseq2": _rules()}
"""A flat file of torch's, which `mmx.weights.formats` tells apart by no more than its "frontend."."""


def sniff(format: str, source: LazyTensors) -> bool:
    """Whether a checkpoint is of this family."""
    return {"proj_encoder.weight", "frontend.frontend3D.0.weight"} <= source.shapes.keys()


def config_from(format: str, meta: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The numbers of a file by its shapes."""
    heads, of_each = shapes["encoder.encoders.0.self_attn.pos_bias_u"]
    writes: dict[str, Any] = {}
    if "decoder.output_layer.weight" in shapes:
        writes = {
            "vocab": shapes["decoder.output_layer.weight"][0],
            "decoder_layers": sum(k.startswith("decoder.decoders.") and k.endswith(".norm1.weight") for k in shapes),
            "decoder_hidden": shapes["decoder.decoders.0.feed_forward.w_1.weight"][0],
        }
    return {
        **writes,
        "width": heads * of_each,
        "heads": heads,
        "layers": sum(k.endswith(".norm_mha.weight") and k.startswith("encoder.encoders.") for k in shapes),
        "hidden": shapes["encoder.encoders.0.feed_forward.w_1.weight"][0],
        "kernel": shapes["encoder.encoders.0.conv_module.depthwise_conv.weight"][2],
    }
