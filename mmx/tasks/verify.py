"""Speech that checks itself: each sentence is read again by a recognizer, and made anew where words are missing.

Text and transcript are compared letter by letter, after both are spelled as they are spoken (`mmx.text.spoken`), so
that "tires" for "tyres" is no fault. A word is missing where less than half of its letters are heard; letters that
nothing in the text answers to is a repetition or an invention. Such a sentence is made again with another seed, then
slower, then clause by clause; the attempt with the fewest faults is kept, and what remains of them is told.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from unicodedata import category, normalize

from mmx.errors import InputError
from mmx.model import Model
from mmx.tasks.options import Options, SpeakOptions
from mmx.tasks.result import SpokenSegment
from mmx.tasks.synthesize import join, pieces, spelled, synthesize
from mmx.tasks.transcribe import transcribe
from mmx.text.spoken import spoken

HEARD = 0.5
"""Part of a word's letters that has to be heard."""
EXTRA = 4
"""Letters in a row that are heard and not written, from which on they count as a word."""
SLOWER = 0.9
MARKS = ".,;:!?\"'()[]{}…«»“”¿¡"
Listen = Callable[[SpokenSegment], str]
"""What is heard of speech; `listener` makes one of a recognizer."""


@dataclass(frozen=True)
class Faults:
    """What a recognizer does not find, or finds too much, in a sentence.

    Attributes:
        text: the sentence, as it is written.
        heard: what the recognizer wrote.
        missing: words that are not heard.
        extra: stretches that are heard and not written.
    """

    text: str
    heard: str
    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.missing) + len(self.extra)

    def __str__(self) -> str:
        """For a warning."""
        parts = [f"not heard: {', '.join(self.missing)}"] if self.missing else []
        parts += [f"heard without being written: {', '.join(self.extra)}"] if self.extra else []
        return f"{'; '.join(parts)} (in {self.text!r}, recognized as {self.heard!r})"


def verified(
    model: Model, text: str, options: SpeakOptions, listen: Listen
) -> Iterator[tuple[SpokenSegment, Faults | None]]:
    """A text spoken sentence by sentence, each checked; arguments and errors as of `synthesize`.

    Yields:
        Sentences on one clock, as `synthesize` does, and what remains of the faults of each; None where nothing does.
    """
    at_s, language = 0.0, options.language or "en"
    for piece in pieces(text, spelled(model, language)):
        best: tuple[SpokenSegment, Faults] | None = None
        for attempt in _attempts(model, piece.written, options):
            faults = compare(piece.said, listen(attempt), language, piece.written)
            if best is None or faults.count < best[1].count:
                best = attempt, faults
            if not faults.count:
                break
        if best is None:
            raise InputError("expected a text with words to speak, got none")
        one = replace(best[0], start_s=at_s, text=piece.written)
        at_s += len(one.samples) / one.rate
        yield one, best[1] if best[1].count else None


def listener(recognizer: Model, language: str) -> Listen:
    """Reads speech by a recognizer of the language."""

    def heard(one: SpokenSegment) -> str:
        import soxr

        samples = soxr.resample(one.samples, one.rate, 16_000)
        options = Options(language=language, beam_size=1, vad=False)
        return next(transcribe(recognizer, [samples], options)).text

    return heard


def compare(said: str, heard: str, language: str, written: str = "") -> Faults:
    """Which words of a sentence are not in what was heard, and what is there besides.

    Args:
        said: the sentence in words, as it is spoken.
        heard: a transcript of it; its numbers may be digits.
        language: of both.
        written: the sentence as it is to be told.
    """
    try:
        words = " ".join(w.said for w in spoken(heard, language) if w.said)
    except InputError:  # what was heard is in another script
        words = heard
    asked = [(word, letters) for word in said.split() if (letters := _letters(word))]
    want, got = "".join(letters for _, letters in asked), _letters(words)
    blocks = SequenceMatcher(None, want, got, autojunk=False).get_opcodes()
    found = [False] * len(want)
    extra = []
    for kind, a, b, c, d in blocks:
        if kind == "equal":
            found[a:b] = [True] * (b - a)
        elif (d - c) - (b - a) >= EXTRA:
            extra.append(got[c:d])
    missing, at = [], 0
    for word, letters in asked:
        if sum(found[at : at + len(letters)]) < HEARD * len(letters):
            missing.append(word.strip(MARKS))
        at += len(letters)
    return Faults(written or said, heard.strip(), tuple(missing), tuple(extra))


def _letters(text: str) -> str:
    """Letters and digits alone, without accents and case."""
    return "".join(c for c in normalize("NFKD", text.casefold()) if category(c)[0] in "LN")


def _attempts(model: Model, text: str, options: SpeakOptions) -> Iterator[SpokenSegment]:
    """One sentence again and again, each time another way."""
    yield join(synthesize(model, text, options))
    yield join(synthesize(model, text, replace(options, seed=options.seed + 1)))
    slower = replace(options, speed=max(0.5, options.speed * SLOWER), steps=min(256, 2 * options.steps))
    yield join(synthesize(model, text, slower))
    clauses = _clauses(text)
    if len(clauses) > 1:
        yield join(_one_after_the_other(model, clauses, slower))


def _one_after_the_other(model: Model, clauses: Sequence[str], options: SpeakOptions) -> Iterator[SpokenSegment]:
    at_s = 0.0
    for clause in clauses:
        one = replace(join(synthesize(model, clause, options)), start_s=at_s)
        at_s += len(one.samples) / one.rate
        yield one


def _clauses(text: str) -> list[str]:
    """A sentence cut at its commas and the like, or, without any, in the middle; no part without letters."""
    parts = [p for p in re.split(r"(?<=[,;:،、，；：—–])\s*", text) if _letters(p)]
    if len(parts) > 1:
        return parts
    words = text.split()
    half = len(words) // 2
    halves = [" ".join(words[:half]), " ".join(words[half:])]
    return halves if all(map(_letters, halves)) else [text]
