"""Text to speech by translation: a text in one language, said in another (or in its own)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mmx.errors import InputError
from mmx.interfaces import Sound, Speech
from mmx.mark.marker import Marker
from mmx.model import Model
from mmx.seq import Seq, pad
from mmx.state import State
from mmx.tasks import dub
from mmx.tasks.result import SpokenSegment
from mmx.tasks.translate import translate_text
from mmx.tasks.words import Translation


@dataclass(frozen=True)
class Voice:
    """Which voice speaks, by its number among those of the language, and how fast: above 1 is faster."""

    speaker: int = 0
    speed: float = 1.0


def speak_text(
    model: Model,
    text: str,
    *,
    src: str,
    to: str,
    speaker: int = 0,
    speed: float = 1.0,
    beam_size: int = 5,
    shortlist: str | None = None,
) -> tuple[Translation, SpokenSegment]:
    """Translate a text and say the translation, sentence by sentence.

    Args:
        model: with a text encoder, a decoder and a voice.
        text: of any length.
        src: language of the text.
        to: language to say it in; the same one reads it aloud.
        speaker: voice, by number.
        speed: above 1 is faster.
        beam_size: of the search.
        shortlist: see `mmx.text.shortlist.read`.

    Returns:
        The translation, and its sound.

    Raises:
        InputError: the model has no voice, or none for this language.
    """
    require_voice(model, to, speaker)
    (done,) = translate_text(model, [text], src=src, to=to, beam_size=beam_size, shortlist=shortlist)
    said, at_s = [], 0.0
    for segment in done.segments:
        spoken = synthesize(model, segment.source, segment.text, done.src, done.to, Voice(speaker, speed))
        said.append(SpokenSegment(at_s, spoken.samples, spoken.rate))
        at_s += len(spoken.samples) / spoken.rate + dub.PAUSE_S
    return done, dub.lay(said)


def require_voice(model: Model, to: str, speaker: int) -> None:
    """Raise `InputError` unless a model has this voice and can say this language."""
    count = len(model.require_synth().voices(model.require_tokenizer().language(to)))
    if not 0 <= speaker < count:
        raise InputError(f"expected a speaker from 0 to {count - 1}, got {speaker}")


@torch.inference_mode()
def synthesize(model: Model, source: str, text: str, src: str, to: str, voice: Voice) -> SpokenSegment:
    """One sentence said.

    Args:
        model: with a voice, and with the parts that it reads (see `mmx.interfaces.Synth`).
        source: what the sentence translates, in `src`; the sentence itself reads it aloud.
        text: the sentence, in `to`.
        src: language as the model spells it.
        to: language as the model spells it.
        voice: which one.

    Raises:
        InputError: the model's voice does not have the language.
    """
    tokens = model.require_tokenizer().encode(text)
    memory = _read(model, source, src) if model.require_synth().reads == "decoder" else None
    (spoken,) = say_rows(model, [tokens], to, voice, memory, texts=[text])
    return spoken


def say_rows(
    model: Model,
    rows: Sequence[Sequence[int]],
    to: str,
    voice: Voice,
    memory: Seq | None,
    shared: State | None = None,
    texts: Sequence[str] | None = None,
) -> list[SpokenSegment]:
    """Texts said together.

    Args:
        model: as in `say`.
        rows: the decoder's tokens of each text, without prompt and end.
        to: language as the model spells it.
        voice: which one.
        memory: over which the texts were written, `(B, M, D)`; needed by a voice that reads the decoder's states.
        shared: `state["memory"]` of the search that wrote them, to save its cost.
        texts: as they are spelled; what the tokens say when None.
    """
    synth, tok = model.require_synth(), model.require_tokenizer()
    texts = [tok.decode(row) for row in rows] if texts is None else texts
    encoded = None
    if synth.reads == "decoder":
        if memory is None:
            raise ValueError("expected the memory of what a voice reads of the decoder, got none")
        prompt = tok.prompt(to)
        encoded = written_states(model, memory, [[*prompt, *row, tok.eot] for row in rows], shared)
    elif synth.reads == "encoder":
        encoded = _read(model, texts, to)
    sound = synth.speak(
        Speech(texts=texts, tokens=rows, language=to, encoded=encoded, voice=voice.speaker, speed=voice.speed)
    )
    return rows_of(sound)


def rows_of(sound: Sound, marker: Marker | None = None, final: bool = True) -> list[SpokenSegment]:
    """What a synth made, text by text, marked as made by a machine; no speech leaves without it.

    Args:
        sound: from the synth.
        marker: marks them as one sound, one after the other; each is one by itself without it.
        final: False where more of the only text follows: what the marker holds back comes with that.
    """
    wave, words = sound.wave, sound.words or [()] * len(sound.wave.x)
    rate = wave.rate or 0.0
    rows = [x[:n].float().cpu().numpy() for x, n in zip(wave.x, wave.lengths.tolist(), strict=True)]
    samples = [(marker or Marker(rate)).push(x, final).clip(-1, 1) for x in rows]
    return [SpokenSegment(0.0, x, rate, tuple(timed)) for x, timed in zip(samples, words, strict=True)]


def written_states(model: Model, memory: Seq, rows: Sequence[Sequence[int]], shared: State | None = None) -> Seq:
    """The decoder's states `(B, U, D)` over given tokens, prompt and end included, in one pass."""
    decoder, device = model.require_decoder(), memory.x.device
    tokens = pad([torch.tensor(row, device=device) for row in rows])
    state = decoder.init_state(len(rows), tokens.x.shape[1])
    if shared is not None:
        state["memory"] = shared
    return tokens._replace(x=decoder.hidden(tokens.x, memory, state))


def _read(model: Model, texts: str | Sequence[str], language: str) -> Seq:
    """What the text encoder makes of texts in a language."""
    tok, device = model.require_source_tokenizer(), next(model.parameters()).device
    texts = [texts] if isinstance(texts, str) else texts
    return model.memory({"text": pad([torch.tensor(tok.source(text, language), device=device) for text in texts])})
