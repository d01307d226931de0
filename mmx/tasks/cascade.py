"""Speech translation by a cascade: a speech model writes what was said, or its English, a text model translates that.

It is what reaches languages that the speech model cannot write. Errors of the first step pass into the second, which
sees neither the sound nor the pauses.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, TypeAlias

from mmx.errors import InputError, MmxError
from mmx.model import Model
from mmx.tasks.events import Event
from mmx.tasks.options import Options
from mmx.tasks.result import Note, Segment, Transcript
from mmx.tasks.transcribe import fit
from mmx.tasks.translate import translate_text
from mmx.text.languages import find_language
from mmx.text.sentences import CLOSERS, STOPS
from mmx.weights.card import cards

PAUSE_S = 2.0
"""Between two segments; longer, and a sentence does not go on."""
LONGEST = 400
"""Characters of a sentence that never ends."""


def shipped() -> dict[str, tuple[str, ...]]:
    """The text models that ship with mmx, each with the languages (BCP-47) that it writes."""
    return {c.name: c.writes for c in cards().values() if c.writes}


def text_model_for(language: str) -> str | None:
    """The name of a text model that ships with mmx and writes a language; None where there is none."""
    tag = find_language(language).tag
    return next((name for name, tags in shipped().items() if tag in tags), None)


def cascade_model(model: Model, options: Options) -> str | None:
    """The name of a shipped text model for a language that the speech model cannot write; None where it can.

    Raises:
        InputError: the speech model cannot do what is asked, and nothing that ships helps.
    """
    try:
        fit(model, options)
    except InputError:
        name = text_model_for(options.to)
        if name is None or options.task != "translate":
            raise
        return name
    return None


@dataclass(frozen=True)
class Route:
    """How a text in the language that is asked for is made of speech, in files, live sessions and the server.

    Attributes:
        first: what the speech model is asked for.
        text_model: translates what that writes; None where the speech model writes what is asked for.
    """

    first: Options
    text_model: Model | None = None

    @classmethod
    def through(cls, text_model: Model, options: Options) -> "Route":
        """The cascade with a text model.

        Raises:
            InputError: it reads neither the language that is spoken nor English, or does not write what is asked for.
        """
        text_model.require_source_tokenizer().language(options.to)
        first = _first_step(text_model, options)
        route = cls(first, text_model)
        # A direction that it lacks is told before hours are spent.
        text_model.translate_text([], src=route.written, to=options.to)
        return route

    @property
    def written(self) -> str:
        """The language of the first step's text, English where it is not known."""
        return self.first.language if self.first.task == "transcribe" and self.first.language else "en"


def _first_step(text_model: Model, options: Options) -> Options:
    """What the speech model is asked for: the words spoken where the text model has their language, else English."""
    spoken = options.language
    if spoken is not None and _has(text_model, spoken):
        return replace(options, task="transcribe", to="en", bilingual=False, shortlist=None)
    if not _has(text_model, "en"):
        languages = ", ".join(text_model.require_tokenizer().language_ids)
        raise InputError(f"expected --language, one of {languages}, which {text_model.name} reads")
    return replace(options, task="translate", to="en", bilingual=False, shortlist=None)


def _has(model: Model, language: str) -> bool:
    try:
        model.require_tokenizer().language(language)
    except InputError:
        return False
    return True


def cascade(
    transcripts: Iterable[Transcript],
    text_model: Model,
    to: str,
    beam_size: int = 5,
    bilingual: bool = False,
    shortlist: str | None = None,
) -> Iterator[Transcript]:
    """Transcripts in another language, sentence by sentence, with the times of the first step.

    Args:
        transcripts: of the speech model.
        text_model: translates text.
        to: language to write.
        beam_size: of the text model's search.
        bilingual: keep the first step's text beside each sentence.
        shortlist: of the text model's vocabulary; see `Options`.
    """
    target = text_model.require_tokenizer().language(to)
    for t in transcripts:
        yield _translated(t, text_model, target, bilingual, beam_size=beam_size, shortlist=shortlist)


