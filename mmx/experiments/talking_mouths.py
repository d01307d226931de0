"""A corpus of synthetic talking mouths with real acoustics: `python -m mmx.experiments.talking_mouths OUT`.

Words in random order are spoken by hibari-tts, whose network says how long each phoneme lasts; mouths move with them
(`mmx.datasets.recipes.talking_mouths`). One voice becomes many: pitch and formants are moved together, by 0.82 to 1.2,
with another pace and spectral tilt. Bands of that, and of what makes a face, are for tests alone. That is less than
unseen people.

Of each clip there are 48x48 grey pictures at 25 a second (FFV1, lossless), sound at 16 kHz, and in `target_features`
which character of the text is spoken in each 20 ms. Beside the clips are recordings of noise: babble of six voices,
music, white.

    train.tsv valid.tsv     words, voices and faces of training
    test.tsv                the same words, other voices and faces
    unseen.tsv              words, voices and faces of no training clip
    wide.tsv                6,019 frequent words, none of those of unseen.tsv; voices and faces of training
    train_wide.tsv          train.tsv, then wide.tsv
    words.txt               those of train.tsv, for `mmx transcribe --vocabulary`
    noise/{train,test}      the babble of tests is of the voices of tests

`pip install 'mmx[voices]' wordfreq`; the latter for the clips of `wide` alone. Letters: T frames, N samples, U
characters.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from mmx.datasets.recipes.talking_mouths import (
    RATE,
    SIZE,
    UNSEEN,
    WORDS,
    Face,
    Phone,
    drawn,
    frequent_words,
    homophene_floor,
    mouth_track,
    render,
)
from mmx.errors import prints_errors
from mmx.extras import import_extra
from mmx.files import atomic_write
from mmx.models.hibari import FRAME_S, FRAMES, SPECTRA
from mmx.nn.onnx import OnnxGraph
from mmx.text.phonemes import phonemes
from mmx.text.phonemes.symbols import PUNCTUATION, SYMBOLS, numbers

Array = NDArray[np.floating[Any]]
SOUND_HZ = 16_000
VOICE_HZ = 24_000
LABEL_HZ = 50
SPLITS = {"train": 5078, "valid": 100, "test": 1000, "unseen": 150, "wide": 12_000}
"""Clips of each."""
HELD_OUT_SPLITS = ("test", "unseen")
"""Of other voices and faces."""
JOINED = ("train", "wide")
NOISES = {"babble": 24, "music": 8, "white": 2}
NOISE_S = 20.0
STRESS = "ˈˌ"
"""Marks that the network gives time of its own; here it is that of the phoneme behind them."""
SILENT = -1
"""The label of a frame in which no character is spoken."""


class Spoken(NamedTuple):
    """Words as they sound: samples `(N,)` at 16 kHz, phonemes with times, and the text and phonemes of each word."""

    wave: Array
    phones: list[Phone]
    words: list[tuple[str, slice]]


class Speaker(NamedTuple):
    """A voice made of hibari's: `higher` moves pitch and formants, `pace` is faster above 1."""

    higher: float
    pace: float
    tilt: float

    @classmethod
    def draw(cls, rng: np.random.Generator, held_out: bool) -> "Speaker":
        """A speaker whose height is, or is not, of the bands that are held out."""
        return cls(drawn(rng, 0.82, 1.2, held_out), float(rng.uniform(0.85, 1.15)), float(rng.uniform(-0.5, 0.3)))


class Voice:
    """hibari's network with what it knows of times; the model of `mmx.models.hibari` tells those of words alone."""

    def __init__(self) -> None:
        package = import_extra("hibari", "voices")
        file = Path(package.__file__).parent / "assets" / "hibari.onnx"
        self.graph, self.dsp = OnnxGraph(file.read_bytes(), [FRAMES]), import_extra("hibari.dsp", "voices")
        self.known: dict[str, str] = {}

    def phonemes(self, word: str) -> str:
        """The symbols of a word by itself."""
        if word not in self.known:
            self.known[word] = phonemes(word, "en-US")[0][1]
        return self.known[word]

    def __call__(self, words: Sequence[str], speaker: Speaker, rng: np.random.Generator) -> Spoken:
        """Words in a row."""
        rows = [[s for s in self.phonemes(word) if s in SYMBOLS] for word in words]
        text = " ".join("".join(row) for row in rows)
        speed = np.array([speaker.higher * speaker.pace], np.float32)
        *spectra, f0_hz, frames = self.graph(
            (*SPECTRA, "f0", FRAMES), {"ids": np.array([[0, *numbers(text), 0]]), "speed": speed}
        )
        wave = self.dsp.synth(*(s[0] for s in spectra), f0_hz[0], rng)
        longer = speaker.higher  # a voice that is lowered lasts longer, which `speed` made up for
        wave = soxr.resample(wave, VOICE_HZ, SOUND_HZ / longer)
        wave = np.append(wave[:1], wave[1:] + speaker.tilt * wave[:-1])
        ends_s = np.cumsum(frames.reshape(-1)) * FRAME_S / longer
        return Spoken((0.7 * wave / (np.abs(wave).max() + 1e-6)).astype(np.float32), *_phones(words, rows, ends_s))


