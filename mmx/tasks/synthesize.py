"""Text to speech: a text of any length spoken sentence by sentence, each as soon as it is made.

Numbers, dates and abbreviations become words (`mmx.text.spoken`), a sentence that is too long is cut at a clause, the
synth speaks it, and the times of its words are told in the words of the text.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from mmx.errors import InputError
from mmx.interfaces import Speech, Voice
from mmx.mark.marker import Marker
from mmx.model import Model
from mmx.nn.voice import find_voice
from mmx.tasks import speak
from mmx.tasks.options import SpeakOptions
from mmx.tasks.result import SpokenSegment, Transcript
from mmx.tasks.words import Segment, Word
from mmx.text.languages import find_language
from mmx.text.sentences import Sentence, split_sentences
from mmx.text.spoken import Spoken, spoken

LONGEST = 240
"""Characters, as they are spoken, that a synth gets at once."""
BLOCK_S = 0.4
"""Length of a block of a stream, where the synth makes blocks."""
PARAGRAPH_S = 0.45
"""Silence between two paragraphs, beyond that of their sentences."""


def synthesize(model: Model, text: str, options: SpeakOptions, *, blocks: bool = False) -> Iterator[SpokenSegment]:
    """A text spoken, sentence by sentence.

    Args:
        model: with a synth.
        text: of any length.
        options: see there.
        blocks: whether a sentence comes in blocks, where the synth makes them, so that it can be heard at once.

    Yields:
        Sentences, or blocks of them, in order, on one clock: each starts where the one before ended. The first block of
        a sentence has its `text`. Words are those of the text as it is written, with the times of what is spoken.

    Raises:
        InputError: there is nothing to speak, or the model lacks the language or the voice.
    """
    synth = model.require_synth()
    language = spelled(model, options.language or "en")
    names = synth.voices(language)
    voice: Voice = options.voice or 0
    if isinstance(voice, str) and voice.isdigit() and voice not in names:
        voice = int(voice)
    how = Speech(
        texts=(), language=language, voice=voice, speed=options.speed, pitch=options.pitch, range=options.range,
        steps=options.steps, seed=options.seed,
    )  # fmt: skip
    at_s, marker = 0.0, Marker(synth.rate)
    for piece in pieces(text, language):
        for one in _spoken(model, piece, how, blocks, marker):
            placed = replace(one, start_s=at_s)
            at_s += len(one.samples) / one.rate
            yield placed


def spelled(model: Model, language: str) -> str:
    """A language as a model's tokenizer has it, or as a tag where there is none."""
    if model.tokenizer is not None:
        return model.tokenizer.language(language)
    region = re.fullmatch(r"\w{2,3}[-_]([A-Za-z]{2})", language)
    tag = find_language(language).tag
    return f"{tag}-{region[1].upper()}" if region else tag


def join(spoken: Iterable[SpokenSegment]) -> SpokenSegment:
    """Sentences or blocks as one, with all its words. Raises `InputError` where there are none."""
    every = list(spoken)
    if not every:
        raise InputError("expected something to speak, got nothing")
    words = [
        replace(w, start_s=s.start_s + w.start_s, end_s=s.start_s + w.end_s) for s in every for w in s.words
    ]  # fmt: skip
    samples = np.concatenate([s.samples for s in every])
    text = " ".join(s.text for s in every if s.text)
    return SpokenSegment(every[0].start_s, samples, every[0].rate, tuple(words), text)


class Record:
    """What was spoken, and when, without its sound: its subtitles."""

    def __init__(self) -> None:
        self.end_s = 0.0
        self._segments: list[Segment] = []

    def add(self, block: SpokenSegment) -> None:
        """The next sentence, or block of one."""
        end_s = block.start_s + len(block.samples) / block.rate
        self.end_s = end_s
        words = tuple(replace(w, start_s=w.start_s + block.start_s, end_s=w.end_s + block.start_s) for w in block.words)
        if block.text:
            self._segments.append(Segment(block.start_s, end_s, f" {block.text}", "", words=words))
        elif self._segments and (words or not self._segments[-1].words):
            last = self._segments[-1]
            self._segments[-1] = replace(last, end_s=end_s, words=(*last.words, *words))

    def transcript(self, language: str, model: str) -> Transcript:
        """All of it, with the times of words; `task` says that it was spoken, not recognized."""
        tag = find_language(language).tag
        ends_s = (s.words[-1].end_s if s.words else s.end_s for s in self._segments)
        made = (replace(s, language=tag, end_s=end_s) for s, end_s in zip(self._segments, ends_s, strict=True))
        return Transcript("speech", tuple(made), tag, 1.0, self.end_s, "speak", model)


