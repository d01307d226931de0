"""Letters of alphabets that were never trained on, and labels that mean nothing.

`python -m mmx.experiments.fingerspelling_controls OUT [--folds 3] [--updates 1200] [--seeds 0,1,2]`

The languages of one family of alphabets (`FAMILY`) are left out of short trainings in turn, some at a time, and the
letters a to z of each are read by the model that has not seen it, which is told no language and has to name a letter.
Beside it, on the same features, the nearest neighbour among the recordings that were trained on, and an exact test of
the pairs (McNemar 1947). The figures again with the whole family left out; and with labels that are shuffled in each
clip, from which nothing can be learned: those have to be near chance, 1 in 26. The models of all seeds also name each
letter together, by the mean of their probabilities: one reader, and one test. Over all seeds alone, a letter counts by
the share of the seeds that name it, and the interval is of letters drawn anew.

The models are smaller than the one that ships (width 128, no layers in the head), trained for a tenth as long, and told
no language in training either.

There is one recording of a letter, so a language and its signer are one and the same here.
"""

import argparse
import csv
import json
import math
import string
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmx.api import load
from mmx.datasets.recipes.fingerspelling import DELAY, RATE, Letter, lexicon_folder, prepare, read_letters
from mmx.files import atomic_write
from mmx.model import Model
from mmx.nn.ctc import NAME
from mmx.seq import Seq, pad
from mmx.train.loop import train
from mmx.train.options import TrainOptions

FAMILY = ("ase", "asq", "bzs", "gsg", "ise", "mfs", "sgg", "ssp", "svk")
OTHER_SCRIPTS = ("gss", "jos", "ukl")
LETTERS = string.ascii_lowercase
SPLITS = ("train", "valid")
WIDTH = 128
SHUFFLED, TOGETHER = "labels shuffled", "all seeds together"
Alphabets = dict[str, dict[str, Letter]]


@dataclass(frozen=True)
class Read:
    """Whether each letter was named right by a model, and by its nearest neighbour."""

    by_model: NDArray[np.bool_]
    by_neighbour: NDArray[np.bool_]

    def __str__(self) -> str:
        model, neighbour, n = self.by_model, self.by_neighbour, len(self.by_model)
        only = int((model & ~neighbour).sum()), int((neighbour & ~model).sum())
        return (
            f"| {n} | {100 * model.mean():.1f} | {100 * neighbour.mean():.1f} | {only[0]} and {only[1]} | "
            f"{exact_p(*only):.3f} |"
        )


def exact_p(a: int, b: int) -> float:
    """How probable counts of discordant pairs this far apart are, if both are equally likely; two-sided, exact."""
    n, most = a + b, max(a, b)
    return min(1.0, 2 * sum(math.comb(n, k) for k in range(most, n + 1)) / 2**n)