def _phones(
    words: Sequence[str], rows: Sequence[Sequence[str]], ends_s: NDArray[Any]
) -> tuple[list[Phone], list[tuple[str, slice]]]:
    """Phonemes with their times; `ends_s` are those of the beginning, of each symbol and space, and of the end."""
    phones: list[Phone] = []
    spoken, at = [], 1
    for word, row in zip(words, rows, strict=True):
        first, start_s = len(phones), float(ends_s[at - 1])
        for symbol in row:
            if symbol == "ː":
                phones[-1] = phones[-1]._replace(stop_s=float(ends_s[at]))
            elif symbol not in PUNCTUATION and symbol not in STRESS:
                phones.append(Phone(symbol, start_s, float(ends_s[at])))
            if symbol not in STRESS:
                start_s = float(ends_s[at])
            at += 1
        at += 1
        spoken.append((word, slice(first, len(phones))))
    return phones, spoken


def labels(spoken: Spoken, n: int) -> Array:
    """Which character of the text is spoken in each frame of 20 ms, `(n, 1)`.

    The characters of a word share its phonemes evenly; the space before a word is its first frame.
    """
    out, at = np.full((n, 1), SILENT, np.float32), 0
    for i, (word, part) in enumerate(spoken.words):
        phones = spoken.phones[part]
        bounds_s = [p.start_s for p in phones] + [phones[-1].stop_s]
        place = np.linspace(0, len(phones), len(word) + 1)
        frames = np.rint(np.interp(place, np.arange(len(phones) + 1), bounds_s) * LABEL_HZ).astype(int)
        for u in range(len(word)):
            out[frames[u] : max(frames[u] + 1, frames[u + 1]), 0] = at + u
        if i:
            out[frames[0], 0] = at - 1
        at += len(word) + 1
    return out


class Clip(NamedTuple):
    """A clip: sound `(N,)`, pictures `(T, H, W)`, labels `(2 T, 1)` and the text."""

    wave: Array
    pictures: NDArray[np.uint8]
    labels: Array
    text: str


