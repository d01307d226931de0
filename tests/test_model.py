"""`Model`: its parts, what fuses them, its state, and weights that are no parameters.

Letters: B rows, T frames, F features, D width.
"""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mmx
from mmx import api
from mmx.errors import CheckpointError, InputError
from mmx.make.export import convert_model
from mmx.model import Model, tensors
from mmx.seq import Seq
from mmx.state import State, tensor
from mmx.weights.folder import write_model

WIDTH = 6


# -------------------- a family of two modalities, one with batch norm


class Pose(nn.Module):
    """Points to features: batch norm over the points of all frames, then each frame and the one before it."""

    stride, lookahead = 1, 0

    def __init__(self, points: int):
        super().__init__()
        self.norm = nn.BatchNorm1d(points)
        self.now, self.before = nn.Linear(points, WIDTH), nn.Linear(points, WIDTH, bias=False)

    def init_state(self, batch: int, capacity: int) -> State:
        return {"last": torch.zeros(batch, self.norm.num_features)}

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        state = self.init_state(len(seq.x), 0) if state is None else state
        x_BTF = torch.where(seq.mask[..., None], self.norm(seq.masked.transpose(1, 2)).transpose(1, 2), 0.0)
        whole = torch.cat([tensor(state, "last")[:, None], x_BTF], dim=1)
        state["last"] = whole[torch.arange(len(whole)), seq.lengths]
        return seq._replace(x=self.now(x_BTF) + self.before(whole[:, :-1]))


class Sum(nn.Module):
    """Both memories on the clock of the faster one; a modality that is absent has a vector of its own."""

    def __init__(self):
        super().__init__()
        self.absent = nn.ParameterDict({name: torch.ones(WIDTH) for name in ("pose", "speech")})

    def forward(self, memories: Mapping[str, Seq]) -> Seq:
        rate = max(m.rate or 0.0 for m in memories.values())
        like = next(m for m in memories.values() if m.rate == rate)
        x = sum((self.part(name, memories.get(name), like) for name in self.absent), torch.zeros(()))
        return like._replace(x=x)

    def part(self, name: str, memory: Seq | None, like: Seq) -> Tensor:
        if memory is None:
            return self.absent[name].expand_as(like.x)
        return memory.masked.repeat_interleave(round((like.rate or 1) / (memory.rate or 1)), dim=1)[
            :, : like.x.shape[1]
        ]


@dataclass(frozen=True, kw_only=True)
class Config:
    points: int = 4
    fused: bool = False


def build(config: Config) -> Model:
    encoders: dict[str, nn.Module] = {"pose": Pose(config.points)}
    if config.fused:
        encoders["speech"] = Pose(3)
    heads = {"pose": nn.Linear(WIDTH, 5)}
    return Model(front={}, encoders=encoders, heads=heads, fuse=Sum() if config.fused else None)


