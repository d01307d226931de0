"""Numbers written out in several languages: exact parallel text of any size, with held-out numbers as an honest test.

The words are num2words' (LGPL, an extra). "forty-two" is a short text, but the languages differ in their words, in the
order of tens and ones and in what they join, so that a model must learn to read and to write.
"""

import argparse
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from statistics import mean, median
from typing import Any

from mmx.errors import InputError
from mmx.files import atomic_write
from mmx.train.loop import TrainOptions
from mmx.train.manifest import Example

Direction = tuple[str, str]
"""Source language and target language."""

LIMIT = 1000
"""Numbers are below this."""

MODEL: Mapping[str, Any] = {"ctx": 64, "width": 64, "heads": [4, 4], "layers": [2, 1], "hidden": [192, 192]}


@dataclass(frozen=True)
class Size:
    """How much is learned from and for how long.

    Attributes:
        train: numbers that each direction is learned from.
        test: held-out numbers.
        updates: of a new model.
        further: of a model that goes on.
    """

    train: int = 400
    test: int = 60
    updates: int = 400
    further: int = 240


USUAL = Size()
"""What the tables of the documentation were made with."""


def directions(languages: Iterable[str], without: Iterable[Direction] = ()) -> list[Direction]:
    """All pairs of different languages but those of `without`, either way round."""
    left_out = {frozenset(pair) for pair in without}
    return [pair for pair in permutations(languages, 2) if frozenset(pair) not in left_out]


def split(size: Size, seed: int) -> tuple[list[int], list[int], list[int]]:
    """Numbers to learn from, to choose snapshots by, and to test on; none is in two of them."""
    chosen = random.Random(seed).sample(range(LIMIT), size.train + 2 * size.test)
    return chosen[: size.train], chosen[size.train : -size.test], chosen[-size.test :]


def examples(numbers: Iterable[int], pairs: Sequence[Direction]) -> list[Example]:
    """Each number in each direction."""
    speak = _speaker()
    return [
        Example(speak(n, lang=src), speak(n, lang=tgt), src, tgt, f"{src}-{tgt}-{n}", f"{src}-{tgt}")
        for src, tgt in pairs
        for n in numbers
    ]


def _speaker() -> Callable[..., str]:
    try:
        from num2words import num2words
    except ImportError as e:
        raise InputError("expected the package num2words, got none: pip install 'mmx[experiments]'") from e
    return num2words


def write_manifest(path: Path, rows: Sequence[Example]) -> Path:
    """A manifest for `mmx.train.loop`."""
    fields = ("id", "source", "target", "src_lang", "tgt_lang", "origin")
    lines = ["\t".join(fields), *("\t".join(getattr(row, f) for f in fields) for row in rows)]
    return atomic_write(path, "".join(f"{line}\n" for line in lines))


def options(folder: Path, train: Sequence[Example], valid: Sequence[Example], **changes: Any) -> TrainOptions:
    """A recipe for a tiny model on these examples; its manifests are written into `folder`."""
    fields: dict[str, Any] = {
        "train": str(write_manifest(folder / "train.tsv", train)),
        "valid": str(write_manifest(folder / "valid.tsv", valid)),
        "out": str(folder / "run"), "batch_tokens": 1200, "max_tokens": 60,
        "lr": 3e-3, "warmup": 60, "smoothing": 0.0, "dropout": 0.0, "weight_decay": 0.0, "threads": 1,
        "log_every": 100, "valid_every": 100, "save_every": 10_000, "keep_best": 3,
    }  # fmt: skip
    new = {} if changes.get("init") else {"config": MODEL, "vocab": 480}
    return TrainOptions(**{**fields, **new, **changes})


class LanguageGuess:
    """Says which of several languages a text is in, by the trigrams of its characters.

    Args:
        texts: language and text, to learn from.
    """

    def __init__(self, texts: Iterable[tuple[str, str]]):
        self.counts: dict[str, Counter[str]] = {}
        for language, text in texts:
            self.counts.setdefault(language, Counter()).update(_trigrams(text))

    def __call__(self, text: str) -> str:
        """The language that knows the largest share of the text's trigrams, the rarer ones counting more."""
        totals = {language: c.total() for language, c in self.counts.items()}

        def share(language: str) -> float:
            own = self.counts[language]
            every = {t: sum(c[t] / totals[x] for x, c in self.counts.items()) for t in _trigrams(text)}
            return sum(own[t] / totals[language] / p for t, p in every.items() if p)

        return max(self.counts, key=share)


def _trigrams(text: str) -> list[str]:
    padded = f"  {text} "
    return [padded[i : i + 3] for i in range(len(padded) - 2)]


# -------------------- telling


def arguments(what: str | None) -> argparse.Namespace:
    """The options that all experiments have."""
    parser = argparse.ArgumentParser(description=(what or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3, help="how many trainings, each with other numbers and weights")
    parser.add_argument("--out", type=Path, help="folder for the models; a temporary one if none")
    found = parser.parse_args()
    if found.seeds < 1:
        parser.error(f"expected --seeds >= 1, got {found.seeds}")
    return found


def table(rows: Sequence[Mapping[str, float]], digits: int = 3) -> str:
    """One row a seed, and their mean and median, as a Markdown table."""
    columns = list(rows[0])
    lines = [["seed", *columns]]
    lines += [[str(i), *(f"{row[c]:.{digits}f}" for c in columns)] for i, row in enumerate(rows)]
    for name, middle in (("mean", mean), ("median", median)):
        lines.append([name, *(f"{middle([row[c] for row in rows]):.{digits}f}" for c in columns)])
    return markdown(lines)


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """Cells to a Markdown table; the first line is its head."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    padded = ["| " + " | ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in lines]
    return "\n".join([padded[0], "|" + "|".join("-" * (w + 1) + ":" for w in widths) + "|", *padded[1:]])
