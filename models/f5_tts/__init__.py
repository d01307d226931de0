"""F5-TTS and E2-TTS: a voice from a few seconds of a recording, by flow matching over mels.

Chen et al. 2024, arXiv 2410.06885; Eskimez et al. 2024, arXiv 2406.18009. The model is shown a recording, what is said
in it and the text to say, and fills in the mels that are missing; `vocos` makes them sound.

| file | what it holds |
|---|---|
| `tokenizer` | characters, pinyin |
| `field` | text path and velocity field; `dit` and `unet` are its two backbones |
| `sampling` | Euler's method, guidance |
| `synth` | the synth: durations, long texts, a voice from a recording |
| `infill` | the objective that trains it |
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from mmx.model import Model
from mmx.models import vocos
from mmx.models.f5_tts.dit import DiT
from mmx.models.f5_tts.field import Field, TextPath
from mmx.models.f5_tts.sampling import Sampling
from mmx.models.f5_tts.synth import InfillSynth, Tokens
from mmx.models.f5_tts.tokenizer import PinyinTokenizer
from mmx.models.f5_tts.unet import FlatUNet
from mmx.weights import hub
from mmx.weights.card import find_card
from mmx.weights.convert import Rule, count, found, needed
from mmx.weights.formats import LazyTensors, open_checkpoint

MODEL_TYPES = ("f5_tts",)
VOCODER = "vocos-mel-24khz"
"""Card of the vocoder, which is published apart."""
BACKBONES: Mapping[str, type[nn.Module]] = {"dit": DiT, "unet": FlatUNet}


@dataclass(frozen=True, kw_only=True)
class Config:
    """The numbers of a voice; the defaults are those of F5TTS_v1_Base.

    Attributes:
        vocab: symbols, without the filler.
        hidden: width inside the feed-forwards.
        text_width: of the text path.
        text_layers: ConvNeXt blocks of the text path; E2-TTS has none.
        clears_fillers: whether what the text path makes of fillers is set to zero (from version 1 on).
        rotary_heads: heads that know positions; all when None, the first in version 0.
        backbone: of F5-TTS ("dit") or of E2-TTS ("unet").
        vocoder: the numbers of its Vocos.
        steps: of the sampler, where a text does not say another number.
        guidance: see `Sampling`.
        sway: see `Sampling`.
    """

    vocab: int = 2545
    width: int = 1024
    heads: int = 16
    hidden: int = 2048
    layers: int = 22
    text_width: int = 512
    text_layers: int = 4
    clears_fillers: bool = True
    rotary_heads: int | None = None
    backbone: Literal["dit", "unet"] = "dit"
    vocoder: vocos.Config = dataclasses.field(default_factory=vocos.Config)
    steps: int = 32
    guidance: float = 2.0
    sway: float = -1.0

    def __post_init__(self) -> None:
        if isinstance(self.vocoder, Mapping):
            object.__setattr__(self, "vocoder", vocos.Config(**self.vocoder))


def build(c: Config) -> Model:
    """The model without weights; call it under `torch.device("meta")` to allocate nothing."""
    synth = InfillSynth(
        build_field(c), vocos.Vocos(c.vocoder), Sampling(steps=c.steps, guidance=c.guidance, sway=c.sway)
    )
    return Model(front={}, encoders={"text": Tokens()}, synth=synth)


def build_field(c: Config) -> Field:
    """The velocity field alone."""
    text = TextPath(c.vocab, c.text_width, c.text_layers, c.clears_fillers)
    backbone = BACKBONES[c.backbone](c.width, c.heads, c.hidden, c.layers, c.rotary_heads)
    return Field(c.vocoder.mels, c.width, text, backbone)


def tokenizer(file: Path, c: Config) -> PinyinTokenizer:
    """The tokenizer of `vocab.txt`."""
    return PinyinTokenizer.from_file(file, c.vocab)


def finish(model: Model, folder: Path) -> None:
    """Give the synth its tokenizer, which it needs for the text of the recording too."""
    assert isinstance(model.synth, InfillSynth) and isinstance(model.tokenizer, PinyinTokenizer)
    model.synth.tokenizer = model.tokenizer


# -------------------- checkpoints


def _rules(prefix: str, ours: str) -> list[Rule]:
    """The table of both backbones; `prefix` is a pattern without groups."""
    text, to_text = rf"{prefix}text_embed\.text_blocks\.(\d+)\.", rf"{ours}text.layers.\1."
    dit, to_layer = rf"{prefix}transformer_blocks\.(\d+)\.", rf"{ours}backbone.layers.\1."
    unet = rf"{prefix}layers\.(\d+)\."
    rules = [
        Rule(rf"{prefix}time_embed\.time_mlp\.0\.(.+)", rf"{ours}clock.up.\1"),
        Rule(rf"{prefix}time_embed\.time_mlp\.2\.(.+)", rf"{ours}clock.down.\1"),
        Rule(rf"{prefix}text_embed\.text_embed\.weight", rf"{ours}text.token.weight"),
        Rule(rf"{text}dwconv\.(.+)", rf"{to_text}depthwise.\2"),
        Rule(rf"{text}norm\.(.+)", rf"{to_text}ln.\2"),
        Rule(rf"{text}pwconv1\.(.+)", rf"{to_text}up.\2"),
        Rule(rf"{text}pwconv2\.(.+)", rf"{to_text}down.\2"),
        Rule(rf"{text}grn\.gamma", rf"{to_text}response.gain"),
        Rule(rf"{text}grn\.beta", rf"{to_text}response.bias"),
        Rule(rf"{prefix}input_embed\.proj\.(.+)", rf"{ours}mix.\1"),
        Rule(rf"{prefix}input_embed\.conv_pos_embed\.conv1d\.0\.(.+)", rf"{ours}positions.convs.0.\1"),
        Rule(rf"{prefix}input_embed\.conv_pos_embed\.conv1d\.2\.(.+)", rf"{ours}positions.convs.1.\1"),
        Rule(rf"{prefix}rotary_embed\.inv_freq", None, "fixed frequencies, which we compute"),
        Rule(rf"{dit}attn_norm\.linear\.(.+)", rf"{to_layer}time.\2"),
        Rule(rf"{prefix}norm_out\.linear\.(.+)", rf"{ours}backbone.time.\1"),
        Rule(rf"{unet}0\.weight", rf"{to_layer}skip.weight"),
        Rule(rf"{unet}1\.g", rf"{to_layer}attn_norm.gain"),
        Rule(rf"{unet}3\.g", rf"{to_layer}mlp_norm.gain"),
        Rule(rf"{prefix}norm_out\.g", rf"{ours}backbone.norm.gain"),
        Rule(rf"{prefix}proj_out\.(.+)", rf"{ours}out.\1"),
    ]
    for attn, mlp in ((rf"{dit}attn\.", rf"{dit}ff\.ff\."), (rf"{unet}2\.", rf"{unet}4\.ff\.")):
        rules += [Rule(rf"{attn}to_{n[0]}\.(.+)", rf"{to_layer}attn.{n}.\2") for n in ("query", "key", "value")]
        rules += [
            Rule(rf"{attn}to_out\.0\.(.+)", rf"{to_layer}attn.out.\2"),
            Rule(rf"{mlp}0\.0\.(.+)", rf"{to_layer}mlp.0.\2"),
            Rule(rf"{mlp}2\.(.+)", rf"{to_layer}mlp.2.\2"),
        ]
    return rules


FIELD = r"(?:ema_model\.)?transformer\."
"""What stands before the names of the field; the published weights are moving averages."""

KEYS: Mapping[str, Sequence[Rule]] = {
    "hf": [
        *_rules(FIELD, "synth.field."),
        Rule(r"(?:ema_model\.)?mel_spec\..+", None, "windows and filters of the mels, which we compute"),
        Rule("initted|step|update", None, "a counter of the moving average, not a weight"),
        *vocos.hf_rules(r"vocoder\.", "synth.vocoder."),
    ]
}
"""Published key to ours, by format; the vocoder's stand behind `vocoder.`, where `prepare_source` puts them."""


