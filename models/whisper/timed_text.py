"""What Whisper wrote between two time tokens, where that lies in its window, and what speech it leaves out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmx.models.whisper.tokenizer import WhisperTokenizer
from mmx.tasks.window import Window, cut
from mmx.tasks.windows import SPAN_SLACK_S

THIN_S = 4.0
"""Of speech, below which no text is called thin."""
THIN_TOKENS_PER_S = 2.0
"""Of speech; people say 3 to 6."""
NOTED_S = 0.8
"""Of speech without text, which is told."""


@dataclass(frozen=True)
class TimedText:
    """Text tokens between two time tokens.

    Attributes:
        start_s: on the window's clock; None where no time was written.
        end_s: likewise.
        tokens: of the text.
        at: where the first of them stands among all that were written.
    """

    start_s: float | None
    end_s: float | None
    tokens: tuple[int, ...]
    at: int = 0

    def span(self, window: Window) -> tuple[float, float]:
        """Start and end within the window, its own where none was written."""
        begin, end = self.start_s or 0.0, window.duration_s if self.end_s is None else self.end_s
        return min(begin, window.duration_s), min(max(begin, end), window.duration_s)

    def over_a_seam(self, window: Window) -> bool:
        """Whether it goes on where a silence was cut out, by its time tokens and more than they may be wrong by.

        Of a short one, a quarter beyond the seam may be all of it.
        """
        begin, end = self.span(window)
        return len(window.held_by(begin, end, min(SPAN_SLACK_S, (end - begin) / 4))) > 1


def timed_texts(written: Sequence[int], tok: WhisperTokenizer) -> list[TimedText]:
    """Cut what was written at the time tokens; without what has no letter."""
    out: list[TimedText] = []
    start: float | None = None
    text: list[int] = []
    for at, token in enumerate(written):
        if token < tok.eot:
            text.append(token)
        elif token >= tok.timestamp_begin:
            t = tok.timestamp(token)
            if text:
                out.append(TimedText(start, t, tuple(text), at - len(text)))
                text = []
            start = t
    if text:
        out.append(TimedText(start, None, tuple(text), len(written) - len(text)))
    return [t for t in out if tok.decode(list(t.tokens)).strip()]


def find_thin(window: Window, texts: Sequence[TimedText], tok: WhisperTokenizer) -> list[TimedText]:
    """Those that say too little for the speech that they stand for.

    Of two like sentences in a row Whisper writes one now and then, and its time tokens span both.
    """
    if window.speech is None:
        return []
    heard_s = [window.speech_within(*t.span(window)) for t in texts]
    return [
        t
        for t, s in zip(texts, heard_s, strict=True)
        if s >= THIN_S and _spoken_tokens(t, tok) <= THIN_TOKENS_PER_S * s
    ]


def _spoken_tokens(text: TimedText, tok: WhisperTokenizer) -> int:
    """How many tokens a text would take if its digits were written as they are said: one word each, about."""
    return sum(max(1, sum(c.isdecimal() for c in tok.decode([t]))) for t in text.tokens)


def holes(window: Window, texts: Sequence[TimedText]) -> list[Window]:
    """Stretches of the window that hold speech but no text; none where all of it is one."""
    spans = [t.span(window) for t in texts]
    starts = [begin for begin, _ in spans]
    at = np.maximum.accumulate([0.0, *(end for _, end in spans)]).tolist()
    found = [(a, b) for a, b in zip(at, [*starts, window.duration_s], strict=True)]
    found = [(a, b) for a, b in found if b > a and window.speech_within(a, b) > NOTED_S]
    whole = len(found) == 1 and found[0] == (0.0, window.duration_s)
    return [] if whole else [cut(window, a, b) for a, b in found]
