"""No output replaces another recording's: in one run, in a later one, whatever the names."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmx.cli import app as cli
from mmx.cli import recordings as batch
from mmx.cli.options import OutputOptions
from mmx.cli.spoken import SpeechOut
from mmx.errors import InputError
from mmx.files import cannot_write, file_name, readable
from mmx.tasks import outputs
from mmx.tasks.options import DubOptions, Options, SpeakOptions
from mmx.tasks.result import Segment, SpokenSegment, Transcript
from mmx.weights.options import LoadOptions

Run = Callable[..., str]


def transcript(source: str) -> Transcript:
    """What "hears" its recording: the text is what the file holds."""
    text = "piped" if source == "-" else Path(source).read_text("utf-8")
    said = SpokenSegment(0.0, np.zeros(1600, np.float32))
    return Transcript(
        Path(source).name, (Segment(0.0, 1.0, text, "en"),), "en", 1.0, 1.0, "transcribe", "m", (), (said,)
    )


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """`mmx transcribe ... --output-dir out` without a model; returns what was said."""

    def transcripts(job: Any, todo: Any, report: Any) -> Iterator[tuple[outputs.Input, Transcript]]:
        yield from ((item, transcript(item.source)) for item in todo)

    monkeypatch.setattr(batch, "_transcripts", transcripts)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    def call(*args: object, out: Path = tmp_path / "out", code: int = 0) -> str:
        assert cli.main(["transcribe", *map(str, args), "--output-dir", str(out)]) == code
        return capsys.readouterr().err

    return call


def record(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


def at(path: Path, time_ns: int) -> None:
    """Give a file a time."""
    os.utime(path, ns=(time_ns, time_ns))


def there(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): p.read_text("utf-8").strip() for p in folder.rglob("*") if p.is_file()}


def test_namesakes_of_later_runs_keep_their_names(run: Run, tmp_path: Path):
    wav, mp3, out = record(tmp_path / "a.wav", "one"), record(tmp_path / "a.mp3", "two"), tmp_path / "out"
    run(wav)
    assert "'a' is there already" in run(mp3) and there(out) == {"a.txt": "one", "a.mp3.txt": "two"}
    record(wav, "one again"), record(mp3, "two again")
    for order in ((wav, mp3), (mp3,), (wav,), (mp3, wav)):
        assert "there already" not in run(*order), "it has its own name now"
    assert there(out) == {"a.txt": "one again", "a.mp3.txt": "two again"}


def test_recordings_of_the_same_name_in_other_folders(run: Run, tmp_path: Path):
    """As a recorder makes them: audio.m4a in a folder for each meeting."""
    paths = [record(tmp_path / f"meeting{i}" / "audio.m4a", f"text {i}") for i in range(4)]
    for path in paths:
        run(path)
    first = there(tmp_path / "out")
    assert sorted(first.values()) == [f"text {i}" for i in range(4)] and first["audio.txt"] == "text 0"
    run(*reversed(paths))
    run(paths[2])
    assert there(tmp_path / "out") == first


def test_one_run_and_several_give_the_same_number_of_texts(run: Run, tmp_path: Path):
    paths = [record(tmp_path / "in" / n, n) for n in ("a.wav", "a.mp3", "b/a.wav", "a.txt.wav", "A.flac")]
    for path in paths:
        run(path)
    run(tmp_path / "in")
    assert sorted(there(tmp_path / "out").values()) == sorted(
        p.name if p.parent.name == "in" else "b/a.wav" for p in paths
    )


def test_what_is_not_known_is_not_replaced(run: Run, tmp_path: Path):
    wav, out = record(tmp_path / "a.wav", "new"), tmp_path / "out"
    record(out / "a.txt", "somebody's own")
    said = run(wav)
    assert "of another recording or of an unknown one" in said
    run(wav)
    assert there(out) == {"a.txt": "somebody's own", "a.wav.txt": "new"}
    record(out / "a.srt", "downloaded")
    run(wav, "--output-format", "srt")
    assert there(out)["a.srt"] == "downloaded", "the name is the recording's only where it was written"


def test_a_record_that_is_lost_replaces_nothing_and_piles_nothing_up(run: Run, tmp_path: Path, monkeypatch: Any):
    wav, out = record(tmp_path / "a.wav", "one"), tmp_path / "out"
    for n in range(4):
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / f"state{n}"))
        run(wav)
    assert len(there(out)) == 3
    record(tmp_path / "blocked", "")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "blocked"))
    run(wav)
    assert len(there(out)) == 3


def test_skip_existing_knows_the_recording(run: Run, tmp_path: Path):
    a, b = record(tmp_path / "x" / "a.wav", "one"), record(tmp_path / "y" / "a.wav", "two")
    run(a)
    assert "1 of 1 are done already" in run(a, "--skip-existing")
    assert "done already" not in run(b, "--skip-existing"), "the name is there, the recording's text is not"
    assert "2 of 2 are done already" in run(a, b, "--skip-existing")
    assert "2 of 2 are done already" in run(tmp_path / "x", tmp_path / "y", "--skip-existing")
    record(a, "one, recorded again")
    assert "1 of 2 are done already" in run(a, b, "--skip-existing")
    assert sorted(there(tmp_path / "out").values()) == ["one, recorded again", "two"]
    assert "done already" not in run(a, "--skip-existing", "--output-format", "txt,srt")


def test_a_namesake_that_comes_in_does_not_do_the_first_again(run: Run, tmp_path: Path):
    record(tmp_path / "in" / "a.wav", "one")
    run(tmp_path / "in")
    record(tmp_path / "in" / "a.mp3", "two")
    assert "1 of 2 are done already" in run(tmp_path / "in", "--skip-existing")
    assert there(tmp_path / "out") == {"a.txt": "one", "a.mp3.txt": "two"}


def test_skip_existing_takes_outputs_of_before_by_name_and_time(run: Run, tmp_path: Path):
    wav, old = record(tmp_path / "a.wav", "one"), record(tmp_path / "out" / "a.txt", "kept")
    at(old, wav.stat().st_mtime_ns + 1)
    assert "1 of 1 are done already" in run(wav, "--skip-existing")
    at(old, wav.stat().st_mtime_ns - 1)
    run(wav, "--skip-existing")
    assert there(tmp_path / "out") == {"a.txt": "kept", "a.wav.txt": "one"}


def test_a_recording_that_was_moved_keeps_its_output(run: Run, tmp_path: Path):
    a = record(tmp_path / "x" / "a.wav", "one")
    run(a)
    a.rename(record(tmp_path / "y" / "a.wav", ""))
    assert "1 of 1 are done already" in run(tmp_path / "y" / "a.wav", "--skip-existing")
    copy = record(tmp_path / "z" / "a.wav", "two")  # the same name, size and time, and both are there: two recordings
    at(copy, (tmp_path / "y" / "a.wav").stat().st_mtime_ns)
    run(tmp_path / "y" / "a.wav")
    run(copy)
    assert sorted(there(tmp_path / "out").values()) == ["one", "two"]


def test_standard_input_may_be_anything(run: Run, tmp_path: Path):
    for _ in range(3):
        run("-")
    assert sorted(there(tmp_path / "out")) == ["stdin-2.txt", "stdin-3.txt", "stdin.txt"]


def job(files: tuple[str, ...], speech: Path, output_dir: Path | None = None) -> batch.Job:
    output = OutputOptions(output_dir=output_dir)
    spoken = SpeechOut(path=speech, speaking=SpeakOptions(), dub=DubOptions(), load=LoadOptions())
    return batch.Job(files=files, load=LoadOptions(), options=Options(), output=output, speech=spoken)


def test_speech_does_not_replace_the_recordings(run: Run, tmp_path: Path):
    for name in "ab":
        record(tmp_path / "in" / f"{name}.wav", name)
    before = there(tmp_path / "in")
    assert batch.run(job((str(tmp_path / "in"),), tmp_path / "in", tmp_path / "out")) == 0
    assert {n: t for n, t in ((p.name, p.read_bytes()[:4]) for p in (tmp_path / "in").iterdir()) if t == b"RIFF"}
    for name, text in before.items():
        assert (tmp_path / "in" / name).read_text("utf-8") == text
    with pytest.raises(InputError, match="another file for the speech than the recording"):
        batch.run(job((str(tmp_path / "in" / "a.wav"),), tmp_path / "in" / "a.wav"))


# ------------------------------------------------------------------------------------------------ bytes of names


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names are text there")
def test_names_that_are_no_utf8_stay_apart(run: Run, tmp_path: Path):
    folder = tmp_path / "in"
    folder.mkdir()
    raw = [b"caf\xe9.wav", b"caf\xe8.wav", "café.wav".encode(), b"caf%E9.wav", "cafe\u0301.wav".encode(), b"\xff.wav"]
    for n, name in enumerate(raw):
        (folder / os.fsdecode(name)).write_text(str(n), "utf-8")
    run(folder, "--output-format", "txt,json")
    found = there(tmp_path / "out")
    assert sorted(t for n, t in found.items() if n.endswith(".txt")) == [str(n) for n in range(6)]
    assert all(n.encode("utf-8") for n in found), "names that any file system takes"
    sources = [json.loads(t)["source"] for n, t in found.items() if n.endswith(".json")]
    assert "caf%E8.wav" in sources and "café.wav" in sources
    assert "6 of 6 are done already" in run(folder, "--output-format", "txt,json", "--skip-existing")


def test_names_of_files():
    assert readable("café.wav") == file_name("café.wav") == "café.wav"
    assert readable(os.fsdecode(b"caf\xe9-\xc3\xa9")) == "caf%E9-é"
    assert file_name("\ud800x").encode("utf-8") and readable("\ud83d\ude00") == "😀"


def test_a_long_name_has_room_for_the_ending(run: Run, tmp_path: Path):
    for letters in ("x" * 250, "é" * 125):
        record(tmp_path / "in" / f"{letters}.wav", letters[:3])
    run(tmp_path / "in", "--output-format", "json,txt")
    assert sorted(t for n, t in there(tmp_path / "out").items() if n.endswith("txt")) == ["xxx", "ééé"]


@pytest.mark.long
@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="the encoding of names is UTF-8 there")
def test_letters_that_the_systems_encoding_lacks(tmp_path: Path):
    """LC_ALL=C with UTF-8 mode off: the text is written, under the name that the recording's bytes are."""
    record(tmp_path / "in" / "señal.wav", "¿Qué?")
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); import test_outputs as t;"
        "from mmx.cli import app as cli, recordings as batch;"
        "batch._transcripts = lambda job, todo, report: ((i, t.transcript(i.source)) for i in todo);"
        "raise SystemExit(cli.main(sys.argv[1:]))"
    )
    env = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "XDG_STATE_HOME": str(tmp_path)}
    for args in (["--output-dir", str(tmp_path / "out"), "--output-format", "all"], [], [str(tmp_path / "in")]):
        command = [sys.executable, "-c", code, str(Path(__file__).parent), "transcribe", str(tmp_path / "in"), *args]
        ran = subprocess.run(command, capture_output=True, env=env, timeout=120, check=False)
        assert ran.returncode == 0, ran.stderr
        assert "--output-dir" in args or "¿Qué?" in ran.stdout.decode("utf-8")
    assert set(there(tmp_path / "out")) == {f"señal.{e}" for e in ("txt", "srt", "vtt", "tsv", "json")}
    assert json.loads(there(tmp_path / "out")["señal.json"])["source"] == "señal.wav"
    error = UnicodeEncodeError("ascii", "señal", 2, 3, "ordinal not in range(128)")
    assert "PYTHONUTF8=1" in str(cannot_write("señal", error)) and "disk" not in str(cannot_write("señal", error))
