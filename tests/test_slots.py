"""Sessions side by side in one batch: each is what it would be alone, whatever the others do.

Letters: B slots, N samples, M memory frames, V vocabulary.
"""

import dataclasses
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmx.errors import CheckpointError, InputError
from mmx.media.kaldi import Fbank
from mmx.model import Model
from mmx.models import nllb, w2v_bert
from mmx.seq import Seq
from mmx.state import leaves
from mmx.streaming.batched.chunks import threshold, wait_k
from mmx.streaming.batched.engine import Engine
from mmx.streaming.events import Event

RATE = 16_000
TOLERANCE = 2e-6
EOT, FIRST, LANGUAGE, VOCAB = 2, 5, 4, 37

SPEECH = w2v_bert.Config(
    width=16, heads=2, layers=2, hidden=24, features=12, kernel=5, left=4, right=2, adaptor_layers=1, chunk=8,
    left_chunks=2, normalize=False,
)  # fmt: skip
PYRAMID = dataclasses.replace(SPEECH, adaptor_layers=2, adaptor_kernel=3, adaptor_stride=2)
TEXT = nllb.Config(vocab=VOCAB, ctx=64, width=16, heads=(2, 2), layers=(1, 2), hidden=(24, 24), scaled=False)
CHUNK_S = 8 * 320 / RATE


class Tokens:
    """A token is a word."""

    eot = EOT
    control_ids = (0, 1, 3, LANGUAGE)

    def prompt(self, to: str) -> list[int]:
        return [EOT, LANGUAGE]

    def split_words(self, ids: Sequence[int]) -> list[tuple[str, list[int]]]:
        return [(f" t{i}", [i]) for i in ids]


