"""Several processes train what one would: the same losses, update by update, and the same weights, on any change of
their number. On two CPU processes with gloo; what differs on GPUs is the backend."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from test_train import as_toml, options, sentences, write_manifest

from mmx.errors import InputError
from mmx.train.checkpoints import latest_checkpoint
from mmx.train.distributed import World
from mmx.train.loop import TrainOptions, train
from mmx.train.sampling import Sampler

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
UPDATES = 12


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distributed")
    write_manifest(folder / "train.tsv", sentences(150, 1))
    write_manifest(folder / "valid.tsv", sentences(30, 2))
    return folder


def recipe(data: Path, out: Path, **changes: Any) -> TrainOptions:
    fixed: dict[str, Any] = {
        "updates": UPDATES,
        "batch_tokens": 500,
        "accumulate": 4,
        "dropout": 0.1,
        "valid_every": 5,
        "save_every": 5,
    }
    return options(data, out, **{**fixed, **changes})


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same training by one process; its last update of an epoch has a number of batches that two cannot share."""
    out = tmp_path_factory.mktemp("alone") / "run"
    plans: list[int] = []
    real = Sampler.epoch

    def counted(self: Sampler, number: int) -> list[list[int]]:
        plan = real(self, number)
        plans.append(len(plan))
        return plan

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sampler, "epoch", counted)
        train(recipe(data, out))
    assert plans[0] % 4 % 2 == 1 and plans[0] < 4 * UPDATES, plans
    return out


class Launched(NamedTuple):
    """What two processes trained, one recipe after the other.

    Attributes:
        folder: has a folder of each recipe's name.
        done: how they ended.
    """

    folder: Path
    done: subprocess.CompletedProcess[str]


OBJECTIVES = ("voice", "distillation")


def objective(name: str, folder: Path, alone: Path, data: Path, out: Path) -> TrainOptions:
    """The recipe of another objective than the token loss."""
    if name == "distillation":
        teacher = {"teacher": str(alone / "model")}
        return recipe(data, out, objective=name, objective_config=teacher, updates=4)
    fixed: dict[str, Any] = {"family": "toys.text_to_mel", "objective": "toys.text_to_mel.Objective", "config": {}}
    fixed |= {"tokenizer": "bytes", "vocab": 8000, "dropout": 0.0, "batch_tokens": 130, "accumulate": 2, "updates": 4}
    fixed |= {"lowercase": 0.0, "unpunctuated": 0.0, "train": str(folder / "train.tsv")}
    return recipe(folder, out, **fixed)


@pytest.fixture(scope="module")
def voices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("soundfile")
    from toys import data as toys

    folder = tmp_path_factory.mktemp("voices")
    toys.voices(folder, 20)
    toys.voices(folder, 4, "valid")
    return folder


@pytest.fixture(scope="module")
def launched(data: Path, alone: Path, voices: Path, tmp_path_factory: pytest.TempPathFactory) -> Launched:
    """Each starting of torchrun imports torch three times: here it is started once. The last recipe has no data."""
    out = tmp_path_factory.mktemp("launched")
    train(recipe(data, out / "resumed", updates=5))
    recipes = {"begun": recipe(data, out / "begun", updates=UPDATES - 2), "resumed": recipe(data, out / "resumed")}
    recipes |= {name: objective(name, voices, alone, data, out / name) for name in OBJECTIVES}
    recipes["gone"] = recipe(data, out / "gone", train=str(out / "gone.tsv"))
    return Launched(out, launch(recipes, out))