def _translated(t: Transcript, model: Model, to: str, bilingual: bool, **options: Any) -> Transcript:
    groups = sentences(t.segments)
    written = "en" if t.task == "translate" else t.language
    texts = ["".join(s.text for s in g).strip() for g in groups]
    done = translate_text(model, texts, src=written, to=to, **options) if texts else []
    code = find_language(to).tag
    segments, notes = [], list(t.notes)
    for group, text, translation in zip(groups, texts, done, strict=True):
        start_s, end_s = group[0].start_s, max(s.end_s for s in group)
        scores = [s.score for s in translation.segments]
        segments.append(
            Segment(
                start_s, end_s, translation.text, code, avg_logprob=min(scores, default=0.0),
                no_speech_prob=max(s.no_speech_prob for s in group), source_text=text if bilingual else "",
                channel=group[0].channel, pauses=_pauses(group),
            )
        )  # fmt: skip
        if any(s.repetition or s.cut for s in translation.segments):
            notes.append(Note(start_s, end_s, "warning", "the text model repeated itself or was cut at its limit"))
    return replace(
        t,
        segments=tuple(segments),
        task="translate",
        model=f"{t.model} + {model.name}",
        notes=tuple(sorted(notes, key=lambda n: (n.start_s, n.end_s))),
    )


def sentences(segments: Sequence[Segment]) -> list[list[Segment]]:
    """Neighbours that are parts of one sentence, together: a text model should not see half of one."""
    groups: list[list[Segment]] = []
    for s in segments:
        if not s.text.strip():
            continue
        last = next((g for g in reversed(groups) if g[-1].channel == s.channel), [])
        goes_on = bool(last) and not last[-1].text.rstrip().rstrip(CLOSERS).endswith(tuple(STOPS))
        near = bool(last) and s.start_s - last[-1].end_s <= PAUSE_S
        if goes_on and near and sum(len(x.text) for x in last) + len(s.text) <= LONGEST:
            last.append(s)
        else:
            groups.append([s])
    return groups


def _pauses(group: Sequence[Segment]) -> tuple[tuple[float, float], ...]:
    """The silences between the segments of one sentence."""
    gaps = ((a.end_s, b.start_s) for a, b in pairwise(group))
    return tuple((end_s, start_s) for end_s, start_s in gaps if start_s > end_s)


Translate: TypeAlias = Callable[[str, str], tuple[str, float]]
"""A sentence and its language to its translation and the mean log-probability of that."""


class Translator:
    """The second step of a live session, for its terminal or its server: a sentence at a time.

    Args:
        translate: a sentence. What it cannot translate (`MmxError`) stays as it is, with a note: a session must go on.
        to: language that it writes.
        name: of the model.

    Attributes:
        segments: the sentences so far; `forget` drops them.
        words: what was written of the sentence that has not ended.
    """

    def __init__(self, translate: Translate, to: str, name: str = ""):
        self.translate, self.to, self.name = translate, to, name
        self.segments: list[Segment] = []
        self.words: list[Event] = []
        self._forgotten = 0
        self._notes: list[str] = []

    @classmethod
    def of(cls, model: Model, to: str, beam_size: int = 5) -> "Translator":
        """By a text model. Raises `InputError` where it does not write the language."""
        target = model.require_tokenizer().language(to)

        def translate(text: str, language: str) -> tuple[str, float]:
            (done,) = translate_text(model, [text], src=language, to=target, beam_size=beam_size)
            return done.text, min((s.score for s in done.segments), default=0.0)

        return cls(translate, target, model.name)

    def take(self, events: Sequence[Event], over: bool = False) -> list[Event]:
        """Take what was written, and give each sentence that this ends, as one final event.

        Args:
            events: of the stream.
            over: whether no more will come: what was begun counts as a sentence.
        """
        out = []
        for event in events:
            self.words.append(event)
            if event.final:
                out += self._sentence()
        return out + (self._sentence() if over else [])

    def _sentence(self) -> list[Event]:
        words, self.words = [w for w in self.words if w.text.strip()], []
        text = "".join(w.text for w in words).strip()
        if not text:
            return []
        language, score = find_language(self.to).tag, 0.0
        try:
            done, score = self.translate(text, words[-1].language)
        except MmxError as e:
            self._notes.append(f"not translated: {e}")
            done, language = text, words[-1].language
        start_s, end_s = words[0].start_s, max(w.end_s for w in words)
        seq = self._forgotten + len(self.segments)
        self.segments.append(Segment(start_s, end_s, f" {done}", language, avg_logprob=score, source_text=text))
        likely = math.exp(min(score, 0.0))
        return [Event(seq, f" {done}", start_s, end_s, words[-1].at_s, True, language, likely, "translation")]

    def notes(self) -> list[str]:
        """What went wrong since the last call."""
        new, self._notes = self._notes, []
        return new

    def forget(self) -> None:
        """Drop the sentences so far: whoever has their events need not keep them twice."""
        self._forgotten += len(self.segments)
        self.segments = []

    def transcript(self, first: Transcript) -> Transcript:
        """The translation of what `Stream.transcript` gave."""
        return replace(first, segments=tuple(self.segments), task="translate", model=f"{first.model} + {self.name}")
