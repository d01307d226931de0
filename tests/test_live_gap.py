"""Live sessions of lips and sound in which nothing is there for a while: what follows is read as if it came first.

Letters: N samples, T frames.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from test_lips_and_sound import tiny

import mmx
from mmx.clip import Clip, join
from mmx.media.clips import open_clip
from mmx.model import Model
from mmx.models.lips_and_sound import LIPS, SOUND
from mmx.seq import Seq
from mmx.streaming.ctc import CTCListener, Emitted
from mmx.streaming.gap import Gap, without_first
from mmx.streaming.stream import Stream

DEMO = Path(__file__).parent.parent / "demos" / "talking_mouth.mkv"


def clip(lips_THW: np.ndarray, sound_N: np.ndarray) -> dict[str, Seq]:
    parts = {LIPS: (lips_THW, 25.0), SOUND: (sound_N, 16_000.0)}
    return {n: Seq(torch.from_numpy(x)[None], torch.tensor([len(x)]), rate) for n, (x, rate) in parts.items()}


def noise(frames: int, seed: int, pixels: int = 48) -> tuple[np.ndarray, np.ndarray]:
    """Pictures and sound of a time in which both are there."""
    rng = np.random.default_rng(seed)
    pictures = rng.integers(1, 255, (frames, pixels, pixels)).astype(np.uint8)
    return pictures, rng.normal(0, 0.1, frames * 640).astype(np.float32)


def nothing(frames: int, pixels: int = 48) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((frames, pixels, pixels), np.uint8), np.zeros(frames * 640, np.float32)


def session(model: Model, parts: list[tuple[np.ndarray, np.ndarray]], monkeypatch: pytest.MonkeyPatch) -> list[Emitted]:
    """Whatever a live session of the parts in a row emits, saved and restored in its midst."""
    emitted: list[Emitted] = []
    found = CTCListener._emitted
    monkeypatch.setattr(CTCListener, "_emitted", lambda self: emitted.extend(new := found(self)) or new)
    lips, sound = (np.concatenate(x) for x in zip(*parts, strict=True))
    stream = Stream(model, language="en", vad=None, step_s=0.4, modalities=(LIPS, SOUND))
    half = len(lips) // 2
    stream.push(clip(lips[:half], sound[: half * 640]))
    tensors, values = stream.listener.state()
    stream.listener.restore(tensors, json.loads(json.dumps(values)))
    stream.push(clip(lips[half:], sound[half * 640 :]), final=True)
    assert stream.source_s == pytest.approx(len(lips) / 25)
    monkeypatch.setattr(CTCListener, "_emitted", found)
    return emitted


@pytest.mark.parametrize("frames", [30, 47, 100])
def test_what_follows_a_gap_is_read_as_if_it_came_first(frames: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    size = model.inputs[LIPS].shape[0]
    before, after = noise(30, 0, size), noise(40, 1, size)
    alone = [(e.token, round(e.start_s, 3)) for e in session(model, [after], monkeypatch)]
    got = session(model, [before, nothing(frames, size), after], monkeypatch)
    late_s = (30 + frames) / 25
    assert alone and [(e.token, round(e.start_s - late_s, 3)) for e in got if e.start_s >= late_s - 1e-6] == alone


def test_a_letter_behind_a_gap_is_not_taken_for_the_one_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    size = model.inputs[LIPS].shape[0]
    after = noise(40, 1, size)
    first = session(model, [after], monkeypatch)[0].token
    stream = Stream(model, language="en", vad=None, step_s=0.4, modalities=(LIPS, SOUND))
    stream.push(clip(*nothing(20, size)))  # shorter than what ends a sentence
    stream.listener.last = first
    emitted: list[Emitted] = []
    found = CTCListener._emitted
    monkeypatch.setattr(CTCListener, "_emitted", lambda self: emitted.extend(new := found(self)) or new)
    stream.push(clip(*after), final=True)
    assert emitted[0].token == first


def test_a_short_loss_is_encoded_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    size = model.inputs[LIPS].shape[0]
    pictures, sound = noise(60, 0, size)
    pictures[20:28], sound[20 * 640 : 28 * 640] = 0, 0
    got = session(model, [(pictures, sound)], monkeypatch)
    from mmx.streaming import gap

    monkeypatch.setattr(gap, "SHORT_S", 1e9)
    assert [e.token for e in session(model, [(pictures, sound)], monkeypatch)] == [e.token for e in got]


def test_a_gap_ends_with_the_frame_in_which_something_is_there() -> None:
    pictures, sound = nothing(10, 2)
    pictures[7], sound[5 * 640 + 100] = 9, 0.1
    others: Clip = {LIPS: clip(pictures, sound)[LIPS]}
    gap = Gap(absent=8000)
    assert gap.open and gap.take(sound, others, 640) == 5 * 640 and not gap.open
    cut_N, cut = without_first(5 * 640, sound, others, 640)
    assert len(cut_N) == 5 * 640 and cut[LIPS].x.shape[1] == 5 and bool(cut[LIPS].x[0, 2].all())
    assert gap.take(sound * 0, {}, 0) == 6400 and not gap.open  # 0.4 s


@torch.inference_mode()
def test_nothing_for_eight_seconds_costs_the_demonstration_no_word() -> None:
    model = mmx.load("lips-and-sound", dtype="float32")
    with open_clip(str(DEMO), model.recorded) as reader:
        whole = join(list(reader))
    lips, sound = whole[LIPS].x[0].numpy(), whole[SOUND].x[0].numpy()
    texts = []
    for frames in (0, 200):
        none = nothing(frames)
        stream = Stream(model, language="en", modalities=(LIPS, SOUND))
        stream.push(clip(np.concatenate([none[0], lips]), np.concatenate([none[1], sound])), final=True)
        texts.append(stream.text.strip())
    assert len(texts[0].split()) >= 3 and texts[1] == texts[0]
