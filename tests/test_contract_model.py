"""A model of two modalities as a block: lips at 25 and speech at 50 frames a second, whichever are present.

Letters: B rows, T steps of 40 ms, N samples.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from contract import verify_contract
from torch import nn
from toys.folders import new_toy

from mmx.model import Model
from mmx.seq import Seq
from mmx.state import State

PIXELS, SAMPLES = 16 * 16 * 3, 640  # of a step of 40 ms


class AsBlock(nn.Module):
    """A step of 40 ms is a picture and its sound, side by side; the modalities that are present are given to the model.

    A model has one clock for each modality; the contract has one for all.
    """

    stride, lookahead = 1, 0

    def __init__(self, model: Model, present: Sequence[str]):
        super().__init__()
        self.model, self.present = model, tuple(present)

    def init_state(self, batch: int, capacity: int = 0) -> State:
        return self.model.init_state(batch, capacity)

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        lips, sound = seq.x.split([PIXELS, SAMPLES], 2)
        inputs = {
            "lips": Seq(lips.unflatten(2, (16, 16, 3)), seq.lengths, 25.0, seq.final),
            "speech": Seq(sound.flatten(1), seq.lengths * SAMPLES, 16_000.0, seq.final),
        }
        return self.model.memory({name: inputs[name] for name in self.present}, state=state)


def steps(lengths: Sequence[int], seed: int) -> Seq:
    x = torch.randn(len(lengths), max(lengths), PIXELS + SAMPLES, generator=torch.Generator().manual_seed(seed))
    return Seq(x, torch.tensor(lengths), 25.0)


PATTERNS = [["lips"], ["speech"], ["lips", "speech"]]


@pytest.mark.parametrize("present", PATTERNS, ids="+".join)
def test_a_model_of_two_modalities_keeps_the_contract(present: list[str]) -> None:
    """Streaming through the model, its state in pieces of any size, equals the whole."""
    verify_contract(AsBlock(new_toy("lips_with_speech"), present), steps, lengths=(9, 4, 3, 1), tolerance=1e-5)


@torch.no_grad()
def require_waiting(model: Model, present: Sequence[str]) -> None:
    """Sound may run ahead of the pictures, and the other way round: the memory waits for both."""
    whole = steps([9], 3)
    lips, sound = whole.x.split([PIXELS, SAMPLES], 2)
    inputs = {"lips": lips.unflatten(2, (16, 16, 3)), "speech": sound.flatten(1)}
    rates, cuts = {"lips": 25.0, "speech": 16_000.0}, {"lips": [0, 5, 5, 9], "speech": [900, 1000, 4000, 9 * SAMPLES]}
    state, made, at = model.init_state(1, 9), [], dict.fromkeys(present, 0)
    for i in range(4):
        pieces = {}
        for name in present:
            x = inputs[name][:, at[name] : cuts[name][i]]
            pieces[name] = Seq(x, torch.tensor([x.shape[1]]), rates[name], final=i == 3)
            at[name] = cuts[name][i]
        made.append(model.memory(pieces, state=state).x)
    want = AsBlock(model, present)(whole).x
    torch.testing.assert_close(torch.cat(made, 1), want, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def require_both(model: Model) -> None:
    """What is fused depends on every modality that is present."""
    block, seq = AsBlock(model, ["lips", "speech"]), steps([4], 0)
    whole = block(seq).x
    for part in (slice(0, PIXELS), slice(PIXELS, None)):
        changed = seq.x.clone()
        changed[..., part] += 1
        assert not torch.allclose(block(seq._replace(x=changed)).x, whole, atol=1e-3)


@pytest.mark.parametrize("present", PATTERNS, ids="+".join)
def test_modalities_that_come_out_of_step_make_the_same_memory(present: list[str]) -> None:
    require_waiting(new_toy("lips_with_speech"), present)


def test_what_is_fused_depends_on_every_modality_that_is_present() -> None:
    require_both(new_toy("lips_with_speech"))


# -------------------- planted bugs


class DropsFuse(Model):
    """Gives the first modality's memory."""

    def memory(self, inputs: Mapping[str, Seq], *args: Any, state: State | None = None) -> Seq:  # type: ignore[override]
        name = next(iter(inputs))
        return self.encode(name, inputs[name], state=state)


class FusesWithoutState(Model):
    """Streams the encoders, and fuses each piece as if it were all."""

    def memory(self, inputs: Mapping[str, Seq], *args: Any, state: State | None = None) -> Seq:  # type: ignore[override]
        made = {name: self.encode(name, seq, state=state) for name, seq in inputs.items()}
        assert self.fuse is not None
        return self.for_decoder(self.fuse(made))


class ForgetsEncoder(Model):
    """An encoder begins anew with each piece."""

    def init_state(self, batch: int, capacity: int) -> State:
        state = super().init_state(batch, capacity)
        del state["encoders/lips"]
        return state


def require_contract(model: Model) -> None:
    verify_contract(AsBlock(model, ["lips", "speech"]), steps, lengths=(9, 4, 3, 1), tolerance=1e-5)


@pytest.mark.parametrize(
    ("kind", "law"),
    [
        (DropsFuse, require_both),
        (FusesWithoutState, lambda model: require_waiting(model, ["lips", "speech"])),
        (ForgetsEncoder, require_contract),
    ],
)
def test_planted_bugs_are_caught(kind: type[Model], law: Callable[[Model], None]) -> None:
    model = new_toy("lips_with_speech")
    model.__class__ = kind
    with pytest.raises(AssertionError):
        law(model)
