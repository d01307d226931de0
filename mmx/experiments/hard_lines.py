"""Hard lines spoken, read again, and read by a recognizer of a second kind: what is skipped, and what is told of it.

    python -m mmx.experiments.hard_lines --lines 500 --voice heart

Lines are drawn by a seed: numbers, repeated words, one word, long ones, punctuation only, mixed scripts. Each is spoken
with `verify`, which tells what the default recognizer does not find. A word counts as wrong where PocketSphinx, whose
hidden Markov models and trigrams share nothing with Whisper, does not find it either (package pocketsphinx, which
brings a model of US English). Text without any word is refused with a message; letters of other scripts are left out
with a warning. Both are told, and are counted as such.
"""

import argparse
import random
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import islice

import soxr

from mmx.api import load, open_voice
from mmx.errors import InputError, MmxWarning
from mmx.media.audio import SAMPLE_RATE
from mmx.tasks.options import SpeakOptions
from mmx.tasks.result import SpokenSegment
from mmx.tasks.synthesize import pieces
from mmx.tasks.verify import Faults, Listen, compare, listener, verified

WORDS = (
    "river", "window", "carpet", "morning", "silver", "garden", "teacher", "yellow", "engine", "letter", "winter",
    "button", "market", "summer", "dinner", "doctor", "bridge", "candle", "village", "forest", "ticket", "mirror",
    "island", "kitchen", "station", "blanket", "picture", "thunder", "pocket",
)  # fmt: skip
KINDS = ("numbers", "repeats", "one word", "long", "punctuation", "mixed scripts")


def lines(count: int, seed: int = 0) -> Iterator[tuple[str, str]]:
    """Kinds and texts, the kinds in turn."""
    draw = random.Random(seed)
    for i in range(count):
        kind = KINDS[i % len(KINDS)]
        yield kind, _line(kind, draw, longest=i // len(KINDS) % 5 == 4)


def _line(kind: str, draw: random.Random, longest: bool) -> str:
    """One line; a long one has some 50 words, or 400."""
    some = draw.sample(WORDS, 8)
    if kind == "numbers":
        return draw.choice(
            (
                f"The {some[0]} cost ${draw.randint(2, 999)}.{draw.randint(10, 99)} in {draw.randint(1901, 2030)}.",
                f"Chapter {draw.randint(2, 40)} has {draw.randint(1_000, 90_000):,} words.",
                f"They met on May {draw.randint(2, 28)}, {draw.randint(1950, 2025)}, near the {some[1]}.",
            )
        )
    if kind == "repeats":
        return f"The {' '.join([some[0]] * draw.randint(2, 5))} and the {' '.join([some[1]] * draw.randint(2, 4))}."
    if kind == "one word":
        return some[0].capitalize() + draw.choice(".!?")
    if kind == "long":
        return (
            "The " + " and the ".join(draw.choice(WORDS) for _ in range(133 if longest else draw.randint(12, 20))) + "."
        )
    if kind == "punctuation":
        return "".join(draw.choice("?!.,;:-\u2026\u2014\u201c\u201d()") for _ in range(draw.randint(1, 12)))
    return f"The {some[0]} is called {draw.choice(('Москва', '東京', 'Αθήνα', 'القاهرة'))} by the {some[1]}."


def second_kind() -> Listen:
    """PocketSphinx with the model that it brings. Raises `InputError` where it is not installed."""
    try:
        from pocketsphinx import Decoder  # type: ignore[import-not-found]
    except ImportError as e:
        raise InputError("expected a second recognizer, got no pocketsphinx: pip install pocketsphinx") from e
    decoder = Decoder(samprate=SAMPLE_RATE, loglevel="FATAL")

    def heard(one: SpokenSegment) -> str:
        samples = soxr.resample(one.samples, one.rate, SAMPLE_RATE)
        decoder.start_utt()
        decoder.process_raw((samples * 32_767).astype("<i2").tobytes(), full_utt=True)
        decoder.end_utt()
        found = decoder.hyp()
        return found.hypstr if found else ""

    return heard


def agreed(first: Faults, second: Faults) -> int:
    """Words that neither of two recognizers finds, and stretches that both find too much."""
    return (Counter(first.missing) & Counter(second.missing)).total() + min(len(first.extra), len(second.extra))


def measured(
    text: str, speak: Callable[[str], Iterator[tuple[SpokenSegment, Faults | None]]], second: Listen
) -> Counter[str]:
    """What became of one line."""
    found = Counter(lines=1)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", MmxWarning)
        try:
            said = [piece.said for piece in pieces(text, "en")]
        except InputError:
            return found + Counter(refused=1)
        spoken = list(speak(text))
    found["left out, told"] = any("left out" in str(w.message) for w in told)
    found["words"] = sum(len(one.split()) for one in said)
    for (one, faults), words in zip(spoken, said, strict=True):
        if faults is not None:
            found["reported"] += faults.count
            found["wrong"] += agreed(faults, compare(words, second(one), "en"))
            print(f"    {faults}", flush=True)
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=500)
    parser.add_argument("--first", type=int, default=0, help="lines that are left out, being measured already")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--voice", default="", help="as of mmx speak; the default voice if none")
    asked = parser.parse_args()
    model, options = open_voice(SpeakOptions(voice=asked.voice, language="en"))
    listen, second = listener(load(), "en"), second_kind()
    table: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    begin = time.perf_counter()
    for number, (kind, text) in islice(enumerate(lines(asked.lines, asked.seed), 1), asked.first, None):
        table[kind] += measured(text, lambda line: verified(model, line, options, listen), second)
        if number % 100 == 0 or number == asked.lines:
            print(f"{number} lines, {time.perf_counter() - begin:.0f} s", flush=True)
            show(table)


def show(table: Mapping[str, Counter[str]]) -> None:
    """Print a row for each kind, and one for all."""
    columns = ("lines", "refused", "left out, told", "words", "reported", "wrong")
    print(f"{'kind':<15} {'  '.join(columns)}")
    for kind, row in [*table.items(), ("all", sum(table.values(), Counter()))]:
        print(f"{kind:<15} {'  '.join(f'{row[c]:>{len(c)}}' for c in columns)}", flush=True)


if __name__ == "__main__":
    main()
