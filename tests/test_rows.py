"""What a row gives does not depend on the rows beside it: the text of a recording is the same in any batch."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmx.api import Precision, prepare
from mmx.generate import SearchOptions, search
from mmx.model import Model
from mmx.models import whisper
from mmx.models.whisper import recognizer as timed
from mmx.nn.block import Linear, attend_few, attend_in_blocks
from mmx.nn.quantize import Bf16Linear, supported
from mmx.seq import Seq
from mmx.tasks.options import Options
from mmx.tasks.transcribe import _Run
from mmx.tasks.window import Piece, Window
from mmx.tasks.windows import OPENING, Decoded, File, Job

CONFIG = whisper.Config(
    n_mels=8, audio_ctx=150, audio_width=128, audio_heads=2, audio_layers=1,
    vocab=601, text_ctx=48, text_width=128, text_heads=2, text_layers=2,
)  # fmt: skip
needs_int8 = pytest.mark.skipif(not supported(), reason="this torch has no int8 engine for this CPU")
DEFAULTS = [
    Precision("float32", "float32"),
    pytest.param(Precision("float32", "int8"), marks=needs_int8),
    pytest.param(Precision("bfloat16", "int8", "bfloat16"), marks=needs_int8),
]


@pytest.fixture(autouse=True, params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def model(precision: Precision) -> Model:
    torch.manual_seed(0)
    built = whisper.build(CONFIG).eval()
    with torch.no_grad():
        for p in built.decoder.parameters():
            p.mul_(2.0)  # sharper choices than those of fresh weights
    return prepare(built, torch.device("cpu"), precision)


@pytest.mark.parametrize("kind", [Linear, lambda *shape: Bf16Linear(Linear(*shape))])
@pytest.mark.parametrize("shape", [(2048, 512), (512, 512)])
@torch.inference_mode()
def test_a_linear_layer_gives_a_row_the_same_among_any_number(shape: tuple[int, int], kind: Any) -> None:
    torch.manual_seed(0)
    layer, x = kind(*shape), noise(45, shape[0])
    alone = torch.cat([layer(row) for row in x.split(1)])
    for n in (2, 3, 5, 7, 10, 15, 22, 25, 40, 44):
        assert torch.equal(layer(x[:n]), alone[:n]), n


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("n", [1, 2, 3, 5, 10])
@torch.inference_mode()
def test_attention_gives_a_row_the_same_among_any_number(dtype: torch.dtype, n: int) -> None:
    q, k, v = (noise(4, 8, m, 64, seed=m).to(dtype) for m in (n, 115, 115))
    mask = torch.zeros(4, 1, n, 115, dtype=dtype)
    mask[..., 60:] = -torch.inf
    alone = torch.cat([attend_few(*(t[i : i + 1] for t in (q, k, v, mask))) for i in range(4)])
    assert torch.equal(attend_few(q, k, v, mask), alone)
    want = torch.nn.functional.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=mask.float())
    tolerance = 1e-5 if dtype == torch.float32 else 0.02
    torch.testing.assert_close(alone.float(), want, rtol=tolerance, atol=tolerance)


@torch.inference_mode()
def test_attention_in_blocks_is_attention() -> None:
    q, k, v = (noise(2, 3, 1203, 64, seed=i).bfloat16() for i in range(3))
    want = torch.nn.functional.scaled_dot_product_attention(q.float(), k.float(), v.float())
    got = attend_in_blocks(q, k, v)
    assert got.dtype == torch.bfloat16 and got.shape == want.shape
    assert float((got.float() - want).norm() / want.norm()) < 0.01


@pytest.mark.parametrize("precision", DEFAULTS)
@torch.inference_mode()
def test_a_search_finds_the_same_for_a_row_in_any_batch(precision: Precision) -> None:
    decoder = model(precision).decoder
    memory = Seq(noise(6, 150, 128), torch.full((6,), 150), 50.0)
    prefix = torch.tensor([[5, 7, 9]]).expand(6, -1)
    how = SearchOptions(beam_size=5, max_tokens=24)

    def found(rows: list[int]) -> dict[int, list[tuple[tuple[int, ...], float]]]:
        index = torch.tensor(rows)
        result = search(decoder, memory.rows(index), prefix[: len(rows)], 3, how)
        return {i: [(h.tokens, h.log_prob) for h in row] for i, row in zip(rows, result.rows, strict=True)}

    alone = {k: v for i in range(6) for k, v in found([i]).items()}
    for rows in ([0, 1, 2, 3, 4, 5], [5, 3, 1], [4, 0], [2, 5, 0, 1]):
        got = found(rows)
        assert got == {i: alone[i] for i in rows}, rows


def run_of(windows: dict[str, int], batch_size: int) -> tuple[dict[str, list[int]], list[int]]:
    """Which windows of each file are known when its first is decoded, and how many files were read by each result."""
    seen: dict[str, list[int]] = {}

    def decode(jobs: list[Job]) -> list[Decoded]:
        for job in jobs:
            if not job.file.language:
                seen[job.file.name] = [int(w.start_s) for w in job.file.opening]
                job.file.language, job.file.opening = "en", []
        return [Decoded() for _ in jobs]

    run = object.__new__(_Run)
    run.options, run.queue, run.on_progress, run.on_error = Options(batch_size=batch_size), [], None, None
    run.recognize, run.model = decode, model(Precision("float32", "float32"))  # type: ignore[assignment]
    read: list[str] = []

    def parts(source: str, files: list[File]) -> Iterator[tuple[File, Window]]:
        read.append(source)
        (file,) = files
        file.name = source
        for i in range(windows[source]):
            yield file, Window.of_sound(np.zeros(16_000, np.float32), (Piece(0.0, float(i), 1.0),), i * 16_000)

    run._read = parts  # type: ignore[method-assign,assignment]
    read_by = [len(read) for _ in run.run(windows)]
    assert len(read_by) == len(windows)
    return seen, read_by


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_a_language_is_that_of_the_files_own_first_windows(batch_size: int) -> None:
    seen, _ = run_of({"a": 3, "b": 9, "c": 1, "d": 5}, batch_size)
    assert {k: len(v) for k, v in seen.items()} == {"a": 3, "b": OPENING, "c": 1, "d": OPENING}


def test_short_recordings_are_decoded_as_soon_as_they_fill_a_batch() -> None:
    _, read_by = run_of({str(i): 1 + i % 2 for i in range(12)}, batch_size=3)
    assert all(read <= i + 3 for i, read in enumerate(read_by, 1)), read_by


def test_memory_that_was_made_ahead_is_let_go_once_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = object.__new__(timed.TimestampRecognizer)
    first, second = (Window.of_sound(np.zeros(16_000, np.float32), (Piece(0.0, float(i), 1.0),), i) for i in range(2))
    monkeypatch.setattr(decoder, "_heard", lambda _: pytest.fail("it was encoded ahead"))
    ahead = [(w, Seq(noise(1, 150, 128, seed=i), torch.tensor([150]), 50.0)) for i, w in enumerate((first, second))]
    file = File("a", "en", ahead=list(ahead))
    assert torch.equal(decoder._encode([Job(file, first)]).x, ahead[0][1].x)
    assert [w for w, _ in file.ahead] == [second]
    assert torch.equal(decoder._encode([Job(file, second)]).x, ahead[1][1].x)
    assert file.ahead == []
