"""Whether fused experts read more than the best of them alone: `python -m mmx.experiments.experts OUT [--seeds 0,1,2]`.

Synthetic words, spelled by hands that are hidden a third of the time while the mouth says them
(`mmx.datasets.recipes.mouthed_spelling`). Five trainings for each seed, with data, weights and order of its own:

| way | trained on |
|---|---|
| `hands` | the hands alone |
| `mouth` | the mouth alone |
| `fused` | both, of which rows lose either by chance |
| `fused, another's mouth` | the same hands beside the mouth of another word: the control, with as many weights |
| `the same, none dropped` | that again, but no row loses an expert, so that nothing asks for what cannot be learned |

as many updates each, all of the family `signing_experts`. Words of the test are in no training. The fused model is
also read with one of the two missing, and with the mouth of another word. Errors are of characters; differences are of
the words of all seeds together, in a paired bootstrap.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

import mmx
from mmx.datasets.recipes.mouthed_spelling import RATE, prepare
from mmx.evaluate.metrics import Measurement, measure, paired_p
from mmx.evaluate.offline import read_rows, source_of
from mmx.files import atomic_write
from mmx.train.loop import train
from mmx.train.options import TrainOptions

HANDS, MOUTH = "spelling", "mouthing"
DROP = 0.4
WAYS: Mapping[str, tuple[Sequence[str], str, float]] = {
    "hands": ([HANDS], "", 0.0),
    "mouth": ([MOUTH], "", 0.0),
    "fused": ([HANDS, MOUTH], "", DROP),
    "fused, another's mouth": ([HANDS, MOUTH], "-swapped", DROP),
    "the same, none dropped": ([HANDS, MOUTH], "-swapped", 0.0),
}
"""The experts of each way, which manifests it is trained on, and the share of the rows that lose an expert."""
READ: Mapping[str, tuple[str, str]] = {
    **{way: (way, "test" + kind) for way, (_, kind, _) in WAYS.items()},
    "fused, given another's mouth": ("fused", "test-swapped"),
    "fused, given hands alone": ("fused", "test-hands"),
    "fused, given the mouth alone": ("fused", "test-mouth"),
}
"""What is read: by which model, of which test set."""
CONFIG = {"width": 96, "dilations": [1, 2, 4], "joined": [1, 2, 4]}
DRAWS = 10_000


class Read(NamedTuple):
    """The words of a test set as a model wrote them, and as they are spelled."""

    texts: list[str]
    wanted: list[str]

    def errors(self) -> Measurement:
        """Of characters, in percent."""
        return measure("cer", self.texts, self.wanted, normalize="none", bootstrap=DRAWS)


def trained(data: Path, out: Path, way: str, updates: int, seed: int) -> Path:
    """The model of one way."""
    experts, kind, drop = WAYS[way]
    config = {"experts": experts, "drop": drop, **CONFIG}
    options = TrainOptions(
        train=str(data / f"train{kind}.tsv"), valid=str(data / f"valid{kind}.tsv"), out=str(out), seed=seed, threads=1,
        family="signing_experts", tokenizer="characters", config=config, updates=updates,
        objective="framewise", objective_config={"frames": 3.0, "rate": RATE}, group_by=["src_lang"], warmup=40,
        batch_tokens=4800, lr=3e-3, schedule="cosine", weight_decay=0.02, valid_every=updates, save_every=updates,
        log_every=100, keep_best=1, keep_gb=1.0,
    )  # fmt: skip
    return train(options)


def read(model: Path, manifest: Path) -> Read:
    """The words of a test set."""
    loaded, rows = mmx.load(model, device="cpu", dtype="float32"), read_rows(manifest)
    found = loaded.transcribe_many([source_of(r, loaded) for r in rows], language=rows[0].src_lang, batch_size=32)
    return Read([f.text for f in found], [r.target for r in rows])


def pooled(found: Sequence[Read]) -> Read:
    """The words of all seeds."""
    return Read([t for f in found for t in f.texts], [t for f in found for t in f.wanted])


def compared(name: str, one: Measurement, other: Measurement) -> str:
    """How many points one has less than another."""
    low, high = np.quantile(one.samples - other.samples, (0.025, 0.975))
    return f"{name}: {one.value - other.value:+.1f} ({low:+.1f} to {high:+.1f}), p = {paired_p(one, other):.4f}"


def run(out: Path, seed: int, updates: int) -> dict[str, Read]:
    """Everything of one seed."""
    data = out / f"data-{seed}"
    if not (data / "test-mouth.tsv").exists():
        prepare(data, seed=seed)
    models = {way: trained(data, out / f"{way.replace(', ', '-')}-{seed}", way, updates, seed) for way in WAYS}
    return {name: read(models[way], data / f"{manifest}.tsv") for name, (way, manifest) in READ.items()}


def table(found: Sequence[Mapping[str, Read]]) -> None:
    """Print errors by seed and of all of them, and differences from the hands alone."""
    every = {name: pooled([f[name] for f in found]).errors() for name in READ}
    for name, all_seeds in every.items():
        cells = [f"{f[name].errors().value:.1f}" for f in found] + [f"{all_seeds.value:.1f}"]
        print(f"| {name} | {' | '.join(cells)} |")
    for name, all_seeds in every.items():
        if name != "hands":
            print(compared(f"{name} less hands", all_seeds, every["hands"]))


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--updates", type=int, default=500)
    given = parser.parse_args()
    found = {seed: run(given.out, int(seed), given.updates) for seed in given.seeds.split(",")}
    atomic_write(given.out / "results.json", json.dumps(found))
    table(list(found.values()))


if __name__ == "__main__":
    main()