def make_clip(voice: Voice, words: Sequence[str], seed: Sequence[int], held_out: bool) -> Clip:
    """A clip of words; all that is random comes of the seed."""
    rng = np.random.default_rng(list(seed))
    speaker, face = Speaker.draw(rng, held_out), Face.draw(rng, held_out)
    spoken = voice(words, speaker, rng)
    before, after = rng.integers(2, 9, 2)
    n_frames = int(before + after + -(-len(spoken.wave) * int(RATE) // SOUND_HZ))
    later_s = before / RATE
    phones = [Phone(p.symbol, p.start_s + later_s, p.stop_s + later_s) for p in spoken.phones]
    wave = np.zeros(n_frames * SOUND_HZ // int(RATE), np.float32)
    start = int(before) * SOUND_HZ // int(RATE)
    wave[start : start + len(spoken.wave)] = spoken.wave
    wave += rng.normal(0, 3e-4, len(wave)).astype(np.float32)
    pictures = render(mouth_track(phones, n_frames, face, rng), face, SIZE)
    return Clip(wave, pictures, labels(spoken._replace(phones=phones), 2 * n_frames), " ".join(words))


def draw_words(words: Sequence[str], rng: np.random.Generator) -> list[str]:
    """Three to five words in any order."""
    return [str(word) for word in rng.choice(words, int(rng.integers(3, 6)))]


# -------------------- noise


def babble(voice: Voice, rng: np.random.Generator, held_out: bool, voices: int = 6) -> Array:
    """Several speakers at once, `NOISE_S` long."""
    words = WORDS.split()
    out = np.zeros(int(NOISE_S * SOUND_HZ), np.float32)
    for _ in range(voices):
        speaker, pieces, n = Speaker.draw(rng, held_out), [], 0
        while n < len(out):
            pieces.append(voice(draw_words(words, rng), speaker, rng).wave)
            n += len(pieces[-1])
        out += np.roll(np.concatenate(pieces)[: len(out)], int(rng.integers(len(out))))
    return out / voices


def music(rng: np.random.Generator) -> Array:
    """Chords of decaying harmonics over a beat of noise, `NOISE_S` long: synthetic as well."""
    n, beat = int(NOISE_S * SOUND_HZ), int(SOUND_HZ * 60 / rng.uniform(70, 140))
    out, t = np.zeros(n + 4 * beat, np.float32), np.arange(4 * beat) / SOUND_HZ
    root = 110 * 2 ** (rng.integers(0, 12) / 12)
    for at in range(0, n, beat):
        chord = root * 2 ** (rng.choice([0, 2, 4, 5, 7, 9]) / 12) * np.array([1, 2 ** (4 / 12), 2 ** (7 / 12)])
        for f_hz in chord:
            harmonics = sum(np.sin(2 * np.pi * f_hz * k * t) / k for k in range(1, 7))
            out[at : at + len(t)] += (harmonics * np.exp(-2.5 * t)).astype(np.float32)
        out[at : at + len(t)] += (rng.normal(0, 1, len(t)) * np.exp(-40 * t)).astype(np.float32)
    return out[:n]


def make_noise(voice: Voice, out: Path, rng: np.random.Generator, held_out: bool, noises: Mapping[str, int]) -> None:
    """Recordings of each kind of noise into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    for kind, count in noises.items():
        for i in range(count):
            n = int(NOISE_S * SOUND_HZ)
            white = rng.standard_normal(n).astype(np.float32)
            x = babble(voice, rng, held_out) if kind == "babble" else music(rng) if kind == "music" else white
            soundfile.write(out / f"{kind}-{i}.wav", 0.5 * x / np.abs(x).max(), SOUND_HZ, subtype="PCM_16")


# -------------------- files


def write_pictures(path: Path, pictures: NDArray[np.uint8]) -> None:
    """Grey pictures as a lossless video at 25 a second."""
    import av

    with av.open(str(path), "w", format="matroska") as container:
        stream: Any = container.add_stream("ffv1", rate=int(RATE))
        stream.height, stream.width = pictures.shape[1:]
        stream.pix_fmt = "gray"
        stream.codec_context.thread_count = 1
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="gray")))
        container.mux(stream.encode(None))


def write_clip(folder: Path, name: str, clip: Clip) -> tuple[str, ...]:
    """The files of a clip; returns its row of the manifest."""
    write_pictures(folder / f"{name}.mkv", clip.pictures)
    soundfile.write(folder / f"{name}.wav", clip.wave, SOUND_HZ, subtype="PCM_16")
    np.save(folder / f"{name}.npy", clip.labels)
    paths = [f"{folder.name}/{name}.{ending}" for ending in ("wav", "mkv", "npy")]
    return (f"{folder.name}-{name}", *paths, f"{len(clip.pictures) / RATE:.2f}", clip.text, "en", "en")


HEADER = ("id", "audio", "video", "target_features", "duration_s", "text", "src_lang", "tgt_lang")


def prepare(
    out: Path,
    counts: Mapping[str, int] = SPLITS,
    seed: int = 0,
    words: Sequence[str] = (),
    noises: Mapping[str, int] = NOISES,
) -> dict[str, float]:
    """Write clips, manifests and noise; the homophene floors of their words, which are written next to them.

    Args:
        out: folder.
        counts: clips of the splits that are wanted.
        seed: of all that is random.
        words: of training and test; `WORDS` when empty.
        noises: recordings of each kind.
    """
    voice, words = Voice(), list(words) or WORDS.split()
    vocabularies = {"unseen": UNSEEN.split(), "wide": frequent_words(voice.phonemes) if counts.get("wide") else []}
    rows = {
        split: _write_split(out / split, voice, vocabularies.get(split, words), counts[split], (seed, s))
        for s, split in enumerate(SPLITS)
        if split in counts
    }
    if counts.keys() >= set(JOINED):
        rows["_".join(JOINED)] = [row for split in JOINED for row in rows[split]]
    for name, found in rows.items():
        atomic_write(out / f"{name}.tsv", "".join("\t".join(row) + "\n" for row in (HEADER, *found)))
    for part, held_out in (("train", False), ("test", True)):
        make_noise(voice, out / "noise" / part, np.random.default_rng([seed, 99, held_out]), held_out, noises)
    floors = {
        name: homophene_floor({word: voice.phonemes(word) for word in some})
        for name, some in (("words", words), ("unseen", vocabularies["unseen"]))
    }
    atomic_write(out / "words.txt", "\n".join(sorted(set(words))) + "\n")
    atomic_write(out / "floor.json", json.dumps(floors))
    return floors


def _write_split(
    folder: Path, voice: Voice, words: Sequence[str], count: int, seed: tuple[int, int]
) -> list[tuple[str, ...]]:
    """Clips into a folder of the name of their split; returns the rows of its manifest."""
    held_out, rows = folder.name in HELD_OUT_SPLITS, []
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        said = draw_words(words, np.random.default_rng([*seed, i, 1]))
        rows.append(write_clip(folder, str(i), make_clip(voice, said, (*seed, i), held_out)))
    return rows


@prints_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clips", type=int, nargs=len(SPLITS), metavar="N", help=f"of {', '.join(SPLITS)}")
    parser.add_argument("--words", type=Path, help="text file: the words of train, valid and test")
    a = parser.parse_args(arguments)
    counts = dict(zip(SPLITS, a.clips, strict=True)) if a.clips else SPLITS
    words = a.words.read_text("utf-8").split() if a.words else ()
    for name, floor in prepare(a.out, counts, a.seed, words).items():
        print(f"{name}: no reader of lips gets below {100 * floor:.1f} % word errors")
    return 0


if __name__ == "__main__":
    sys.exit(main())
