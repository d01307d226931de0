"""Three families that no file outside tests/ knows go through what every family goes through.

Letters: B rows, T frames, D width.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contract import MakeInput, verify_contract
from test_train import assert_same, everything
from toys import data
from toys.folders import new_toy, write_toy

import mmx
from mmx.cli import app as cli
from mmx.evaluate.offline import Scoring, evaluate, read_rows
from mmx.make.export import convert_model
from mmx.model import tensors
from mmx.seq import Seq, pad
from mmx.train.augment import FrameSpeeds, TimeMasks
from mmx.train.data import Data
from mmx.train.data_check import check_data
from mmx.train.loop import _Run, train
from mmx.train.manifest import read_manifest
from mmx.train.options import TrainOptions

pytest.importorskip("soundfile")


def frames(*shape: int, rate: float = 25.0) -> MakeInput:
    """Makes rows of random frames of a shape."""

    def make(lengths: Sequence[int], seed: int) -> Seq:
        x = torch.randn(len(lengths), max(lengths), *shape, generator=torch.Generator().manual_seed(seed))
        return Seq(x, torch.tensor(lengths), rate)

    return make


# -------------------- their parts


def test_the_blocks_of_the_toys_keep_the_contract() -> None:
    signs, lips = new_toy("pose_to_text"), new_toy("lips_with_speech")
    verify_contract(signs.front["pose"], frames(4, 2))
    verify_contract(signs.encoders["pose"], frames(8))
    verify_contract(lips.front["lips"], frames(16, 16, 3))
    verify_contract(lips.encoders["lips"], frames(16, 16))
    verify_contract(lips.front["speech"], frames(rate=16_000.0), lengths=[1000, 640, 321])
    verify_contract(lips.encoders["speech"], frames(8, rate=50.0))


@pytest.mark.parametrize("present", [["lips"], ["speech"], ["lips", "speech"]])
@torch.no_grad()
def test_what_is_fused_of_a_stream_is_what_is_fused_of_the_whole(present: list[str]) -> None:
    fuse = new_toy("lips_with_speech").fuse
    assert fuse is not None
    made = {"lips": frames(32)([11], 0), "speech": frames(32, rate=50.0)([23], 1)}
    whole, state = fuse({name: made[name] for name in present}), fuse.init_state(1)  # type: ignore[operator]
    at, pieces = dict.fromkeys(present, 0), []
    plan = [{"lips": 3, "speech": 4}, {"lips": 0, "speech": 5}, {"lips": 4, "speech": 0}, {"lips": 4, "speech": 14}]
    for i, step in enumerate(plan):
        given = {}
        for name in present:
            x = made[name].x[:, at[name] : at[name] + step[name]]
            given[name] = Seq(x, torch.tensor([x.shape[1]]), made[name].rate, final=i == 3)
            at[name] += step[name]
        pieces.append(fuse(given, state).x)
    torch.testing.assert_close(torch.cat(pieces, 1), whole.x)


# -------------------- what they learn from


def test_files_hold_what_was_made(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    data.speakers(tmp_path, 2)
    with av.open(str(tmp_path / "train" / "1.mkv")) as container:
        pictures = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
    assert np.array_equal(pictures, data.lips(data.texts(2)[1], data.seed_of("train", 1)))


@torch.no_grad()
def test_features_of_a_voice_say_its_letters_and_sound_the_same() -> None:
    synth = new_toy("text_to_mel").synth
    assert synth is not None
    features = synth.features(pad([torch.from_numpy(data.voice("one"))], 16_000.0))  # type: ignore[operator]
    assert features.x.shape == (1, 20, 8) and features.rate == 50.0
    assert features.x[0, 4:16:4].argmax(-1).tolist() == [ord(letter) % 8 for letter in "one"]
    again = synth.features(synth.sound(features))  # type: ignore[operator]
    torch.testing.assert_close(again.x, features.x, atol=2e-2, rtol=0)


# -------------------- through the verbs


KINDS: dict[str, Any] = {
    "pose_to_text": (data.signs, {}, "token"),
    "lips_with_speech": (data.speakers, {"dropout": 0.0}, "token"),
    "text_to_mel": (data.voices, {}, "toys.text_to_mel.Objective"),
}


@pytest.fixture(scope="module", params=KINDS)
def toy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A toy's name, and a folder with data of its kind."""
    if request.param == "lips_with_speech":
        pytest.importorskip("av")
    folder = tmp_path_factory.mktemp(request.param)
    make = KINDS[request.param][0]
    make(folder, 40)
    make(folder, 10, "valid")
    return request.param, folder


def recipe(name: str, folder: Path, out: Path, **changes: Any) -> TrainOptions:
    """Of a new model of a toy's family."""
    _, own, objective = KINDS[name]
    fixed: dict[str, Any] = {
        "train": str(folder / "train.tsv"), "valid": str(folder / "valid.tsv"), "out": str(out), "threads": 1,
        "family": f"toys.{name}", "tokenizer": "bytes", "objective": objective, "updates": 8, "batch_tokens": 300,
        "accumulate": 2, "lr": 3e-3, "warmup": 2, "log_every": 1, "valid_every": 3, "save_every": 2, "keep_best": 2,
    }  # fmt: skip
    return TrainOptions(**{**fixed, **own, **changes})