@pytest.fixture(autouse=True)
def family(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The family is in mmx.models for the time of a test, and no file of the package knows of it."""
    module = ModuleType("mmx.models.toy")
    vars(module).update(Config=Config, build=build, KEYS={})
    monkeypatch.setitem(sys.modules, "mmx.models.toy", module)
    yield module


def toy(seed: int = 0, **config: Any) -> Model:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build(Config(**config))
        for p in model.parameters():
            nn.init.normal_(p)
        for b in model.buffers():
            if b.is_floating_point():
                b.copy_(torch.rand(b.shape) + 0.5)
            else:
                b.fill_(7)
    return model.eval()


def folder(path: Path, model: Model, **config: Any) -> Path:
    card = {"name": "toy", "summary": "random", "license": "CC0-1.0", "commercial": True}
    write_model(path, tensors(model).items(), family="toy", config=asdict(Config(**config)), card=card)
    return path


def poses(lengths: list[int], rate: float = 25.0, features: int = 4) -> Seq:
    x = torch.randn(len(lengths), max(lengths), features, generator=torch.Generator().manual_seed(3))
    return Seq(x, torch.tensor(lengths), rate)


# -------------------- tensors, not parameters


@torch.no_grad()
def test_batch_norm_keeps_its_statistics_on_the_disk(tmp_path: Path) -> None:
    """Written, loaded and converted, a model with buffers computes what it did; counters stay whole numbers."""
    model, inputs = toy(), {"pose": poses([5, 3])}
    loaded = mmx.load(folder(tmp_path / "toy", model), dtype="float32")
    again = mmx.load(convert_model(tmp_path / "toy", tmp_path / "again"), dtype="float32")
    for other in (loaded, again):
        torch.testing.assert_close(other.memory(inputs).x, model.memory(inputs).x, atol=1e-6, rtol=1e-6)
        counted = dict(other.named_buffers())["encoders.pose.norm.num_batches_tracked"]
        assert counted.dtype == torch.int64 and int(counted) == 7


def test_a_file_without_the_statistics_is_refused(tmp_path: Path) -> None:
    model = toy()
    card = {"name": "toy", "summary": "random", "license": "CC0-1.0", "commercial": True}
    write_model(tmp_path / "toy", model.named_parameters(), family="toy", config={"points": 4}, card=card)
    with pytest.raises(CheckpointError, match=r"missing .*running_mean"):
        mmx.load(tmp_path / "toy")


def test_buffers_that_are_computed_are_not_written() -> None:
    model = toy()
    model.encoders["pose"].register_buffer("table", torch.zeros(2), persistent=False)
    assert sorted(tensors(model)) == sorted(model.state_dict())


# -------------------- parts


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_every_part_takes_its_sides_precision(dtype: str) -> None:
    model = api.prepare(toy(fused=True), torch.device("cpu"), api.Precision(dtype, "float32"))
    assert [p.name for p in model.parts()] == ["encoders.pose", "encoders.speech", "heads.pose", "fuse"]
    assert {p.dtype for p in model.parameters()} == {getattr(torch, dtype)}
    listed = [id(p) for part in model.parts() for p in part.module.parameters()]
    assert sorted(listed) == sorted(id(p) for p in model.parameters()), "a part that the list forgets is not prepared"


@torch.no_grad()
def test_a_head_projects_what_is_compared() -> None:
    model, inputs = toy(), {"pose": poses([5, 3])}
    memory = model.memory(inputs)
    mean = torch.stack([memory.x[0].mean(0), memory.x[1, :3].mean(0)])
    wanted = nn.functional.normalize(model.heads["pose"](mean), dim=-1)
    torch.testing.assert_close(model.embed(inputs), wanted)


# -------------------- what fuses


@pytest.mark.parametrize("present", [["pose"], ["speech"], ["pose", "speech"]])
@torch.no_grad()
def test_what_fuses_always_runs_and_knows_what_is_present(present: list[str]) -> None:
    model = toy(fused=True)
    inputs = {"pose": poses([5, 3]), "speech": poses([10, 6], 50.0, 3)}
    given = {name: inputs[name] for name in present}
    got = model.memory(given)
    assert got.rate == (50.0 if "speech" in present else 25.0)
    own = {name: model.encode(name, seq) for name, seq in given.items()}
    pose, speech = own.get("pose"), own.get("speech")
    fuse = model.fuse
    assert isinstance(fuse, Sum)
    x = (pose.x if speech is None else pose.x.repeat_interleave(2, 1)) if pose else fuse.absent["pose"]
    wanted = x + (speech.x if speech else fuse.absent["speech"])
    for row, n in enumerate(got.lengths.tolist()):
        torch.testing.assert_close(got.x[row, :n], wanted[row, :n])


def test_two_modalities_need_what_fuses_them() -> None:
    model = Model(front={}, encoders={"pose": Pose(4), "speech": Pose(3)})
    with pytest.raises(InputError, match="no part that fuses"):
        model.memory({"pose": poses([2]), "speech": poses([4], 50.0, 3)})
    with pytest.raises(InputError, match=r"among \['pose', 'speech'\], got \['lips'\]"):
        model.memory({"lips": poses([2])})


# -------------------- streaming


@pytest.mark.parametrize("cuts", [[1] * 9, [4, 5], [2, 3, 4]])
@torch.no_grad()
def test_the_memory_of_a_stream_is_that_of_the_whole(cuts: list[int]) -> None:
    model, whole = toy(), poses([9])
    state, at, made = model.init_state(1, 9), 0, []
    for n in cuts:
        piece = Seq(whole.x[:, at : at + n], torch.tensor([n]), 25.0, final=at + n == 9)
        made.append(model.memory({"pose": piece}, state=state).x)
        at += n
    torch.testing.assert_close(torch.cat(made, 1), model.memory({"pose": whole}).x)
