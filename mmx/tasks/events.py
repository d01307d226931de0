"""Events: what a live session gives out, whoever shows it: the terminal, JSON lines, a server's log."""

from dataclasses import dataclass
from typing import Literal, get_args

Track = Literal["source", "translation"]
"""What was said, or the same in another language."""
TRACKS: tuple[Track, ...] = get_args(Track)


@dataclass(frozen=True, slots=True)
class Event:
    """A piece of text that will not change: what was written so far is the `text` of all events, joined.

    Attributes:
        seq: 0, 1, 2 ... in its track; whoever has seen an event asks for those after its number.
        text: what to append, usually a word with its leading space; empty where only a segment ends.
        start_s: when it was said, in seconds since the session began.
        end_s: when it had been said.
        at_s: seconds of the source that were heard when it was written.
        final: whether it ends a sentence or a stretch of speech.
        language: code of the language that it is written in.
        probability: what the model gave it, in [0, 1].
        track: the text that it is appended to.
    """

    seq: int
    text: str
    start_s: float
    end_s: float
    at_s: float
    final: bool
    language: str
    probability: float = 1.0
    track: Track = "source"
