"""SeamlessM4T v2: one speech encoder, one text encoder, one text decoder, one voice; five tasks are compositions.

Seamless Communication et al. 2023, arXiv 2312.05187. The parts are families of their own: `w2v_bert` hears, `nllb`
reads and writes, `units` and `hifigan` speak. Nothing here computes anything that they do not.

| task | from | to |
|---|---|---|
| ASR, speech to text translation | `encoders.speech` | `decoder`, steered by a language token |
| text to text translation | `encoders.text` | the same |
| speech to speech, text to speech | either | the same, then `synth` over the decoder's states |

Letters: B rows, U tokens, D width, N samples.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmx.errors import CheckpointError, InputError, nearest
from mmx.interfaces import Sound, Speech, Synth
from mmx.media.kaldi import Fbank
from mmx.model import Model
from mmx.models import nllb, w2v_bert
from mmx.models.seamless_m4t import hifigan, units
from mmx.nn.voice import find_voice
from mmx.seq import Seq
from mmx.state import State
from mmx.text.translation_tokenizer import TranslationTokenizer
from mmx.weights.convert import Rule, count, needed
from mmx.weights.formats import LazyTensors, open_checkpoint

MODEL_TYPES = ("seamless_m4t_v2",)
"""What Hugging Face's `config.json` calls the models that are built here."""

TOKENIZER_OF = ""
"""Card whose tokenizer serves a checkpoint that comes without one: none does."""

VOICES = "generation_config.json"
"""File next to the weights that says how tokens are spelled and which languages can be spoken."""


class Parts:
    """Turns the tables of a card into the configs of the parts."""

    def __post_init__(self) -> None:
        for f in fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            if isinstance(value, Mapping):
                object.__setattr__(self, f.name, f.type(**value))  # type: ignore[operator]


@dataclass(frozen=True, kw_only=True)
class Config(Parts):
    """The numbers of each part; a card gives them as tables."""

    speech: w2v_bert.Config
    text: nllb.Config
    units: units.Config
    vocoder: hifigan.Config


@dataclass(frozen=True)
class SpeechTables:
    """What a voice has to know beside its weights.

    Attributes:
        id_to_text: text token, as a decimal string, to its piece.
        char_to_id: character to its id in the text-to-unit model.
        languages: what can be spoken: code (`deu`) to the vocoder's id.
        unit_languages: code to the token that steers version 1's unit decoder.
    """

    id_to_text: Mapping[str, str]
    char_to_id: Mapping[str, int]
    languages: Mapping[str, int]
    unit_languages: Mapping[str, int]

    @classmethod
    def from_file(cls, file: Path) -> "SpeechTables":
        """Read `generation_config.json`. Raises `CheckpointError` when it lacks what speaking needs."""
        try:
            raw = json.loads(file.read_text("utf-8"))
            return cls(
                raw.get("id_to_text", {}),
                raw.get("char_to_id", {}),
                raw["vocoder_lang_code_to_id"],
                raw["t2u_lang_code_to_id"],
            )
        except (OSError, ValueError, KeyError) as e:
            raise CheckpointError(
                f"expected the voices of the model in {file}, got {e!r}: take all of the checkpoint's files"
            ) from e

    def language(self, code: str) -> int:
        """The vocoder's id of a language. Raises `InputError` for one that has no voice."""
        if code not in self.languages:
            raise InputError(
                f"expected a language that this model can speak, got {code!r}.{nearest(code, sorted(self.languages))} "
                f"It has {', '.join(sorted(self.languages))}; without --speak it writes more"
            )
        return self.languages[code]


