"""Lips and sound: its parts keep the contract, alone and together, and what is absent is passed over.

Letters: B rows, T frames, N samples, H height, W width.
"""

from collections.abc import Sequence

import pytest
import torch
from contract import verify_contract
from torch import Tensor, nn

from mmx.model import Model
from mmx.models import lips_and_sound as family
from mmx.seq import Seq
from mmx.state import State
from mmx.text import byte_tokenizer

PIXELS, SAMPLES = 12, 640


def tiny() -> Model:
    torch.manual_seed(0)
    config = family.Config(
        pixels=PIXELS, crop=8, channels=(2, 3), width=16, layers=2, heads=2, hidden=16, kernel=3, left=4, ahead=2
    )
    model = family.build(config).eval()
    model.tokenizer = byte_tokenizer.byte_tokenizer(["eng_Latn"])
    return model


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pictures(lengths: Sequence[int], seed: int, side: int = PIXELS) -> Seq:
    """Some of them black."""
    x = noise(len(lengths), max(lengths), side, side, seed=seed) * 40 + 100
    x[noise(*x.shape[:2], seed=seed + 1) > 1] = 0
    return Seq(x, torch.tensor(lengths), 25.0)


def samples(lengths: Sequence[int], seed: int) -> Seq:
    return Seq(noise(len(lengths), max(lengths), seed=seed) * 0.1, torch.tensor(lengths), 16_000.0)


def test_its_blocks_keep_the_contract() -> None:
    model = tiny()
    verify_contract(model.front["lips"], pictures)
    verify_contract(model.front["speech"], samples, lengths=(6001, 2560, 1300, 900), tolerance=1e-4)
    verify_contract(model.encoders["lips"], lambda lengths, seed: pictures(lengths, seed, 8), tolerance=1e-5)
    rows = lambda lengths, seed: Seq(noise(len(lengths), max(lengths), 104, seed=seed), torch.tensor(lengths), 25.0)  # noqa: E731
    verify_contract(model.encoders["speech"], rows)


class AsBlock(nn.Module):
    """Encoded lips and sound side by side, which the fusion is given as far as they are present."""

    stride = None

    def __init__(self, fuse: nn.Module, present: Sequence[str], lookahead: int):
        super().__init__()
        self.fuse, self.present, self.lookahead = fuse, present, lookahead

    def init_state(self, batch: int, capacity: int = 0) -> State:
        return self.fuse.init_state(batch, capacity)

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        parts = dict(zip((family.LIPS, family.SOUND), seq.x.chunk(2, -1), strict=True))
        return self.fuse({name: seq._replace(x=parts[name]) for name in self.present}, state)


@pytest.mark.parametrize("present", [["lips"], ["speech"], ["lips", "speech"]], ids="+".join)
def test_the_fusion_keeps_the_contract_whatever_is_present(present: list[str]) -> None:
    def make(lengths: Sequence[int], seed: int) -> Seq:
        return Seq(noise(len(lengths), max(lengths), 32, seed=seed), torch.tensor(lengths), 25.0)

    verify_contract(AsBlock(tiny().fuse, present, 2), make, lengths=(9, 5, 3, 1), tolerance=1e-5)


@pytest.mark.parametrize("present", [["lips"], ["speech"], ["lips", "speech"]], ids="+".join)
def test_it_reads_in_half_precision(present: list[str]) -> None:
    model = tiny()
    for part in (model.encoders, model.fuse):  # features are computed in float32, as after loading
        part.to(torch.bfloat16)
    made = {"lips": pictures([9, 5], 0), "speech": samples([5760, 3200], 1)}
    memory = model.memory({name: made[name] for name in present})
    assert memory.x.dtype == torch.bfloat16 and bool(memory.x.isfinite().all())


def test_training_on_one_modality_never_takes_it_away() -> None:
    config = family.Config(
        width=16, heads=2, hidden=16, layers=1, kernel=3, left=4, dropout=0.0, only_lips=0.5, only_sound=0.5
    )
    fuse = family.Fusion(config)
    alone = {family.SOUND: Seq(noise(8, 6, 16, seed=0), torch.full((8,), 6), 25.0)}
    assert torch.equal(fuse.train()(alone).x, fuse.eval()(alone).x)


def test_misleading_lips_are_still_shifted_or_of_another_row() -> None:
    torch.manual_seed(1)
    lips = noise(64, 40, 3, seed=0)
    told = torch.arange(64) % 2 == 0
    out = tiny().fuse._misleading(lips, told)  # type: ignore[union-attr]
    assert torch.equal(out[~told], lips[~told])
    kinds = [0, 0, 0]
    for b in range(0, 64, 2):
        shifts = [s for s in range(-12, 13) if torch.equal(out[b], lips[b].roll(s, 0))]
        still, other = bool((out[b] == out[b, :1]).all()), torch.equal(out[b], lips[b + 1])
        kinds = [
            n + found for n, found in zip(kinds, (still, bool(shifts) and abs(shifts[0]) >= 3, other), strict=True)
        ]
    assert sum(kinds) == 32
    assert min(kinds) > 3


def test_rows_are_misled_in_training_alone_and_only_where_both_are_kept() -> None:
    torch.manual_seed(0)
    fuse = family.Fusion(family.Config(width=16, heads=2, hidden=16, only_lips=0.3, only_sound=0.3, misled=0.2))
    kept = fuse.train()._kept(4000, 1)
    lips, sound, misled = (kept[n].view(-1).bool() for n in (family.LIPS, family.SOUND, "misled"))
    assert float(misled.float().mean()) == pytest.approx(0.2, abs=0.03)
    assert bool((sound & lips)[misled].all())
    assert not fuse.eval()._kept(50, 1)["misled"].any()


@pytest.mark.parametrize(("gaps", "each"), [(0.2, 0.1), (0.6, 0.2)])  # of more than have both, all of these
def test_rows_with_both_lose_the_face_or_the_sound_for_a_while(gaps: float, each: float) -> None:
    torch.manual_seed(0)
    fuse = family.Fusion(family.Config(width=16, heads=2, hidden=16, only_lips=0.3, only_sound=0.3, gaps=gaps))
    kept = fuse.train()._kept(4000, 60)
    lips, sound = (kept[name][..., 0].bool() for name in (family.LIPS, family.SOUND))
    face_lost, sound_lost = ~lips.all(1) & lips.any(1), ~sound.all(1) & sound.any(1)
    assert not (face_lost & sound_lost).any()
    assert float(face_lost.float().mean()) == pytest.approx(each, abs=0.02)
    assert float(sound_lost.float().mean()) == pytest.approx(each, abs=0.02)
    assert bool((lips | sound).all()), "one of the two is always there"
    assert bool(fuse.eval()._kept(50, 60)[family.SOUND].all())
