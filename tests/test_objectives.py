"""Objectives, each against an oracle of its own; and that an update's batches add up whatever the objective.

Letters: B rows, T frames, D width, V vocabulary.
"""

import itertools
import math
from collections import Counter
from typing import Any, cast

import pytest
import torch
from test_train import random_batch, rows, tiny
from torch import Tensor, nn
from toys.folders import new_toy

from mmx.errors import InputError
from mmx.interfaces import Losses, Objective
from mmx.model import Model
from mmx.seq import Seq, pad
from mmx.train.batch import IGNORED, Batch
from mmx.train.objectives import OBJECTIVES, build_objective
from mmx.train.objectives.contrastive import ContrastiveLoss, info_nce
from mmx.train.objectives.ctc import ctc_loss
from mmx.train.objectives.distillation import DistillationLoss, divergence
from mmx.train.objectives.flow import FlowLoss, draw, flow_losses
from mmx.train.objectives.token import TokenLoss


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# -------------------- CTC


def test_ctc_is_the_sum_over_all_alignments() -> None:
    """Enumerated: every row of frames that a text of it can be read from, blanks and repetitions taken out."""
    frames, texts = randn(2, 4, 3), [[0, 1], [1, 1]]
    memory = Seq(frames, torch.tensor([4, 3]), 25.0)
    got = ctc_loss(nn.Identity(), memory, [torch.tensor(t) for t in texts])
    wanted = 0.0
    for row, length, text in zip(frames, [4, 3], texts, strict=True):
        probs = row[:length].softmax(-1)
        paths = itertools.product(range(3), repeat=length)
        hits = [p for p in paths if [k for k, _ in itertools.groupby(p) if k != 2] == text]
        wanted -= math.log(sum(math.prod(float(probs[t, k]) for t, k in enumerate(p)) for p in hits))
    assert float(got) == pytest.approx(wanted, rel=1e-5)


def test_ctc_leaves_out_what_has_no_alignment_and_what_is_padding() -> None:
    frames = randn(2, 6, 3).requires_grad_()
    memory = Seq(frames, torch.tensor([6, 2]), 25.0)
    ctc_loss(nn.Identity(), memory, [torch.tensor([0, 1]), torch.tensor([0, 0])]).backward()  # 0 0 needs three frames
    assert frames.grad is not None and frames.grad[0].abs().sum() > 0
    assert not frames.grad[1].any()


# -------------------- contrastive


def test_info_nce_is_what_brute_force_finds() -> None:
    a, b = (nn.functional.normalize(randn(5, 4, seed=s), dim=-1) for s in (0, 1))
    loss, found = info_nce(a, b, 0.1)
    for i in range(5):
        there = math.log(sum(math.exp(float(a[i] @ b[j]) / 0.1) for j in range(5)))
        back = math.log(sum(math.exp(float(a[j] @ b[i]) / 0.1) for j in range(5)))
        assert float(loss[i]) == pytest.approx((there + back) / 2 - float(a[i] @ b[i]) / 0.1, rel=1e-4)
        assert bool(found[i]) == (max(range(5), key=lambda j, i=i: float(a[i] @ b[j])) == i)


# -------------------- flow matching


class Line(nn.Module):
    """A velocity that is linear in the point, with numbers of its own for each of a few times."""

    medium = "audio"

    def __init__(self, slope: float, offset: float):
        super().__init__()
        self.slope, self.offset = nn.Parameter(torch.tensor(slope)), nn.Parameter(torch.tensor(offset))

    def velocity(self, x: Tensor, time_B: Tensor, condition: Seq) -> Tensor:
        """At time one half."""
        return self.slope * x + self.offset

    def features(self, target: Seq) -> Seq:
        """As they are."""
        return target

    def condition(self, memory: Seq) -> Seq:
        """As it is."""
        return memory


