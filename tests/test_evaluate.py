"""`mmx evaluate`: a model over a test set, by text and by speech, stopped and gone on with, and texts alone."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from test_train import options, sentences, write_manifest

from mmx.cli import app as cli
from mmx.errors import InputError, OutputError
from mmx.evaluate import offline as evaluate
from mmx.evaluate.metrics import measure
from mmx.evaluate.offline import COPY, MEAN, Line, metrics_of, read_rows, report
from mmx.evaluate.options import Scoring
from mmx.train.loop import train

ROOT = Path(__file__).parents[1]
TALK = ROOT / "demos" / "dashwood.flac"
PLAIN = Scoring(
    metrics=(
        "wer",
        "cer",
    ),
    normalize="basic",
    bootstrap=50,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tiny models that translate badly, each in its own way, and a test set."""
    folder = tmp_path_factory.mktemp("evaluate")
    write_manifest(folder / "train.tsv", sentences(200, 1))
    write_manifest(folder / "valid.tsv", sentences(20, 2))
    write_manifest(folder / "test.tsv", sentences(60, 3))
    for name, updates in (("one", 6), ("other", 30)):
        train(options(folder, folder / name, updates=updates, valid_every=30, save_every=30, lr=5e-3))
    return folder


def run(folder: Path, *models: str, **changes: Any) -> list[Line]:
    how = {"scoring": PLAIN, "beam_size": 1, "batch_size": 4, "dtype": "float32", "device": "cpu"}
    return evaluate.evaluate(folder / "test.tsv", [str(folder / m / "model") for m in models], **{**how, **changes})


def figures(lines: list[Line]) -> dict[tuple[str, str, str], float]:
    return {(Path(x.system).parent.name, x.languages, x.measurement.metric): x.measurement.value for x in lines}


# -------------------- models over test sets


def test_two_models_are_scored_compared_and_kept(folder: Path, tmp_path: Path) -> None:
    lines = run(folder, "one", "other", output=tmp_path / "out.json")
    record = json.loads((tmp_path / "out.json").read_text("utf-8"))
    assert [r["source"] for r in record["rows"]] == [e.source for e in sentences(60, 3)]
    references = [r["reference"] for r in record["rows"]]
    assert references == [e.target for e in sentences(60, 3)]
    found = {(x.system, x.measurement.metric): x for x in lines}
    one, other = (str(folder / m / "model") for m in ("one", "other"))
    for system in (one, other):
        texts = [r["hypotheses"][system] for r in record["rows"]]
        assert found[system, "wer"].measurement.value == measure(
            "wer", texts, references, normalize="basic", bootstrap=0).value  # fmt: skip
    copied = measure("wer", [r["source"] for r in record["rows"]], references, normalize="basic", bootstrap=0)
    assert found[COPY, "wer"].measurement.value == copied.value == 100
    assert found[one, "wer"].p is None and found[COPY, "wer"].p is None
    assert 0 < (found[other, "wer"].p or 0) <= 1
    assert {(s["system"], s["metric"]): s["score"] for s in record["scores"]} == {
        key: x.measurement.value for key, x in found.items()
    }
    assert not (tmp_path / "out.json.part").exists()


def test_a_batch_equals_single_sentences(folder: Path) -> None:
    assert figures(run(folder, "other")) == figures(run(folder, "other", batch_size=1))


