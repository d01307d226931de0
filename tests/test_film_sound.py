"""Dialogue in films: as good as the speech alone, with music beside it and effects around it."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
import soxr

import mmx
from mmx.bench.asr import word_error_rate
from mmx.media.audio import read_audio

ROOT = Path(__file__).parents[1]
SPEECH = ROOT / "demos" / "dashwood.flac"
TEXT = (ROOT / "demos" / "dashwood.txt").read_text("utf-8").replace("mister", "mr")
RATE = 48_000
LEVEL = 0.06
pytestmark = pytest.mark.slow


def at_level(x: np.ndarray, db: float) -> np.ndarray:
    """The sound at a level, dB against that of the speech."""
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


def film(music_db: float, effects_db: float) -> np.ndarray:
    """FL FR FC LFE SL SR (6, n) float32: speech in the centre, music in all others, effects in the surrounds."""
    speech, rate = soundfile.read(SPEECH)
    speech = soxr.resample(speech, rate, RATE)
    n = len(speech)
    rumble = np.cumsum(np.random.default_rng(1).standard_normal(n))
    rumble -= np.convolve(rumble, np.ones(4800) / 4800, "same")
    music = at_level(chords(n), music_db)
    around = [music + at_level(bangs(n, seed), effects_db) for seed in (2, 3)]
    channels = [music, music, at_level(speech, 0), at_level(rumble, 6), *around]
    return np.clip(np.stack(channels), -1, 1).astype(np.float32)


def save(path: Path, channels: np.ndarray) -> Path:
    """Write (6, n) as FLAC or AC-3, by the ending."""
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


FILMS = {"music-6.flac": (-6.0, -60.0), "music0.flac": (0.0, -60.0), "effects.ac3": (-9.0, -6.0)}
"""Levels of music and effects against the speech, dB."""
THEIRS = {"music-6.flac": 0.042, "music0.flac": 0.056, "effects.ac3": 0.042}
"""Word error rates of faster-whisper with the same weights, which mixes as FFmpeg does; of the speech alone: 0.014."""


@pytest.mark.long
def test_dialogue_is_understood_as_well_as_after_ffmpegs_mix(tmp_path: Path):
    """Within two points on the whole; of one film, of 71 words, within two words, which precisions differ by."""
    model, rates = mmx.load(), {}
    for name, levels in FILMS.items():
        said = model.transcribe(save(tmp_path / name, film(*levels)), language="en").text
        rates[name] = word_error_rate(TEXT, said)
        assert rates[name] <= THEIRS[name] + 0.03, said
    assert np.mean(list(rates.values())) <= np.mean(list(THEIRS.values())) + 0.02, rates


def test_the_left_channel_of_a_film_is_not_its_dialogue(tmp_path: Path):
    path = save(tmp_path / "music-6.flac", film(*FILMS["music-6.flac"]))
    speech, rate = soundfile.read(SPEECH, dtype="float32")
    for channels, least, most in (("mix", 0.5, 1.0), ("left", -0.1, 0.1)):
        mono = read_audio(path, channels=channels)[: len(speech)]
        assert least < np.corrcoef(mono, soxr.resample(speech, rate, 16_000)[: len(mono)])[0, 1] <= most
