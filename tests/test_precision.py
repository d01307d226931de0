"""What each side of a model computes in, by device and by what the CPU has."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from mmx import api
from mmx.api import Precision, prepare, resolve_dtype
from mmx.errors import InputError
from mmx.generate import SearchOptions, search
from mmx.model import Model
from mmx.models import whisper
from mmx.nn.quantize import supported
from mmx.seq import Seq
from mmx.state import State, subtree, tensor
from mmx.streaming.encoders import IncrementalEncoder

pytestmark = pytest.mark.precision
CPU = torch.device("cpu")
TINY = whisper.Config(
    n_mels=8, audio_ctx=40, audio_width=32, audio_heads=4, audio_layers=2,
    vocab=101, text_ctx=24, text_width=32, text_heads=4, text_layers=2,
)  # fmt: skip


def tiny() -> Model:
    torch.manual_seed(0)
    return whisper.build(TINY).eval()


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def nothing_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(api.FORCED, raising=False)


needs_int8 = pytest.mark.skipif(not supported(), reason="this torch has no int8 engine for this CPU")


@needs_int8
@pytest.mark.parametrize(
    ("units", "expected"),
    [(True, Precision("bfloat16", "int8", "bfloat16")), (False, Precision("float32", "int8"))],
)
def test_the_cpu_decides(monkeypatch: pytest.MonkeyPatch, units: bool, expected: Precision) -> None:
    monkeypatch.setattr(api, "has_bf16_units", lambda: units)
    assert resolve_dtype("auto", CPU) == expected


def test_a_cpu_without_an_int8_engine_stays_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "supported", lambda: False)
    assert resolve_dtype("auto", CPU) == Precision("float32", "float32")


def test_a_gpu_takes_half_precision_and_a_wish_is_a_wish() -> None:
    assert resolve_dtype("auto", torch.device("cuda")) == Precision("float16", "float16")
    assert resolve_dtype("bfloat16", CPU) == Precision("bfloat16", "bfloat16")


@needs_int8
@pytest.mark.parametrize(
    ("forced", "expected"),
    [
        ("float32/int8", Precision("float32", "int8")),
        ("bfloat16/int8/bfloat16", Precision("bfloat16", "int8", "bfloat16")),
        ("bfloat16", Precision("bfloat16", "bfloat16")),
        ("auto", Precision("bfloat16", "int8", "bfloat16")),
        ("", Precision("bfloat16", "int8", "bfloat16")),
    ],
)
def test_the_environment_says_what_auto_is(monkeypatch: pytest.MonkeyPatch, forced: str, expected: Precision) -> None:
    monkeypatch.setattr(api, "has_bf16_units", lambda: True)
    monkeypatch.setenv(api.FORCED, forced)
    assert resolve_dtype("auto", CPU) == expected
    assert resolve_dtype("float32", CPU) == Precision("float32", "float32"), "a wish is a wish"


@pytest.mark.parametrize("forced", ["bf16", "int8/", "float32/int8/int8", "auto/int8", "a/b/c/d"])
def test_what_cannot_be_forced_is_told(monkeypatch: pytest.MonkeyPatch, forced: str) -> None:
    monkeypatch.setenv(api.FORCED, forced)
    with pytest.raises(InputError, match=f"MMX_DTYPE.*got {forced!r}"):
        resolve_dtype("auto", CPU)


@needs_int8
def test_int8_is_not_forced_upon_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(api.FORCED, "float32/int8")
    with pytest.raises(InputError, match="int8 on an x86 CPU, got cuda"):
        resolve_dtype("auto", torch.device("cuda"))


MIXED = [
    Precision("float32", "float32"),
    Precision("bfloat16", "float32"),
    Precision("float32", "bfloat16"),
    pytest.param(Precision("float32", "int8"), marks=needs_int8),
    pytest.param(Precision("bfloat16", "int8", "bfloat16"), marks=needs_int8),
]


@pytest.mark.parametrize("precision", MIXED)
@torch.inference_mode()
def test_a_model_calls_its_parts_in_any_precision(precision: Precision) -> None:
    model, inputs = prepare(tiny(), CPU, precision), {"speech": Seq(0.1 * noise(2, 6400), torch.full((2,), 6400), 16e3)}
    memory = model.memory(inputs)
    assert memory.x.dtype == (torch.bfloat16 if precision.decoder == "bfloat16" else torch.float32)
    got, want = (m(inputs, torch.tensor([[5, 7, 9], [2, 3, 4]])).float() for m in (model, tiny()))
    assert got.shape == (2, 3, 101)
    assert float((got - want).norm() / want.norm()) < 0.05


class Frames(nn.Module):
    """An encoder of frames that streams: each frame for itself."""

    stride, lookahead = 1, 0

    def __init__(self, width: int):
        super().__init__()
        self.ln, self.out = nn.LayerNorm(width), nn.Linear(width, 32)

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        return seq._replace(x=self.out(self.ln(seq.masked.to(self.ln.weight.dtype))))

    def init_state(self, batch: int, capacity: int = 0) -> State:
        return {}


class Rows(nn.Module):
    """A front end that cuts sound into frames of 16 samples."""

    stride, lookahead = 16, 0

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        return Seq(seq.x.unflatten(1, (-1, 16)), seq.lengths // 16, 1000.0, seq.final)

    def init_state(self, batch: int, capacity: int = 0) -> State:
        return {}


class Sum(nn.Module):
    """Fuses by a linear layer over both."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(64, 32)

    def forward(self, memories: Mapping[str, Seq]) -> Seq:
        first, second = memories.values()
        return first._replace(x=self.out(torch.cat([first.x, second.x], dim=-1)))


