"""What a model's encoder makes of recordings, as features for another model.

    python -m mmx.make.features clips.tsv OUT --model MODEL [--language ase]

Writes a `.npz` for each row with `features` `(M, D)` and their `rate`, and `OUT/features.tsv`, the manifest with them
in the place of the recordings: what `mmx train` takes for a family that reads features. A row that is there already is
not computed again.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from mmx import api
from mmx.errors import InputError, prints_errors
from mmx.files import atomic_write
from mmx.model import Model
from mmx.seq import Seq
from mmx.train.manifest import Example, read_manifest, require_recordings
from mmx.train.reading import read_recording

COLUMNS = ("id", "features", "target", "src_lang", "tgt_lang", "task", "origin")


@torch.inference_mode()
def features(model: Model, example: Example) -> Seq:
    """`(1, M, D)` of one recording, before anything that fuses or decodes it."""
    modality, what = next(iter(model.recorded.items()))
    x = read_recording(example, {modality: what})[modality]
    made = model.encode(modality, Seq(x[None], torch.tensor([len(x)]), what.rate))
    if made.rate is None:
        raise InputError(f"expected features at a rate, got those of {model.name}, which depend on the data")
    return made


def make(manifest: Path, out: Path, model: Model, language: str = "") -> Path:
    """Write the features of all rows, and their manifest. Raises `InputError` for one without recordings."""
    examples = read_manifest(manifest, language=language)
    if not all(e.media for e in examples):
        raise InputError(f"expected recordings in {manifest}, got texts: give media that {model.name} reads")
    require_recordings(examples, manifest)
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for i, e in enumerate(examples):
        path = out / f"{i}.npz"
        if not path.exists():
            made = features(model, e)
            part = out / f".part-{i}.npz"
            np.savez(part, features=made.x[0].float().numpy(), rate=np.float64(made.rate or 0))
            part.replace(path)
        rows.append((e.id or str(i), path.name, e.target, e.src_lang, e.tgt_lang, e.task, e.origin))
    return atomic_write(out / "features.tsv", "".join("\t".join(row) + "\n" for row in (COLUMNS, *rows)))


@prints_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """From the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--language", default="", help="of rows that do not say it")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    given = parser.parse_args(arguments)
    model = api.load(given.model, device=given.device, dtype="float32")
    print(make(given.manifest, given.out, model, given.language))
    return 0


if __name__ == "__main__":
    sys.exit(main())
