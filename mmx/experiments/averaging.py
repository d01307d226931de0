"""Averaging the snapshots of a training (Schmidt et al. 2023, arXiv 2305.16834): better than one of them.

A model of English and Spanish numbers is trained, then trained on at a rate that does not fall to zero, with a snapshot
every so often. Their average is compared with them on held-out numbers. The control is the average with a model of
another initialization, on the same data: it is as good alone, and ruinous here, for its units mean other things.
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from torch import Tensor

from mmx import api
from mmx.evaluate.forgetting import loss
from mmx.experiments import numbers
from mmx.experiments.numbers import USUAL, Size
from mmx.model import Model
from mmx.train.checkpoints import average
from mmx.train.loop import train
from mmx.train.manifest import Example
from mmx.weights.formats import open_checkpoint

SNAPSHOTS = 6


def run(seed: int, folder: Path, size: Size = USUAL) -> dict[str, float]:
    """Held-out losses (nats a character) of one training: of its snapshots, their average, and the control."""
    pairs = numbers.directions(["en", "es"])
    learned, valid, test = (numbers.examples(part, pairs) for part in numbers.split(size, seed))

    def trained(name: str, seed: int, updates: int, init: str = "", **changes: object) -> Path:
        out = folder / name
        fields = {"seed": seed, "updates": updates, "init": init, **({} if init else {"vocab": 330}), **changes}
        train(numbers.options(out, learned, valid, **fields))
        return out / "run"

    begun = trained("begun", seed, size.updates)
    every = size.further // SNAPSHOTS
    further = trained(
        "further", seed, every * SNAPSHOTS, str(begun / "model"), lr=1.5e-3, warmup=every, valid_every=every,
        keep_best=SNAPSHOTS,
    )  # fmt: skip
    stranger = trained("stranger", seed + 1000, size.updates)
    model = api.load(further / "model", dtype="float32")
    snapshots = [open_checkpoint(p, "mmx") for p in sorted((further / "best").glob("step-*.safetensors"))]
    unrelated = open_checkpoint(stranger / "model" / "model.safetensors", "mmx")
    singles = [_loss(model, [s], test) for s in snapshots]
    return {
        "best single": min(singles),
        "median single": median(singles),
        "last": singles[-1],
        "average": _loss(model, snapshots, test),
        "unrelated alone": _loss(model, [unrelated], test),
        "average with it": _loss(model, [snapshots[-1], unrelated], test),
    }


def _loss(model: Model, sources: Sequence[Mapping[str, Tensor]], test: Sequence[Example]) -> float:
    """Of the average of weights, put into the model."""
    api.fill(model, dict(average(sources)))
    return loss(model, test)


def main() -> None:
    """Print the table."""
    told = numbers.arguments(__doc__)
    with tempfile.TemporaryDirectory(prefix="mmx-") as spare:
        out = told.out or Path(spare)
        print(numbers.table([run(seed, out / str(seed)) for seed in range(told.seeds)], digits=4))


if __name__ == "__main__":
    main()
