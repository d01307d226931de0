"""A translation spoken at its source's times: rates within bounds, pauses kept, what is late told."""

from dataclasses import replace

import numpy as np
import pytest

from mmx.tasks import dub
from mmx.tasks.cascade import cascade
from mmx.tasks.isochrony import NEAR, RATES, phrases
from mmx.tasks.isochrony import dub as dubbed
from mmx.tasks.result import SpokenSegment, Transcript
from mmx.tasks.words import Segment, Word

RATE = 8_000


def voice(text: str, speed: float) -> SpokenSegment:
    """A tenth of a second a letter, with silence around as synths have it; each word is timed."""
    padding = np.zeros(RATE // 4, np.float32)
    sound = np.full(round(len(text) * RATE / 10 / speed), 0.5, np.float32)
    words, at_s = [], 0.25
    for part in text.split():
        words.append(Word(f" {part}", at_s, at_s + len(part) / 10 / speed))
        at_s += (len(part) + 1) / 10 / speed
    return SpokenSegment(0.0, np.concatenate([padding, sound, padding]), RATE, tuple(words))


def transcript(*segments: Segment, duration_s: float = 30.0) -> Transcript:
    return Transcript("x", segments, "fr", 1.0, duration_s, "translate", "tiny")


def seconds(spoken: SpokenSegment) -> float:
    return len(spoken.samples) / spoken.rate


def test_each_phrase_ends_with_its_original_within_the_bounds():
    fits, slow, fast = "aaaaaaaaa.", "bbbbbbbbb.", "ccccccccc."
    got = dubbed(
        transcript(
            Segment(1, 2.06, f" {fits}", "en"), Segment(5, 6.2, f" {slow}", "en"), Segment(9, 9.2, f" {fast}", "en")
        ),
        voice,
    )
    assert [s.start_s for s in got.spoken] == [1, 5, 9], "pauses are kept"
    edges = 2 * dub.EDGE_S
    assert seconds(got.spoken[0]) == pytest.approx(1.0 + edges, abs=0.01), "not twice for the fourth of a tenth"
    assert dub.end_of(got.spoken[1]) == pytest.approx(6.2, abs=0.05)
    assert seconds(got.spoken[2]) == pytest.approx(1.0 / RATES[1] + edges, abs=0.01), "no faster than a voice can be"
    assert not got.notes


def test_without_isochrony_only_the_starts_are_the_sources():
    got = dubbed(
        transcript(Segment(1, 3, " aaaaaaaaa.", "en"), Segment(5, 5.1, " bbbbbbbbb.", "en")), voice, isochrony=False
    )
    assert [round(seconds(s), 1) for s in got.spoken] == [1.1, 1.1] and [s.start_s for s in got.spoken] == [1, 5]


def test_what_is_too_long_starts_the_next_late_which_is_told():
    long = " " + "a" * 79 + "."
    got = dubbed(
        transcript(Segment(0, 2, long, "en"), Segment(2, 6, " bbbbbbbbb.", "en"), Segment(12, 13, " ccccccccc.", "en")),
        voice,
    )
    first, second, third = got.spoken
    assert second.start_s == pytest.approx(dub.end_of(first) + dub.PAUSE_S) and second.start_s > 4
    assert third.start_s == 12, "caught up"
    (note,) = got.notes
    assert (note.start_s, note.action) == (2, "warning") and "late" in note.reason
    track = dub.lay(got.spoken, got.duration_s)
    assert len(track.samples) == 30 * RATE
    assert [w.text for w in track.words[:2]] == [long, " bbbbbbbbb."]
    assert track.words[1].start_s == pytest.approx(second.start_s + dub.EDGE_S, abs=0.01), "on the recording's clock"


def test_half_sentences_are_spoken_as_one_unless_the_source_pauses_between():
    close = [Segment(0, 1, " the cat", "en"), Segment(1.1, 2, " sat.", "en")]
    assert [p.text for p in phrases(close)] == ["the cat sat."]
    apart = [Segment(0, 1, " the cat,", "en"), Segment(1.9, 2.5, " sat.", "en")]
    assert [(p.text, p.start_s) for p in phrases(apart)] == [("the cat,", 0), ("sat.", 1.9)]
    assert [p.text for p in phrases(apart, split=False)] == ["the cat, sat."]


def test_a_pause_of_the_source_falls_between_two_clauses():
    one = Segment(0, 5, " When he came home, the house was dark and cold.", "en", pauses=((1.5, 3.0),))
    assert [(p.text, p.start_s, p.end_s) for p in phrases([one])] == [
        ("When he came home,", 0, 1.5), ("the house was dark and cold.", 3.0, 5),
    ]  # fmt: skip
    elsewhere = replace(one, pauses=((4.5, 4.99),))
    (whole,) = phrases([replace(elsewhere, pauses=((3.8, 4.9),))])
    assert whole.silent_s == pytest.approx(1.1), "no clause ends there: its time is not filled by slow speech"
    (short,) = phrases([elsewhere])
    assert short.silent_s == pytest.approx(0.49)


def test_the_cascade_tells_the_pauses_within_its_sentences(monkeypatch: pytest.MonkeyPatch):
    from types import SimpleNamespace

    def translated(model: object, texts: list[str], **options: object) -> list[SimpleNamespace]:
        return [SimpleNamespace(text=t, segments=[]) for t in texts]

    monkeypatch.setattr("mmx.tasks.cascade.translate_text", translated)
    text_model = SimpleNamespace(require_tokenizer=lambda: SimpleNamespace(language=lambda code: code), name="x")
    heard = transcript(Segment(0, 1, " one", "en"), Segment(1.0, 2.0, " two", "en"), Segment(3.2, 4, " three.", "en"))
    (got,) = cascade([heard], text_model, "es")  # type: ignore[arg-type]
    assert [s.pauses for s in got.segments] == [((2.0, 3.2),)]


def test_silence_is_trimmed_and_only_silence():
    one = dub.trimmed(voice("aaa bbb", 1.0))
    assert seconds(one) == pytest.approx(0.7 + 2 * dub.EDGE_S) and one.words[0].start_s == pytest.approx(dub.EDGE_S)
    still = SpokenSegment(0.0, np.zeros(100, np.float32), RATE)
    assert dub.trimmed(still) is still and 1 - RATES[0] > NEAR
