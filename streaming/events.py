"""What a stream gives out: text that is only ever appended to, with its times."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """A piece of text that will not change: what was written so far is the `text` of all events, joined.

    Attributes:
        seq: 0, 1, 2 ... in a session; whoever has seen an event asks for those after its number.
        text: what to append, usually a word with its leading space; empty where only a segment ends.
        start_s: when it was said, in seconds since the session began.
        end_s: when it had been said.
        at_s: seconds of the source that were heard when it was written.
        final: whether it ends a sentence or a stretch of speech.
        language: code of the language that it is written in.
        probability: what the model gave it, in [0, 1].
    """

    seq: int
    text: str
    start_s: float
    end_s: float
    at_s: float
    final: bool
    language: str
    probability: float = 1.0


@dataclass(frozen=True, slots=True)
class Written:
    """A word that a listener committed: an `Event` before the session numbers it. Fields as there."""

    text: str
    start_s: float
    end_s: float
    probability: float = 1.0
    final: bool = False