def launch(recipes: Mapping[str, TrainOptions], folder: Path) -> subprocess.CompletedProcess[str]:
    """Train by two processes, as torchrun starts them, on a port that is free."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(Path(__file__).parent / "train_each.py")]
    command += [str(as_toml(o, folder / f"{name}.toml")) for name, o in recipes.items()]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def by_update(out: Path) -> dict[int, dict[str, float]]:
    """Figures of all updates; each is written once."""
    found: dict[int, dict[str, float]] = {}
    for line in (out / "metrics.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        for name in row.keys() & {"loss", "norm", "valid_loss", "tokens", "lr", "epoch"}:
            assert name not in found.setdefault(row["update"], {}), f"{name} twice in update {row['update']}"
            found[row["update"]][name] = row[name]
    return found


def assert_same_training(got: Path, expected: Path) -> None:
    mine, theirs = by_update(got), by_update(expected)
    assert mine.keys() == theirs.keys() == set(range(1, UPDATES + 1))
    for update in theirs:
        assert mine[update] == pytest.approx(theirs[update], rel=1e-5), update
    a, b = latest_checkpoint(got / "checkpoints"), latest_checkpoint(expected / "checkpoints")
    assert a and b and a[0].keys() == b[0].keys()
    record = {k: a[1][k] for k in ("update", "epoch", "batch", "tokens")}
    assert record == {k: b[1][k] for k in record}
    for name in b[0]:
        # A key's bias is nothing to the softmax: its gradient is rounding, which Adam makes as large as the others.
        if name.startswith("random.") or "key.bias" in name:
            continue
        torch.testing.assert_close(a[0][name], b[0][name], rtol=1e-4, atol=2e-6, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.long
def test_two_processes_equal_one_which_goes_on_from_them(data: Path, alone: Path, launched: Launched) -> None:
    out = launched.folder / "begun"
    assert launched.done.stdout.splitlines()[0] == str(out / "model"), launched.done.stderr[-3000:]
    assert "update 10/10" in launched.done.stderr
    assert len(by_update(out)) == UPDATES - 2
    train(recipe(data, out))
    assert_same_training(out, alone)


@pytest.mark.long
def test_two_processes_go_on_from_one(alone: Path, launched: Launched) -> None:
    assert_same_training(launched.folder / "resumed", alone)


@pytest.mark.long
@pytest.mark.parametrize("name", OBJECTIVES)
def test_two_processes_train_for_any_objective_as_one(
    name: str, data: Path, alone: Path, voices: Path, launched: Launched, tmp_path: Path
) -> None:
    """Several losses, each with a count of its own; that of the voice is of a family that only tests know."""
    train(objective(name, voices, alone, data, tmp_path / "one"))
    one, two = by_update(tmp_path / "one"), by_update(launched.folder / name)
    assert one.keys() == two.keys() == {1, 2, 3, 4}
    for update in one:
        if name == "voice":  # by running statistics, which each process has of its own batches
            one[update].pop("valid_loss", None)
            two[update].pop("valid_loss", None)
        assert two[update] == pytest.approx(one[update], rel=1e-4), update


@pytest.mark.long
def test_an_error_is_said_by_one_process(launched: Launched) -> None:
    assert launched.done.returncode != 0 and len(launched.done.stdout.splitlines()) == 2 + len(OBJECTIVES)
    assert launched.done.stderr.count("mmx: expected a manifest") == 1, launched.done.stderr[-3000:]


@pytest.mark.long
def test_two_processes_train_cif_as_one(tmp_path: Path) -> None:
    """The quantity loss has one weight whatever the number of processes, and a batch that waits teaches nothing."""
    pytest.importorskip("soundfile")
    from tiny_speech import tiny_whisper, tones

    import mmx

    tiny_whisper(tmp_path / "tiny")
    mmx.compose(tmp_path / "tiny", tmp_path / "tiny", adapter="cif", out=tmp_path / "cif")
    tones(tmp_path, 20)
    tones(tmp_path, 6, "valid")
    fixed: dict[str, Any] = {"init": str(tmp_path / "cif"), "config": {}, "vocab": 8000, "max_tokens": 32}
    fixed |= {"lowercase": 0.0, "unpunctuated": 0.0, "batch_tokens": 240}
    fixed |= {"freeze": ("encoders.*", "decoder.*"), "temperature": 1.0}
    train(recipe(tmp_path, tmp_path / "one", **fixed))
    done = launch({"two": recipe(tmp_path, tmp_path / "two", **fixed)}, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert_same_training(tmp_path / "two", tmp_path / "one")


def test_batches_that_cannot_be_shared_are_refused() -> None:
    world = World(torch.device("cpu"), rank=0, size=2)
    world.check(4)
    with pytest.raises(InputError, match=r"multiple of the 2 processes.*got 3: take accumulate=4"):
        world.check(3)
    World(torch.device("cpu")).check(3)


@pytest.mark.parametrize("items", [0, 1, 4, 5, 7])
def test_every_item_is_dealt_out_once_and_all_take_as_many_turns(items: int) -> None:
    worlds = [World(torch.device("cpu"), rank, 3) for rank in range(3)]
    dealt: dict[int, int] = {}
    turns = set()
    for world in worlds:
        mine, waits = world.share(range(items))
        turns.add(len(mine) + waits)
        dealt |= {world.place(turn): item for turn, item in enumerate(mine)}
    assert dealt == {i: i for i in range(items)} and len(turns) == 1
