"""A manifest of what a model is sure to see in recordings without labels: to train another, closer to them, on it.

    python -m mmx.make.pseudo_labels unlabelled.tsv pseudo.tsv --model MODEL [--language ase]

The model has a CTC head, whose frames are windows of one frame: `mmx.datasets.pseudo_labels`. A row of the manifest is
a segment: the recording, when it begins, how long it is, and its label as `text`. So CiCo's domain-aware encoder is
trained: `mmx train` with `init` and this manifest; what both encoders make is then mixed (the family gfslt, `mix`).
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from mmx import api
from mmx.datasets.pseudo_labels import PseudoLabel, pseudo_labels
from mmx.errors import InputError, prints_errors
from mmx.files import atomic_write
from mmx.model import Model
from mmx.nn.ctc import NAME, log_probs
from mmx.seq import Seq
from mmx.train.manifest import Example, read_manifest, require_recordings
from mmx.train.reading import read_recording

LEAST_FRAMES = 3
"""A segment of fewer is chance."""


def segments(model: Model, x: torch.Tensor, language: str, least: float) -> Iterator[tuple[str, PseudoLabel]]:
    """Letters or words of one recording `(T, *)`, as the model reads them, where it is sure.

    Raises:
        InputError: the model has no CTC head.
    """
    if NAME not in model.heads:
        raise InputError(
            f"expected a model with a CTC head, got {model.name}: train one by the objective ctc or framewise"
        )
    modality, what = next(iter(model.recorded.items()))
    tokenizer = model.require_tokenizer()
    with torch.inference_mode():
        memory = model.encode(modality, Seq(x[None], torch.tensor([len(x)]), what.rate))
        told = tokenizer.language_ids[tokenizer.language(language)] if language else None
        silent = [*tokenizer.control_ids, tokenizer.eot]
        probabilities = log_probs(model.heads[NAME], memory, told, silent)[0].exp().numpy()
    for found in pseudo_labels(probabilities, window=1, least=least, leave_out=[tokenizer.n_vocab]):
        if found.stop - found.start >= LEAST_FRAMES and (text := tokenizer.decode([found.label]).strip()):
            yield text, found


def make(manifest: Path, out: Path, model: Model, language: str = "", least: float = 0.6) -> int:
    """Write the manifest of all segments; how many there are. Raises `InputError`."""
    examples = read_manifest(manifest, language=language)
    require_recordings(examples, manifest)
    (modality, what) = next(iter(model.recorded.items()))
    rows = []
    for example in examples:
        x = read_recording(example, {modality: what})[modality]
        for text, found in segments(model, x, example.src_lang, least):
            rows.append(_row(example, what.medium, text, found, float(what.rate or 1)))
    if not rows:
        raise InputError(f"expected segments that the model is sure of in {manifest}, got none: lower --least")
    header = ("id", what.medium, "text", "src_lang", "start_s", "duration_s")
    atomic_write(out, "".join("\t".join(row) + "\n" for row in (header, *rows)))
    return len(rows)


def _row(example: Example, medium: str, text: str, found: PseudoLabel, rate: float) -> tuple[str, ...]:
    path = str(Path(example.media[medium]).absolute())
    times = (example.start_s + found.start / rate, (found.stop - found.start) / rate)
    return (f"{example.id}-{found.start}", path, text, example.src_lang, *(f"{x:.3f}" for x in times))


@prints_errors
def main() -> int:
    """From the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--language", default="", help="of rows that do not say it")
    parser.add_argument("--least", type=float, default=0.6, help="probability above which the model is sure")
    given = parser.parse_args()
    model = api.load(given.model, device="cpu", dtype="float32")
    print(f"{make(given.manifest, given.out, model, given.language, given.least)} segments in {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
