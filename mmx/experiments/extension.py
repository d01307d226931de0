"""Adding a language to a model, with the old data replayed and without (Tang et al. 2020, arXiv 2008.00401).

A model of English and Spanish numbers gets Russian by `mmx.make.vocabulary.extend`: a language token and Cyrillic
pieces. It then goes on twice, on English and Russian alone, and on these with English and Spanish replayed, sampled at
a temperature. Both learn Russian; what they forget of Spanish is `mmx.evaluate.forgetting`'s report.
"""

import tempfile
from pathlib import Path

from mmx.evaluate.forgetting import Report, report
from mmx.experiments import numbers
from mmx.experiments.numbers import USUAL, Size
from mmx.make.vocabulary import extend
from mmx.train.loop import train

OLD = numbers.directions(["en", "es"])
NEW = numbers.directions(["en", "ru"])
LONGER = 3
"""Times the updates of the other experiments: the old directions get worse at first, and take that long to be back."""


def reports(seed: int, folder: Path, size: Size = USUAL) -> dict[str, Report]:
    """What was forgotten right after the extension, and after training on with the old data and without."""
    learned, valid, test = numbers.split(size, seed)
    options = numbers.options(
        folder / "old", numbers.examples(learned, OLD), numbers.examples(valid, OLD), vocab=330, seed=seed,
        updates=size.updates, cooldown=size.updates // 4,
    )  # fmt: skip
    old = train(options)
    new = numbers.examples(learned, NEW)
    extended = folder / "extended"
    if not extended.exists():
        extend(old, ["ru"], numbers.write_manifest(folder / "new.tsv", new), extended, pieces=60)
    test_manifest = numbers.write_manifest(folder / "test.tsv", numbers.examples(test, [*OLD, *NEW]))
    out = {"extended": report(old, extended, test_manifest)}
    for name, pairs in (("replayed", [*OLD, *NEW]), ("new alone", NEW)):
        options = numbers.options(
            folder / name.replace(" ", "-"), numbers.examples(learned, pairs), numbers.examples(valid, pairs),
            init=str(extended), seed=seed, updates=LONGER * size.further, cooldown=(LONGER - 1) * size.further,
            temperature=2.0, group_by=("src_lang", "tgt_lang"),
        )  # fmt: skip
        out[name] = report(old, train(options), test_manifest)
    return out


def run(seed: int, folder: Path, size: Size = USUAL) -> dict[str, float]:
    """How far the loss of the old directions rose at most, and how well the new ones are translated."""
    out = {}
    for name, found in reports(seed, folder, size).items():
        new = [c.after.chrf for c in found.changes if c.before is None and c.after is not None]
        out[f"{name}: worst rise"] = found.worst
        out[f"{name}: new chrF"] = sum(new) / len(new)
    return out


def main() -> None:
    """Print the table, and the last seed's reports."""
    told = numbers.arguments(__doc__)
    with tempfile.TemporaryDirectory(prefix="mmx-") as spare:
        out = told.out or Path(spare)
        print(numbers.table([run(seed, out / str(seed)) for seed in range(told.seeds)], digits=3))
        for name, found in reports(told.seeds - 1, out / str(told.seeds - 1)).items():
            print(f"\n{name}, seed {told.seeds - 1}\n{found}")


if __name__ == "__main__":
    main()
