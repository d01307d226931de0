"""Training a model whose state is more than its parameters: batch norm's statistics.

Letters: B rows, T tokens, D width.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from test_train import TINY, assert_same, data, everything, options  # noqa: F401
from torch import Tensor, nn

import mmx
from mmx.errors import CheckpointError
from mmx.make import compose as composition
from mmx.model import Model, tensors
from mmx.models import nllb
from mmx.seq import Seq
from mmx.state import State
from mmx.train.checkpoints import average, checkpoints, latest_checkpoint, restore, training_tensors
from mmx.train.distributed import World
from mmx.train.loop import _Run, train
from mmx.train.objectives.token import token_losses
from mmx.train.optim import freeze, train_mode, trained_tensors
from mmx.train.sampling import Sampler
from mmx.train.setup import training_data
from mmx.weights.formats import LazyTensors, open_checkpoint, write_safetensors
from mmx.weights.hub import digest

ALONE = World(torch.device("cpu"))
MEAN, COUNT = "encoders.text.norm.running_mean", "encoders.text.norm.num_batches_tracked"


class Normed(nn.Module):
    """An encoder, and batch norm behind it."""

    stride, lookahead = 1, 0

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder, self.ctx = encoder, encoder.ctx
        self.norm = nn.BatchNorm1d(encoder.ln.normalized_shape[0])  # type: ignore[union-attr,index]

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        """`(B, T)` to `(B, T, D)`."""
        out: Seq = self.encoder(seq)
        x_BTD = torch.zeros_like(out.x)
        x_BTD[out.mask] = self.norm(out.x[out.mask])
        return out._replace(x=x_BTD)


def build(config: nllb.Config) -> Model:
    model = nllb.build(config)
    return Model(front={}, encoders={"text": Normed(model.encoders["text"])}, decoder=model.decoder)


@pytest.fixture(autouse=True)
def family(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """NLLB's family with batch norm, for the time of a test."""
    module = ModuleType("mmx.models.normed")
    vars(module).update(Config=nllb.Config, build=build, KEYS={}, tokenizer=nllb.tokenizer)
    monkeypatch.setitem(sys.modules, "mmx.models.normed", module)
    yield module


def normed(data: Path, out: Path, **changes: Any) -> Any:  # noqa: F811
    return replace(options(data, out, family="normed"), **changes)


def statistics(tensors: LazyTensors | dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: tensors[k] for k in tensors if ".running_" in k or "num_batches" in k}


# -------------------- a whole training


