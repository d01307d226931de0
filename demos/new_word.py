"""Teach whisper-base a name that it does not know, and measure what that does to everything else.

    apt-get install flite espeak-ng
    pip install -e '.[base,eval,whisper]'
    python demos/new_word.py runs/new_word_demo

The name and the voices are synthetic (see `mmx.datasets.recipes.new_word`), the recording that must not get worse is a
person's. It takes some minutes on two cores. Recordings of your own, each beside its text in a .txt, are measured too
when they are named after the folder.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import mmx
from mmx.bench.asr import word_error_rate
from mmx.datasets.recipes.new_word import WORD, prepare
from mmx.model import Model
from mmx.train.loop import TrainOptions, train
from mmx.train.manifest import Example, read_manifest

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "models" / "recipes" / "new_word.toml"


class Figures(NamedTuple):
    """What a model makes of the test.

    Attributes:
        recognized: share of the clips with the name whose text has it.
        invented: share of the clips without the name whose text has it.
        wer: word error rate of the test, names included.
        others: word error rate of each other recording.
    """

    recognized: float
    invented: float
    wer: float
    others: tuple[float, ...]


def measure(model: Model, test: Sequence[Example], others: Sequence[Path], hotwords: str | None = None) -> Figures:
    """Transcribe everything; with the name as a hotword if that is given."""
    heard = {e.audio: model.transcribe(e.audio, language="en", hotwords=hotwords).text for e in test}
    named = [WORD.lower() in heard[e.audio].lower() for e in test if WORD in e.target]
    wrong = [WORD.lower() in heard[e.audio].lower() for e in test if WORD not in e.target]
    rates = []
    for path in others:
        text = model.transcribe(path, language="en", hotwords=hotwords).text
        rates.append(word_error_rate(path.with_suffix(".txt").read_text("utf-8"), text))
    wer = word_error_rate(" ".join(e.target for e in test), " ".join(heard[e.audio] for e in test))
    return Figures(sum(named) / len(named), sum(wrong) / len(wrong), wer, tuple(rates))


def show(name: str, figures: Figures) -> None:
    """One line of the comparison."""
    others = "  ".join(f"{rate:6.1%}" for rate in figures.others)
    print(f"{name:24}  {figures.recognized:6.0%}  {figures.invented:6.0%}  {figures.wer:6.1%}  {others}", flush=True)


def main(arguments: Sequence[str]) -> None:
    """`OUT [RECORDING ...]`."""
    out, others = Path(arguments[0]), [ROOT / "demos" / "dashwood.flac", *map(Path, arguments[1:])]
    prepare(out / "data")
    test = read_manifest(out / "data" / "test.tsv")
    print(f"{'':24}  {'named':>6}  {'wrong':>6}  {'WER':>6}  {'  '.join(p.stem[-6:] for p in others)}")
    before = mmx.load("whisper-base", dtype="float32")
    show("whisper-base", measure(before, test, others))
    show("... told of the name", measure(before, test, others, hotwords=WORD))
    started = time.monotonic()
    manifests = {name: str(out / "data" / f"{name}.tsv") for name in ("train", "valid")}
    folder = train(TrainOptions.from_toml(RECIPE, **manifests, out=str(out / "run")))
    minutes = (time.monotonic() - started) / 60
    show("trained", measure(mmx.load(folder, dtype="float32"), test, others))
    print(f"training took {minutes:.1f} minutes; the model is in {folder}")


if __name__ == "__main__":
    main(sys.argv[1:])
