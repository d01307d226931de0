"""Text to speech: the packaged voices by the same contract and task as any other, offline."""

import dataclasses
import errno
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from contract_synth import verify_synth

import mmx
from mmx import Model, SpeakOptions
from mmx.cli.app import main
from mmx.errors import InputError
from mmx.interfaces import Speech
from mmx.tasks.synthesize import LONGEST, join, pieces, synthesize
from mmx.tasks.voices import choose, voices

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


def test_range_stretches_the_melody_about_its_mean_and_is_refused_where_it_cannot(hibari: Model) -> None:
    from mmx.experiments.prosody import log_f0

    flat, plain, lively = (hibari.speak("We must leave this place before night falls.", range=r) for r in (0.5, 1, 1.8))
    assert len(flat.samples) == len(plain.samples) == len(lively.samples)
    spans, means = [], []
    for one in (flat, plain, lively):
        f0 = log_f0(one.samples, one.rate)
        spans.append(float(np.subtract(*np.percentile(f0, (90, 10)))))
        means.append(float(np.mean(f0)))
    assert spans[0] / spans[1] == pytest.approx(0.5, rel=0.15) and spans[2] / spans[1] == pytest.approx(1.8, rel=0.2)
    assert max(means) - min(means) < 0.2, "octaves"
    with pytest.raises(InputError, match="range"):
        hibari.speak("We leave.", range=5.0)


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


# -------------------- voices by name and language


def test_a_voice_is_found_by_name_language_or_model(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose().languages[0].startswith("en")
    for here, expected in ((("kokoro", "flow-voice"), "kokoro"), (("flow-voice",), "flow-voice"), ((), "kokoro")):
        monkeypatch.setattr("mmx.tasks.voices.is_here", lambda card, here=here: card.name in here)
        found = choose("ff_siwis"), choose("ff_siwis", "fr"), choose(language="French")
        assert [v.card.name for v in found] == [expected] * 3
    assert choose("kokoro/bm_george", "en-GB").name == "bm_george"
    assert choose(language="en", model="kokoro").name == "af_heart"


def test_voices_that_are_not_there_are_named() -> None:
    with pytest.raises(InputError, match="Did you mean 'ff_siwis'"):
        choose("ff_siwi")
    with pytest.raises(InputError, match="French, got ef_dora, which speaks es"):
        choose("ef_dora", "fr")
    with pytest.raises(InputError, match="got German"):
        choose(language="de")


def test_all_voices_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["voices", "--language", "it"]) == 0
    shown = capsys.readouterr().out
    assert "if_sara" in shown and "Apache-2.0" in shown and 'mmx speak "Buongiorno."' in shown and "heart" not in shown
    assert len({(v.card.name, v.name) for v in voices()}) == len(voices())


# -------------------- the command line


@pytest.fixture
def quick(hibari: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmx.api.load", lambda *args, **options: hibari)


def test_a_text_becomes_a_file_with_its_words(quick: None, tmp_path: Path) -> None:
    out, srt, words = (tmp_path / f"out.{ending}" for ending in ("wav", "srt", "json"))
    assert main(["speak", "Good morning. It costs $5.", "-o", str(out), "-o", str(srt), "-o", str(words)]) == 0
    samples, rate = soundfile.read(out)
    told = json.loads(words.read_text())
    assert rate == 24_000 and told["duration"] == pytest.approx(len(samples) / rate, abs=0.01)
    assert [w["word"] for s in told["segments"] for w in s["words"]] == ["Good", " morning.", "It", " costs", " $5."]
    assert srt.read_text().count("-->") == 2 and "It costs $5." in srt.read_text()


def test_a_file_and_standard_input_are_read(
    quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    text = tmp_path / "note.txt"
    text.write_text("\ufeffWe leave.", "utf-8")
    assert main(["speak", str(text), "-o", str(tmp_path / "a.flac")]) == 0
    monkeypatch.setattr("sys.stdin", io.StringIO("We leave."))
    assert main(["speak", "-", "-o", "-", "--format", "pcm"]) == 0
    piped = np.frombuffer(capsysbinary.readouterr().out, "<i2")
    assert len(piped) == len(soundfile.read(tmp_path / "a.flac")[0])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["", "-o", "a.wav"], "a text with words"),
        (["  \n ", "-o", "a.wav"], "a text with words"),
        (["Привет", "-o", "a.wav"], "Cyrillic letters"),
        (["none.txt", "-o", "a.wav"], "no file here"),
        (["hi"], "-o out.wav"),
        (["hi", "-o", "a.wav", "-o", "b.wav"], "one place"),
        (["hi", "-o", "a.xyz"], ".wav"),
        (["hi", "-o", "-", "--format", "xyz"], "xyz"),
        (["hi", "-o", "a.wav", "--speed", "9"], "--speed"),
        (["hi", "-o", "a.wav", "--language", "klingon"], "klingon"),
    ],
)
def test_bad_input_gets_a_clear_word_and_no_file(
    quick: None, arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(["speak", *arguments]) != 0
    assert said in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_emoji_alone_are_nothing_to_speak(quick: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["speak", "😀🎉", "-o", str(tmp_path / "a.wav")]) != 0
    shown = capsys.readouterr().err
    assert "😀" in shown and "a text with words" in shown and not list(tmp_path.iterdir())


def test_a_disk_that_fills_in_the_middle_leaves_nothing(
    quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mmx.media.write import Encoder

    push, count = Encoder.push, iter(range(9))

    def fills(self: Encoder, block: np.ndarray) -> bytes:
        if next(count) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return push(self, block)

    monkeypatch.setattr(Encoder, "push", fills)
    assert main(["speak", "Good morning. We leave. It is night.", "-o", str(tmp_path / "a.wav")]) != 0
    assert "disk is full" in capsys.readouterr().err and not list(tmp_path.iterdir())


# -------------------- long texts


def test_the_first_sentence_costs_the_same_in_a_long_text(hibari: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 100,000 characters only the first sentence is synthesized before it can be heard."""
    asked: list[int] = []
    kind = type(hibari.synth)
    stream = kind.stream

    def counted(self: Any, speech: Speech, block_s: float) -> Any:
        asked.append(len(speech.texts[0]))
        return stream(self, speech, block_s)

    monkeypatch.setattr(kind, "stream", counted)
    first = next(hibari.stream_speech("We leave before night. " * 4_400))
    assert first.text == "We leave before night." and asked == [22]


def test_a_sentence_without_end_is_cut_at_clauses(hibari: Model) -> None:
    text = "we must leave this place before night falls, " * 12
    found = list(pieces(text, "en"))
    assert len(found) > 2 and all(len(p.said) <= LONGEST for p in found) and all(p.written[-1] == "," for p in found)
    assert " ".join(p.written for p in found).split() == text.split()


def test_one_endless_word_is_spoken(hibari: Model) -> None:
    assert len(hibari.speak("bla" * 300).samples)