def test_killed_and_resumed_it_has_the_same_statistics(
    data: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train(normed(data, tmp_path / "a"))
    real = _Run._update

    def killed(self: _Run, *args: Any) -> None:
        if self.at.update == 7:  # the last checkpoint is of update 6
            raise MemoryError("killed")
        real(self, *args)

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(_Run, "_update", killed)
        train(normed(data, tmp_path / "b"))
    train(normed(data, tmp_path / "b"))
    whole, resumed = everything(tmp_path / "a"), everything(tmp_path / "b")
    assert_same(whole, resumed)
    assert int(whole[f"model.{COUNT}"]) == 24  # two batches in each of 12 updates, none in validations
    assert whole[f"model.{MEAN}"].abs().sum() > 0


@pytest.mark.parametrize("name", ["normed", "nllb"])
def test_the_written_folder_has_the_loss_that_was_told(name: str, data: Path, tmp_path: Path) -> None:  # noqa: F811
    o = options(data, tmp_path / "run", family=name)
    folder = train(o)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    told = next(row for row in rows if "final" in row)
    model = mmx.load(folder, device="cpu", dtype="float32")
    valid = training_data(o, o.valid, model)
    plan = Sampler(valid.lengths, valid.groups, o.batch_tokens, 1.0, o.seed).epoch(0)
    with torch.no_grad():
        nll = torch.cat([token_losses(model, valid.batch(batch)).nll for batch in plan])
    assert float(nll.mean()) == pytest.approx(told["final"][told["chosen"]], rel=1e-5)
    if name == "normed":
        found = latest_checkpoint(tmp_path / "run" / "checkpoints")
        assert found is not None
        names = sorted(file for _, file in found[1]["best"])
        kept = [open_checkpoint(tmp_path / "run" / "best" / file, "mmx") for file in names]
        assert len(kept) == 2 and not torch.equal(kept[0][MEAN], kept[1][MEAN])
        wanted = [dict(average(kept, newest=1))] if told["chosen"] == "average" else kept
        assert any(torch.equal(model.state_dict()[k], w[k]) for w in wanted for k in (MEAN, COUNT))


def test_frozen_statistics_stay(data: Path, tmp_path: Path) -> None:  # noqa: F811
    first = train(normed(data, tmp_path / "first", updates=4))
    before = statistics(open_checkpoint(first / "model.safetensors", "mmx"))
    for freezes in (("encoders.*",), ("encoders.text.norm.*",)):
        out = tmp_path / str(len(freezes[0]))
        again = train(options(data, out, init=str(first), vocab=8000, config={}, updates=4, freeze=freezes))
        assert_same(statistics(open_checkpoint(again / "model.safetensors", "mmx")), before)
        assert not [k for k in everything(out) if ".norm." in k and not k.startswith("written.")]
    train(options(data, tmp_path / "moved", init=str(first), vocab=8000, config={}, updates=4))
    assert_same(statistics(open_checkpoint(first / "model.safetensors", "mmx")), before)  # the file that it began from
    assert int(everything(tmp_path / "moved")[f"written.{COUNT}"]) > int(before[COUNT])


def test_a_checkpoint_without_the_statistics_is_refused(data: Path, tmp_path: Path) -> None:  # noqa: F811
    train(normed(data, tmp_path / "run", updates=2))
    for path in checkpoints(tmp_path / "run" / "checkpoints"):
        found = open_checkpoint(path / "state.safetensors", "mmx")
        kept = {k: found[k].clone() for k in found if "running_" not in k}
        write_safetensors(path / "state.safetensors", kept.items())
        record = json.loads((path / "state.json").read_text())
        (path / "state.json").write_text(json.dumps({**record, "sha256": digest(path / "state.safetensors")}))
    with pytest.raises(CheckpointError, match=r"running_mean.*another out"):
        train(normed(data, tmp_path / "run", updates=4))


# -------------------- its parts


def tiny(fuse: nn.Module | None = None) -> Model:
    whole = build(nllb.Config(vocab=30, **TINY))
    heads = {"text": nn.Linear(32, 4)}
    return Model(front={}, encoders=dict(whole.encoders.items()), decoder=whole.decoder, heads=heads, fuse=fuse)


def test_frozen_parts_are_not_in_training_mode() -> None:
    model = tiny(fuse=nn.Sequential(nn.Linear(32, 32), nn.BatchNorm1d(32), nn.Dropout(0.1)))
    assert model.decoder is not None
    model.decoder.norm = nn.BatchNorm1d(32)
    freeze(model, ["fuse.*", "heads.*", "decoder.*", "encoders.text.encoder.*"])
    train_mode(model)
    modes = {p.name: p.module.training for p in model.parts()}
    assert modes == {"encoders.text": True, "heads.text": False, "fuse": False, "decoder": True}
    assert isinstance(model.fuse, nn.Sequential) and not model.fuse[2].training
    assert not model.decoder.norm.training and model.decoder.layers[0].training
    assert {k for k in trained_tensors(model) if "norm" in k} == {
        k for k in tensors(model) if "encoders.text.norm" in k
    }


def test_what_is_restored_is_what_was_kept() -> None:
    model, other = tiny(), tiny()
    train_mode(model)
    model.encoders["text"].norm(torch.randn(5, 32))  # type: ignore[operator]
    optimizers = [torch.optim.AdamW(m.parameters()) for m in (model, other)]
    restore(other, optimizers[1], training_tensors(model, optimizers[0]))
    assert_same(other.state_dict(), model.state_dict())
    assert int(other.state_dict()[COUNT]) == 1


def test_counters_of_an_average_are_the_newest_snapshot_s() -> None:
    sources = [{"mean": torch.tensor([x]), "count": torch.tensor(n)} for x, n in ((1.0, 8), (3.0, 12), (8.0, 4))]
    mean = dict(average(sources, newest=1))
    assert mean["mean"].tolist() == [4.0] and int(mean["count"]) == 12


def test_composed_folders_hold_statistics(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(Normed, "width", 32, raising=False)
    source = train(normed(data, tmp_path / "run", updates=2))
    model = composition.compose(source, source, adapter="linear", out=tmp_path / "both")
    loaded = mmx.load(tmp_path / "both", device="cpu", dtype="float32")
    want = {k: v for k, v in model.state_dict().items() if ".norm." in k}
    assert len(want) == 5 and float(want["encoders.text.norm.running_mean"].abs().sum()) > 0
    assert_same({k: v for k, v in loaded.state_dict().items() if ".norm." in k}, want)


AGREE = """
import sys
import torch
from mmx.train.distributed import agree
folder, rank = sys.argv[1], int(sys.argv[2])
torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
mean, count = torch.tensor([1.0, 2.0]) * (rank + 1), torch.tensor(6)
agree([mean, count])
torch.save((mean, count), f"{folder}/{rank}")
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_processes_agree_on_statistics(tmp_path: Path) -> None:
    command = [sys.executable, "-c", AGREE, str(tmp_path)]
    processes = [subprocess.Popen([*command, str(rank)]) for rank in range(2)]
    assert [p.wait() for p in processes] == [0, 0]
    for rank in range(2):
        mean, count = torch.load(tmp_path / str(rank))
        assert mean.tolist() == [1.5, 3.0] and int(count) == 6
