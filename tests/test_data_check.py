"""`mmx data check`: every mistake is named, all at once, and none is a traceback."""

from pathlib import Path

import numpy as np
import pytest

from mmx.cli import app as cli
from mmx.errors import InputError
from mmx.train.data_check import check_data, report

sf = pytest.importorskip("soundfile")
from tiny_speech import RATE, tiny_whisper, tone, tones  # noqa: E402 - it needs soundfile

HEAD = "id\taudio\ttext\tsrc_lang\tstart_s\tduration_s\n"


def manifest(folder: Path, *rows: tuple[str, ...]) -> Path:
    path = folder / "m.tsv"
    path.write_text(HEAD + "".join("\t".join((*r, *[""] * (6 - len(r)))) + "\n" for r in rows), "utf-8")
    return path


def named(problems: list[str], line: int, *words: str) -> bool:
    return any(p.startswith(f"line {line}:") and all(w in p for w in words) for p in problems)


def test_sound_data_have_no_problems(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tones(tmp_path, 12)
    assert cli.main(["data", "check", str(path), "--model", str(tiny_whisper(tmp_path / "tiny"))]) == 0
    out = capsys.readouterr().out
    assert "tones" in out and "transcribe" in out and "12 examples, no problems" in out
    found = check_data(path)
    (group,) = found.groups.values()
    assert group.examples == 12 and group.seconds == pytest.approx(3 * (0.3 + 0.4 + 0.5 + 0.6), abs=0.01)


def test_every_mistake_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = str(tone(tmp_path / "good.wav", 300, 0.9))
    long = str(tone(tmp_path / "long.wav", 300, 3.0))
    wave = np.zeros(8000, np.float32)
    sf.write(tmp_path / "silent.wav", wave, RATE)
    wave[::1000] = np.inf
    sf.write(tmp_path / "nan.wav", wave, RATE, subtype="FLOAT")
    (tmp_path / "text.wav").write_text("no sound at all")
    (tmp_path / "cut.wav").write_bytes(Path(long).read_bytes()[:40_000])
    path = manifest(
        tmp_path,
        ("a", good, "some words", "en"),
        ("b", "none.wav", "x", "en"),
        ("c", "text.wav", "x", "en"),
        ("d", "nan.wav", "x", "en"),
        ("e", "silent.wav", "x", "en"),
        ("f", "cut.wav", "x", "en"),
        ("a", good, "other words", "en", "0.2"),
        ("h", good, "words", "en", "0.2", "5"),
        ("i", good, "words", "en", "2"),
        ("j", good, "   ", "en", "0.1"),
        ("k", good, "words", "de", "0.3"),
        ("l", long, "words", "en"),
        ("m", good, "word " * 40, "en", "0.4"),
        ("n", good, "the same stretch", "en"),
    )
    assert cli.main(["data", "check", str(path), "--model", str(tiny_whisper(tmp_path / "tiny"))]) == 1
    out = capsys.readouterr().out
    lines = out.splitlines()
    wanted = {
        3: ("none.wav",), 4: ("text.wav",), 5: ("NaN or infinite",), 6: ("silence",), 7: ("cut",),
        8: ("id of its own", "'a'"), 9: ("expected 5 s from 0.2 s on", "0.90 s"), 10: ("from 2 s on",),
        11: ("empty text",), 12: ("src_lang", "language"), 13: ("at most 1 s",), 14: ("at most 32 tokens",),
        15: ("earlier row",),
    }  # fmt: skip
    for line, words in wanted.items():
        assert named(lines, line, *words), (line, words, out)
    assert not named(lines, 2)
    assert named(lines, 14, "a second")  # faster than anyone speaks
    assert "Traceback" not in out


def test_a_row_at_the_end_of_its_recording_is_named(tmp_path: Path) -> None:
    good = str(tone(tmp_path / "good.wav", 300, 0.9))
    found = check_data(manifest(tmp_path, ("a", good, "words", "en", "0.9", "0.06")))
    assert named(found.problems, 2, "from 0.9 s on", "0.00 s")


def test_texts_of_another_recording_stand_out(tmp_path: Path) -> None:
    rows = [("", str(tone(tmp_path / f"{i}.wav", 300, 2.0)), "a sentence of thirty letters..", "en") for i in range(10)]
    rows.append(("", str(tone(tmp_path / "x.wav", 300, 2.0)), "no", "en"))
    rows.append(("", str(tone(tmp_path / "y.wav", 300, 0.5)), "a sentence of thirty letters..", "en"))
    found = check_data(manifest(tmp_path, *rows))
    assert len(found.problems) == 2
    assert named(found.problems, 12, "2 characters for 2.0 s", "15.0 are usual")
    assert named(found.problems, 13, "60.0 a second")
    few = check_data(manifest(tmp_path, *rows[-3:-1]))
    assert few.problems == []


def test_all_problems_are_counted_and_some_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = manifest(tmp_path, *[(str(i), f"{i}.wav", "x", "en") for i in range(9)])
    report(check_data(path), show=4)
    out = capsys.readouterr().out
    assert sum("line" in line for line in out.splitlines()) == 4
    assert "... and 5 more" in out and "9 problems" in out


def test_faults_of_clips_are_named(tmp_path: Path) -> None:
    pytest.importorskip("av")
    from toys.data import speech, write_video

    sf.write(tmp_path / "a.wav", speech("one two", 0), RATE)
    write_video(tmp_path / "cut.mkv", np.full((5, 16, 16, 3), 90, np.uint8))
    write_video(tmp_path / "black.mkv", np.zeros((20, 16, 16, 3), np.uint8))
    features = np.ones((20, 8), np.float32)
    np.save(tmp_path / "good.npy", features)
    features[7, 3] = np.nan
    np.save(tmp_path / "nan.npy", features)
    head = "id\tvideo\taudio\ttarget_features\ttext\tsrc_lang\n"
    rows = ["1\tcut.mkv\ta.wav\tgood.npy\tone\ten", "2\tblack.mkv\ta.wav\tgood.npy\ttwo\ten"]
    (tmp_path / "m.tsv").write_text(head + "\n".join([*rows, "3\t\ta.wav\tnan.npy\tthree\ten"]) + "\n")
    problems = check_data(tmp_path / "m.tsv").problems
    assert named(problems, 2, "of one length", "video of 0.20 s", "audio of 0.80 s"), problems
    assert named(problems, 3, "black.mkv", "black pictures"), problems
    assert named(problems, 4, "nan.npy"), problems


def test_text_is_checked_too(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"source": "a", "target": "b", "src_lang": "en", "tgt_lang": "es"}\n{"source": "a"}\n')
    found = check_data(path)
    assert list(found.groups) == [("en > es", "translate", "")]
    assert len(found.problems) == 1 and named(found.problems, 2, "target")


def test_what_is_no_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "check", str(tmp_path / "none.tsv")]) == 2
    assert "expected a manifest" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert check_data(tmp_path / "empty").problems == ["line 1: expected examples, got none"]
    with pytest.raises(InputError, match="ends in"):
        check_data(tmp_path / "m.xlsx")
