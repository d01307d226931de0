"""What the last training of the shipped fingerspelling model learned from.

    python -m mmx.datasets.recipes.fingerspelling_last_step OUT OLD

OLD is the folder that `mmx.datasets.recipes.fingerspelling` wrote for the training before. `OUT/train.tsv` has 5,880
words to train on:

| words | |
|---|---|
| 1,100 | American, as the package joins them; three fifths drawn among those with a doubled letter, some short |
| 700; 60 each | American; of each other alphabet: 3.5 to 8 frames a letter, and half with hands that leave afterwards |
| 3,000 | OLD's training words, drawn at random |

Seven of ten new ones are varied as another person spells them. Validation is by OLD's.
"""

import argparse
import csv
import itertools
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmx.datasets.hands import varied
from mmx.datasets.recipes import fingerspelling as spelling
from mmx.errors import InputError, prints_errors
from mmx.files import atomic_write

ALPHABET = "ase"
JOINED, FAST, FAST_OTHERS, OLD = 1100, 700, 60, 3000
"""Words of each kind; of `FAST_OTHERS` in each of the other alphabets."""
DOUBLED, SHORT = 0.6, 0.15
"""Of the joined ones, those drawn among the words with a doubled letter; those that are one letter, or it twice."""
PLAIN, VARIED, OTHER_HAND = 0.85, 0.7, 0.1
COLUMNS = ("id", "pose", "text", "src_lang", "duration_s", "target_features")


class Made(NamedTuple):
    """A word: its id, its letters, the alphabet, and as it is spelled."""

    name: str
    letters: Sequence[str]
    language: str
    word: spelling.Word


def joined(letters: Mapping[str, spelling.Letter], rng: np.random.Generator, count: int) -> Iterator[Made]:
    """American words at the package's pace, or for a few another, with many a doubled letter."""
    recorded = spelling.recordings(spelling.lexicon_folder(), ALPHABET)
    listed = spelling.words(ALPHABET, letters)["train"]
    doubled = [word for word in listed if spelling.is_doubled("".join(word))]
    for i in range(count):
        among = doubled if rng.random() < DOUBLED else listed
        word = among[int(rng.integers(len(among)))]
        if rng.random() < SHORT:
            letter = str(rng.choice(list(letters)))
            word = [letter] * 2 if rng.random() < 0.6 else [letter]
        made = spelling.join_as_packaged([recorded[c] for c in word], rng, plain=rng.random() < PLAIN)
        yield Made(f"d{i}", word, ALPHABET, _as_others(made, rng, OTHER_HAND))


def fast(language: str, letters: Mapping[str, spelling.Letter], rng: np.random.Generator, count: int) -> Iterator[Made]:
    """Words at a fluent pace; behind half of them no hand is seen for a moment."""
    recorded = spelling.recordings(spelling.lexicon_folder(), language)
    listed = spelling.words(language, letters)["train"]
    other_hand = 0.0 if language in spelling.TWO_HANDED else OTHER_HAND
    for i in range(count):
        word = listed[int(rng.integers(len(listed)))]
        made = spelling.join_as_packaged([recorded[c] for c in word], rng, plain=True)
        made = spelling.at_pace(made, rng.uniform(*spelling.FLUENT) * len(word))
        if rng.random() < 0.5:
            made = spelling.with_rest(made, int(rng.integers(3, 12)))
        yield Made(f"{language}f{i}", word, language, _as_others(made, rng, other_hand))


def _as_others(word: spelling.Word, rng: np.random.Generator, other_hand: float) -> spelling.Word:
    """Most of them as another person spells them."""
    return word._replace(hands=varied(word.hands, rng, other_hand)) if rng.random() < VARIED else word


def prepare(out: Path, old: Path, seed: int = 7, share: float = 1.0) -> Path:
    """Write `train.tsv` and the poses of its new words; returns the manifest.

    Args:
        out: folder.
        old: of the training before, with `train.tsv`.
        seed: of what is drawn.
        share: of all the words, so many.

    Raises:
        InputError: there is no such training.
    """
    if not (old / "train.tsv").exists():
        raise InputError(f"expected train.tsv of the training before in {old}, got none: make it by the recipe")
    (out / "train").mkdir(parents=True, exist_ok=True)
    rng, rows = np.random.default_rng(seed), []
    found = spelling.read_letters(spelling.lexicon_folder())
    n_joined, n_fast, n_others, n_old = (max(1, round(share * n)) for n in (JOINED, FAST, FAST_OTHERS, OLD))
    others = [fast(x, found[x], rng, n_others) for x in sorted(set(found) - {ALPHABET})]
    american = found[ALPHABET]
    for made in itertools.chain(joined(american, rng, n_joined), fast(ALPHABET, american, rng, n_fast), *others):
        hands, places = made.word
        name, labels = f"train/{made.name}.npz", f"train/{made.name}.labels.npz"
        spelling.save(out / name, hands)
        shown = spelling.character_places(made.letters, places)[:, None].astype(np.float32)
        np.savez(out / labels, features=shown, rate=np.float64(spelling.RATE))
        text, seconds = "".join(made.letters), f"{len(hands) / spelling.RATE:.2f}"
        rows.append((made.name, name, text, made.language, seconds, labels))
    rows += _old(old, n_old)
    lines = ["\t".join(row) for row in (COLUMNS, *rows)]
    return atomic_write(out / "train.tsv", "\n".join(lines) + "\n")


def _old(folder: Path, count: int) -> list[tuple[str, ...]]:
    """Some rows of the training before."""
    with (folder / "train.tsv").open(encoding="utf-8") as file:
        found = list(csv.DictReader(file, delimiter="\t"))
    random.Random(0).shuffle(found)
    for row in found:
        for column in ("pose", "target_features"):
            row[column] = str((folder / row[column]).absolute())
    return [tuple(row[column] for column in COLUMNS) for row in found[:count]]


@prints_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("old", type=Path)
    parser.add_argument("--seed", type=int, default=7, help="of what is drawn")
    given = parser.parse_args(arguments)
    print(prepare(given.out, given.old, given.seed))
    return 0


if __name__ == "__main__":
    sys.exit(main())
