"""The AV-HuBERT family (Shi et al. 2022, arXiv 2201.02184 and 2201.01763) and MuAViC's models: lips and sound, together
or either alone, to text or to representations, with one set of weights.

Pictures of a mouth pass the ResNet of `mmx.nn.lip_resnet`, sound one linear layer; side by side they pass a Transformer
that sees the whole input. What is absent is zeros in its place; in training rows lose one of the two (modality dropout,
section 3.2 there). A fine-tuned file brings the decoder that writes text.

Letters: B rows, T frames, H height, W width, D width of the model.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmx.errors import InputError
from mmx.model import Model
from mmx.models.av_hubert.sound import StackedFilterbank
from mmx.nn.block import EncoderLayer, padding_mask
from mmx.nn.decoder import DecoderLayer, SinusoidalPositions, TextDecoder
from mmx.nn.lip_resnet import LipResNet
from mmx.seq import Seq
from mmx.state import State
from mmx.text import piece_tokenizer
from mmx.weights.convert import Rule
from mmx.weights.formats import LazyTensors

MODEL_TYPES = ()
PIECES = "dict*.txt"
LIPS, SOUND = "lips", "speech"
RATE, PIXELS, CROP = 25.0, 96, 88
MEAN, SPREAD = 0.421, 0.165
"""Of the pixels, where white is 1."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Numbers of the model; the defaults are those of the base size. Large: width 1024, heads 16, layers 24, hidden
    4096; with its decoder `decoder_layers` 9, `decoder_heads` 8, `decoder_hidden` 4096.

    Attributes:
        kernel: frames that the convolution for positions sees.
        groups: of that convolution.
        vocab: tokens of the decoder; 0 for a model that only encodes.
        decoder_width: of the decoder, to which a layer takes the memory where it is not `width`.
        drop: share of the rows in training that lose a modality.
        drop_sound: of these, the share that lose the sound.
    """

    width: int = 768
    heads: int = 12
    layers: int = 12
    hidden: int = 3072
    kernel: int = 128
    groups: int = 16
    vocab: int = 0
    decoder_width: int = 768
    decoder_layers: int = 6
    decoder_heads: int = 4
    decoder_hidden: int = 3072
    ctx: int = 2048
    drop: float = 0.5
    drop_sound: float = 0.5


class MouthFront(nn.Module):
    """Grey pictures of a mouth `(B, T, 96, 96)` in bytes to `(B, T, 88, 88)`, by the authors' mean and spread.

    The middle is seen; in training another part for each row, and half of the rows mirrored.
    """

    medium, rate, shape = "video", RATE, (PIXELS, PIXELS)
    shows: Literal["mouth"] = "mouth"
    stride, lookahead = 1, 0

    def init_state(self, batch: int, capacity: int = 0) -> State:
        """Nothing is remembered."""
        return {}

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        """See above."""
        room = PIXELS - CROP
        tops, lefts = [[room // 2] * len(seq.x)] * 2
        mirrored = [False] * len(seq.x)
        if self.training:
            tops, lefts = torch.randint(0, room + 1, (2, len(seq.x))).tolist()
            mirrored = (torch.rand(len(seq.x)) < 0.5).tolist()
        x_BTHW = seq.x.new_zeros(len(seq.x), seq.x.shape[1], CROP, CROP)
        for row, x, top, left, flip in zip(x_BTHW, seq.x, tops, lefts, mirrored, strict=True):
            part = x[:, top : top + CROP, left : left + CROP]
            row.copy_(part.flip(2) if flip else part)
        return seq._replace(x=(x_BTHW.float() / 255 - MEAN) / SPREAD)


class SoundEncoder(nn.Module):
    """One linear layer, `(B, T, 104)` to `(B, T, D)`."""

    stride, lookahead = 1, 0

    def __init__(self, features: int, width: int):
        super().__init__()
        self.project = nn.Linear(features, width)

    def init_state(self, batch: int, capacity: int = 0) -> State:
        """Nothing is remembered."""
        return {}

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        """See above."""
        return seq._replace(x=self.project(seq.masked.to(self.project.weight.dtype)))


class ConvPositions(nn.Module):
    """What a grouped convolution finds around each frame, its kernel of the direction and length learned apart
    (wav2vec 2.0: Baevski et al. 2020, arXiv 2006.11477), `(B, T, D)`."""

    def __init__(self, width: int, kernel: int, groups: int):
        super().__init__()
        self.kernel, self.groups = kernel, groups
        self.direction = nn.Parameter(torch.empty(width, width // groups, kernel))
        self.length = nn.Parameter(torch.ones(1, 1, kernel))
        self.bias = nn.Parameter(torch.zeros(width))
        nn.init.normal_(self.direction, std=math.sqrt(4 / (kernel * width)))

    def forward(self, x_BTD: Tensor) -> Tensor:
        """See above."""
        weight = self.length * self.direction / self.direction.norm(dim=(0, 1), keepdim=True)
        h_BDT = F.conv1d(x_BTD.transpose(1, 2), weight, self.bias, padding=self.kernel // 2, groups=self.groups)
        return F.gelu(h_BDT[..., : x_BTD.shape[1]]).transpose(1, 2)


class Fusion(nn.Module):
    """Sound and lips side by side, and the Transformer over them: memories by modality to one, `(B, T, D)`, 25 Hz.

    The picture's frames count: sound is cut or filled up with zeros to them. A row without one of the two, or a call
    without it, has zeros there. It sees the whole input.
    """

    lookahead = math.inf

    def __init__(self, config: Config):
        super().__init__()
        c = self.config = config
        self.join_ln, self.join = nn.LayerNorm(2 * c.width), nn.Linear(2 * c.width, c.width)
        self.positions = ConvPositions(c.width, c.kernel, c.groups)
        self.layers = nn.ModuleList(EncoderLayer(c.width, c.heads, c.hidden, key_bias=True) for _ in range(c.layers))
        self.ln = nn.LayerNorm(c.width)
        fits = not c.vocab or c.decoder_width == c.width
        self.out = nn.Identity() if fits else nn.Linear(c.width, c.decoder_width)

    def init_state(self, batch: int, capacity: int = 0) -> State:
        """It takes the whole input: nothing is remembered."""
        return {}

    def forward(self, memories: Mapping[str, Seq], state: State | None = None) -> Seq:
        """See above.

        Raises:
            InputError: a part of the input.
        """
        given = [memories[name] for name in (LIPS, SOUND) if name in memories]
        if not all(seq.final for seq in given):
            raise InputError("expected the whole input, got final=False: AV-HuBERT attends to all of it")
        lengths_B = given[0].lengths
        if len(given) == 2:
            lengths_B = torch.where(lengths_B > 0, lengths_B, given[1].lengths)
        n_frames = int(lengths_B.max()) if len(lengths_B) else 0
        like = self.join.weight
        parts = {name: like.new_zeros(len(lengths_B), n_frames, len(like)) for name in (SOUND, LIPS)}
        for name in memories:
            x_BTD = memories[name].masked[:, :n_frames].to(like.dtype)
            parts[name][:, : x_BTD.shape[1]] = x_BTD
        if self.training and len(given) == 2:
            self._drop(parts)
        fused = Seq(torch.cat([parts[SOUND], parts[LIPS]], -1), lengths_B, RATE)
        fused = fused._replace(x=self.join(self.join_ln(fused.x)))
        fused = fused._replace(x=fused.masked)
        x_BTD, mask = fused.x + self.positions(fused.x), padding_mask(fused)
        for layer in self.layers:
            x_BTD = layer(x_BTD, mask)
        return fused._replace(x=self.out(self.ln(x_BTD)))

    def _drop(self, parts: dict[str, Tensor]) -> None:
        """Take a modality from some rows."""
        c, device = self.config, parts[SOUND].device
        lost_B = torch.rand(len(parts[SOUND]), device=device) < c.drop
        sound_B = torch.rand(len(parts[SOUND]), device=device) < c.drop_sound
        for name, rows_B in ((SOUND, lost_B & sound_B), (LIPS, lost_B & ~sound_B)):
            parts[name] = parts[name] * ~rows_B[:, None, None]


def build(config: Config) -> Model:
    """The model with random weights; call it under `torch.device("meta")` to allocate nothing."""
    c = config
    sound = StackedFilterbank()
    return Model(
        front={LIPS: MouthFront(), SOUND: sound},
        encoders={LIPS: LipResNet(c.width, nn.PReLU), SOUND: SoundEncoder(sound.width, c.width)},
        fuse=Fusion(c),
        decoder=_decoder(c) if c.vocab else None,
    )


def _decoder(c: Config) -> TextDecoder:
    layers = [
        DecoderLayer(c.decoder_width, c.decoder_heads, c.decoder_hidden, nn.ReLU, key_bias=True)
        for _ in range(c.decoder_layers)
    ]
    return TextDecoder(c.vocab, layers, SinusoidalPositions(c.ctx, c.decoder_width, 2))


def tokenizer(file: Path, config: Config) -> piece_tokenizer.PieceTokenizer | None:
    """The pieces of `dict.wrd.txt` or, of MuAViC, `dict.LANGUAGE.txt`, behind fairseq's four; None for a model that
    only encodes."""
    return (
        piece_tokenizer.from_list(file, ["<s>", "<pad>", "</s>", "<unk>"], [], config.vocab) if config.vocab else None
    )


# -------------------- published checkpoints


def _layer_rules(theirs: str, ours: str, attentions: Mapping[str, str]) -> list[Rule]:
    """fairseq's Transformer layers; `attentions` names theirs and ours."""
    theirs, ours = theirs + r"layers\.(\d+)\.", ours + r"layers.\1."
    parts = (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"), ("out_proj", "out"))
    return [
        *(Rule(theirs + rf"{a}\.{p}\.(.+)", ours + rf"{b}.{q}.\2") for a, b in attentions.items() for p, q in parts),
        *(Rule(theirs + rf"{a}_layer_norm\.(.+)", ours + rf"{b}_ln.\2") for a, b in attentions.items()),
        Rule(theirs + r"fc1\.(.+)", ours + r"mlp.0.\2"),
        Rule(theirs + r"fc2\.(.+)", ours + r"mlp.2.\2"),
        Rule(theirs + r"final_layer_norm\.(.+)", ours + r"mlp_ln.\2"),
    ]


def resnet_rules(theirs: str, ours: str) -> list[Rule]:
    """The table of the visual front end."""
    return [
        Rule(theirs + r"frontend3D\.0\.weight", ours + "conv.weight"),
        Rule(theirs + r"frontend3D\.1\.(.+)", ours + r"norm.\1"),
        Rule(theirs + r"frontend3D\.2\.weight", ours + "act.weight"),
        Rule(theirs + r"trunk\.(.+)", ours + r"trunk.\1"),
    ]


def _fairseq_rules() -> list[Rule]:
    """Pretrained files have the encoder by itself, fine-tuned ones within a recognizer."""
    e = r"(?:encoder\.w2v_model\.)?"
    return [
        Rule(e + r"(?:mask_emb|label_embs_concat|final_proj\..+)", None, "predicts clusters in pretraining"),
        *resnet_rules(e + r"feature_extractor_video\.resnet\.", f"encoders.{LIPS}."),
        Rule(e + r"feature_extractor_video\.proj\.(.+)", rf"encoders.{LIPS}.project.\1"),
        Rule(e + r"feature_extractor_audio\.proj\.(.+)", rf"encoders.{SOUND}.project.\1"),
        Rule(e + r"layer_norm\.(.+)", r"fuse.join_ln.\1"),
        Rule(e + r"post_extract_proj\.(.+)", r"fuse.join.\1"),
        Rule(e + r"encoder\.pos_conv\.0\.weight_v", "fuse.positions.direction"),
        Rule(e + r"encoder\.pos_conv\.0\.weight_g", "fuse.positions.length"),
        Rule(e + r"encoder\.pos_conv\.0\.bias", "fuse.positions.bias"),
        *_layer_rules(e + r"encoder\.", "fuse.", {"self_attn": "attn"}),
        Rule(e + r"encoder\.layer_norm\.(.+)", r"fuse.ln.\1"),
        Rule(r"encoder\.proj\.(.+)", r"fuse.out.\1"),
        Rule(r"decoder\.(?:embed_tokens|output_projection)\.weight", "decoder.token.weight", tied=True),
        Rule(r"decoder\.(?:version|embed_positions\..+)", None, "fixed positions"),
        *_layer_rules(r"decoder\.", "decoder.", {"self_attn": "attn", "encoder_attn": "cross"}),
        Rule(r"decoder\.layer_norm\.(.+)", r"decoder.ln.\1"),
    ]


KEYS: Mapping[str, Sequence[Rule]] = {"fairseq": _fairseq_rules()}


def sniff(format: str, source: LazyTensors) -> bool:
    """Whether a checkpoint is of this family."""
    return any(key.endswith("feature_extractor_video.proj.weight") for key in source.shapes)


def config_from(format: str, meta: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The numbers of a file by its shapes. Heads, which leave no trace there, are one for 64 numbers; of the decoder, 4
    in the base size and 8 in the large, as published."""
    prefix = "encoder.w2v_model." if "encoder.w2v_model.post_extract_proj.weight" in shapes else ""
    width = shapes[f"{prefix}post_extract_proj.weight"][0]
    direction = shapes[f"{prefix}encoder.pos_conv.0.weight_v"]
    numbers = {
        "width": width,
        "heads": max(1, width // 64),
        "layers": sum(k.startswith(f"{prefix}encoder.layers.") and k.endswith(".fc1.weight") for k in shapes),
        "hidden": shapes[f"{prefix}encoder.layers.0.fc1.weight"][0],
        "kernel": direction[2],
        "groups": width // direction[1],
    }
    if "decoder.embed_tokens.weight" in shapes:
        vocab, decoder_width = shapes["decoder.embed_tokens.weight"]
        numbers |= {
            "vocab": vocab,
            "decoder_width": decoder_width,
            "decoder_layers": sum(k.startswith("decoder.layers.") and k.endswith(".fc1.weight") for k in shapes),
            "decoder_heads": 8 if decoder_width > 768 else 4,
            "decoder_hidden": shapes["decoder.layers.0.fc1.weight"][0],
        }
    return numbers