def over_seeds(found: Sequence[Read], draws: int = 10_000) -> str:
    """The mean of models of several seeds minus the neighbour, in points, with a 95 % interval over letters."""
    gain = np.mean([100 * (r.by_model.astype(float) - r.by_neighbour) for r in found], axis=0)
    drawn = np.random.default_rng(0).choice(gain, (draws, len(gain))).mean(1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    model, neighbour = (100 * np.mean(x) for x in ([r.by_model for r in found], [r.by_neighbour for r in found]))
    return f"{model:.1f} against {neighbour:.1f}: {gain.mean():+.1f} points ({low:+.1f} to {high:+.1f})"


def signs(letter: Letter) -> Seq:
    """The points of a recording `(1, T, 42, 3)`."""
    return pad([torch.from_numpy(letter.hands.filled.reshape(len(letter.hands), -1, 3))], RATE)


@torch.inference_mode()
def shares(model: Model, letter: Letter) -> Tensor:
    """How probable the model, told no language, finds each letter a to z while it is held `(26,)`."""
    tok = model.require_tokenizer()
    ids = [i for (i,) in map(tok.encode, LETTERS)]
    scores_BMV = model.heads[NAME](model.memory({"signs": signs(letter)}).masked)
    return scores_BMV[0, letter.start + DELAY : letter.stop + DELAY, ids].softmax(-1).mean(0)


def named(models: Sequence[Model], letter: Letter) -> str:
    """The letter that one model, or several by their mean, find most probable."""
    return LETTERS[int(torch.stack([shares(model, letter) for model in models]).mean(0).argmax())]


@torch.inference_mode()
def features(model: Model, letter: Letter) -> NDArray[np.float32]:
    """What the model's front makes of the letter, a mean over the frames in which it is held."""
    return model.front["signs"](signs(letter)).x[0, letter.start : letter.stop].mean(0).numpy()


def read(models: Sequence[Model], alphabets: Alphabets, unseen: Collection[str], seen: Collection[str]) -> Read:
    """The letters of languages that are not among those trained on, by models together."""
    front = models[0]  # before any weight: the same of all
    gallery = [(c, features(front, alphabets[x][c])) for x in seen for c in LETTERS if c in alphabets[x]]
    known, texts = np.stack([f for _, f in gallery]), [c for c, _ in gallery]
    by_model, by_neighbour = [], []
    for c, letter in ((c, alphabets[x][c]) for x in unseen for c in LETTERS if c in alphabets[x]):
        nearest = np.linalg.norm(known - features(front, letter), axis=1).argmin()
        by_model.append(named(models, letter) == c)
        by_neighbour.append(texts[int(nearest)] == c)
    return Read(np.array(by_model), np.array(by_neighbour))


def subset(manifest: Path, languages: Collection[str], out: Path, seed: int | None = None) -> Path:
    """The rows of some languages; with a seed, the letters of each clip are others, drawn anew for each clip."""
    with manifest.open(encoding="utf-8") as file:
        rows = [r for r in csv.DictReader(file, delimiter="\t") if r["src_lang"] in languages]
    characters = sorted({c for r in rows for c in r["text"]})
    lines = ["\t".join(rows[0])]
    for i, row in enumerate(rows):
        if seed is not None:
            others = np.random.default_rng([seed, i]).permutation(characters)
            row["text"] = row["text"].translate({ord(a): str(b) for a, b in zip(characters, others, strict=True)})
        for column in ("pose", "target_features"):
            row[column] = str((manifest.parent / row[column]).absolute())
        lines.append("\t".join(row.values()))
    return atomic_write(out, "\n".join(lines) + "\n")


def trained(data: Path, out: Path, languages: Collection[str], updates: int, seed: int, shuffle: bool = False) -> Model:
    """A model of some languages."""
    out.mkdir(parents=True, exist_ok=True)
    files = {s: subset(data / f"{s}.tsv", languages, out / f"{s}.tsv", seed if shuffle else None) for s in SPLITS}
    options = TrainOptions(
        train=str(files["train"]), valid=str(files["valid"]), out=str(out / "run"), family="fingerspelling",
        tokenizer="characters", config={"width": WIDTH, "forget": 1.0}, objective="framewise",
        objective_config={"frames": 1.0, "rate": RATE}, group_by=["src_lang"], updates=updates, warmup=60,
        batch_tokens=1600, lr=3e-3, schedule="cosine", weight_decay=0.02, seed=seed, threads=1, valid_every=updates,
        save_every=updates, log_every=100,
    )  # fmt: skip
    return load(train(options), device="cpu", dtype="float32").eval()


def run(out: Path, folds: int, updates: int, words: int, seeds: Sequence[int]) -> dict[str, Read]:
    """All trainings; printed as they come."""
    alphabets, data = read_letters(lexicon_folder()), out / "data"
    if not (data / "valid.tsv").exists():
        prepare(data, words, languages=[x for x in sorted(alphabets) if x not in OTHER_SCRIPTS])
    every = [x for x in alphabets if x not in OTHER_SCRIPTS]
    results: dict[str, list[Read]] = {}
    arms = [("left out, relatives known", FAMILY[fold::folds], f"fold{fold}") for fold in range(folds)]
    arms += [("left out with its relatives", FAMILY, "family"), (SHUFFLED, FAMILY, "shuffled")]
    for name, unseen, folder in arms:
        seen, models = [x for x in every if x not in unseen], list[Model]()
        for seed in seeds:
            models.append(trained(data, out / f"{folder}-{seed}", seen, updates, seed, name == SHUFFLED))
            found = read(models[-1:], alphabets, unseen, seen)
            results.setdefault(f"{name}, seed {seed}", []).append(found)
            print(folder, seed, ",".join(unseen), found, flush=True)
        if len(seeds) > 1:
            results.setdefault(f"{name}, {TOGETHER}", []).append(read(models, alphabets, unseen, seen))
    return {name: _pooled(found) for name, found in results.items()}


def _pooled(found: Sequence[Read]) -> Read:
    return Read(np.concatenate([r.by_model for r in found]), np.concatenate([r.by_neighbour for r in found]))


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--folds", type=int, default=3, help="parts of the family that are left out in turn")
    parser.add_argument("--updates", type=int, default=1200)
    parser.add_argument("--words", type=int, default=500, help="to train on, of each language")
    parser.add_argument("--seeds", default="0,1,2")
    given = parser.parse_args()
    seeds = [int(seed) for seed in given.seeds.split(",")]
    found = run(given.out, given.folds, given.updates, given.words, seeds)
    print("| | letters | model | nearest neighbour | right by one alone | p |\n|---|--:|--:|--:|--:|--:|")
    for name, row in found.items():
        print(f"| {name} {row}")
    for name in dict.fromkeys(name.rpartition(",")[0] for name in found):
        print(f"{name}: {over_seeds([row for key, row in found.items() if key.startswith(name + ', seed')])}")
        if (together := found.get(f"{name}, {TOGETHER}")) is not None:
            print(f"{name}, {TOGETHER}: {over_seeds([together])}")
    record = {name: {"model": r.by_model.tolist(), "neighbour": r.by_neighbour.tolist()} for name, r in found.items()}
    atomic_write(given.out / "results.json", json.dumps(record))


if __name__ == "__main__":
    main()