def test_data_are_checked_and_every_fault_is_named(toy: tuple[str, Path], tmp_path: Path) -> None:
    name, folder = toy
    model = write_toy(name, tmp_path / "model")
    assert check_data(folder / "train.tsv").problems == []
    assert check_data(folder / "train.tsv", model).problems == []
    header, *rows = (folder / "valid.tsv").read_text().splitlines()
    first = next(cell for cell in rows[0].split("\t") if "/" in cell)
    (tmp_path / "valid").symlink_to(folder / "valid")
    (tmp_path / "damaged.npy").write_bytes(b"nothing of the kind")
    (tmp_path / "empty.npy").write_bytes(b"")
    for other in ("gone.npy", "damaged.npy", "empty.npy"):
        (tmp_path / "m.tsv").write_text("\n".join([header, rows[0].replace(first, other), *rows[1:]]) + "\n")
        (problem,) = check_data(tmp_path / "m.tsv", model).problems
        assert problem.startswith("line 2: ") and other in problem, problem


def test_it_is_trained_resumed_averaged_written_loaded_and_converted(
    toy: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, folder = toy
    train(recipe(name, folder, tmp_path / "a"))
    real = _Run._update

    def killed(self: _Run, *args: Any) -> None:
        if self.at.update == 5:  # the last checkpoint is of update 4
            raise MemoryError("killed")
        real(self, *args)

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(_Run, "_update", killed)
        train(recipe(name, folder, tmp_path / "b"))
    made = train(recipe(name, folder, tmp_path / "b"))
    assert_same(everything(tmp_path / "a"), everything(tmp_path / "b"))
    lines = [json.loads(line) for line in (tmp_path / "b" / "metrics.jsonl").read_text().splitlines()]
    told = [line["valid_loss"] for line in lines if "valid_loss" in line]
    assert set(lines[-1]["final"]) == {"average", "best"} and min(told) < told[0] * 1.01
    loaded = mmx.load(made, device="cpu", dtype="float32")
    again = mmx.load(convert_model(made, tmp_path / "c"), device="cpu", dtype="float32")
    for key, value in tensors(loaded).items():
        assert torch.equal(value, tensors(again)[key]), key
    assert any("running_mean" in key for key in tensors(loaded))
    assert train(recipe(name, folder, tmp_path / "d", init=str(made), updates=1, family="nllb", tokenizer="pieces"))


def test_signs_are_learned_and_what_is_written_is_scored(tmp_path: Path) -> None:
    data.signs(tmp_path, 60)
    data.signs(tmp_path, 10, "valid")
    more = {"updates": 150, "valid_every": 50, "save_every": 150, "lr": 5e-3, "warmup": 15, "dropout": 0.0}
    made = train(recipe("pose_to_text", tmp_path, tmp_path / "run", batch_tokens=700, accumulate=1, **more))
    scoring = Scoring(metrics=("cer",), normalize="basic", bootstrap=0)
    rows = read_rows(tmp_path / "valid.tsv")
    lines = evaluate(tmp_path / "valid.tsv", [str(made)], scoring=scoring, beam_size=1, dtype="float32")
    assert len(rows) == 10 and lines[0].measurement.value < 20


def test_what_writes_is_evaluated_and_what_speaks_is_told(
    toy: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, folder = toy
    model, out = write_toy(name, tmp_path / "model"), tmp_path / "scores.json"
    asked = ["evaluate", str(folder / "valid.tsv"), "--model", str(model), "--output", str(out), "--beam-size", "1"]
    code = cli.main([*asked, "--dtype", "float32", "--normalize", "basic"])
    if name == "text_to_mel":
        assert code == 2 and "expected a model that writes text" in capsys.readouterr().err and not out.exists()
        return
    assert code == 0
    assert len(json.loads(out.read_text())["rows"]) == 10


def test_one_clock_for_both_media_in_a_part_of_a_recording(tmp_path: Path) -> None:
    pytest.importorskip("av")
    data.speakers(tmp_path, 2)
    header, row = (tmp_path / "train.tsv").read_text().splitlines()[::2]  # two words
    (tmp_path / "part.tsv").write_text(f"{header}\tstart_s\tduration_s\n{row}\t0.4\t0.2\n")
    model = new_toy("lips_with_speech")
    (example,) = read_manifest(tmp_path / "part.tsv")
    batch = Data([example], model, max_tokens=60).batch([0])
    text, seed = data.texts(2)[1], data.seed_of("train", 1)
    assert torch.equal(batch.inputs["lips"].x[0], torch.from_numpy(data.lips(text, seed)[10:15]))
    sound = batch.inputs["speech"].x[0]
    torch.testing.assert_close(sound, torch.from_numpy(data.speech(text, seed)[6400:9600]), atol=1e-3, rtol=0)


def test_frames_are_masked_and_played_as_fast_as_their_sound() -> None:
    frames = torch.arange(100.0)[:, None]
    masked = TimeMasks(0.4, 25.0)(frames, "key")
    hidden = (masked != frames).sum()
    assert 0 < hidden <= 4 * 10 and bool((masked[masked != frames] == frames.mean()).all())
    assert torch.equal(masked, TimeMasks(0.4, 25.0)(frames, "key"))
    speeds = FrameSpeeds([50, 200])
    lengths = {len(speeds(frames, str(i))) for i in range(20)}
    assert lengths == {200, 50}
    assert speeds(frames, "0")[:, 0].tolist() == sorted(speeds(frames, "0")[:, 0].tolist())