def build(speech: w2v_bert.Config = SPEECH, seed: int = 0) -> Model:
    generator = torch.Generator().manual_seed(seed)
    adaptor = w2v_bert.adaptor(speech)
    model = Model(
        front={"speech": Fbank(speech.features // 2, speech.normalize)},
        encoders={"speech": w2v_bert.encoder(speech)},
        adapters={} if adaptor is None else {"speech": adaptor},
        decoder=nllb.build_decoder(TEXT),
    )
    # Apart from the embedding, which makes each token ask for itself again.
    model.decoder.head.weight = torch.nn.Parameter(torch.empty_like(model.decoder.token.weight))
    for name, p in model.named_parameters():
        norm = p.dim() == 1 and name.endswith("weight")
        p.data = float(norm) + (0.2 if p.dim() == 1 else 0.6) * torch.randn(p.shape, generator=generator)
    model.tokenizer = Tokens()
    return model.eval()


@pytest.fixture(scope="module")
def model() -> Model:
    return build()


def wave(seconds: float, seed: int) -> np.ndarray:
    t = np.arange(round(seconds * RATE)) / RATE
    random = np.random.default_rng(seed)
    tone = 0.3 * np.sin(2 * np.pi * (200 + 90 * seed) * t * (1 + t / 9))
    return (tone + 0.1 * random.standard_normal(len(t))).astype(np.float32)


def run(engine: Engine, slot: int, x: np.ndarray, steps: int = 1000) -> list[Event]:
    """All that a session writes of a recording."""
    engine.push(slot, x, final=True)
    out = []
    for _ in range(steps):
        if engine.finished(slot):
            return out
        out += engine.step().get(slot, [])
    raise AssertionError("the session does not end")


def alone(model: Model, x: np.ndarray, **options: Any) -> list[Event]:
    engine = Engine(model, 1, **options)
    return run(engine, engine.open(), x)


def same(got: Sequence[Event], wanted: Sequence[Event]) -> None:
    assert [(e.seq, e.text, e.final, e.at_s) for e in got] == [(e.seq, e.text, e.final, e.at_s) for e in wanted]
    for a, b in zip(got, wanted, strict=True):
        assert a.probability == pytest.approx(b.probability, abs=TOLERANCE)


# -------------------- beside what is known


@pytest.mark.parametrize("speech", [SPEECH, PYRAMID, dataclasses.replace(SPEECH, adaptor_layers=0)])
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("n", [0, 399, 2800, 8 * 320 * 4, 8 * 320 * 4 + 240, 13_337])
def test_the_memory_is_that_of_the_offline_call(speech: w2v_bert.Config, times: int, n: int):
    model = build(speech)
    engine = Engine(model, 2, chunk_s=times * CHUNK_S, memory_s=30)
    kept: list[Tensor] = []
    real = engine.pen.remember

    def remember(memory: Seq, state: Any, rows_B: Tensor, final_B: Tensor) -> None:
        kept.append(memory.x[1, : int(memory.lengths[1])].clone())
        real(memory, state, rows_B, final_B)

    engine.pen.remember = remember  # type: ignore[method-assign]
    engine.open()
    x = wave(n / RATE, 3)
    run(engine, engine.open(), x)
    got = torch.cat(kept)
    if n < 560:  # the offline call refuses sound without a frame
        assert len(got) == 0
        return
    with torch.inference_mode():
        wanted = model.memory({"speech": Seq(torch.from_numpy(x)[None], torch.tensor([n]), RATE)})
    assert len(got) == int(wanted.lengths[0])
    # Fbanks are logarithms of sums that other lengths round otherwise, and the toy's large weights make more of it.
    torch.testing.assert_close(got, wanted.x[0, : len(got)], atol=3e-5, rtol=TOLERANCE)


@torch.inference_mode()
def by_hand(model: Model, x: np.ndarray, k: int, writes: int, longest: int) -> list[tuple[int, float]]:
    """Wait-k by the offline parts: after each chunk, at most so many tokens over the memory so far."""
    whole = model.memory({"speech": Seq(torch.from_numpy(x)[None], torch.tensor([len(x)]), RATE)})
    total, begun, ended = int(whole.lengths[0]), 0, False
    out, chunk = list[tuple[int, float]](), 0
    tokens, state = [EOT], model.decoder.init_state(1, 64)
    while True:
        chunk += 1
        ended = ended or (chunk - 1) * 2560 + 2800 >= len(x)
        heard = total if ended else chunk
        for _ in range(writes):
            if heard == begun:
                if ended:
                    return out
                continue
            forced = len(tokens) == 1
            if not forced and not ended and heard - begun < (len(tokens) - 2 + k) * 2:
                continue
            memory = Seq(whole.x[:, begun:heard], torch.tensor([heard - begun]))
            state["memory"] = {}  # it has grown; what was written before stays as it was
            logits = model.decoder(torch.tensor([tokens[-1:]]), memory, state)[0, -1]
            logits[list(Tokens.control_ids)] = -math.inf
            best = int(logits.argmax())
            if forced:
                tokens.append(LANGUAGE)
                continue
            p = float(logits.softmax(0)[best])
            best = EOT if len(tokens) == longest else best
            out.append((best, p))
            tokens.append(best)
            if best == EOT:
                begun, tokens, state = heard, [EOT], model.decoder.init_state(1, 64)
                if ended:
                    return out


@pytest.mark.parametrize(("seconds", "writes"), [(3.3, 4), (3.2, 1), (1.0, 2)])
def test_it_writes_what_the_decoder_writes_over_the_memory_so_far(model: Model, seconds: float, writes: int):
    x = wave(seconds, 1)
    engine = Engine(model, 1, decide=wait_k(2, 2), writes=writes, memory_s=30, tokens=12)
    slot = engine.open()
    engine.push(slot, x, final=True)
    got: list[tuple[int, float]] = []
    while not engine.finished(slot):
        engine.step()
        got += [
            (t, p) for t, p in zip(engine._tokens[0].tolist(), engine._probabilities[0].tolist(), strict=True) if t >= 0
        ]
    wanted = by_hand(model, x, 2, writes, 12)
    assert len({t for t, _ in wanted}) > 2 and [t for t, _ in got] == [t for t, _ in wanted]
    np.testing.assert_allclose([p for _, p in got], [p for _, p in wanted], atol=TOLERANCE)


# -------------------- side by side


def test_sessions_side_by_side_at_different_positions_are_what_each_is_alone(model: Model):
    lengths = (2.0, 3.1, 1.23, 2.6)
    sounds = [wave(s, i) for i, s in enumerate(lengths)]
    wanted = [alone(model, x) for x in sounds]
    engine = Engine(model, 3)
    got: list[list[Event]] = [[] for _ in sounds]
    waiting, where = list(range(len(sounds))), dict[int, int]()
    pushed = [0] * len(sounds)
    random = np.random.default_rng(0)
    for turn in range(400):
        if waiting and None in engine.slots and turn % 3 == 0:  # they join one by one
            where[engine.open()] = waiting.pop(0)
        for slot, k in where.items():
            n = int(random.integers(0, 5000))
            if pushed[k] < len(sounds[k]):
                part = sounds[k][pushed[k] : pushed[k] + n]
                pushed[k] += len(part)
                engine.push(slot, part, final=pushed[k] == len(sounds[k]))
        for slot, events in engine.step().items():
            got[where[slot]] += events
        for slot in [s for s in where if engine.finished(s)]:  # ... and leave in another order
            engine.close(slot)
            del where[slot]
        if not where and not waiting:
            break
    for a, b in zip(got, wanted, strict=True):
        assert len(b) > 2
        same(a, b)


def test_a_slot_forgets_who_had_it(model: Model):
    x, y = wave(2.0, 1), wave(1.6, 2)
    engine = Engine(model, 2)
    first = engine.open()
    engine.push(first, y)
    for _ in range(5):
        engine.step()
    engine.close(first)
    again = engine.open()
    assert again == first
    same(run(engine, again, x), alone(model, x))


def test_sound_that_comes_while_a_step_takes_some_is_heard_once(model: Model, monkeypatch: pytest.MonkeyPatch):
    engine, real = Engine(model, 1), np.concatenate
    slot, x, stepping = engine.open(), wave(1.0, 0), threading.Thread(target=lambda: engine.step())
    engine.push(slot, x)

    def concatenate(*parts: Any) -> np.ndarray:
        monkeypatch.undo()
        stepping.start()  # in the middle of a push
        stepping.join(0.5)
        return real(*parts)

    monkeypatch.setattr("mmx.streaming.batched.engine.np.concatenate", concatenate)
    engine.push(slot, x)
    stepping.join()
    held = engine.slots[slot]
    assert held is not None and held.heard == engine.chunk
    np.testing.assert_array_equal(held.samples, np.concatenate([x, x])[engine.chunk :])


def test_a_paused_row_does_not_advance(model: Model):
    x, y = wave(2.0, 1), wave(2.4, 2)
    engine = Engine(model, 2)
    a, b = engine.open(), engine.open()
    engine.push(a, x, final=True)
    engine.push(b, y, final=True)
    got = {a: list[Event](), b: list[Event]()}

    def steps(n: int) -> None:
        for _ in range(n):
            for slot, events in engine.step().items():
                got[slot] += events

    steps(4)
    engine.pause(a)
    before = {k: v[a].clone() for k, v in leaves(engine.state)}
    steps(5)
    seen = {k: torch.equal(v[a], before[k]) for k, v in leaves(engine.state)}
    # Where the next token's keys and values go is nobody's until it is written.
    assert all(v for k, v in seen.items() if ".text." not in k), seen
    engine.pause(a, False)
    steps(60)
    assert engine.finished(a) and engine.finished(b)
    same(got[a], alone(model, x))
    same(got[b], alone(model, y))


def test_a_saved_session_goes_on_in_another_slot(model: Model, tmp_path: Path):
    x, path = wave(2.6, 1), tmp_path / "session.safetensors"
    wanted = alone(model, x)
    engine = Engine(model, 1)
    slot = engine.open()
    engine.push(slot, x[:20_000])
    early: list[Event] = []
    for _ in range(7):
        early += engine.step().get(slot, [])
    engine.save(slot, path)
    other = Engine(model, 3)
    for seed in (4, 5):
        other.push(other.open(), wave(1.5, seed))
    other.step()
    back = other.restore(path)
    assert back == 2
    same([*early, *run(other, back, x[20_000:])], wanted)
    same([*early, *run(engine, slot, x[20_000:])], wanted)  # and here


def test_what_is_no_session_of_this_engine_is_refused(model: Model, tmp_path: Path):
    path = tmp_path / "session.safetensors"
    engine = Engine(model, 1)
    engine.save(engine.open(), path)
    with pytest.raises(CheckpointError, match="numbers"):
        Engine(model, 1, memory_s=5).restore(path)
    path.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"Engine\.save"):
        Engine(model, 1).restore(path)


# -------------------- a graph


class Replay:
    """A graph that is none: it repeats the step and watches that no tensor moves."""

    def __init__(self) -> None:
        self.engine: Any = None
        self.seen: list[dict[str, tuple[int, tuple[int, ...]]]] = []

    def __call__(self, step: Callable[[], None]) -> Callable[[], None]:
        for _ in range(3):  # as a capture warms up, before there are sessions
            step()

        def replay() -> None:
            self.seen.append(dict(self.tensors()))
            step()
            self.seen.append(dict(self.tensors()))

        return replay

    def tensors(self) -> Iterator[tuple[str, tuple[int, tuple[int, ...]]]]:
        own = {k: v for k, v in vars(self.engine).items() if isinstance(v, Tensor)}
        for name, t in [*leaves(self.engine.state), *own.items()]:
            yield name, (t.data_ptr(), tuple(t.shape))


def test_every_step_is_the_same_computation_on_the_same_tensors(model: Model, tmp_path: Path):
    replay = Replay()
    replay.engine = engine = Engine(model, 2, prepare=replay)
    a = engine.open()
    engine.push(a, wave(2.0, 1), final=True)
    for turn in range(40):
        if turn == 3:
            engine.push(engine.open(), wave(1.0, 2), final=True)
        if turn == 6:
            engine.save(a, tmp_path / "a")
            engine.close(a)
            assert engine.restore(tmp_path / "a") == a
        engine.step()
    assert engine.finished(a) and len(replay.seen) > 20
    assert {"_x", "_n", "_go", "_tokens", "pen.length", "ears.0.rest"} <= replay.seen[0].keys()
    assert all(s == replay.seen[0] for s in replay.seen)


def test_warming_up_leaves_no_trace(model: Model):
    replay = Replay()
    replay.engine = engine = Engine(model, 1, prepare=replay)
    x = wave(2.0, 1)
    same(run(engine, engine.open(), x), alone(model, x))


def test_a_long_session_costs_the_same_at_any_time(model: Model):
    engine = Engine(model, 1, memory_s=4, tokens=16)
    slot = engine.open()
    size = sum(v.numel() for _, v in leaves(engine.state))
    shapes: set[tuple[Any, ...]] = set()
    real = engine.front.forward

    def forward(seq: Seq, state: Any = None) -> Seq:
        shapes.add(tuple(seq.x.shape))
        return real(seq, state)

    engine.front.forward = forward
    chunk = wave(CHUNK_S, 3)
    count = 0
    try:
        for _ in range(501):
            engine.push(slot, chunk)
            count += len(engine.step().get(slot, []))
    finally:
        del engine.front.forward
    held = engine._at(slot)
    assert len(held.samples) <= engine.span and len(held.tokens) <= 16
    assert shapes == {(1, engine.span)} and count > 20
    assert sum(v.numel() for _, v in leaves(engine.state)) == size
    assert all(bool(v.isfinite().all()) for _, v in leaves(engine.state) if v.is_floating_point())


# -------------------- decisions, and what cannot be


def test_a_threshold_decides(model: Model):
    x = wave(2.4, 1)
    bold, timid = (alone(model, x, decide=threshold(p)) for p in (0.0, 1.1))
    assert bold[0].at_s < timid[0].at_s == 2.4  # who is never sure waits for the end


def test_the_text_is_only_appended_to_and_sentences_end(model: Model):
    events = alone(model, wave(3.0, 2), tokens=8)
    assert [e.seq for e in events] == list(range(len(events))) and events[-1].final
    assert all(a.at_s <= b.at_s for a, b in pairwise(events))
    assert len([e for e in events if e.final]) > 1


def test_sound_too_short_for_a_frame_ends_without_text(model: Model):
    assert alone(model, wave(0.01, 1)) == [] == alone(model, np.zeros(0, np.float32))


def test_what_cannot_be_is_told(model: Model):
    engine = Engine(model, 1)
    slot = engine.open()
    with pytest.raises(InputError, match="expected a free slot"):
        engine.open()
    with pytest.raises(InputError, match="open slot, got 7"):
        engine.push(7, wave(0.1, 1))
    with pytest.raises(InputError, match="mono float"):
        engine.push(slot, np.zeros((2, 3), np.float32))
    engine.push(slot, wave(0.1, 1), final=True)
    with pytest.raises(InputError, match="no more sound"):
        engine.push(slot, wave(0.1, 1))
    with pytest.raises(InputError, match=r"multiple of the encoder's 0\.16 s, got 0\.2"):
        Engine(model, 1, chunk_s=0.2)
    with pytest.raises(InputError, match="chunk mask"):
        Engine(build(dataclasses.replace(SPEECH, chunk=None)), 1)
    with pytest.raises(InputError, match="normalize=False"):
        Engine(build(dataclasses.replace(SPEECH, normalize=True)), 1)
    with pytest.raises(InputError, match="looks into the next chunk"):
        Engine(build(dataclasses.replace(SPEECH, adaptor_kernel=14)), 1)
