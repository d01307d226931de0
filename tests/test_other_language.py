"""What is said in another language than the text is written in is told; what is said in the same one never."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

import mmx
from mmx.media.audio import read_audio
from mmx.models.whisper.language_detector import LanguageDetector
from mmx.models.whisper.other_language import HEARD_S, LONGEST_S, notes, stretches
from mmx.tasks.window import Piece, Window

ROOT = Path(__file__).parents[1]
CODES = ("en", "fr", "hr", "bs")


def window(*speech: tuple[float, float]) -> Window:
    """Thirty seconds whose samples say when they are."""
    seconds = np.arange(30 * 16_000, dtype=np.float32) / 16_000
    return Window.of_sound(seconds, (Piece(0.0, 100.0, 30.0),), 0, speech)


def told(
    w: Window, written: str, heard: dict[float, list[float]], glanced: dict[float, list[float]] | None = None
) -> list[tuple]:
    """Notes where the model hears these probabilities in the stretches that begin at these seconds, by themselves and
    (the same where not given) in the memory of the window."""

    def glance(spans: Sequence[tuple[float, float]]) -> torch.Tensor:
        return torch.tensor([(glanced or heard)[round(begin, 2)] for begin, _ in spans])

    def probabilities(waves: Sequence[np.ndarray]) -> torch.Tensor:
        assert waves and all(len(wave) <= HEARD_S * 16_000 for wave in waves)
        return torch.tensor([heard[round(float(wave[0]), 2)] for wave in waves])

    found = notes(w, written, glance, probabilities, CODES)
    return [(n.start_s, n.end_s, n.action, n.reason) for n in found]


def test_another_language_is_noted_with_its_time():
    heard = {0.0: [0.99, 0.01, 0.0, 0.0], 8.0: [0.01, 0.98, 0.01, 0.0]}
    (one,) = told(window((0.0, 5.0), (8.0, 11.0)), "en", heard)
    assert one == (108.0, 111.0, "warning", "sounds like French, and the text is written as English")


def test_unsure_and_neighbouring_languages_give_no_note():
    w = window((8.0, 11.0))
    assert told(w, "en", {8.0: [0.1, 0.6, 0.2, 0.1]}) == []
    assert told(w, "en", {8.0: [0.01, 0.6, 0.3, 0.09]}) == [], "not English, but which language is not sure"
    assert told(w, "en", {8.0: [0.95, 0.05, 0.0, 0.0]}) == []
    assert told(w, "hr", {8.0: [0.0, 0.0, 0.08, 0.92]}) == []


def test_only_what_does_not_look_like_the_language_written_is_heard_by_itself():
    w, french = window((0.0, 5.0), (8.0, 11.0)), [0.0, 1.0, 0.0, 0.0]
    unsure = [0.3, 0.3, 0.4, 0.0]
    (one,) = told(w, "en", {8.0: french}, glanced={0.0: [0.9, 0.1, 0.0, 0.0], 8.0: unsure})
    assert one[:2] == (108.0, 111.0)
    assert told(w, "en", {}, glanced={0.0: [0.9, 0.1, 0.0, 0.0], 8.0: [0.7, 0.3, 0.0, 0.0]}) == []


def test_spans_hold_one_language_and_are_long_enough():
    found = stretches(window((0.0, 0.6), (2.0, 3.5), (5.0, 23.0)))
    assert found[0] == (2.0, 3.5) and len(found) == 4
    assert all(1.0 <= b - a <= LONGEST_S for a, b in found)
    assert stretches(Window.of_sound(np.zeros(16_000, np.float32), (Piece(0.0, 0.0, 1.0),), 0)) == [], "nobody listened"


def test_neighbouring_stretches_are_told_once():
    heard = {t: [0.0, 0.95, 0.05, 0.0] for t in (0.0, 5.0)}
    (one,) = told(window((0.0, 10.0)), "en", heard)
    assert one[:2] == (100.0, 110.0)


@pytest.mark.slow
def test_speech_in_one_language_is_encoded_once(monkeypatch: pytest.MonkeyPatch, whisper_base: mmx.Model):
    def heard(*_: object) -> torch.Tensor:
        raise AssertionError("a stretch was encoded by itself")

    monkeypatch.setattr(LanguageDetector, "of_sounds", heard)
    assert whisper_base.transcribe(ROOT / "demos" / "dashwood.flac", beam_size=1).text


@pytest.mark.slow
def test_sentences_in_other_languages_are_noted(whisper_base: mmx.Model):
    """A person's English around clips in French and Japanese, which are left out of the text or translated."""
    package = find_spec("pytest_audioeval")
    if package is None or not package.submodule_search_locations:
        pytest.skip("needs the clips of pytest-audioeval: pip install pytest-audioeval")
    clips = Path(next(iter(package.submodule_search_locations))) / "samples" / "audio"
    english, pause = read_audio(ROOT / "demos" / "dashwood.flac"), np.zeros(16_000, np.float32)
    parts = [english[: 7 * 16_000], pause, read_audio(clips / "fr" / "comptage.wav"), pause]
    parts += [english[7 * 16_000 : 17 * 16_000], pause, read_audio(clips / "ja" / "pangrama.wav"), pause]
    begins = np.cumsum([0, *map(len, parts)]) / 16_000
    sound = np.concatenate([*parts, english[17 * 16_000 :]])
    notes = whisper_base.transcribe(sound, beam_size=1).notes
    found = {n.reason.split()[2].rstrip(","): n for n in notes if "sounds like" in n.reason}
    assert found.keys() == {"French", "Japanese"}
    for name, index in (("French", 2), ("Japanese", 6)):
        assert begins[index] - 0.5 <= found[name].start_s <= found[name].end_s <= begins[index + 1] + 0.5
