"""SeamlessM4T v1 (arXiv 2308.11596): the composition of v2 with another voice, which writes its units one by one.

Its ears have symmetric convolutions and Transformer-XL positions; its units are reduced: a run of equal ones is written
once, and the vocoder predicts how long each lasts.

Letters: B rows, U tokens, D width, N samples.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmx.errors import InputError
from mmx.generate import SearchOptions, search
from mmx.interfaces import Sound, Speech
from mmx.model import Model
from mmx.models import nllb, seamless_m4t, w2v_bert
from mmx.models.seamless_m4t import TOKEN_IDS, TOKENIZER_OF, finish, hifigan, prepare_source, units
from mmx.seq import Seq, pad
from mmx.state import State
from mmx.text.translation_tokenizer import TranslationTokenizer
from mmx.weights.convert import Rule

__all__ = [
    "KEYS", "MODEL_TYPES", "TOKENIZER_OF", "TOKEN_IDS", "Config", "build", "config_from", "finish", "hf_config",
    "prepare_source", "tokenizer",
]  # fmt: skip

MODEL_TYPES = ("seamless_m4t",)
"""What Hugging Face's `config.json` calls the models that are built here."""


@dataclass(frozen=True, kw_only=True)
class Config(seamless_m4t.Parts):
    """The numbers of each part, and the control symbols of units; a card gives the parts as tables."""

    speech: w2v_bert.Config
    text: nllb.Config
    units: units.AutoregressiveConfig
    vocoder: hifigan.Config
    unit_eos: int = 2
    special_units: int = 4


class Synthesizer(seamless_m4t.UnitSynth):
    """Speaks what the text decoder wrote: reduced units by a search, then their sound.

    Args:
        t2u: states of the text decoder to units: a `Model` like any other.
        vocoder: units to a waveform.
        unit_eos: ends a row of units.
        special_units: control symbols before the first unit, which the vocoder does not know.
    """

    def __init__(self, t2u: Model, vocoder: hifigan.CodeVocoder, unit_eos: int, special_units: int):
        super().__init__(vocoder)
        self.t2u, self.unit_eos, self.special_units = t2u, unit_eos, special_units

    def speak(self, speech: Speech, state: State | None = None) -> Sound:
        """See `mmx.interfaces.Synth`. Raises `InputError` for another speed, which this version has no part for."""
        if speech.speed != 1.0:
            raise InputError("expected the speed that the model speaks at, got another: only version 2 can change it")
        tables = self.known()
        tables.language(speech.language)
        states = self.states(speech, next(self.t2u.parameters()).dtype)
        found = self.write(states, tables.unit_languages[speech.language])
        return self.sound(found, speech, predict_durations=True)

    def write(self, states: Seq, language: int, beam_size: int = 1) -> Seq:
        """Reduced units `(B, T)` in the vocoder's numbering, by search over the states `(B, U, D)`."""
        decoder, memory = self.t2u.require_decoder(), self.t2u.memory({"states": states})
        prefix = torch.tensor([[self.unit_eos, language]] * len(states.x), device=states.x.device)
        options = SearchOptions(beam_size=beam_size, max_tokens=decoder.ctx - 2)
        only_units = _OnlyUnits(self.unit_eos, self.special_units, self.vocoder.unit.num_embeddings)
        result = search(decoder, memory, prefix, self.unit_eos, options, [only_units])
        rows = [torch.tensor(r[0].tokens, dtype=torch.int64) - self.special_units for r in result.rows]
        return pad(rows, units.RATE_HZ).to(states.x.device)


class _OnlyUnits:
    """A filter that lets a search write units and the end, for nothing else can be spoken."""

    def __init__(self, eos: int, first: int, count: int):
        self.eos, self.first, self.last = eos, first, first + count

    def __call__(self, logits: Tensor, written: Tensor) -> None:
        end = logits[:, self.eos].clone()
        logits[:, : self.first] = -torch.inf
        logits[:, self.last :] = -torch.inf
        logits[:, self.eos] = end


def build(config: Config) -> Model:
    """The model without weights; call it under `torch.device("meta")` to allocate nothing."""
    c = config
    t2u = units.build_autoregressive(c.units)
    synth = Synthesizer(t2u, hifigan.build(c.vocoder), c.unit_eos, c.special_units)
    return seamless_m4t.compose(c.speech, c.text, synth)


def tokenizer(file: Path, c: Config) -> TranslationTokenizer:
    """The tokenizer of `tokenizer.json` or of a SentencePiece model."""
    return TranslationTokenizer.from_file(file, c.text.vocab)


# -------------------- checkpoints


KEYS: dict[str, list[Rule]] = {
    "fairseq2": [
        *seamless_m4t.fairseq2_text_and_speech_rules(),
        *units.fairseq2_autoregressive_rules(r"t2u_model\.", "synth.t2u."),
        *hifigan.fairseq2_rules(seamless_m4t.VOCODER, "synth.vocoder."),
    ],
    "hf": [
        *seamless_m4t.text_and_speech_rules("batch_norm"),
        *units.hf_autoregressive_rules("t2u_model.", "synth.t2u."),
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
        return seamless_m4t.fairseq2_numbers(meta, shapes, ctx=1024) | {
            "units": units.fairseq2_numbers(meta, shapes, r"t2u_model\."),
            "vocoder": hifigan.fairseq2_numbers(meta, shapes, seamless_m4t.VOCODER),
        }
    return {
        "speech": seamless_m4t.speech_numbers(meta, causal=False, conv_norm="batch"),
        "text": seamless_m4t.text_numbers(meta),
        "units": {
            "width": meta["hidden_size"],
            "heads": meta["t2u_encoder_attention_heads"],
            "encoder_layers": meta["t2u_encoder_layers"],
            "encoder_hidden": meta["t2u_encoder_ffn_dim"],
            "decoder_layers": meta["t2u_decoder_layers"],
            "decoder_hidden": meta["t2u_decoder_ffn_dim"],
            "vocab": meta["t2u_vocab_size"],
            "ctx": meta["t2u_max_position_embeddings"],
        },
        "vocoder": seamless_m4t.vocoder_numbers(meta),
        "unit_eos": meta["t2u_eos_token_id"],
        "special_units": meta["vocoder_offset"],
    }


# -------------------- Hugging Face's folder


def hf_config(config: Config) -> dict[str, Any]:
    """The `config.json` of a model whose checkpoint `KEYS["hf"]` describes."""
    u = config.units
    return {
        "model_type": MODEL_TYPES[0], "architectures": ["SeamlessM4TModel"],
        **seamless_m4t.hf_numbers(config.speech, config.text, config.vocoder),
        "t2u_encoder_attention_heads": u.heads, "t2u_decoder_attention_heads": u.heads,
        "t2u_encoder_layers": u.encoder_layers, "t2u_encoder_ffn_dim": u.encoder_hidden,
        "t2u_decoder_layers": u.decoder_layers, "t2u_decoder_ffn_dim": u.decoder_hidden, "t2u_vocab_size": u.vocab,
        "t2u_max_position_embeddings": u.ctx, "t2u_eos_token_id": config.unit_eos,
        "vocoder_offset": config.special_units,
    }  # fmt: skip
