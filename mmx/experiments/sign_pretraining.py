"""Whether stage 1 of GFSLT-VLP helps stage 2: `python -m mmx.experiments.sign_pretraining OUT [--seeds 0,1,2]`.

Synthetic data, and called so: three American letters, joined and varied from the package's recordings, stand for the
signs of a day, a weather and a region; their text puts them in another order among other words. What is tested on are
combinations that were never trained on. Five ways, for each seed with the same data, model and order:

| way | updates of stage 1 | of stage 2 |
|---|--:|--:|
| `both` | N1 | N2 |
| `cico` | N1, with CiCo's contrast in the place of CLIP's | N2 |
| `cico, no swaps` | the same, but no words change places in training | N2 |
| `stage 2` | 0 | N2 |
| `longer` | 0 | N1 + N2 |

`longer` says whether a gain is stage 1's or that of more updates. Stage 1 hands on its last weights, as published:
its loss on validation data rises while what it has learned still helps. Stage 2 is chosen by validation.
"""

import argparse
import itertools
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmx.datasets.hands import Hands, varied
from mmx.datasets.recipes.fingerspelling import Letter, join, lexicon_folder, read_letters
from mmx.evaluate.offline import evaluate
from mmx.evaluate.options import Control, Scoring
from mmx.files import atomic_write
from mmx.train.loop import train
from mmx.train.options import TrainOptions

DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
WEATHERS = ("sunny", "rainy", "windy", "cloudy", "snowy", "foggy", "stormy", "mild")
REGIONS = ("north", "south", "east", "west", "valley", "mountains", "city", "islands")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SHOULDERS = {11: (1.9, 1.0, 0.0), 12: (0.9, 1.0, 0.0)}
"""Where they stand, in their own widths: the recordings' hands are about there."""
CONFIG = {"reads": "pose", "ctx": 128, "width": 64, "heads": 4, "layers": [2, 2, 2], "hidden": 128, "tied": True}

FIRST: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "both": ("visual_language", {}),
    "cico": ("cico", {"restore": 1.0}),
    "cico, no swaps": ("cico", {"restore": 1.0, "swap": 0.0}),
}
"""The objective of stage 1 in the ways that have one."""
WAYS = (*FIRST, "stage 2", "longer")


def sentences(seed: int) -> list[tuple[str, str]]:
    """Every combination in random order: the letters that stand for its signs, and its text."""
    groups = [list(zip(LETTERS[a:], words, strict=False)) for a, words in ((0, DAYS), (7, WEATHERS), (15, REGIONS))]
    made = [
        (d + w + r, f"it will be {weather} in the {region} on {day}")
        for (d, day), (w, weather), (r, region) in itertools.product(*groups)
    ]
    random.Random(seed).shuffle(made)
    return made


def pose(hands: Hands) -> np.ndarray:
    """Two hands as a whole person `(T, 75, 3)` of whom only the shoulders are known besides."""
    x_TJC = np.zeros((len(hands), 75, 3), np.float32)
    for joint, place in SHOULDERS.items():
        x_TJC[:, joint] = place
    x_TJC[:, 33:] = hands.filled.reshape(len(hands), 42, 3)
    return x_TJC


def write(folder: Path, name: str, rows: Sequence[tuple[str, str]], letters: dict[str, Letter], seed: int) -> Path:
    """A manifest of signed sentences."""
    lines = ["pose\ttarget\tsrc_lang\ttgt_lang\ttask"]
    (folder / name).mkdir(parents=True, exist_ok=True)
    for i, (spelling, text) in enumerate(rows):
        rng = np.random.default_rng([seed, i])
        x = pose(varied(join([letters[c] for c in spelling], rng).hands, rng))
        np.save(folder / name / f"{i}.npy", x)
        lines.append(f"{name}/{i}.npy\t{text}\tase\ten\ttranslate")
    return atomic_write(folder / f"{name}.tsv", "\n".join(lines) + "\n")


def run(
    out: Path, seed: int, sizes: Sequence[int], updates: tuple[int, int], ways: Sequence[str] = WAYS
) -> list[dict[str, Any]]:
    """The ways of one seed; WER in percent."""
    letters, all_rows, folder = read_letters(lexicon_folder())["ase"], sentences(0), out / f"data-{seed}"
    starts = list(itertools.accumulate(sizes, initial=0))
    data = {
        name: write(folder, name, all_rows[a:b], letters, 10 * seed + i)
        for i, (name, a, b) in enumerate(zip(("train", "valid", "test"), starts, starts[1:], strict=False))
    }
    first, second = updates

    def trained(name: str, count: int, **more: Any) -> Path:
        options = TrainOptions(
            train=str(data["train"]), valid=str(data["valid"]), out=str(out / f"{name}-{seed}"), updates=count,
            warmup=30, batch_tokens=1600, lr=2e-3, schedule="cosine", cooldown=count // 4, seed=seed, threads=1,
            valid_every=count if "objective" in more else max(25, count // 6), save_every=count, keep_best=1,
            log_every=100, **more,
        )  # fmt: skip
        return train(options)

    new = {"family": "gfslt", "tokenizer": "bytes", "config": CONFIG}
    rows = []
    for way in ways:
        folder = way.replace(", ", "-").replace(" ", "-")
        if way in FIRST:
            name, numbers = FIRST[way]
            begun = trained(f"{folder}-first", first, objective=name, objective_config=numbers, dropout=0.0, **new)
            model = trained(folder, second, init=str(begun))
        else:
            model = trained(folder, second if way == "stage 2" else first + second, **new)
        rows += scored(data["test"], model, way, seed)
    return rows


def scored(test: Path, model: Path, way: str, seed: int) -> list[dict[str, Any]]:
    """What a model reads of a test set; of `both`, also on controls."""
    control: tuple[Control, ...] = ("blank", "swapped") if way == "both" else ()
    lines = evaluate(
        test, [str(model)], Scoring(metrics=("wer", "chrf"), normalize="none"), beam_size=1, batch_size=32,
        device="cpu", dtype="float32", control=control,
    )  # fmt: skip
    rows = []
    for line in lines:
        name, measured = way + line.system.removeprefix(str(model)), line.measurement
        rows.append({"seed": seed, "way": name, measured.metric: measured.value, "interval": measured.interval})
        print(json.dumps(rows[-1]), flush=True)
    return rows


def main() -> None:
    """Of all seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--sizes", default="150,40,150", help="sentences of train, valid and test")
    parser.add_argument("--updates", default="120,240", help="N1,N2")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    given = parser.parse_args()
    sizes = [int(n) for n in given.sizes.split(",")]
    first, second = (int(n) for n in given.updates.split(","))
    rows = [r for seed in given.seeds.split(",") for r in run(given.out, int(seed), sizes, (first, second), given.ways)]
    atomic_write(given.out / "results.json", json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