class UnitSynth(nn.Module):
    """What the voices of both versions share; an `mmx.interfaces.Synth` that reads the decoder's states.

    The published checkpoint does not say which voices speak a language; its authors took the first of each,
    transformers takes 0.

    Args:
        vocoder: units to a waveform.

    Attributes:
        tables: set when the model is loaded.
    """

    reads: Literal["text", "encoder", "decoder"] = "decoder"
    lookahead = math.inf

    def __init__(self, vocoder: hifigan.CodeVocoder):
        super().__init__()
        self.vocoder = vocoder
        self.tables: SpeechTables | None = None

    @property
    def rate(self) -> float:
        """Samples per second."""
        return units.RATE_HZ * self.vocoder.generator.samples

    def voices(self, language: str) -> Sequence[str]:
        """Their numbers: each can say every language."""
        self.known().language(language)
        return [str(i) for i in range(self.vocoder.speaker.num_embeddings)]

    def init_state(self, batch: int, capacity: int) -> State:
        """Nothing is remembered: a text is spoken as a whole."""
        return {}

    def known(self) -> SpeechTables:
        """The tables. Raises `InputError` where there are none."""
        if self.tables is None:
            raise InputError(f"expected {VOICES} next to the weights, got none: put it there to speak")
        return self.tables

    def states(self, speech: Speech, dtype: torch.dtype) -> Seq:
        """What the decoder made of the texts. Raises `ValueError` where it is not given."""
        if speech.encoded is None:
            raise ValueError("expected the decoder's states with what is to be said, got none")
        return speech.encoded.to(dtype)

    def stream(self, speech: Speech, block_s: float) -> Iterator[Sound]:
        """One block: all units of a text are found together."""
        yield self.speak(speech)

    def speak(self, speech: Speech, state: State | None = None) -> Sound:
        """See `mmx.interfaces.Synth`."""
        raise NotImplementedError

    def sound(self, found: Seq, speech: Speech, **options: bool) -> Sound:
        """Units `(B, T)` to a waveform `(B, N)`."""
        if speech.pitch or speech.range != 1:
            raise InputError("expected the pitch of the voice itself, got another: this model cannot change it")
        index = find_voice(self.voices(speech.language), speech.voice)
        voice = torch.full((len(found.x),), index, device=found.x.device)
        language = torch.full_like(voice, self.known().language(speech.language))
        return Sound(self.vocoder(found, language, voice, **options))


class Synthesizer(UnitSynth):
    """Speaks what the text decoder wrote: units of 20 ms all at once, then their sound.

    Args:
        t2u: states of the decoder to units.
        vocoder: units to a waveform.
    """

    def __init__(self, t2u: units.TextToUnits, vocoder: hifigan.CodeVocoder):
        super().__init__(vocoder)
        self.t2u = t2u

    def speak(self, speech: Speech, state: State | None = None) -> Sound:
        """See `mmx.interfaces.Synth`."""
        return self.sound(self.t2u.units(*self.read(speech), 1 / speech.speed), speech)

    def read(self, speech: Speech) -> tuple[Seq, Tensor, Tensor]:
        """What the text-to-unit model reads: states `(B, U, D)`, characters `(B, C)` and how many each state wrote."""
        tables, states = self.known(), self.states(speech, next(self.t2u.parameters()).dtype)
        spelled = units.spell(speech.tokens, tables.id_to_text, tables.char_to_id)
        # It was trained on texts without their end, whose state is the last.
        states = states._replace(x=states.x[:, :-1], lengths=states.lengths - 1)
        return states, spelled.chars.to(states.x.device), spelled.per_token.to(states.x.device)


def build(config: Config) -> Model:
    """The model without weights; call it under `torch.device("meta")` to allocate nothing."""
    c = config
    synth = Synthesizer(units.build(c.units), hifigan.build(c.vocoder))
    return compose(c.speech, c.text, synth)


