"""What each side of a model computes in, by device and by what the CPU has."""

import pytest
import torch

from mmx import api
from mmx.api import Precision, prepare, resolve_dtype
from mmx.generate import SearchOptions, search
from mmx.models import whisper
from mmx.quantize import supported
from mmx.seq import Seq
from mmx.state import subtree, tensor

CPU = torch.device("cpu")
TINY = whisper.Config(
    n_mels=8, audio_ctx=40, audio_width=32, audio_heads=4, audio_layers=2,
    vocab=101, text_ctx=24, text_width=32, text_heads=4, text_layers=2,
)  # fmt: skip


def tiny():
    torch.manual_seed(0)
    return whisper.build(TINY).eval()


@pytest.mark.skipif(not supported(), reason="this torch has no int8 engine for this CPU")
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
