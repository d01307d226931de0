"""A second text for a stretch whose first one is doubted, and which of both stays.

A text that says too little for its speech, or repeats itself, may be wrong or may be right: digits are few tokens for
much speech, and people repeat themselves. So its stretch is decoded again in parts, and the two texts are compared.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from mmx.tasks.result import Note, Segment
from mmx.tasks.window import Window


@dataclass
class Text:
    """What was written of a stretch of sound.

    Attributes:
        segments: on the file's clock; none where nothing was written.
        log_prob: sum over the tokens of its text, given the sound.
        tokens: how many there are.
        failed: it repeats itself, or says too little for its speech.
        notes: of its decoding.
    """

    segments: list[Segment] = field(default_factory=list)
    log_prob: float = 0.0
    tokens: int = 0
    failed: bool = False
    notes: list[Note] = field(default_factory=list)

    def add(self, other: "Text") -> None:
        """Go on with the text of a later part of the stretch."""
        self.segments += other.segments
        self.log_prob += other.log_prob
        self.tokens += other.tokens
        self.failed = self.failed or other.failed
        self.notes += other.notes

    @property
    def mean(self) -> float:
        """Mean log-probability of a token."""
        return self.log_prob / self.tokens if self.tokens else -math.inf


@dataclass
class SecondPass:
    """A stretch that is decoded again in parts, and its first text.

    Attributes:
        first: the text in doubt.
        parts: to be decoded; together they are the stretch.
        within: the second text that this one is a part of, where a part was doubted in turn.
    """

    MARGIN = 0.1
    """By which a second text may be less likely: it was asked for because the first is in doubt.

    Where the first has digits, it must be as much likelier: they are few tokens for much speech, and spelled out they
    are many easy ones.
    """

    first: Text
    parts: Sequence[Window]
    within: "SecondPass | None" = None
    found: Text = field(default_factory=Text)
    open: int = 0

    def __post_init__(self) -> None:
        self.open = len(self.parts)

    def settled(self) -> Text | None:
        """The text that stays, once all parts are decoded; None before."""
        return None if self.open else self._better()

    def _better(self) -> Text:
        first, second = self.first, self.found
        second.segments.sort(key=lambda s: (s.start_s, s.end_s))
        if not second.segments:
            stays = not first.failed  # of a loop, no text is the better one
        elif first.failed != second.failed:
            stays = second.failed
        else:
            digits = any(c.isdecimal() for s in first.segments for c in s.text)
            stays = second.mean < first.mean + (self.MARGIN if digits else -self.MARGIN)
        if not stays:
            return second
        begin, end = self.parts[0].start_s, self.parts[-1].end_s
        kept = Note(begin, end, "retried", "decoded again in parts: the first text is likelier and stays")
        return Text(first.segments, first.log_prob, first.tokens, first.failed, [kept])


def settle(text: Text, within: SecondPass | None) -> Text | None:
    """Give a text to the stretch that it is a part of, and that in turn, while one settles; what has no such stretch.

    Args:
        text: of a window, or of a part of a stretch.
        within: the stretch; None where the text is nobody's part.
    """
    while within is not None:
        within.found.add(text)
        within.open -= 1
        settled = within.settled()
        if settled is None:
            return None
        text, within = settled, within.within
    return text
