"""Dialogue in the centre of a film's 5.1 sound, music and effects in the other channels: word errors, and a peer's.

    python -m mmx.bench.films --asterisk DIR --peer

Recordings: Asterisk's prompts (see `mmx.datasets.asterisk`) in rows of some 130 words. The films: chords beside the
dialogue 6 dB below its level and at it, real music at it, and chords and bangs of effects in AC-3. The peer is
faster-whisper with the same weights, int8, without its filter of silence, which reads FFmpeg's downmix.
"""

import argparse
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

import mmx
from mmx.datasets import asterisk
from mmx.evaluate.metrics import measure
from mmx.media.audio import read_audio
from mmx.model import Model
from mmx.streaming.stream import Stream

RATE = 48_000
LEVEL = 0.06
"""Root mean square of the dialogue."""
WORDS = 130
"""Words of a recording."""
PAUSE_S = 0.4


@dataclass(frozen=True)
class Kind:
    """How a film sounds.

    Attributes:
        music_db: its level against the dialogue's.
        effects_db: likewise, of bangs in the surrounds.
        real: whether the music is a recording, else chords.
        ending: of the file, which says its codec.
    """

    music_db: float
    effects_db: float = -60.0
    real: bool = False
    ending: str = ".flac"


KINDS = {
    "chords -6 dB": Kind(-6.0),
    "chords 0 dB": Kind(0.0),
    "music 0 dB": Kind(0.0, real=True),
    "AC-3 with effects": Kind(-9.0, -6.0, ending=".ac3"),
}


def at_level(x: np.ndarray, db: float) -> np.ndarray:
    """The sound at a level, dB against that of the dialogue."""
    return x / np.sqrt(np.mean(x**2)) * LEVEL * 10 ** (db / 20)


