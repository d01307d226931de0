"""`mmx detect`, provenance in files, and speech that checks itself."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmx
from mmx.cli import app as cli
from mmx.errors import InputError, OutputError
from mmx.mark import provenance
from mmx.mark.marker import mark
from mmx.media.audio import read_audio
from mmx.media.write import write_audio
from mmx.tasks import dub, verify
from mmx.tasks.options import SpeakOptions
from mmx.tasks.result import SpokenSegment

SAMPLE = Path(__file__).parents[1] / "demos" / "dashwood.flac"
RATE = 24_000


@pytest.fixture(scope="module")
def marked() -> np.ndarray:
    return mark(read_audio(SAMPLE, rate=RATE)[: 10 * RATE], RATE, payload=1)


def test_files_are_told_apart(marked: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = write_audio(tmp_path / "made.mp3", [marked], RATE)
    assert cli.main(["detect", str(made), str(SAMPLE), "--output-format", "json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    one, other = lines
    assert one["found"] and one["false_alarm"] < 1e-9 and one["payload"] == 1 and len(one["spans"]) == 1
    assert one["provenance"]["kind"] == "metadata" and one["provenance"]["state"] == "unsigned"
    assert not other["found"] and other["provenance"] is None and other["duration_s"] > 5
    assert cli.main(["detect", str(SAMPLE)]) == 3
    assert "no mark found" in capsys.readouterr().out
    assert cli.main(["detect", str(made)]) == 0
    assert "marked as made by mmx" in capsys.readouterr().out
    assert cli.main(["detect", str(made), str(tmp_path / "none.wav")]) == 1
    assert cli.main(["detect", str(made), "-f", "xml"]) == 2
    assert mmx.detect(marked, source_rate=RATE).found and not mmx.detect(SAMPLE).found


def test_of_sound_too_short_nothing_is_claimed(
    marked: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    doubtful = write_audio(tmp_path / "doubtful.wav", [marked[5 * RATE : 5 * RATE + RATE * 7 // 10]], RATE)
    silent = write_audio(tmp_path / "silent.wav", [np.zeros(RATE, np.float32)], RATE)
    longer = write_audio(tmp_path / "longer.wav", [np.zeros(4 * RATE, np.float32)], RATE)
    assert cli.main(["detect", str(doubtful), str(silent), str(longer)]) == 3
    first, second, third = capsys.readouterr().out.splitlines()[::2]
    assert "too short to tell: 0.7 s" in first and "it may be marked" in first
    assert "too short to tell: 1.0 s" in second and "may be" not in second
    assert third.endswith("no mark found")
    assert cli.main(["detect", str(silent), "-f", "json"]) == 3 and '"too_short": true' in capsys.readouterr().out


@pytest.mark.parametrize("ending", [".wav", ".mp3", ".flac", ".opus"])
def test_provenance_is_signed_and_a_change_shows(
    ending: str, marked: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("c2pa")
    pytest.importorskip("cryptography")
    monkeypatch.setenv("MMX_CACHE", str(tmp_path / "cache"))
    path = dub.write(tmp_path / f"a{ending}", SpokenSegment(0.0, marked, RATE))
    got = provenance.read(path)
    assert got is not None and got.synthetic and got.says.startswith(("mmx", "synthetic speech, mmx"))
    if ending == ".opus":  # which holds no manifest
        assert got.kind == "metadata"
        return
    assert (got.kind, got.state) == ("c2pa", "valid") and "made on this computer" in got.signer
    assert abs(len(read_audio(path, rate=RATE)) - len(marked)) < 3_000, "any player still reads it"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    changed = provenance.read(path)
    assert changed is not None and changed.state == "invalid"
    key = tmp_path / "cache" / "provenance.pem"
    assert key.is_file() and (key.stat().st_mode & 0o077 == 0 or key.stat().st_mode & 0o777 == 0o666)
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name, "cache"]


def test_half_a_key_is_told(marked: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("c2pa")
    monkeypatch.setenv("MMX_C2PA_KEY", str(tmp_path / "key.pem"))
    with pytest.raises(InputError, match="expected both MMX_C2PA_CERTIFICATE and MMX_C2PA_KEY"):
        dub.write(tmp_path / "a.wav", SpokenSegment(0.0, marked, RATE))
    monkeypatch.setenv("MMX_C2PA_CERTIFICATE", str(tmp_path / "none.pem"))
    with pytest.raises((InputError, OutputError), match="readable PEM files"):
        dub.write(tmp_path / "a.wav", SpokenSegment(0.0, marked, RATE))
    assert not list(tmp_path.iterdir())


# -------------------- verification


@pytest.mark.parametrize(
    ("said", "heard", "missing", "extra"),
    [
        ("consider tires", "Consider tyres.", (), 0),
        ("he has forty two dollars", "He has $42.", (), 0),
        ("the cat slept on the mat", "The cat on the mat.", ("slept",), 0),
        ("the cat sat", "The cat sat. The cat sat.", (), 1),
        ("no no no no", "no no", ("no", "no"), 0),
        ("good morning", "", ("good", "morning"), 0),
        ("a caf\u00e9 in town", "a cafe in town", (), 0),
    ],
)
def test_missing_and_repeated_words_are_found(said: str, heard: str, missing: tuple[str, ...], extra: int) -> None:
    faults = verify.compare(said, heard, "en")
    assert (faults.missing, len(faults.extra)) == (missing, extra)
    assert faults.count == len(missing) + extra


class Attempts:
    """What a synth gives, call by call, and a recognizer that reads its first sample as the number of the call."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, heard: list[str]):
        self.calls: list[tuple[str, SpeakOptions]] = []
        self.heard = heard

        def synthesize(model: Any, text: str, options: SpeakOptions, *, blocks: bool = False) -> Any:
            self.calls.append((text, options))
            yield SpokenSegment(0.0, np.full(100, len(self.calls) - 1, np.float32), 100.0, (), text)

        monkeypatch.setattr(verify, "synthesize", synthesize)
        monkeypatch.setattr(verify, "spelled", lambda model, language: language)

    def listen(self, one: SpokenSegment) -> str:
        return self.heard[min(int(one.samples[0]), len(self.heard) - 1)]

    def run(self, text: str, monkeypatch: Any = None) -> list[Any]:
        model: Any = None
        return list(verify.verified(model, text, SpeakOptions(language="en", steps=4), self.listen))


def test_a_sentence_with_missing_words_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Attempts(monkeypatch, ["one three", "one two three", "Another one."])
    got = run.run("One two three. Another one.")
    assert [faults for _, faults in got] == [None, None]
    assert [one.samples[0] for one, _ in got] == [1, 2] and [one.start_s for one, _ in got] == [0.0, 1.0]
    assert [options.seed for _, options in run.calls] == [0, 1, 0]


def test_what_remains_is_reported_and_the_best_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Attempts(monkeypatch, ["nothing", "well then", "", "well"])
    ((one, faults),) = run.run("Well then, we shall see.")
    assert one.samples[0] == 1 and faults.missing == ("we", "shall", "see")
    assert "not heard: we, shall, see" in str(faults)
    texts = [text for text, _ in run.calls]
    assert texts == ["Well then, we shall see."] * 3 + ["Well then,", "we shall see."]
    assert run.calls[2][1] == replace(run.calls[0][1], speed=0.9, steps=8)