def sniff(format: str, source: LazyTensors) -> bool:
    """Whether a checkpoint is F5-TTS's or E2-TTS's, which come without a `config.json`."""
    return format == "hf" and found(source.shapes, rf"{FIELD}input_embed\.proj\.weight") is not None


def prepare_source(format: str, source: LazyTensors) -> LazyTensors:
    """The checkpoint with the vocoder's tensors: from a folder `vocos` next to it, else as the vocoder's card says."""
    if format != "hf" or any(key.startswith("vocoder.") for key in source):
        return source
    beside = source.path.parent / "vocos" if source.path else None
    place = hub.at_path(beside) if beside and beside.is_dir() else hub.locate(find_card(VOCODER))
    own = open_checkpoint(place.parts[0], place.format)
    shapes = source.shapes | {f"vocoder.{key}": shape for key, shape in own.shapes.items()}

    def read(key: str) -> Any:
        name = key.removeprefix("vocoder.")
        return own[name] if name != key else source[key]

    return LazyTensors(shapes, read, source.meta, source.path)


def config_from(format: str, meta: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The `Config` numbers of a checkpoint that comes without a card.

    Heads are 64 wide in all that are published. Version 0 and 1 have the same tensors: what is not named after version
    0 is taken for version 1.

    Args:
        format: a key of `KEYS`.
        meta: `name`, the file's, where it is known.
        shapes: source key to shape, with the vocoder's.
    """
    width, mixed = needed(shapes, rf"{FIELD}input_embed\.proj\.weight")
    vocab, text_width = needed(shapes, rf"{FIELD}text_embed\.text_embed\.weight")
    unet = found(shapes, rf"{FIELD}norm_out\.g") is not None
    layers = count(shapes, rf"{FIELD}(?:transformer_blocks|layers)\.(\d+)\..+")
    old = unet or bool(re.search(r"F5TTS_(?!v1)", str(meta.get("name", ""))))
    up = rf"{FIELD}layers\.0\.4\.ff\.0\.0\.bias" if unet else rf"{FIELD}transformer_blocks\.0\.ff\.ff\.0\.0\.bias"
    return {
        "vocab": vocab - 1, "width": width, "heads": width // 64, "layers": layers,
        "hidden": needed(shapes, up)[0],
        "text_width": text_width, "text_layers": count(shapes, rf"{FIELD}text_embed\.text_blocks\.(\d+)\..+"),
        "clears_fillers": not old, "rotary_heads": 1 if old else None, "backbone": "unet" if unet else "dit",
        "vocoder": {**vocos.numbers(shapes, r"vocoder\."), "mels": (mixed - text_width) // 2},
    }  # fmt: skip
