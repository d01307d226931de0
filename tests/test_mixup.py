"""Mixup of lips and sound, and the warm start by frames, against oracles.

Letters: B rows, M memory frames, D width, V vocabulary.
"""

import math

import pytest
import torch
from test_lips_and_sound import pictures, samples, tiny
from torch import nn

from mmx.errors import InputError
from mmx.model import Model
from mmx.seq import Seq
from mmx.tasks.ctc_recognizer import best_paths
from mmx.train.batch import IGNORED, Batch
from mmx.train.objectives.framewise import FramewiseCTCLoss, frame_loss
from mmx.train.objectives.mixup import MixupLoss, divergence, mix, spans_of_sound

TEXTS = ("ab", "c")


def batch(model: Model, epoch: int = 0, texts: tuple[str, ...] = TEXTS) -> Batch:
    """Two clips of 12 and 9 pictures, with their texts and which character is spoken when."""
    tok = model.require_tokenizer()
    rows = [[*tok.prompt("eng_Latn"), *tok.encode(text), tok.eot] for text in texts]
    n = max(map(len, rows))
    tokens = torch.tensor([row + [0] * (n - len(row)) for row in rows])
    given = len(tok.prompt("eng_Latn"))
    targets = torch.tensor([[IGNORED] * given + row[given:] + [IGNORED] * (n - len(row)) for row in rows])
    labels = torch.full((2, 24, 1), -1.0)
    labels[0, 4:8], labels[0, 8:12], labels[1, 3:9] = 0.0, 1.0, 0.0
    inputs = {"lips": pictures([12, 9], 0), "speech": samples([12 * 640, 9 * 640], 1)}
    outputs = {"features": Seq(labels, torch.tensor([24, 18]), 50.0)}
    keys = tuple(f"0/{epoch}/{i}" for i in range(2))
    return Batch(inputs, tokens[:, :-1], targets[:, 1:], ("a", "a"), outputs=outputs, keys=keys)


def test_frames_are_sound_in_spans_and_in_the_share_that_is_asked_for() -> None:
    torch.manual_seed(0)
    assert not spans_of_sound((3, 20), 0.0, (3, 12)).any() and spans_of_sound((3, 20), 1.0, (3, 12)).all()
    drawn = spans_of_sound((200, 300), 0.3, (3, 12))
    assert float(drawn.float().mean()) == pytest.approx(0.3, abs=0.02)
    changes = (
        (drawn[:, 1:] != drawn[:, :-1]).float().mean()
    )  # a span of 7.5 frames ends in another kind in 0.42 of cases
    assert float(changes) == pytest.approx(2 * 0.3 * 0.7 / 7.5, abs=0.01)
    single = spans_of_sound((200, 300), 0.3, (1, 1))
    assert float((single[:, 1:] != single[:, :-1]).float().mean()) == pytest.approx(0.42, abs=0.02)


def test_each_frame_of_a_mixed_stream_is_of_one_of_the_two() -> None:
    lips = Seq(torch.ones(1, 5, 2), torch.tensor([5]), 25.0)
    sound = Seq(2 * torch.ones(1, 4, 2), torch.tensor([4]), 25.0)
    made = mix(lips, sound, torch.tensor([[True, False, True, False, True]]), "l", "s")
    assert made["l"].x[0, :, 0].tolist() == [0, 1, 0, 1, 0]
    assert made["s"].x[0, :, 0].tolist() == [2, 0, 2, 0, 0]  # the sound ends earlier


def test_the_divergence_is_that_of_the_definition_and_teaches_the_lips_alone() -> None:
    teacher, student = (torch.randn(1, 3, 4, requires_grad=True) for _ in range(2))
    memory = Seq(torch.zeros(1, 3, 1), torch.tensor([2]), 50.0)
    got = divergence(teacher.log_softmax(-1), student.log_softmax(-1), memory)
    p, q = teacher.softmax(-1)[0, :2], student.softmax(-1)[0, :2]
    assert float(got.detach()) == pytest.approx(float((p * (p / q).log()).sum().detach() / 2), rel=1e-5)
    got.backward()
    assert teacher.grad is None and student.grad is not None and not student.grad[0, 2].any()


@torch.no_grad()
def test_no_sound_is_lips_alone_and_all_sound_is_sound_alone() -> None:
    model = tiny()
    one = batch(model)
    none = MixupLoss(share=0.0, curriculum="constant")(model, one)
    torch.testing.assert_close(none.total["mixed"], none.total["ctc"])
    assert float(none.total["agree"]) == pytest.approx(0, abs=1e-5)
    every = MixupLoss(share=1.0, curriculum="constant")(model, one)
    sound = FramewiseCTCLoss()(model, one._replace(inputs={"speech": one.inputs["speech"]}))
    torch.testing.assert_close(every.total["mixed"], sound.total["ctc"])
    assert float(every.total["agree"]) > 1e-3
    assert every.counts == {"ctc": 3, "mixed": 3, "agree": 2}


@torch.no_grad()
def test_curricula_lower_the_share_of_sound() -> None:
    model = tiny()
    lips = MixupLoss()._pass(model, {"lips": model.encode("lips", batch(model).inputs["lips"])}, batch(model))
    linear = MixupLoss(share=0.5, curriculum="linear", passes=10)
    assert [linear.ratio(lips, batch(model, epoch)) for epoch in (0, 5, 12)] == [0.5, 0.25, 0.0]
    sure = torch.full_like(lips.logits, -30.0)
    sure[..., 0] = 0.0
    for curriculum in ("loss", "uncertainty"):
        loss = MixupLoss(share=0.5, curriculum=curriculum)
        early = loss.ratio(lips, batch(model))
        late = loss.ratio(lips._replace(loss=torch.tensor(0.1), logits=sure), batch(model))
        assert 0 <= late < early <= 0.63
    with pytest.raises(InputError, match="fuses"):
        model.fuse = None
        linear.needs(model)


@torch.no_grad()
def test_frames_are_taught_what_is_spoken_in_them() -> None:
    model = tiny()
    one = batch(model, texts=("aab", "c"))
    ids, vocab = model.require_tokenizer().encode("abc"), 262
    a, b, c, blank = *ids, vocab - 1
    rows = [[blank] * 4 + [a] * 2 + [blank] + [a] + [b] * 4 + [blank] * 12, [blank] * 3 + [c] * 6 + [blank] * 15]
    one.outputs["features"].x[0, 4:12, 0] = torch.tensor([0, 0, 1, 1, 2, 2, 2, 2])  # a doubled letter, told by a blank
    memory = Seq(torch.zeros(2, 24, 1), torch.tensor([24, 18]), 50.0)
    perfect = nn.functional.one_hot(torch.tensor(rows), vocab) * 40.0
    assert float(frame_loss(perfect, memory, one)) == pytest.approx(0, abs=1e-3)
    nothing = frame_loss(torch.zeros(2, 24, vocab), memory, one)
    assert float(nothing) == pytest.approx((24 + 18) * math.log(vocab), rel=1e-5)
    paths = best_paths(perfect.log_softmax(-1), memory.lengths, blank)
    assert [path.tokens for path in paths] == [[a, a, b], [c]]


@torch.no_grad()
def test_the_warm_start_fades() -> None:
    model = tiny()
    first, last = (FramewiseCTCLoss(2.0, passes=4)(model, batch(model, epoch)).total for epoch in (0, 3))
    assert float(last["frames"]) == pytest.approx(float(first["frames"]) / 4)
    torch.testing.assert_close(first["ctc"], last["ctc"])
