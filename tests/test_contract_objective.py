"""Objectives under their contract, and faults that the contract must find."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import test_f5_tts
import test_flow_vocoder
import test_flow_voice
import test_gfslt
import test_lips_and_sound
import test_mixup
import torch
from contract import ContractError
from contract_objective import verify_objective
from test_objectives import randn, spoken
from test_train import random_batch, rows, tiny
from torch import nn
from toys.folders import new_toy

from mmx.interfaces import Losses
from mmx.model import Model
from mmx.models.flow_voice import copy_synthesis
from mmx.seq import Seq
from mmx.train.batch import IGNORED, Batch
from mmx.train.objectives import build_objective
from mmx.train.objectives.distillation import DistillationLoss
from mmx.train.objectives.token import TokenLoss


def test_of_the_next_token() -> None:
    whole = random_batch([(3, 9), (7, 2), (5, 5)], ("a", "b", "a"))
    parts = [rows(whole, slice(0, 1)), rows(whole, slice(1, 3))]
    verify_objective(TokenLoss(0.1), tiny(), whole, parts)
    verify_objective(DistillationLoss(tiny(1), temperature=2.0), tiny(), whole, parts)


def test_of_alignments() -> None:
    model = new_toy("pose_to_text")
    model.heads["ctc"] = nn.Linear(32, 9)
    targets = torch.tensor([[0, 1, 2], [3, 2, IGNORED]])
    poses = Seq(randn(2, 40, 4, 2), torch.tensor([40, 24]), 25.0)
    whole = Batch({"pose": poses}, targets.clamp(min=0), targets, ("transcribe",) * 2)
    parts = [whole._replace(inputs={"pose": poses.rows(torch.tensor([i]))}, targets=targets[i : i + 1]) for i in (0, 1)]
    verify_objective(build_objective("ctc", {}), model, whole, parts)


@pytest.mark.parametrize("name", ["framewise", "mixup"])
def test_of_lips_and_sound(name: str) -> None:
    model = test_lips_and_sound.tiny()
    verify_objective(build_objective(name, {}), model, test_mixup.batch(model))


def test_of_embeddings() -> None:
    """Rows are compared with each other: the batches of an update do not add up to one."""
    model = new_toy("lips_with_speech")
    lips = Seq(torch.randint(256, (3, 10, 16, 16, 3)).to(torch.uint8), torch.tensor([10, 8, 9]), 25.0)
    speech = Seq(randn(3, 6400), torch.tensor([6400, 5120, 5760]), 16_000.0)
    none = torch.zeros(3, 0, dtype=torch.int64)
    whole = Batch({"lips": lips, "speech": speech}, none, none, ("transcribe",) * 3)
    verify_objective(build_objective("contrastive", {}), model, whole)
    signing = test_gfslt.built()
    for objective in (build_objective("visual_language", {"mask": 0.0}), build_objective("cico", {})):
        verify_objective(objective, signing, test_gfslt.batch(signing))


@pytest.mark.parametrize("name", ["flow", "toys.text_to_mel.Objective"])
def test_of_velocities(name: str) -> None:
    verify_objective(
        build_objective(name, {}), new_toy("text_to_mel"), spoken([5, 3, 8]), [spoken([5]), spoken([3, 8])]
    )


def test_of_voices() -> None:
    acoustic, whole = test_flow_voice.tiny(), test_flow_voice.batch([5, 3])
    verify_objective(
        build_objective("acoustic", {}), acoustic, whole, [test_flow_voice.batch([5]), test_flow_voice.batch([3])]
    )
    verify_objective(build_objective("infill", {}), test_f5_tts.tiny_model(), test_f5_tts.lesson())
    vocoder = copy_synthesis.build(test_flow_vocoder.ALONE).eval()
    verify_objective(build_objective("spectral", {"seconds": 0.5}), vocoder, test_flow_vocoder.spoken([40, 25]))
    judging = test_flow_vocoder.judging().eval()
    verify_objective(build_objective("adversarial", {"seconds": 0.3}), judging, test_flow_vocoder.spoken([40, 25]))


# -------------------- faults


class Miscounts(TokenLoss):
    def count(self, batch: Batch) -> Counter[str]:
        return Counter({name: n + 1 for name, n in super().count(batch).items()})

    def __call__(self, model: Model, batch: Batch) -> Losses:
        return replace(super().__call__(model, batch), counts=super().count(batch))


class Means(TokenLoss):
    """Of each batch, so that a small one counts as much as a large one."""

    def __call__(self, model: Model, batch: Batch) -> Losses:
        found = super().__call__(model, batch)
        return replace(found, total={name: loss / len(batch.tasks) for name, loss in found.total.items()})


class KeepsTheGraph(TokenLoss):
    def __call__(self, model: Model, batch: Batch) -> Losses:
        found = super().__call__(model, batch)
        return replace(found, figures=found.total)


class Writes(TokenLoss):
    def __call__(self, model: Model, batch: Batch) -> Losses:
        model.last_batch = batch  # type: ignore[assignment]
        return super().__call__(model, batch)


class Drifts(TokenLoss):
    calls = 0

    def __call__(self, model: Model, batch: Batch) -> Losses:
        self.calls += 1
        found = super().__call__(model, batch)
        return replace(found, total={name: loss * (1 + 1e-3 * self.calls) for name, loss in found.total.items()})


class Divides(TokenLoss):
    def __call__(self, model: Model, batch: Batch) -> Losses:
        found = super().__call__(model, batch)
        n = (batch.targets != IGNORED).sum()
        return replace(found, total={name: loss / n * n for name, loss in found.total.items()})


class FailsOnNothing(TokenLoss):
    def weights(self, counts: Mapping[str, int]) -> dict[str, float]:
        return super().weights(counts) | {"nll": float("nan") if not counts["nll"] else 1.0}


@pytest.mark.parametrize(
    ("kind", "check"),
    [
        (Miscounts, "counted"),
        (Means, "adds_up"),
        (KeepsTheGraph, "reported"),
        (Writes, "again"),
        (Drifts, "again"),
        (Divides, "waits"),
        (FailsOnNothing, "nothing"),
    ],
)
def test_a_fault_is_found_and_named(kind: Any, check: str) -> None:
    whole = random_batch([(3, 9), (7, 2), (5, 5)])
    with pytest.raises(ContractError) as found:
        verify_objective(kind(), tiny(), whole, [rows(whole, slice(0, 1)), rows(whole, slice(1, 3))])
    assert found.value.check == check, found.value
