"""Text to speech: the packaged voices by the same contract and task as any other, offline."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
from contract_synth import verify_synth

import mmx
from mmx import Model, SpeakOptions
from mmx.interfaces import Speech
from mmx.tasks.synthesize import join, synthesize

pytest.importorskip("hibari", reason="hibari-tts is not installed")
WORDS = ["we", "must", "leave", "this", "place", "before", "night", "falls", "on", "it"]


@pytest.fixture(scope="module")
def hibari() -> Model:
    return mmx.load("hibari")


def random_text(lengths: Sequence[int], seed: int) -> Speech:
    draw = np.random.default_rng(seed)
    return Speech(texts=[" ".join(draw.choice(WORDS, n)) for n in lengths], language="en")


def test_the_packaged_voice_keeps_the_contract(hibari: Model) -> None:
    verify_synth(hibari.synth, random_text)


def test_words_are_told_as_they_are_written_with_their_times(hibari: Model) -> None:
    text = "Good morning. We leave — before night, they said."
    spoken = hibari.speak(text)
    assert [w.text.strip() for w in spoken.words] == text.split()
    times = [t for w in spoken.words for t in (w.start_s, w.end_s)]
    assert times == sorted(times) and times[-1] <= len(spoken.samples) / spoken.rate
    assert all(w.end_s - w.start_s > 0.05 for w in spoken.words if w.text != " —")


def test_sentences_come_one_by_one_on_one_clock(hibari: Model) -> None:
    parts = list(synthesize(hibari, "Good morning. We leave.\n\nAt night.", SpeakOptions()))
    assert [p.text for p in parts] == ["Good morning.", "We leave.", "", "At night."]
    ends = np.cumsum([len(p.samples) / p.rate for p in parts])
    np.testing.assert_allclose([p.start_s for p in parts], [0.0, *ends[:-1]], atol=1e-9)
    whole = join(parts)
    assert len(whole.samples) == sum(len(p.samples) for p in parts) and len(whole.words) == 6


def test_speed_and_pitch_change_what_they_name(hibari: Model) -> None:
    plain, fast, high = (hibari.speak("We leave before night.", **o) for o in ({}, {"speed": 1.5}, {"pitch": 6.0}))
    assert len(fast.samples) == pytest.approx(len(plain.samples) / 1.5, rel=0.1)
    assert len(high.samples) == len(plain.samples)
    vowel = plain.words[0]
    at, n = int((vowel.start_s + 0.5 * (vowel.end_s - vowel.start_s)) * 24_000), 1_800
    own_hz, higher_hz = (pitch_hz(s.samples[at : at + n]) for s in (plain, high))
    assert higher_hz == pytest.approx(own_hz * 2**0.5, rel=0.05)


def pitch_hz(x: np.ndarray, rate: float = 24_000.0) -> float:
    """The lag at which sound repeats itself, as a frequency."""
    n = len(x)
    spectrum = np.abs(np.fft.rfft(x, 2 * n)) ** 2
    lags = np.fft.irfft(spectrum)[: int(rate / 80)]
    first = int(rate / 420)
    return rate / (first + int(lags[first:].argmax()))


def test_the_card_names_its_voices() -> None:
    card = mmx.cards()["hibari"]
    assert card.voices == {"en": ("heart",)} and card.license == "Apache-2.0" and "synthetic" in card.summary
    assert dataclasses.replace(card).commercial
