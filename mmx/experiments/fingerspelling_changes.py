"""How fingerspelling is read where clips are not as they were recorded.

`python -m mmx.experiments.fingerspelling_changes TEST.tsv OUT [--model fingerspelling] [--language ase]`: the words of
a language in a manifest of `mmx.datasets.recipes.fingerspelling`, changed in each of the ways of `CHANGES`; and, as
joined, those with a letter twice in a row. Characters are compared as they are written, accents and all.
"""

import argparse
import csv
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from mmx.datasets.hands import POINTS, Hands
from mmx.datasets.recipes.fingerspelling import RATE, is_doubled, resampled, save
from mmx.evaluate.metrics import Measurement
from mmx.evaluate.offline import evaluate
from mmx.evaluate.options import Scoring
from mmx.files import atomic_write

Row = dict[str, str]
LOST = 0.3
"""Share of the frames in which no hand was found."""


def at_rate(hands: Hands, fps: float) -> Hands:
    """What a camera of another rate gives, brought back to the model's."""
    return resampled(resampled(hands, max(2, round(len(hands) * fps / RATE))), len(hands))


def at_pace(hands: Hands, text: str, frames: int) -> Hands:
    """Spelled as fast as so many frames a letter."""
    return resampled(hands, max(2, frames * len(text)))


def with_lost(hands: Hands, rng: np.random.Generator, share: float = LOST) -> Hands:
    """Without hands in some frames."""
    return Hands(hands.points, hands.present & (rng.random(len(hands)) >= share)[:, None])


def shuffled(hands: Hands, rng: np.random.Generator) -> Hands:
    """Frames in random order."""
    order = rng.permutation(len(hands))
    return Hands(hands.points[order], hands.present[order])


CHANGES: Mapping[str, Callable[[Hands, str, np.random.Generator], Hands]] = {
    "as joined": lambda hands, text, rng: hands,
    "30 % of the frames without hands": lambda hands, text, rng: with_lost(hands, rng),
    "12.5 frames a second": lambda hands, text, rng: at_rate(hands, 12.5),
    "30 frames a second": lambda hands, text, rng: at_rate(hands, 30),
    "30 frames a letter": lambda hands, text, rng: at_pace(hands, text, 30),
    "24 frames a letter": lambda hands, text, rng: at_pace(hands, text, 24),
    "20 frames a letter": lambda hands, text, rng: at_pace(hands, text, 20),
    "6 frames a letter": lambda hands, text, rng: at_pace(hands, text, 6),
    "5 frames a letter": lambda hands, text, rng: at_pace(hands, text, 5),
    "4 frames a letter": lambda hands, text, rng: at_pace(hands, text, 4),
    "frames shuffled in time": lambda hands, text, rng: shuffled(hands, rng),
    "no hands": lambda hands, text, rng: with_lost(hands, rng, 1.0),
}


def read(path: Path) -> Hands:
    """A clip that `mmx.datasets.recipes.fingerspelling.save` wrote."""
    with np.load(path) as clip:
        points = clip["pose"].astype(np.float32).reshape(-1, 2, POINTS, 3)
    return Hands(points, (points != 0).any((2, 3)))


def write(folder: Path, rows: Iterable[Row], source: Path, change: str) -> Path:
    """A manifest of changed clips.

    Args:
        folder: receives it.
        rows: of the manifest `source`.
        source: what the clips' paths are relative to.
        change: one of `CHANGES`.
    """
    lines = ["id\tpose\ttext\tsrc_lang"]
    folder.mkdir(parents=True, exist_ok=True)
    for i, row in enumerate(rows):
        hands = CHANGES[change](read(source.parent / row["pose"]), row["text"], np.random.default_rng([0, i]))
        save(folder / f"{i}.npz", hands)
        lines.append(f"{row['id']}\t{i}.npz\t{row['text']}\t{row['src_lang']}")
    return atomic_write(folder / "test.tsv", "\n".join(lines) + "\n")


def measured(manifest: Path, model: str) -> Measurement:
    """The character error rate of a manifest."""
    scoring = Scoring(metrics=("cer",), normalize="none")
    (line,) = evaluate(manifest, [model], scoring, device="cpu", dtype="float32", batch_size=32)
    return line.measurement


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("test", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="fingerspelling")
    parser.add_argument("--language", default="ase")
    given = parser.parse_args()
    with given.test.open(encoding="utf-8") as file:
        rows = [r for r in csv.DictReader(file, delimiter="\t") if r["src_lang"] == given.language]
    sets = {change: (rows, change) for change in CHANGES}
    sets["as joined, words with a doubled letter"] = ([r for r in rows if is_doubled(r["text"])], "as joined")
    for i, (name, (chosen, change)) in enumerate(sets.items()):
        found = measured(write(given.out / str(i), chosen, given.test, change), given.model)
        low, high = found.interval or (found.value, found.value)
        print(f"| {name} | {len(chosen)} | {found.value:.1f} ({low:.1f} to {high:.1f}) |", flush=True)


if __name__ == "__main__":
    main()
