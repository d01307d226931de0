"""Monotonic heads on speech of a person (EMMA, Ma et al. 2023, arXiv 2312.04515), each sentence by heads without it.

Of the sentences that a person read, each is heard live with heads that were trained on the others, and on synthetic
speech. The control are heads that were trained on the synthetic speech alone. Beside them stand AlignAtt and
LocalAgreement-2, which are not trained.

    python -m mmx.experiments.monotonic runs/emma/cache runs/emma/folds --recording demos/dashwood.flac
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from mmx import api
from mmx.datasets.recipes.emma import spoken
from mmx.evaluate.streaming import Figures, Recording, measure, table, word_errors
from mmx.model import Model
from mmx.streaming.emma.heads import find_heads
from mmx.streaming.emma.train import FitOptions, fit
from mmx.streaming.stream import Stream

POLICIES = ("emma:0.3", "emma:0.5", "emma:0.7")
UNTRAINED = ("alignatt:0.3", "alignatt:0.6", "alignatt:1", "local-agreement")


def heads_without(cache: Path, out: Path, name: str, options: FitOptions) -> Path:
    """Heads that were trained on everything but the recordings whose names begin with `name`; kept once made."""
    path = out / f"without-{name}-{options.seed}.safetensors"
    if not path.is_file():
        part = path.with_suffix(".part")  # `fit` writes its best so far: a run that is stopped leaves no heads behind
        fit(cache, part, replace(options, leave_out=name))
        part.replace(path)
    return path


def by_turns(model: Model, policy: str, heads: Sequence[Path | None]) -> Callable[[], Stream]:
    """A maker of streams, the first of which has the first heads, and so on."""
    turn: Iterator[Path | None] = iter(heads)

    def make() -> Stream:
        path = next(turn)
        return Stream(model, policy=policy, language="en", monotonic=find_heads(model, path) if path else None)

    return make


def run(cache: Path, out: Path, recording: Path, options: FitOptions) -> list[Figures]:
    """Figures of all policies on the sentences of a recording.

    Args:
        cache: what `mmx.streaming.emma.train cache` wrote, of that recording and of synthetic speech.
        out: where heads are kept.
        recording: see `mmx.datasets.recipes.emma.spoken`.
        options: of the training.
    """
    model = api.load("whisper-base")
    items = [Recording(f"sentence {i + 1}", wave, text) for i, (text, wave) in enumerate(spoken(recording))]
    folds = [heads_without(cache, out, f"emma-person-{i}-", options) for i in range(len(items))]
    control = [heads_without(cache, out, "emma-person-", options)] * len(items)
    systems = [
        (f"{p}, {name}", p, heads) for name, heads in (("person", folds), ("control", control)) for p in POLICIES
    ]
    systems += [(p, p, [None] * len(items)) for p in UNTRAINED]
    return [
        measure(by_turns(model, policy, heads), items, system=name, step_s=1.0, score=word_errors)
        for name, policy, heads in systems
    ]


def main() -> None:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(description="Monotonic heads, each sentence of a person by heads without it.")
    parser.add_argument("cache", type=Path, help="what mmx.streaming.emma.train cache wrote")
    parser.add_argument("out", type=Path, help="folder for the heads")
    parser.add_argument("--recording", type=Path, required=True, help="the sentences, with their text beside it")
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each")
    args = parser.parse_args()
    for seed in range(args.seeds):
        found = run(args.cache, args.out, args.recording, FitOptions(seed=seed))
        print(f"seed {seed}\n{table(found)}", flush=True)


if __name__ == "__main__":
    main()