def test_the_least_loss_is_that_of_the_field_which_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of normal features, mean 2 and deviation 0.5, the field is known at every time t: it is linear in the point."""
    mean, deviation, t, n = 2.0, 0.5, 0.5, 40_000
    target = Seq(mean + deviation * randn(1, n, 1), torch.tensor([n]), 50.0)
    condition = Seq(torch.zeros(1, n, 1), torch.tensor([n]), 50.0)
    monkeypatch.setattr("mmx.train.objectives.flow.draw", lambda x, *_: (randn(1, n, 1, seed=7), torch.tensor([t])))
    slope = (t * deviation**2 - (1 - t)) / ((1 - t) ** 2 + t**2 * deviation**2)
    offset = mean - slope * t * mean

    def gradient(slope: float, offset: float) -> list[float]:
        field = Line(slope, offset)
        flow_losses(cast("Any", field), target, condition, sigma=0.0).sum().backward()
        return [abs(float(cast("Tensor", p.grad))) for p in (field.slope, field.offset)]

    assert max(gradient(slope, offset)) < 0.02
    assert min(max(gradient(slope + 0.2, offset)), max(gradient(slope, offset - 0.2))) > 0.1


def test_what_is_drawn_for_a_row_is_its_own() -> None:
    like, lengths = torch.zeros(3, 6, 2), torch.tensor([6, 3, 5])
    noise, times = draw(like, lengths, ["a", "b", "c"])
    other, again = draw(torch.zeros(2, 3, 2), torch.tensor([3, 3]), ["b", "d"])
    torch.testing.assert_close(other[0], noise[1, :3])
    assert again[0] == times[1] and again[1] != times[1]
    assert float(times.min()) >= 0 and float(times.max()) <= 1


# -------------------- distillation


def test_the_divergence_is_that_of_the_definition() -> None:
    taught, own = randn(4, 5), randn(4, 5, seed=1)
    p, q = (taught / 2).softmax(-1), (own / 2).softmax(-1)
    wanted = sum(float(a * (a / b).log()) for a, b in zip(p.flatten(), q.flatten(), strict=True)) * 4
    assert float(divergence(taught, own, 2.0)) == pytest.approx(wanted, rel=1e-5)
    assert float(divergence(own, own, 2.0)) == pytest.approx(0.0, abs=1e-6)


def test_a_model_that_is_its_own_teacher_has_nothing_to_learn_of_it() -> None:
    model, batch = tiny(), random_batch([(4, 3), (2, 6)])
    found = DistillationLoss(model, share=1.0)(model, batch)
    assert float(found.total["kl"]) == pytest.approx(0.0, abs=1e-5)
    assert float(found.total["nll"]) == pytest.approx(float(TokenLoss()(model, batch).figures["nll"]), rel=1e-6)
    with pytest.raises(InputError, match=r"vocabulary of 30, got .* with 31"):
        DistillationLoss(tiny(vocab=31))(model, batch)


# -------------------- batches of an update


def update(objective: Objective, model: Model, batches: list[Batch]) -> Tensor:
    """The gradient of an update, as the loop adds it up."""
    model.zero_grad()
    weights = objective.weights(sum((Counter(objective.count(b)) for b in batches), Counter()))
    for batch in batches:
        found: Losses = objective(model, batch)
        sum((loss * weights[name] for name, loss in found.total.items()), torch.zeros(())).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def spoken(lengths: list[int]) -> Batch:
    """Texts that a toy is to say; each token lasts four frames of 320 samples."""
    texts = pad([torch.randint(260, (n,), generator=torch.Generator().manual_seed(n)) for n in lengths])
    waves = pad([0.1 * randn(4 * 320 * n, seed=n) for n in lengths], 16_000.0)
    none = torch.zeros(len(lengths), 0, dtype=torch.int64)
    keys = tuple(f"row {n}" for n in lengths)
    return Batch({"text": texts}, none, none, ("speak",) * len(lengths), "front", {"audio": waves}, keys)


@pytest.mark.parametrize("name", ["flow", "toys.text_to_mel.Objective"])
def test_small_batches_of_what_is_to_be_made_add_up_to_a_large_one(name: str) -> None:
    objective, model = build_objective(name, {}), new_toy("text_to_mel")
    whole = update(objective, model, [spoken([5, 3, 8])])
    assert whole.abs().max() > 1e-3
    torch.testing.assert_close(update(objective, model, [spoken([5]), spoken([3, 8])]), whole, rtol=1e-4, atol=1e-6)


def test_small_batches_add_up_to_a_large_one_with_a_teacher() -> None:
    model, objective = tiny(), DistillationLoss(tiny(1), temperature=2.0)
    batch = random_batch([(3, 9), (7, 2), (5, 5), (6, 1)])
    parts = [rows(batch, slice(0, 1)), rows(batch, slice(1, 4))]
    whole = update(objective, model, [batch])
    assert whole.abs().max() > 1e-3
    torch.testing.assert_close(update(objective, model, parts), whole, rtol=1e-5, atol=1e-7)


def test_small_batches_add_up_to_a_large_one_without_a_decoder() -> None:
    model = new_toy("pose_to_text")
    model.heads["ctc"] = nn.Linear(32, 9)
    objective = build_objective("ctc", {})
    targets = torch.tensor([[0, 1, 2], [3, 2, IGNORED]])  # the last of each row ends it
    poses = Seq(randn(2, 40, 4, 2), torch.tensor([40, 24]), 25.0)
    batch = Batch({"pose": poses}, targets.clamp(min=0), targets, ("transcribe",) * 2)
    parts = [batch._replace(inputs={"pose": poses.rows(torch.tensor([i]))}, targets=targets[i : i + 1]) for i in (0, 1)]
    assert objective.count(batch) == {"ctc": 3}
    whole = update(objective, model, [batch])
    assert whole.abs().max() > 1e-3
    torch.testing.assert_close(update(objective, model, parts), whole, rtol=1e-4, atol=1e-6)


def test_both_modalities_learn_from_each_other() -> None:
    model = new_toy("lips_with_speech")
    lips = Seq(torch.randint(256, (3, 10, 16, 16, 3)).to(torch.uint8), torch.tensor([10, 8, 9]), 25.0)
    speech = Seq(randn(3, 6400), torch.tensor([6400, 5120, 5760]), 16_000.0)
    none = torch.zeros(3, 0, dtype=torch.int64)
    objective = ContrastiveLoss()
    assert objective.needs(model).modalities == ("lips", "speech")
    update(objective, model, [Batch({"lips": lips, "speech": speech}, none, none, ("transcribe",) * 3)])
    for part in (model.encoders["lips"], model.encoders["speech"], model.heads["lips"], model.heads["speech"]):
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())


# -------------------- names


def test_an_objective_is_found_by_its_name_and_says_what_it_takes() -> None:
    for name in sorted(OBJECTIVES.keys() - {"distillation"}):
        made: Any = build_objective(name, {})
        assert all(hasattr(made, member) for member in ("needs", "count", "weights", "perplexity")), name
    assert isinstance(build_objective("toys.text_to_mel.Objective", {"sigma": 0.1}), FlowLoss)
    for name, numbers, match in (
        ("ctx", {}, "Did you mean 'ctc'"),
        ("toys.text_to_mel.Nothing", {}, "no attribute|has no"),
        ("no_such_module.Loss", {}, "No module"),
        ("contrastive", {"temperatur": 0.1}, "Did you mean 'temperature'"),
    ):
        with pytest.raises(InputError, match=match):
            build_objective(name, numbers)


@pytest.mark.parametrize(
    ("name", "toy", "match"),
    [
        ("ctc", "pose_to_text", "a head 'ctc'"),
        ("flow", "pose_to_text", "a synth"),
        ("token", "text_to_mel", "writes text"),
        ("contrastive", "pose_to_text", "two modalities"),
    ],
)
def test_a_model_that_an_objective_cannot_train_is_refused(name: str, toy: str, match: str) -> None:
    with pytest.raises(InputError, match=match):
        build_objective(name, {}).needs(new_toy(toy))