@pytest.mark.parametrize("precision", MIXED)
@torch.inference_mode()
def test_the_part_that_fuses_is_prepared_like_the_encoders(precision: Precision) -> None:
    torch.manual_seed(1)
    model = Model(
        front={},
        encoders={"pose": Frames(6), "lips": Frames(9)},
        fuse=Sum(),
        decoder=tiny().decoder,
        adapters={"lips": Frames(32)},
    )
    inputs = {name: Seq(noise(1, 7, width), torch.tensor([7]), 25.0) for name, width in (("pose", 6), ("lips", 9))}
    want = model.memory(inputs).x
    got = prepare(model, CPU, precision).memory(inputs)
    assert {p.dtype for p in model.fuse.parameters()} <= {p.dtype for p in model.encoders.parameters()}  # type: ignore[union-attr]
    assert float((got.x.float() - want).norm() / want.norm()) < 0.05
    assert model(inputs, torch.tensor([[5, 7]])).shape == (1, 2, 101)


@torch.inference_mode()
def test_what_streams_comes_in_the_decoders_precision_too() -> None:
    model = Model(front={"speech": Rows()}, encoders={"speech": Frames(16)}, decoder=tiny().decoder)
    heard = IncrementalEncoder(prepare(model, CPU, Precision("bfloat16", "float32")))
    heard.push(noise(160).numpy(), final=True)
    memory = heard.memory()
    assert memory.x.dtype == torch.float32 and memory.x.shape == (1, 10, 32)
    assert torch.equal(memory.x, memory.x.bfloat16().float())


@torch.inference_mode()
def test_keys_in_bfloat16_write_what_float32_writes() -> None:
    plain, mixed = tiny(), prepare(tiny(), CPU, Precision("float32", "float32", "bfloat16"))
    memory = Seq(torch.randn(3, 40, 32), torch.tensor([40, 40, 40]), 50.0)
    tokens = torch.randint(0, 101, (5, 6))
    owner = [0, 0, 1, 2, 2]  # rows with unlike many hypotheses go one by one
    states = [m.decoder.init_state(3, 6, 2) for m in (plain, mixed)]
    want, got = (m.decoder(tokens, memory, s, owner=owner) for m, s in zip((plain, mixed), states, strict=True))
    held = subtree(subtree(states[1], "memory"), "1")
    assert tensor(held, "k").dtype == tensor(held, "v").dtype == torch.bfloat16
    assert got.dtype == torch.float32
    assert not torch.equal(got, want), "the keys were rounded"
    assert float((got - want).norm() / want.norm()) < 5e-3

    even = [m.decoder(tokens[:3], memory) for m in (plain, mixed)]
    assert float((even[1] - even[0]).norm() / even[0].norm()) < 5e-3
    options = SearchOptions(beam_size=3, max_tokens=8)
    found = [search(m.decoder, memory, tokens[:3, :1], 2, options) for m in (plain, mixed)]
    assert [[h.tokens for h in row] for row in found[1].rows] == [[h.tokens for h in row] for row in found[0].rows]


@torch.inference_mode()
def test_words_are_timed_from_keys_in_bfloat16() -> None:
    plain, mixed = tiny(), prepare(tiny(), CPU, Precision("float32", "float32", "bfloat16"))
    memory = Seq(torch.randn(2, 40, 32), torch.tensor([40, 40]), 50.0)
    tokens = torch.randint(0, 101, (2, 6))
    (want, _), (got, _) = (m.decoder.cross_weights(tokens, memory, [(0, 1), (1, 3)]) for m in (plain, mixed))
    assert got.dtype == torch.float32
    assert float((got - want).norm() / want.norm()) < 1e-2
