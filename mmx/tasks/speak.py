"""Text to speech by translation: a text in one language, said in another (or in its own)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mmx.errors import InputError
from mmx.model import Model
from mmx.seq import pad
from mmx.tasks import dub
from mmx.tasks.result import Spoken
from mmx.tasks.translate import translate_text
from mmx.tasks.words import Translation


@dataclass(frozen=True)
class Voice:
    """Which voice speaks, and how fast: above 1 speaks slower."""

    speaker: int = 0
    duration_factor: float = 1.0


def speak_text(
    model: Model,
    text: str,
    *,
    src: str,
    to: str,
    speaker: int = 0,
    duration_factor: float = 1.0,
    beam_size: int = 5,
    shortlist: str | None = None,
) -> tuple[Translation, NDArray[np.float32]]:
    """Translate a text and say the translation, sentence by sentence.

    Args:
        model: with a text encoder and a voice.
        text: of any length.
        src: language of the text.
        to: language to say it in; the same one reads it aloud.
        speaker: voice, by number.
        duration_factor: above 1 speaks slower.
        beam_size: of the search.
        shortlist: see `mmx.text.shortlist.read`.

    Returns:
        The translation, and `(N,)` float32 at 16 kHz.

    Raises:
        InputError: the model has no voice, or none for this language.
    """
    if model.synth is None:
        raise InputError(f"expected a model with a voice, got {model.name}: use seamless-m4t-v2-large")
    require_voice(model, to, speaker)
    (done,) = translate_text(model, [text], src=src, to=to, beam_size=beam_size, shortlist=shortlist)
    said, at_s = [], 0.0
    for segment in done.segments:
        samples = say(model, segment.source, segment.text, done.src, done.to, Voice(speaker, duration_factor))
        said.append(Spoken(at_s, samples))
        at_s += len(samples) / dub.RATE + dub.PAUSE_S
    return done, dub.lay(said)


def require_voice(model: Model, to: str, speaker: int) -> None:
    """Raise `InputError` unless a model with a voice has this speaker and can say this language."""
    synth: Any = model.synth
    count = synth.vocoder.speaker.num_embeddings
    if not 0 <= speaker < count:
        raise InputError(f"expected a speaker from 0 to {count - 1}, got {speaker}")
    if synth.voices is not None:
        synth.voices.language(model.tokenizer.language(to))


@torch.inference_mode()
def say(model: Model, source: str, text: str, src: str, to: str, voice: Voice) -> NDArray[np.float32]:
    """One sentence said, `(N,)` float32 at 16 kHz.

    Args:
        model: with a text encoder and a voice.
        source: what the sentence translates, in `src`; the sentence itself reads it aloud.
        text: the sentence, in `to`.
        src: language as the model spells it.
        to: language as the model spells it.
        voice: which one.

    Raises:
        InputError: the model's voice does not have the language.
    """
    tok, decoder, synth = model.tokenizer, model.decoder, model.synth
    device = decoder.token.weight.device
    memory = model.memory({"text": pad([torch.tensor(tok.source(source, src), device=device)])})
    assert synth is not None
    wav = synth(
        decoder, memory, tok.prompt(to), [tok.encode(text)], to,
        speaker=voice.speaker, duration_factor=voice.duration_factor,
    )  # fmt: skip
    return wav.x[0, : int(wav.lengths[0])].float().cpu().numpy()