@pytest.mark.long
def test_killed_it_goes_on_where_it_was(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, out = tmp_path / "whole.json", tmp_path / "out.json"
    run(folder, "other", output=whole, batch_size=1)
    command = [
        sys.executable,
        "-c",
        _SLOW,
        "evaluate",
        str(folder / "test.tsv"),
        "--model",
        str(folder / "other/model"),
    ]
    command += ["--metrics", "wer,cer", "--normalize", "basic", "--bootstrap", "50", "--beam-size", "1", "--output"]
    command += [str(out), "--batch-size", "1", "--dtype", "float32", "--device", "cpu"]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    part = tmp_path / "out.json.part"
    try:
        while process.poll() is None and not (part.is_file() and part.read_bytes().count(b"\n") > 8):
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not out.exists()
    with part.open("ab") as f:
        f.write('{"model": "half a line, é'.encode()[:-1])  # cut within a character, as a kill may
    decoded: list[int] = []
    real = evaluate._write_text

    def counted(model: Any, rows: Any, *rest: Any) -> list[str]:
        decoded.append(len(rows))
        return real(model, rows, *rest)

    monkeypatch.setattr(evaluate, "_write_text", counted)
    run(folder, "other", output=out, batch_size=1)
    assert 0 < sum(decoded) <= 60 - 8
    assert json.loads(out.read_text("utf-8")) == json.loads(whole.read_text("utf-8"))
    assert not part.exists()
    decoded.clear()
    again = run(folder, "other", output=out, scoring=Scoring(metrics=("cer",), normalize="none", bootstrap=0))
    assert decoded == [] and {x.measurement.metric for x in again} == {"cer"}
    run(folder, "other", "one", output=out)  # another model beside it: only that one is run
    assert sum(decoded) == 60


def test_models_of_earlier_runs_stay_in_the_output(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.json"
    run(folder, "one", output=out)
    before = json.loads(out.read_text("utf-8"))
    run(folder, "other", output=out)
    after = json.loads(out.read_text("utf-8"))
    one, other = (str(folder / m / "model") for m in ("one", "other"))
    assert after["models"].keys() == {one, other} and after["models"][one] == before["models"][one]
    assert [r["hypotheses"][one] for r in after["rows"]] == [r["hypotheses"][one] for r in before["rows"]]
    monkeypatch.setattr(evaluate, "_write_text", None)  # nothing is left to decode
    run(folder, "one", output=out)


_SLOW = """
import sys, time
from mmx.cli import app as cli
from mmx.evaluate import offline as evaluate
real = evaluate._write_text
def slow(*a):
    time.sleep(0.3)
    return real(*a)
evaluate._write_text = slow
sys.exit(cli.main())
"""


def test_hypotheses_of_another_test_are_not_mixed_in(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    run(folder, "one", output=out)
    for changes in ({"beam_size": 2}, {"dtype": "bfloat16"}):
        with pytest.raises(InputError, match="choose another output"):
            run(folder, "one", output=out, **changes)
    out.write_text("something else")
    with pytest.raises(InputError, match="choose another output"):
        run(folder, "one", output=out)
    assert out.read_text() == "something else"


def test_a_full_disk_keeps_what_was_decoded(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, room = tmp_path / "out.json", [2]
    real = Path.open

    def full(self: Path, mode: str = "r", *rest: Any, **options: Any) -> Any:
        if mode == "a":
            room[0] -= 1
            if room[0] < 0:
                raise OSError(28, "No space left on device")
        return real(self, mode, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(OutputError, match=r"No space left.*is kept"):
            run(folder, "one", output=out, batch_size=1)
    assert len((tmp_path / "out.json.part").read_text("utf-8").splitlines()) == 1 + 2 * 8
    run(folder, "one", output=out)
    assert out.is_file()


def test_a_missing_package_is_told_before_decoding(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jiwer", None)
    monkeypatch.setattr(evaluate, "_decoded", lambda *_: pytest.fail("decoded first"))
    with pytest.raises(InputError, match=r"mmx\[eval\]"):
        run(folder, "one")


# -------------------- speech


def test_speech_by_cuts_of_a_recording(tmp_path: Path) -> None:
    header = "audio\tstart_s\tduration_s\ttarget\tsrc_lang\ttgt_lang"
    texts = ["by a former marriage mr henry dashwood had one son", "by his present lady three daughters"]
    (tmp_path / "talk.flac").symlink_to(TALK)
    cuts = [f"talk.flac\t{a}\t{d}\t{t}\ten\ten" for (a, d), t in zip([(0, 7.3), (7.4, 3.2)], texts, strict=True)]
    (tmp_path / "test.tsv").write_text("\n".join([header, *cuts]) + "\n")
    rows = read_rows(tmp_path / "test.tsv")
    assert [(r.pair, r.start_s, r.duration_s) for r in rows] == [("en", 0.0, 7.3), ("en", 7.4, 3.2)]
    seen: list[tuple[str, int, int]] = []
    out = tmp_path / "out.json"
    how: dict[str, Any] = {"beam_size": 1, "output": out, "on_progress": lambda *a: seen.append(a)}
    lines = evaluate.evaluate(tmp_path / "test.tsv", ["whisper-base"], PLAIN, **how)
    assert [x.measurement.metric for x in lines] == ["wer", "cer"] and seen == [("whisper-base", 2, 2)]
    written = [r["hypotheses"]["whisper-base"] for r in json.loads(out.read_text("utf-8"))["rows"]]
    assert all(w.split() for w in written) and written[0] != written[1], written


@pytest.mark.parametrize(
    "row, message",
    [
        ("gone.wav\t0\t1\tx\ten\ten", r"expected the recordings .*gone\.wav"),
        ("talk.flac\tsoon\t1\tx\ten\ten", "line 3: expected start_s"),
        ("talk.flac\t0\t1\tx\tklingon\ten", "line 3: src_lang.*klingon"),
        ("talk.flac\t0\t1\tx\ten", "line 3: expected 6 fields"),
    ],
)
def test_mistakes_in_speech_manifests_are_named_by_line(tmp_path: Path, row: str, message: str) -> None:
    (tmp_path / "talk.flac").symlink_to(TALK)
    good = "talk.flac\t0\t1\tx\ten\ten"
    header = "audio\tstart_s\tduration_s\ttarget\tsrc_lang\ttgt_lang"
    (tmp_path / "m.tsv").write_text("\n".join([header, good, row]) + "\n")
    with pytest.raises(InputError, match=message):
        read_rows(tmp_path / "m.tsv")


def test_a_folder_of_recordings_beside_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tiny_speech import tiny_whisper, tone

    for i, word in enumerate(("low", "high")):
        tone(tmp_path / "set" / f"{i}.wav", 300, 0.4, i)
        (tmp_path / "set" / f"{i}.txt").write_text(word)
    assert [(r.target, r.src_lang) for r in read_rows(tmp_path / "set", "en")] == [("low", "en"), ("high", "en")]
    asked = ["evaluate", str(tmp_path / "set"), "--model", str(tiny_whisper(tmp_path / "tiny")), "--beam-size", "1"]
    asked += ["--normalize", "basic", "--bootstrap", "0", "--device", "cpu", "--output", str(tmp_path / "o.json")]
    assert cli.main([*asked, "--language", "en"]) == 0
    assert len(json.loads((tmp_path / "o.json").read_text("utf-8"))["rows"]) == 2
    capsys.readouterr()
    assert cli.main([*asked[:-2], "--output", str(tmp_path / "p.json")]) == 2
    assert "language" in capsys.readouterr().err


# -------------------- reports


def test_languages_are_scored_apart_and_then_averaged() -> None:
    rows = [evaluate.Row(f"s {i}", "a b", "en", "de", media={"audio": "x.wav"}) for i in range(4)]
    rows += [evaluate.Row(f"s {i}", "天气", "en", "zh", media={"audio": "x.wav"}) for i in range(2)]
    texts = {"good": ["a b"] * 4 + ["天气"] * 2, "half": ["a c"] * 4 + ["天"] * 2}
    lines = report(
        texts,
        rows,
        Scoring(
            metrics=(
                "wer",
                "cer",
            ),
            normalize="basic",
            bootstrap=20,
        ),
    )
    got = {(x.system, x.languages, x.measurement.metric): x.measurement.value for x in lines}
    assert got["half", "en-de", "wer"] == 50 and ("half", "en-zh", "wer") not in got
    assert got["half", "en-de", "cer"] == pytest.approx(100 / 3) and got["half", "en-zh", "cer"] == 50
    assert got["half", MEAN, "cer"] == pytest.approx((100 / 3 + 50) / 2)
    assert [got["good", pair, "cer"] for pair in ("en-de", "en-zh", MEAN)] == [0, 0, 0]
    assert not any(x.system == COPY for x in lines)  # sound cannot be copied


def test_default_metrics_are_those_of_the_task() -> None:
    assert metrics_of(Scoring(), "de", "de") == ("wer", "cer")
    assert metrics_of(Scoring(), "de-en", "en") == ("bleu", "chrf")
    assert metrics_of(Scoring(), "ja", "ja") == ("cer",)


# -------------------- the command


def test_texts_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ref").write_text("the house is big\nthe dog\n")
    (tmp_path / "a").write_text("the house is big\nthe cat\n")
    (tmp_path / "b").write_text("the house is big\nthe dog\n")
    asked = [
        "evaluate",
        "--hypotheses",
        tmp_path / "a",
        "--hypotheses",
        tmp_path / "b",
        "--references",
        tmp_path / "ref",
    ]
    asked += ["--metrics", "wer,cer", "--normalize", "basic", "--bootstrap", "20", "--output", tmp_path / "o.json"]
    assert cli.main([str(a) for a in asked]) == 0
    shown = capsys.readouterr().out
    assert "16.67" in shown and "p = " in shown and "wer: nrefs:1|norm:basic" in shown
    scores = json.loads((tmp_path / "o.json").read_text())["scores"]
    assert [s["score"] for s in scores if s["metric"] == "wer"] == [pytest.approx(100 / 6), 0]


def test_the_command_runs_a_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["evaluate", str(folder / "test.tsv"), "--model", str(folder / "one" / "model"), "--beam-size", "1"]
    assert cli.main([*asked, "--metrics", "wer", "--normalize", "basic", "--bootstrap", "10", "--device", "cpu"]) == 0
    shown = capsys.readouterr()
    assert "en-es" in shown.out and COPY in shown.out and "60 of 60" in shown.err


@pytest.mark.parametrize(
    "asked, message",
    [
        ([], "either a manifest or --hypotheses, got neither"),
        (["x.tsv", "--hypotheses", "y"], "got both"),
        (["x.tsv"], "add --model"),
        (["--hypotheses", "x"], "add --references"),
        (["x.tsv", "--model", "m", "--metrics", "wor"], "Did you mean 'wer'"),
        (["--hypotheses", "gone.txt", "--references", "gone.txt", "--metrics", "wer"], "gone.txt"),
        (["gone.tsv", "--model", "m"], "gone.tsv"),
    ],
)
def test_mistakes_on_the_command_line(asked: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", *asked]) == 2
    assert message in capsys.readouterr().err


def test_files_of_different_lengths_are_refused(tmp_path: Path) -> None:
    (tmp_path / "ref").write_text("a\nb\n")
    (tmp_path / "hyp").write_text("a\n")
    with pytest.raises(InputError, match="expected 2 lines"):
        evaluate.score([tmp_path / "hyp"], tmp_path / "ref", PLAIN)
