"""Dialogue in films: as good as the speech alone, with music beside it and effects around it."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

import mmx
from mmx.bench.asr import word_error_rate
from mmx.bench.films import KINDS, RATE, Kind, chords, film, save
from mmx.media.audio import read_audio

ROOT = Path(__file__).parents[1]
SPEECH = ROOT / "demos" / "dashwood.flac"
TEXT = (ROOT / "demos" / "dashwood.txt").read_text("utf-8").replace("mister", "mr")
pytestmark = pytest.mark.slow


FILMS = {
    "music-6.flac": KINDS["chords -6 dB"],
    "music0.flac": KINDS["chords 0 dB"],
    "effects.ac3": KINDS["AC-3 with effects"],
}


def demo_film(kind: Kind) -> np.ndarray:
    speech, rate = soundfile.read(SPEECH)
    speech = soxr.resample(speech, rate, RATE)
    return film(speech, chords(len(speech)), kind)


THEIRS = {"music-6.flac": 0.042, "music0.flac": 0.056, "effects.ac3": 0.042}
"""Word error rates of faster-whisper with the same weights, which mixes as FFmpeg does; of the speech alone: 0.014."""


@pytest.mark.long
def test_dialogue_is_understood_as_well_as_after_ffmpegs_mix(tmp_path: Path):
    """Within two points on the whole; of one film, of 71 words, within two words, which precisions differ by."""
    model, rates = mmx.load(), {}
    for name, kind in FILMS.items():
        said = model.transcribe(save(tmp_path / name, demo_film(kind)), language="en").text
        rates[name] = word_error_rate(TEXT, said)
        assert rates[name] <= THEIRS[name] + 0.03, said
    assert np.mean(list(rates.values())) <= np.mean(list(THEIRS.values())) + 0.02, rates


def test_the_left_channel_of_a_film_is_not_its_dialogue(tmp_path: Path):
    path = save(tmp_path / "music-6.flac", demo_film(FILMS["music-6.flac"]))
    speech, rate = soundfile.read(SPEECH, dtype="float32")
    for channels, least, most in (("mix", 0.5, 1.0), ("left", -0.1, 0.1)):
        mono = read_audio(path, channels=channels)[: len(speech)]
        assert least < np.corrcoef(mono, soxr.resample(speech, rate, 16_000)[: len(mono)])[0, 1] <= most