def chords(n: int) -> np.ndarray:
    """Four chords in turn, each with overtones, that come and go every two seconds."""
    t = np.arange(n) / RATE
    roots = np.array([196.0, 220.0, 174.6, 261.6])[(t // 2).astype(int) % 4]
    out = np.zeros(n)
    for third in (1.0, 1.26, 1.5):
        phase = 2 * np.pi * np.cumsum(roots * third) / RATE
        out += sum(np.sin(k * phase) / k for k in (1, 2, 3))
    return out * (0.3 + 0.7 * np.abs(np.sin(np.pi * t / 2)))


def bangs(n: int, seed: int) -> np.ndarray:
    """Bursts of noise that die away, one about every second."""
    rng = np.random.default_rng(seed)
    out = np.zeros(n)
    for start in rng.integers(0, n - RATE, n // RATE):
        out[start : start + RATE] += rng.standard_normal(RATE) * np.exp(-np.arange(RATE) / (0.1 * RATE))
    return out


def film(speech: np.ndarray, music: np.ndarray, kind: Kind) -> np.ndarray:
    """FL FR FC LFE SL SR `(6, N)` float32: speech in the centre, music in all others, effects in the surrounds.

    Args:
        speech: `(N,)` at 48 kHz.
        music: likewise.
        kind: how loud they are.
    """
    n = len(speech)
    rumble = np.cumsum(np.random.default_rng(1).standard_normal(n))
    rumble -= np.convolve(rumble, np.ones(4800) / 4800, "same")
    music = at_level(music, kind.music_db)
    around = [music + at_level(bangs(n, seed), kind.effects_db) for seed in (2, 3)]
    channels = [music, music, at_level(speech, 0), at_level(rumble, 6), *around]
    return np.clip(np.stack(channels), -1, 1).astype(np.float32)


def save(path: Path, channels: np.ndarray) -> Path:
    """Write `(6, N)` as FLAC or AC-3, by the ending."""
    import av

    codec, layout = ("ac3", "5.1(side)") if path.suffix == ".ac3" else ("flac", "5.1")
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream(codec, rate=RATE, layout=layout)
        convert = av.AudioResampler(format=stream.codec_context.format, layout=layout, rate=RATE)
        for start in range(0, channels.shape[1], 1536):
            part = np.ascontiguousarray(channels[:, start : start + 1536])
            frame = av.AudioFrame.from_ndarray(part, format="fltp", layout=layout)
            frame.sample_rate, frame.time_base, frame.pts = RATE, Fraction(1, RATE), start
            for ready in convert.resample(frame):
                out.mux(stream.encode(ready))
        out.mux(stream.encode(None))
    return path


def recordings(folder: Path, count: int, seed: int = 0) -> list[tuple[np.ndarray, str]]:
    """Prompts of ten words and more in random order, in rows of `WORDS`: `(N,)` at 16 kHz, and the words."""
    found = asterisk.sounds(folder, "en")
    texts = {
        k: t
        for k, t in asterisk.prompts(folder, "en").items()
        if k in found and not any(c in t for c in "0123456789#*<")
    }
    keys = [k for k, t in sorted(texts.items()) if len(t.split()) >= 10]
    random.Random(seed).shuffle(keys)
    pause, out, waves, said = np.zeros(int(PAUSE_S * 16_000), np.float32), [], [], []
    for key in keys:
        waves += [read_audio(found[key]), pause]
        said.append(texts[key])
        if sum(len(t.split()) for t in said) >= WORDS:
            out.append((np.concatenate(waves), " ".join(said)))
            waves, said = [], []
        if len(out) == count:
            break
    return out


def films(kind: Kind, dialogue: Sequence[tuple[np.ndarray, str]], pieces: Sequence[Path], folder: Path) -> list[Path]:
    """A film of each recording, written into the folder."""
    import soxr

    out = []
    for i, (speech, _) in enumerate(dialogue):
        speech = soxr.resample(speech, 16_000, RATE).astype(np.float64)
        music = chords(len(speech))
        if kind.real:
            piece = soxr.resample(read_audio(pieces[i % len(pieces)])[20 * 16_000 :], 16_000, RATE)
            music = np.resize(piece, len(speech))
        out.append(save(folder / f"{i}{kind.ending}", film(speech, music, kind)))
    return out


def peer(folder: Path) -> Callable[[Path], str]:
    """faster-whisper with the default weights, which are written to the folder for it."""
    from faster_whisper import WhisperModel  # pyright: ignore[reportMissingImports]

    from mmx.bench.asr import export

    export(folder)
    model = WhisperModel(str(folder / "ct2"), device="cpu", compute_type="int8")
    options: dict[str, Any] = {"language": "en", "beam_size": 5, "vad_filter": False}
    return lambda path: " ".join(s.text.strip() for s in model.transcribe(str(path), **options)[0])


def live(model: Model, samples: np.ndarray) -> str:
    """What a session writes that hears the samples, `(N,)` at 16 kHz, a second at a time."""
    stream = Stream(model, language="en")
    starts = range(0, len(samples), 16_000)
    events = [e for at in starts for e in stream.push(samples[at : at + 16_000], final=at + 16_000 >= len(samples))]
    return "".join(e.text for e in events)


def main(argv: Sequence[str] | None = None) -> None:
    """Print a row for each kind of film."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--asterisk", type=Path, required=True)
    parser.add_argument("--recordings", type=int, default=7)
    parser.add_argument("--kinds", default=",".join(KINDS), help="of film, with commas")
    parser.add_argument("--peer", action="store_true", help="faster-whisper, too")
    parser.add_argument("--live", action="store_true", help="mmx as it is live, too")
    asked = parser.parse_args(argv)
    dialogue = recordings(asked.asterisk, asked.recordings)
    said = [text for _, text in dialogue]
    model, pieces = mmx.load(), asterisk.music(asked.asterisk)
    print(f"{len(dialogue)} recordings, {sum(len(t.split()) for t in said)} words", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        engines: dict[str, Callable[[Path], str]] = {"mmx": lambda path: model.transcribe(path, language="en").text}
        if asked.live:
            engines["mmx live"] = lambda path: live(model, read_audio(path))
        if asked.peer:
            engines["faster-whisper"] = peer(Path(folder) / "weights")
        print(f"{'WER %':16}" + "".join(f"{name:>16}" for name in engines), flush=True)
        for name in asked.kinds.split(","):
            kind = KINDS[name]
            paths = films(kind, dialogue, pieces, Path(folder))
            row = [
                measure("wer", [hear(p) for p in paths], said, language="en", bootstrap=0).value
                for hear in engines.values()
            ]
            print(f"{name:16}" + "".join(f"{wer:16.1f}" for wer in row), flush=True)


if __name__ == "__main__":
    main()
