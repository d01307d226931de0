"""Hard lines spoken and read again: what is skipped, and whether that is reported.

    python -m mmx.experiments.hard_lines --lines 500

Lines are drawn by a seed: numbers, repeated words, one word, long ones, punctuation only, mixed scripts. Each is spoken
with `verify`; then a recognizer's transcript is scored against the text in words. A line whose text cannot be spoken is
refused with a message, which is what it should be.
"""

import argparse
import random
import time
from collections import Counter
from collections.abc import Iterator

from mmx.errors import InputError

WORDS = [
    "river",
    "window",
    "carpet",
    "morning",
    "silver",
    "garden",
    "teacher",
    "yellow",
    "engine",
    "letter",
    "winter",
    "button",
    "market",
    "summer",
    "dinner",
    "doctor",
    "bridge",
    "candle",
    "village",
    "forest",
    "ticket",
    "mirror",
    "island",
    "kitchen",
    "station",
    "blanket",
    "picture",
    "thunder",
    "pocket",
]
KINDS = ("numbers", "repeats", "one word", "long", "punctuation", "mixed scripts")


def lines(count: int, seed: int = 0) -> Iterator[tuple[str, str]]:
    """Kinds and texts, the kinds in turn."""
    draw = random.Random(seed)
    for i in range(count):
        kind = KINDS[i % len(KINDS)]
        yield kind, _line(kind, draw)


def _line(kind: str, draw: random.Random) -> str:
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
        return "The " + " and the ".join(draw.choice(WORDS) for _ in range(draw.randint(40, 160))) + "."
    if kind == "punctuation":
        return "".join(draw.choice("?!.,;:-\u2026\u2014\u201c\u201d()") for _ in range(draw.randint(1, 12)))
    return f"The {some[0]} is called {draw.choice(('Москва', '東京', 'Αθήνα', 'القاهرة'))} by the {some[1]}."


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    from mmx.api import load, open_voice
    from mmx.tasks.options import SpeakOptions
    from mmx.tasks.synthesize import pieces
    from mmx.tasks.verify import compare, listener, verified

    model, options = open_voice(SpeakOptions(language="en"))
    listen = listener(load(), "en")
    total, told, faulty, refused, again = Counter(), Counter(), Counter(), Counter(), Counter()
    begin = time.perf_counter()
    for number, (kind, text) in enumerate(lines(asked.lines, asked.seed)):
        try:
            said = [piece.said for piece in pieces(text, "en")]
            spoken = list(verified(model, text, options, listen))
        except InputError:
            refused[kind] += 1
            continue
        total[kind] += sum(len(s.split()) for s in said)
        for (one, faults), words in zip(spoken, said, strict=True):
            told[kind] += 0 if faults is None else faults.count
            heard = compare(words, listen(one), "en")
            faulty[kind] += heard.count
            again[kind] += faults is None and heard.count > 0
        if number % 20 == 19:
            print(f"{number + 1} lines, {time.perf_counter() - begin:.0f} s", flush=True)
    print("kind            lines refused  words  faults  reported  unreported sentences")
    for kind in KINDS:
        count = sum(1 for k, _ in lines(asked.lines, asked.seed) if k == kind)
        row = (count, refused[kind], total[kind], faulty[kind], told[kind], again[kind])
        print(f"{kind:<15} {row[0]:>5} {row[1]:>7} {row[2]:>6} {row[3]:>7} {row[4]:>9} {row[5]:>8}")


if __name__ == "__main__":
    main()
