"""`mmx bench slots`: how many live sessions one machine holds in real time, and how long a step takes.

The model is shaped as SeamlessM4T v2's ears and pen under a chunk mask, with random weights: speed does not depend on
what the weights are. Every slot hears noise all the time, and writes as many tokens as a step may, so each step is the
most that it can be.
"""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from mmx.api import resolve_device
from mmx.errors import InputError
from mmx.files import atomic_write
from mmx.media.kaldi import Fbank
from mmx.model import Model
from mmx.models import nllb, w2v_bert
from mmx.streaming.batched.chunks import threshold
from mmx.streaming.batched.engine import Engine, capture, eager
from mmx.tasks.options import RATE

SIZES = {"full": (1024, 24), "half": (1024, 12), "tiny": (64, 2)}
"""Width and layers of each stack; `full` is SeamlessM4T v2's."""
CHUNK, LEFT_CHUNKS = 32, 4
"""Frames of a chunk, 0.64 s, and chunks before it that are seen."""


@dataclass(frozen=True)
class Figure:
    """One row of the table; times in milliseconds, of a step of `chunk_s` seconds of sound."""

    slots: int
    graph: bool
    median_ms: float
    p99_ms: float
    chunk_s: float
    peak_mb: float | None

    @property
    def held(self) -> bool:
        """Whether all slots are served in real time, 99 steps of 100."""
        return self.p99_ms < 1000 * self.chunk_s


class _Noise:
    """Stands in for a tokenizer: every token is a word."""

    def __init__(self, vocab: int):
        self.eot, self.control_ids = 3, [0, 1, 2, vocab - 1]

    def prompt(self, to: str) -> list[int]:
        return [3, 5]

    def split_words(self, ids: list[int]) -> list[tuple[str, list[int]]]:
        return [(f" {i}", [i]) for i in ids]


def slots(
    *,
    size: str = "",
    slots: str = "1,4,16,64",
    steps: int = 100,
    device: str = "auto",
    dtype: str = "",
    threads: int = 0,
    output: Path | None = None,
) -> list[Figure]:
    """Measure and print.

    Args:
        size: a key of `SIZES`; full on CUDA and tiny elsewhere when empty.
        slots: numbers of slots to try, with commas.
        steps: timed steps of each.
        device: as in `mmx.load`.
        dtype: float32, bfloat16 or float16; float16 on CUDA and float32 elsewhere when empty.
        threads: of the CPU; 0 leaves it to torch.
        output: also write the figures here, as JSON.
    """
    target = resolve_device(device)
    size = size or ("full" if target.type == "cuda" else "tiny")
    if size not in SIZES:
        raise InputError(f"expected a size among {', '.join(SIZES)}, got {size!r}")
    try:
        counts = [int(n) for n in slots.split(",")]
    except ValueError:
        raise InputError(f"expected numbers with commas between for --slots, got {slots!r}") from None
    if threads:
        torch.set_num_threads(threads)
    kind = getattr(torch, dtype or ("float16" if target.type == "cuda" else "float32"))
    model = _model(*SIZES[size]).to(device=target, dtype=kind)
    model.front["speech"].float()
    figures = []
    print(f"{size}, {kind}, {_named(target)}; one step is {CHUNK * 320 / RATE:g} s of sound in every slot")
    print("| slots | graph | median ms | p99 ms | in real time | memory MB |\n|---|---|---|---|---|---|")
    for count in counts:
        for graph in (False, True) if target.type == "cuda" else (False,):
            f = _figure(model, count, graph, steps)
            figures.append(f)
            real = "yes" if f.held else "no"
            print(f"| {count} | {'on' if graph else 'off'} | {f.median_ms:.1f} | {f.p99_ms:.1f} | {real} "
                  f"| {'' if f.peak_mb is None else round(f.peak_mb)} |", flush=True)  # fmt: skip
    print(f"held in real time: {max((f.slots for f in figures if f.held), default=0)} sessions")
    if output is not None:
        atomic_write(output, json.dumps({"size": size, "device": str(target), "rows": [asdict(f) for f in figures]}))
    return figures


def _model(width: int, layers: int) -> Model:
    speech = w2v_bert.Config(
        width=width, heads=width // 64, layers=layers, hidden=4 * width, adaptor_layers=1, chunk=CHUNK,
        left_chunks=LEFT_CHUNKS, normalize=False,
    )  # fmt: skip
    vocab = 256_206 if width == 1024 else 1000
    text = nllb.Config(vocab=vocab, width=width, heads=(width // 64,) * 2, layers=(1, layers), hidden=(8 * width,) * 2)
    adaptor = w2v_bert.adaptor(speech)
    assert adaptor is not None
    model = Model(
        front={"speech": Fbank(speech.features // 2, False)},
        encoders={"speech": w2v_bert.encoder(speech)},
        adapters={"speech": adaptor},
        decoder=nllb.build_decoder(text),
    )
    model.tokenizer = _Noise(vocab)
    return model.eval()


def _figure(model: Model, count: int, graph: bool, steps: int) -> Figure:
    cuda = next(model.parameters()).device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    engine = Engine(model, count, decide=threshold(0.0), prepare=capture if graph else eager)
    for _ in range(count):
        engine.open()
    x = np.random.default_rng(0).standard_normal(engine.span).astype(np.float32) * 0.1
    spent = []
    for turn in range(steps + 3):
        for slot in range(count):
            engine.push(slot, x if turn == 0 else x[: engine.chunk])
        begun = time.perf_counter()
        engine.step()  # ends with the tokens on the host, so nothing is still under way
        spent.append(1000 * (time.perf_counter() - begun))
    ms = np.array(spent[3:])
    peak_mb = torch.cuda.max_memory_allocated() / 2**20 if cuda else None
    return Figure(count, graph, float(np.median(ms)), float(np.quantile(ms, 0.99)), engine.chunk / RATE, peak_mb)


def _named(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"
