"""Isochrony: a translation spoken at the times of its source, each phrase as fast as it must be, as in dubbing.

A phrase starts where its original did and is spoken at the rate at which it ends with it, within `RATES`; so a fast
speaker is spoken fast, and pauses stay pauses. What is too long even so runs into the pause behind it, and past that
the next phrase starts late and catches up. Nothing is cut, nothing overlaps.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from mmx.errors import InputError
from mmx.model import Model
from mmx.tasks.cascade import sentences
from mmx.tasks.dub import PAUSE_S, end_of, trimmed
from mmx.tasks.options import SpeakOptions
from mmx.tasks.result import Note, SpokenSegment, Transcript
from mmx.tasks.synthesize import join, synthesize
from mmx.tasks.words import Segment
from mmx.text.sentences import clause_ends

RATES = (0.8, 1.3)
"""Speeds between which a voice is adapted; past them it is no longer natural."""
SPEEDS = (0.5, 2.0)
"""Those that `SpeakOptions` may have."""
NEAR = 0.04
"""A speed so near to 1 is not worth a second synthesis."""
BREATH_S = 0.5
"""A silence of the source that is kept within a sentence."""
SHIFT = 0.2
"""How far, as a part of a sentence, the end of a clause may be from the pause that it is taken for."""
LATE_S = 1.0
"""A phrase that starts so much after its original is told."""
Say = Callable[[str, float], SpokenSegment]
"""A text at a speed, as speech; `sayer` makes one of a model."""


@dataclass(frozen=True, slots=True)
class Phrase:
    """What is spoken in one go: a sentence, or its part between two pauses of the source.

    Attributes:
        text: what is spoken.
        start_s: of the original.
        end_s: of the original.
        silent_s: pauses of the original that no end of a clause answers to.
    """

    text: str
    start_s: float
    end_s: float
    silent_s: float = 0.0


def sayer(model: Model, options: SpeakOptions) -> Say:
    """Speaks with a model, at speeds relative to that of the options."""
    slowest, fastest = SPEEDS

    def say(text: str, speed: float) -> SpokenSegment:
        return join(synthesize(model, text, replace(options, speed=min(max(options.speed * speed, slowest), fastest))))

    return say


def dub(transcript: Transcript, say: Say, isochrony: bool = True) -> Transcript:
    """A transcript with its text spoken, in `spoken`: phrase by phrase, with the times of words that the voice knows.

    Args:
        transcript: of a translation; its segments' times are those of the source.
        say: the voice.
        isochrony: whether speeds follow the source; otherwise sentences start at their times, at the voice's own speed.
    """
    spoken: list[SpokenSegment] = []
    notes, free_s = list(transcript.notes), 0.0
    for phrase in phrases(transcript.segments, split=isochrony):
        start_s = max(phrase.start_s, free_s)
        try:
            one = _fitted(phrase, start_s, say) if isochrony else trimmed(say(phrase.text, 1.0))
        except InputError as e:  # what the voice cannot speak; the others are
            notes.append(Note(phrase.start_s, phrase.end_s, "warning", f"not spoken: {e}"))
            continue
        spoken.append(replace(one, start_s=start_s))
        free_s = end_of(spoken[-1]) + PAUSE_S
        if start_s - phrase.start_s > LATE_S:
            late = f"spoken {start_s - phrase.start_s:.1f} s late: what came before it is longer than its original"
            notes.append(Note(phrase.start_s, phrase.end_s, "warning", late))
    return replace(transcript, spoken=tuple(spoken), notes=tuple(sorted(notes, key=lambda n: (n.start_s, n.end_s))))


def _fitted(phrase: Phrase, start_s: float, say: Say) -> SpokenSegment:
    """A phrase that ends with its original if a speed within `RATES` can do it."""
    natural = trimmed(say(phrase.text, 1.0))
    room_s = max(phrase.end_s - start_s - phrase.silent_s, 1e-3)
    speed = min(max(len(natural.samples) / natural.rate / room_s, RATES[0]), RATES[1])
    return natural if abs(speed - 1) <= NEAR else trimmed(say(phrase.text, speed))


# -------------------- phrases


def phrases(segments: Sequence[Segment], split: bool = True) -> list[Phrase]:
    """Whole sentences of the segments, in order of time; cut at the source's pauses where `split`."""
    found = [p for group in sentences(segments) for p in (_divided(group) if split else [_joined(group)])]
    return sorted(found, key=lambda p: p.start_s)


def _joined(group: Sequence[Segment]) -> Phrase:
    return Phrase("".join(s.text for s in group).strip(), group[0].start_s, max(s.end_s for s in group))


def _divided(group: Sequence[Segment]) -> list[Phrase]:
    """The phrases of one sentence: its segments, joined where they follow each other, cut at the pauses within them."""
    out: list[list[Segment]] = []
    for segment in group:
        if out and segment.start_s - out[-1][-1].end_s < BREATH_S:
            out[-1].append(segment)
        else:
            out.append([segment])
    return [p for run in out for p in _at_pauses(_joined(run), [x for s in run for x in s.pauses])]


def _at_pauses(phrase: Phrase, pauses: Sequence[tuple[float, float]]) -> Iterator[Phrase]:
    """A phrase cut at the ends of clauses that are about where the source pauses."""
    text, start_s, begun, missed_s = phrase.text, phrase.start_s, 0, 0.0
    ends = clause_ends(text)
    speech_s = max(phrase.end_s - phrase.start_s - sum(again - stop for stop, again in pauses), 1e-3)
    passed_s, before_s = 0.0, phrase.start_s
    for stop_s, again_s in pauses:
        passed_s, before_s = passed_s + stop_s - before_s, again_s
        place = passed_s / speech_s * len(text)
        cut = min((i for i in ends if begun < i < len(text)), key=lambda i: abs(i - place), default=None)
        if again_s - stop_s < BREATH_S or cut is None or abs(cut - place) > SHIFT * len(text):
            missed_s += again_s - stop_s
            continue
        yield Phrase(text[begun:cut].strip(), start_s, stop_s, missed_s)
        begun, start_s, missed_s = cut, again_s, 0.0
    yield Phrase(text[begun:].strip(), start_s, phrase.end_s, missed_s)