def compose(speech: w2v_bert.Config, text: nllb.Config, synth: Synth) -> Model:
    """Ears, eyes, pen and voice around one embedding."""
    decoder = nllb.build_decoder(text)
    adaptor = w2v_bert.adaptor(speech)
    return Model(
        front={"speech": Fbank(speech.features // 2, speech.normalize)},
        encoders={"speech": w2v_bert.encoder(speech), "text": nllb.build_encoder(text, decoder.token)},
        adapters={} if adaptor is None else {"speech": adaptor},
        decoder=decoder,
        synth=synth,
    )


def tokenizer(file: Path, c: Config) -> TranslationTokenizer:
    """The tokenizer of `tokenizer.json` or of a SentencePiece model."""
    return TranslationTokenizer.from_file(file, c.text.vocab)


def finish(model: Model, folder: Path) -> None:
    """Give the synthesizer its tables, where the folder of the weights has them."""
    if isinstance(model.synth, UnitSynth) and (folder / VOICES).is_file():
        model.synth.tables = SpeechTables.from_file(folder / VOICES)


# -------------------- checkpoints


def text_and_speech_rules(conv_norm: str) -> list[Rule]:
    """All but the voice, which the versions share but for the name of a norm; see `w2v_bert.hf_rules`."""
    return [
        nllb.embedding_rule(r"shared|text_(?:en|de)coder\.embed_tokens|lm_head", "encoders.text.token"),
        *nllb.encoder_rules(r"text_encoder\.", "encoders.text.", nllb.SEAMLESS),
        *nllb.decoder_rules(r"text_decoder\.", "decoder.", nllb.SEAMLESS),
        *w2v_bert.hf_rules(r"speech_encoder\.", conv_norm=conv_norm),
    ]


def fairseq2_text_and_speech_rules() -> list[Rule]:
    """All but the voice in the names of seamless_communication, which the versions share."""
    return [
        *nllb.fairseq2_rules("text_"),
        *w2v_bert.fairseq2_rules(*FAIRSEQ2_SPEECH),
        *w2v_bert.fairseq2_adaptor_rules(r"speech_encoder\."),
    ]


FAIRSEQ2_SPEECH = (r"speech_encoder_frontend\.", r"speech_encoder\.inner\.", r"speech_encoder\.inner_layer_norm")
"""Where fairseq2 keeps the frontend, the Conformer and its last norm."""
VOCODER = r"vocoder\.code_generator\."
"""Where the vocoder stands among the other tensors; its own file has no prefix, or a part of this."""

KEYS: dict[str, list[Rule]] = {
    "fairseq2": [
        *fairseq2_text_and_speech_rules(),
        *units.fairseq2_rules(r"t2u_model\.", "synth.t2u."),
        *hifigan.fairseq2_rules(VOCODER, "synth.vocoder."),
    ],
    "hf": [
        *text_and_speech_rules("depthwise_layer_norm"),
        *units.hf_rules("t2u_model.", "synth.t2u."),
        *hifigan.hf_rules("vocoder.", "synth.vocoder."),
    ],
}
"""Published key to ours, by format."""


def config_from(format: str, meta: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The `Config` numbers of a checkpoint that comes without a card, from its `config.json`.

    Args:
        format: a key of `KEYS`.
        meta: the content of `config.json`.
        shapes: source key to shape.
    """
    if format == "fairseq2":
        numbers = units.fairseq2_numbers(meta, shapes, r"t2u_model\.")
        vocoder = hifigan.fairseq2_numbers(meta, shapes, VOCODER)
        return fairseq2_numbers(meta, shapes, ctx=4096) | {
            "units": numbers | {"units": vocoder["units"]},
            "vocoder": vocoder,
        }
    return {
        "speech": speech_numbers(meta, causal=True, conv_norm="layer"),
        "text": text_numbers(meta),
        "units": {
            "width": meta["hidden_size"],
            "heads": meta["t2u_encoder_attention_heads"],
            "encoder_layers": meta["t2u_encoder_layers"],
            "encoder_hidden": meta["t2u_encoder_ffn_dim"],
            "decoder_layers": meta["t2u_decoder_layers"],
            "duration_hidden": meta["t2u_variance_predictor_hidden_dim"],
            "duration_kernel": meta["t2u_variance_predictor_kernel_size"],
            "vocab": meta["t2u_vocab_size"],
            "char_vocab": meta["char_vocab_size"],
            "ctx": meta["t2u_max_position_embeddings"],
            "special_units": meta["vocoder_offset"],
            "units": meta["unit_hifi_gan_vocab_size"],
        },
        "vocoder": vocoder_numbers(meta),
    }


def files_beside(path: Path) -> list[Path]:
    """The files of the vocoder, which is published apart from the model."""
    return [p for p in sorted(path.parent.glob("vocoder*.pt")) if p != path]


def prepare_source(format: str, source: LazyTensors) -> LazyTensors:
    """A checkpoint of one file with its vocoder's, the pairs of whose weight norm are folded; others as they are."""
    if format not in ("fairseq", "fairseq2"):
        return source
    source = _with_vocoder(source)
    if format == "fairseq":
        return source
    folded = hifigan.fold_weight_norm({k: source[k] for k in source if re.match(VOCODER, k)})
    others = {k: shape for k, shape in source.shapes.items() if not re.match(VOCODER, k)}
    shapes = others | {k: tuple(v.shape) for k, v in folded.items()}
    return LazyTensors(shapes, lambda k: folded[k] if k in folded else source[k], source.meta)


def _with_vocoder(source: LazyTensors) -> LazyTensors:
    """The tensors of a model that speaks, and under `vocoder.code_generator.` those of the vocoder's file beside it."""
    if source.path is None or not any(k.startswith("t2u_model.") for k in source):
        return source
    beside = files_beside(source.path)
    if len(beside) != 1:
        raise CheckpointError(
            f"expected one vocoder*.pt beside {source.path}, which writes units, got {[p.name for p in beside]}: "
            "put the model's own there"
        )
    own = open_checkpoint(beside[0], "fairseq2")
    names = {f"vocoder.code_generator.{k.removeprefix('code_generator.')}": k for k in own}
    shapes = source.shapes | {ours: own.shapes[theirs] for ours, theirs in names.items()}
    return LazyTensors(shapes, lambda k: own[names[k]] if k in names else source[k], source.meta)


TOKEN_IDS = {"bos_token_id": 2, "pad_token_id": 0, "eos_token_id": 3}
"""Of the vocabulary, whose first rows have one order at both publishers; what the tokenizer reads."""


def fairseq2_numbers(
    meta: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], ctx: int
) -> dict[str, dict[str, Any]]:
    """The speech and text numbers of a checkpoint of seamless_communication."""
    pool = needed(shapes, r"speech_encoder\.adaptor_layers\.0\.residual_conv\.weight")
    adaptor = {
        "adaptor_layers": count(shapes, r"speech_encoder\.adaptor_layers\.(\d+)\..+"),
        "adaptor_kernel": pool[2],
        "adaptor_stride": meta.get("adaptor_stride", pool[2]),
    }
    speech = w2v_bert.fairseq2_numbers(meta, shapes, *FAIRSEQ2_SPEECH)
    return {"speech": speech | adaptor, "text": nllb.fairseq2_numbers(meta, shapes, "text_", ctx)}


def speech_numbers(meta: Mapping[str, Any], causal: bool, conv_norm: str) -> dict[str, Any]:
    """`w2v_bert.Config` of a SeamlessM4T `config.json`; what the versions differ in is given."""
    return {
        "width": meta["hidden_size"],
        "heads": meta["speech_encoder_attention_heads"],
        "layers": meta["speech_encoder_layers"],
        "hidden": meta["speech_encoder_intermediate_size"],
        "features": meta["feature_projection_input_dim"],
        "kernel": meta["conv_depthwise_kernel_size"],
        "positions": meta["position_embeddings_type"],
        "left": meta.get("left_max_position_embeddings", 64),
        "right": meta.get("right_max_position_embeddings", 8),
        "causal": causal,
        "conv_norm": conv_norm,
        "final_norm": True,
        "adaptor_layers": meta["num_adapter_layers"] if meta["add_adapter"] else 0,
        "adaptor_kernel": meta["adaptor_kernel_size"],
        "adaptor_stride": meta["adaptor_stride"],
    }


def text_numbers(meta: Mapping[str, Any]) -> dict[str, Any]:
    """`nllb.Config` of a SeamlessM4T `config.json`."""
    sides = ("encoder", "decoder")
    return {
        "vocab": meta["vocab_size"],
        "ctx": meta["max_position_embeddings"],
        "width": meta["hidden_size"],
        "heads": tuple(meta[f"{s}_attention_heads"] for s in sides),
        "layers": tuple(meta[f"{s}_layers"] for s in sides),
        "hidden": tuple(meta[f"{s}_ffn_dim"] for s in sides),
        "activation": meta["activation_function"],
        "scaled": meta["scale_embedding"],
        "offset": meta["pad_token_id"] + 1,
    }


def vocoder_numbers(meta: Mapping[str, Any]) -> dict[str, Any]:
    """`hifigan.Config` of a SeamlessM4T `config.json`."""
    return {
        "units": meta["unit_hifi_gan_vocab_size"],
        "unit_width": meta["unit_embed_dim"],
        "languages": meta["vocoder_num_langs"],
        "language_width": meta["lang_embed_dim"],
        "speakers": meta["vocoder_num_spkrs"],
        "speaker_width": meta["spkr_embed_dim"],
        "channels": meta["upsample_initial_channel"],
        "strides": tuple(meta["upsample_rates"]),
        "kernels": tuple(meta["upsample_kernel_sizes"]),
        "block_kernels": tuple(meta["resblock_kernel_sizes"]),
        "dilations": tuple(tuple(d) for d in meta["resblock_dilation_sizes"]),
        "duration_kernel": meta["variance_predictor_kernel_size"],
    }


# -------------------- Hugging Face's folder


def hf_config(config: Config) -> dict[str, Any]:
    """The `config.json` of a model whose checkpoint `KEYS["hf"]` describes."""
    u = config.units
    return {
        "model_type": MODEL_TYPES[0], "architectures": ["SeamlessM4Tv2Model"],
        **hf_numbers(config.speech, config.text, config.vocoder),
        "t2u_encoder_attention_heads": u.heads, "t2u_decoder_attention_heads": u.heads,
        "t2u_encoder_layers": u.encoder_layers, "t2u_encoder_ffn_dim": u.encoder_hidden,
        "t2u_decoder_layers": u.decoder_layers, "t2u_variance_predictor_embed_dim": u.width,
        "t2u_variance_predictor_hidden_dim": u.duration_hidden,
        "t2u_variance_predictor_kernel_size": u.duration_kernel, "t2u_vocab_size": u.vocab,
        "char_vocab_size": u.char_vocab, "t2u_max_position_embeddings": u.ctx, "vocoder_offset": u.special_units,
    }  # fmt: skip


def hf_numbers(speech: w2v_bert.Config, text: nllb.Config, vocoder: hifigan.Config) -> dict[str, Any]:
    """What the `config.json` of both versions has.

    Raises:
        CheckpointError: positions that transformers cannot count. It always begins one after the padding token, 0;
            fairseq2 begins at 2, and so does a checkpoint that comes from there.
    """
    s, v = speech, vocoder
    if text.offset != TOKEN_IDS["pad_token_id"] + 1:
        raise CheckpointError(
            f"expected text positions from 1, as transformers counts them, got {text.offset}: with fairseq2's "
            "checkpoint it would compute something else; use --to mmx"
        )
    sides = {f"{side}_{name}": values[i] for name, values in (
        ("layers", text.layers), ("attention_heads", text.heads), ("ffn_dim", text.hidden),
    ) for i, side in enumerate(("encoder", "decoder"))}  # fmt: skip
    return {
        "hidden_size": s.width, "speech_encoder_attention_heads": s.heads, "speech_encoder_layers": s.layers,
        "speech_encoder_intermediate_size": s.hidden, "feature_projection_input_dim": s.features,
        "conv_depthwise_kernel_size": s.kernel, "position_embeddings_type": s.positions,
        "left_max_position_embeddings": s.left, "right_max_position_embeddings": s.right,
        "num_adapter_layers": s.adaptor_layers, "add_adapter": s.adaptor_layers > 0,
        "adaptor_kernel_size": s.adaptor_kernel, "adaptor_stride": s.adaptor_stride,
        "vocab_size": text.vocab, "max_position_embeddings": text.ctx, "activation_function": text.activation,
        "scale_embedding": text.scaled, **sides, **TOKEN_IDS, "tie_word_embeddings": True,
        "unit_hifi_gan_vocab_size": v.units, "unit_embed_dim": v.unit_width, "vocoder_num_langs": v.languages,
        "lang_embed_dim": v.language_width, "vocoder_num_spkrs": v.speakers, "spkr_embed_dim": v.speaker_width,
        "upsample_initial_channel": v.channels, "upsample_rates": v.strides, "upsample_kernel_sizes": v.kernels,
        "resblock_kernel_sizes": v.block_kernels, "resblock_dilation_sizes": v.dilations,
        "variance_predictor_kernel_size": v.duration_kernel,
    }  # fmt: skip
