"""When the words of synthesized speech are spoken, from the frames of their phonemes."""

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from mmx.tasks.words import Word
from mmx.text.phonemes.symbols import PUNCTUATION, SYMBOLS


def joined(rows: Sequence[tuple[str, str]]) -> str:
    """The symbols of words with spaces between them, as a voice reads them."""
    return " ".join(symbols for _, symbols in rows if symbols)


def word_times(
    rows: Sequence[tuple[str, str]], frames: Sequence[float] | NDArray[Any], frame_s: float
) -> tuple[Word, ...]:
    """The words of a text with their times.

    A word begins with its first phoneme and ends with its last; the pauses of marks are no part of it. A word without
    phonemes (a dash) is at the end of the one before.

    Args:
        rows: of `mmx.text.phonemes.phonemes`.
        frames: of the beginning of the text, of each symbol of `joined(rows)` that the table has, and of its end.
        frame_s: length of a frame, in seconds.
    """
    ends = [0.0]
    for n in frames:
        ends.append(ends[-1] + float(n) * frame_s)
    words, at = [], 1
    for word, symbols in rows:
        known = [s for s in symbols if s in SYMBOLS]
        spoken = [at + i for i, s in enumerate(known) if s not in PUNCTUATION]
        start_s, end_s = (ends[spoken[0]], ends[spoken[-1] + 1]) if spoken else (ends[at], ends[at])
        words.append(Word(f" {word}" if words else word, start_s, end_s))
        at += len(known) + bool(symbols)  # and the space behind it
        at = min(at, len(ends) - 1)
    return tuple(words)