# -------------------- pieces


@dataclass(frozen=True)
class Piece:
    """What is spoken in one go.

    Attributes:
        words: as they are written and as they are spoken.
        ends_paragraph: whether a line break follows.
    """

    words: tuple[Spoken, ...]
    ends_paragraph: bool = False

    @property
    def written(self) -> str:
        """The text."""
        return " ".join(w.written for w in self.words)

    @property
    def said(self) -> str:
        """The text as it is spoken."""
        return " ".join(w.said for w in self.words if w.said)


def pieces(text: str, language: str) -> Iterator[Piece]:
    """The sentences of a text, those that are too long in parts. Raises `InputError` for a text without any word."""
    found = False
    for sentence in _lines(text):
        words = spoken(sentence.text, language)
        if not any(c.isalnum() for w in words for c in w.said):
            continue  # marks alone
        found = True
        parts = _divided(words)
        yield from (Piece(tuple(part)) for part in parts[:-1])
        yield Piece(tuple(parts[-1]), "\n" in sentence.gap)
    if not found:
        raise InputError("expected a text with words to speak, got none")


def _lines(text: str) -> list[Sentence]:
    return [s for s in split_sentences(text) if s.text.strip()]


def _divided(words: Sequence[Spoken]) -> list[list[Spoken]]:
    """Words in parts that are short enough, each ending with a clause where there is one in its second half."""
    parts, part = [], []
    for word in words:
        part.append(word)
        while sum(len(w.said) + 1 for w in part) > LONGEST and len(part) > 1:
            clauses = [
                i for i, w in enumerate(part[:-1], 1) if w.written[-1:] in ",;:،、，；：—–" and i > len(part) // 2
            ]
            at = clauses[-1] if clauses else len(part) - 1
            parts.append(part[:at])
            part = part[at:]
    return [*parts, part]


def _spoken(model: Model, piece: Piece, how: Speech, blocks: bool, marker: Marker) -> Iterator[SpokenSegment]:
    """One piece: its blocks, marked, with its own words, and the silence behind a paragraph."""
    synth = model.require_synth()
    if synth.reads != "text":
        if how.pitch or how.range != 1:
            raise InputError(f"expected the pitch of the voice itself, got another: {model.name} cannot change it")
        named = speak.Voice(find_voice(synth.voices(how.language), how.voice), how.speed)
        one = speak.synthesize(model, piece.said, piece.said, how.language, how.language, named)
        yield replace(one, text=piece.written)
        return
    said = replace(how, texts=[piece.said])
    text = piece.written
    at_s, spelling = 0.0, _Spelling(piece.words)
    with torch.inference_mode():
        for sound in synth.stream(said, BLOCK_S) if blocks else [synth.speak(said)]:
            (one,) = speak.rows_of(sound, marker, final=not blocks)
            words = [replace(w, start_s=w.start_s - at_s, end_s=w.end_s - at_s) for w in spelling(one.words)]
            yield replace(one, words=tuple(words), text=text)
            at_s, text = at_s + len(one.samples) / one.rate, ""
    if blocks:
        yield SpokenSegment(0.0, marker.push(np.zeros(0, np.float32), final=True), synth.rate)
    if piece.ends_paragraph:
        silence = np.zeros(round(PARAGRAPH_S * synth.rate), np.float32)
        yield SpokenSegment(0.0, marker.push(silence, final=True), synth.rate)


class _Spelling:
    """Timed words of what is spoken, as the words that are written: "$5" for "five dollars"."""

    def __init__(self, words: Sequence[Spoken]):
        self.todo = [(w.written, len(w.said.split())) for w in words if w.said]
        self.begun: list[Word] = []
        self.first = True

    def __call__(self, timed: Iterable[Word]) -> list[Word]:
        """Those that are complete."""
        out: list[Word] = []
        for word in timed:
            self.begun.append(word)
            if self.todo and len(self.begun) >= self.todo[0][1]:
                written = self.todo.pop(0)[0]
                space = "" if self.first else " "
                out.append(Word(space + written, self.begun[0].start_s, self.begun[-1].end_s))
                self.begun, self.first = [], False
        return out
