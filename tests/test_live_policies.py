"""The table of live policies: its clips are what they say, rows are kept, and what goes wrong is counted."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from test_stream import build, sound

from mmx.errors import InputError
from mmx.evaluate.streaming import Recording
from mmx.experiments import live_policies
from mmx.experiments.live_policies import KINDS, Row, clip, rows, said_again, tables, voices
from mmx.media.audio import SAMPLE_RATE as RATE

spoken = pytest.mark.skipif(
    not (shutil.which("flite") or shutil.which("espeak-ng")), reason="needs a voice: apt install flite"
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Come in. Sit down. Come in.", 0),
        ("Come in, come in, sit down. Come in!", 1),
        ("Sit down.", 0),
        ("Sit down. Sit down. Come in. Come in. Come in. Come in.", 3),
    ],
)
def test_sentences_beyond_those_that_were_said_are_counted(text: str, expected: int):
    assert said_again(["Come in.", "Sit down.", "Come in."], text) == expected


def test_without_voices_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(live_policies.shutil, "which", lambda name: None)
    with pytest.raises(InputError, match="apt install flite"):
        voices()


@spoken
@pytest.mark.parametrize("kind", ["dialogue", "quiet"])
def test_a_clip_has_its_sentences_at_their_times(kind: str):
    made = clip(kind, voices()[0])
    assert [" ".join(s.words) for s in made.sentences] == [text for text, _ in KINDS[kind]]
    level = float(np.abs(made.samples).max())
    assert (level < 0.01) == (kind == "quiet")
    for s, (_, pause_s) in zip(made.sentences, KINDS[kind], strict=True):
        begin, end = round(s.start_ms / 1000 * RATE), round(s.end_ms / 1000 * RATE)
        assert np.abs(made.samples[begin:end]).max() > 0.5 * level
        assert np.abs(made.samples[end + 10 : end + round(pause_s * RATE) - 10]).max() < 0.1 * level
    np.testing.assert_array_equal(made.samples, clip(kind, voices()[0]).samples)


def test_rows_are_kept_and_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    recording = Recording("talks/own.flac", sound(3), "a b c")
    how = {"policies": ["hold-n:2", "wait-k"], "kinds": [], "recordings": [recording]}
    first = rows(build("whole"), tmp_path, **how)
    assert [(r.policy, r.kind, r.audio_s) for r in first] == [("hold-n:2", "own", 3.0), ("wait-k", "own", 3.0)]
    assert len(list(tmp_path.glob("*.json"))) == 2
    monkeypatch.setattr(live_policies, "measured", lambda *_: pytest.fail("measured again"))
    assert [r.text for r in rows(build("whole"), tmp_path, **how)] == [r.text for r in first]
    with pytest.raises(InputError, match="repeats"):
        rows(build("whole"), tmp_path, kinds=["nothing"])


def test_the_tables_have_means_and_spreads():
    def row(voice: str, wer: float) -> Row:
        fields = {"policy": "emma", "kind": "prose", "laal_s": 1.5, "lag_s": 1.0, "cpu_s": 5.0, "audio_s": 10.0}
        return Row(**fields, voice=voice, wer=wer, said_again=1, empty_words=2, words=20, text="")  # type: ignore[arg-type]

    text = tables([row("a", 2.0), row("b", 4.0)])
    assert "3.0 (2.0 to 4.0)" in text
    assert "1.50 (1.50 to 1.50)" in text
    assert "4 of 40" in text and "0.50" in text
