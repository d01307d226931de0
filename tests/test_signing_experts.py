"""Experts of a signer's hands and mouth: fused under the contract whatever is present, and begun with trained ones."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contract import verify_contract
from torch import Tensor, nn

import mmx
from mmx.datasets.hands import Hands
from mmx.datasets.recipes import mouthed_spelling as recipe
from mmx.datasets.recipes.fingerspelling import Letter
from mmx.datasets.recipes.talking_mouths import Face
from mmx.errors import InputError
from mmx.make.average import average
from mmx.model import Model, tensors
from mmx.models import fingerspelling
from mmx.models import signing_experts as family
from mmx.nn.experts import Experts
from mmx.seq import Seq
from mmx.state import State
from mmx.train.loop import train
from mmx.train.options import TrainOptions

WIDTHS = {"hands": 3, "mouth": 2, "body": 4}
TINY: dict[str, Any] = {"width": 8, "dilations": [1, 2], "joined": [1], "mouth": 3}
PRESENT = [["hands"], ["mouth", "body"], ["hands", "mouth", "body"]]


def noise(lengths: Sequence[int], seed: int, *shape: int) -> Seq:
    g = torch.Generator().manual_seed(seed)
    return Seq(torch.randn(len(lengths), max(lengths), *shape, generator=g), torch.tensor(lengths), 25.0)


def fusion(drop: float = 0.0) -> Experts:
    torch.manual_seed(0)
    return Experts(WIDTHS, 8, 25.0, drop, [fingerspelling.ConvBlock(8, 2, 0.0)])


class AsBlock(nn.Module):
    """Experts side by side, which the fusion is given as far as they are present."""

    stride, lookahead = 1, 0

    def __init__(self, fuse: Experts, present: Sequence[str]):
        super().__init__()
        self.fuse, self.present = fuse, present

    def init_state(self, batch: int, capacity: int = 0) -> State:
        return self.fuse.init_state(batch, capacity)

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        parts = dict(zip(WIDTHS, seq.x.split(list(WIDTHS.values()), -1), strict=True))
        return self.fuse({name: seq._replace(x=parts[name]) for name in self.present}, state)


@pytest.mark.parametrize("present", PRESENT, ids="+".join)
def test_the_fusion_keeps_the_contract_whatever_is_present(present: list[str]) -> None:
    block = AsBlock(fusion().eval(), present)
    verify_contract(block, lambda lengths, seed: noise(lengths, seed, sum(WIDTHS.values())), lengths=(9, 5, 3, 1))


def test_an_expert_that_ends_or_is_not_there_has_its_vector_in_its_place() -> None:
    fuse = fusion().eval()
    hands, mouth = noise([6, 6], 0, 3), noise([4, 0], 1, 2)
    both, alone = fuse({"hands": hands, "mouth": mouth}), fuse({"hands": hands})
    assert both.lengths.tolist() == [6, 6]
    torch.testing.assert_close(both.x[1], alone.x[1])  # a row without a mouth is one of hands alone
    assert not torch.allclose(both.x[0, :4], alone.x[0, :4])
    one = {name: s._replace(x=s.x[:1, :2], lengths=torch.tensor([2]), final=False) for name, s in
           {"hands": hands, "mouth": mouth}.items()}  # fmt: skip
    state = fuse.init_state(1)
    late = one | {"mouth": one["mouth"]._replace(lengths=torch.tensor([0]))}
    assert fuse(late, state).lengths.tolist() == [0]  # it waits for the other
    assert fuse(late | {"mouth": one["mouth"]}, state).lengths.tolist() == [2]
    with pytest.raises(ValueError, match="25 frames a second, got"):
        fuse({"hands": hands, "mouth": mouth._replace(rate=50.0)})


def test_rows_in_training_lose_some_experts_and_never_all() -> None:
    fuse = fusion(drop=0.6).train()
    parts = {name: noise([2] * 4000, i, width) for i, (name, width) in enumerate(WIDTHS.items())}
    absent = parts | {"mouth": parts["mouth"]._replace(lengths=torch.arange(4000) % 2)}
    for given in (parts, absent):
        there = torch.stack([seq.lengths > 0 for seq in given.values()])
        kept = torch.stack(list(fuse._kept(given).values()))
        assert bool(kept.any(0).all()) and not bool((kept & ~there).any())
    kept = torch.stack(list(fuse._kept(parts).values()))
    assert float((~kept.all(0)).float().mean()) == pytest.approx(0.6 * 7 / 8, abs=0.04)
    assert kept.float().mean(1).tolist() == pytest.approx([0.72] * 3, abs=0.04)  # none more often than the others
    alone = {"mouth": parts["mouth"]}
    assert bool(fuse._kept(alone)["mouth"].all())
    assert bool(torch.stack(list(fuse.eval()._kept(parts).values())).all())


def test_the_model_streams_and_reads_what_there_is() -> None:
    torch.manual_seed(0)
    model = family.build(family.Config(vocab=12, experts=["spelling", "mouthing"], **TINY)).eval()
    inputs = {"spelling": noise([9], 0, 42, 3), "mouthing": noise([9], 1, 3)}
    whole, state, made = model.memory(inputs), model.init_state(1, 9), []
    for at, more in ((0, 4), (4, 1), (5, 4)):
        part = {n: s._replace(x=s.x[:, at : at + more], lengths=torch.tensor([more]), final=at == 5)
                for n, s in inputs.items()}  # fmt: skip
        made.append(model.memory(part, state=state).x)
    torch.testing.assert_close(torch.cat(made, 1), whole.x)
    for name, seq in inputs.items():
        assert not torch.allclose(model.memory({name: seq}).x, whole.x)
    with pytest.raises(ValueError, match="each of them once"):
        family.Config(experts=[])


def test_every_expert_has_a_front_and_an_encoder() -> None:
    model = family.build(family.Config(vocab=12, experts=["signing", "spelling", "mouthing"], **TINY))
    assert {n: (i.medium, i.shape) for n, i in model.inputs.items()} == {
        "signing": ("pose", (75, 3)), "spelling": ("pose", (42, 3)), "mouthing": ("features", (3,)),
    }  # fmt: skip
    inputs = {n: noise([5, 3], 0, *i.shape) for n, i in model.inputs.items()}
    assert model.memory(inputs).lengths.tolist() == [5, 3]


# -------------------- data


def recorded(text: str, seed: int = 0) -> Letter:
    rng = np.random.default_rng(seed)
    hands = Hands(rng.normal(0, 0.3, (20, 2, 21, 3)).astype(np.float32), np.ones((20, 2), bool))
    return Letter(text, hands, 2, 18, False)


def test_the_mouth_says_the_letters_as_they_are_spelled() -> None:
    assert recipe.sounds(["q", "u", "e"]) == ["k", "", "ɛ"]
    assert recipe.sounds(["c", "e", "c", "a", "h"]) == ["θ", "ɛ", "k", "a", ""]
    assert recipe.sounds(["g", "u", "i", "a", "g", "u", "a"]) == ["ɡ", "", "i", "a", "ɡ", "u", "a"]
    rng = np.random.default_rng(0)
    face, places = Face.draw(rng, held_out=False), np.repeat([0, 1, 2], 10)
    mouth = recipe.mouthed(["p", "a", "p"], places, face, rng)
    shut, open_ = (mouth[at : at + 3, 0].mean() for at in (4, 14))
    assert mouth.shape == (30, 7) and open_ > shut + 0.3


def test_a_clip_hides_hands_and_the_control_says_another_word() -> None:
    letters = {c: recorded(c, i) for i, c in enumerate("pabo")}
    hides = []
    for seed in range(12):
        clip = recipe.make_clip(list("papa"), list("bobo"), letters, np.random.default_rng(seed), False)
        assert len(clip.hands) == len(clip.mouth) == len(clip.other) == len(clip.labels) and clip.text == "papa"
        assert set(clip.labels.tolist()) - {-1} <= {0, 1, 2, 3}
        hides.append(1 - clip.hands.present.any(1).mean())
        assert np.abs(clip.mouth - clip.other).mean() > 0.02
    assert recipe.HIDDEN[0] <= min(hides) and max(hides) < 0.7


# -------------------- by recipes


def corpus(folder: Path) -> Path:
    rng, lines = np.random.default_rng(0), ["pose\tfeatures\ttext\tsrc_lang"]
    for i in range(6):
        np.save(folder / f"{i}.npy", rng.normal(0, 1, (12, 42, 3)).astype(np.float32))
        np.save(folder / f"{i}m.npy", rng.normal(0, 1, (12, 3)).astype(np.float32))
        lines.append(f"{i}.npy\t{i}m.npy\t{'ab'[i % 2]}\tssp")
    (folder / "train.tsv").write_text("\n".join(lines) + "\n")
    return folder / "train.tsv"


def trained(folder: Path, name: str, experts: Sequence[str], **more: Any) -> Path:
    manifest = str(folder / "train.tsv")
    more = {"config": {"experts": experts, **TINY}, **more}
    options = TrainOptions(train=manifest, valid=manifest, out=str(folder / name), family="signing_experts", updates=2,
                           tokenizer="characters", objective="ctc", valid_every=2, warmup=1, batch_tokens=60, threads=1,
                           lr=1e-6, **more)  # fmt: skip
    return train(options)


def weights(model: Path | Model, prefix: str) -> dict[str, Tensor]:
    model = mmx.load(model, device="cpu", dtype="float32") if isinstance(model, Path) else model
    return {k.removeprefix(prefix): v for k, v in tensors(model).items() if k.startswith(prefix)}


def test_a_model_begins_with_trained_experts_and_reads_files(tmp_path: Path) -> None:
    corpus(tmp_path)
    alone = trained(tmp_path, "mouth", ["mouthing"])
    both = trained(tmp_path, "both", ["spelling", "mouthing"], init_encoders={"mouthing": str(alone)})
    for key, value in weights(alone, "encoders.mouthing.").items():
        torch.testing.assert_close(weights(both, "encoders.mouthing.")[key], value, atol=1e-5, rtol=0)
    model = mmx.load(both, device="cpu", dtype="float32")
    files = {"pose": str(tmp_path / "0.npy"), "features": str(tmp_path / "0m.npy")}
    for given in (files, {"pose": files["pose"]}, {"features": files["features"]}):
        assert isinstance(model.transcribe(given, language="ssp").text, str)
    with pytest.raises(InputError, match=r"modalities of the new model.*mouth"):
        trained(tmp_path, "x", ["spelling"], init_encoders={"mouth": str(alone)})
    with pytest.raises(InputError, match=r"encoders.mouthing.*of shape \(16.*same numbers"):
        wide = {"experts": ["mouthing"], **TINY, "width": 16}
        trained(tmp_path, "y", ["mouthing"], init_encoders={"mouthing": str(alone)}, config=wide)


def test_the_mean_of_two_models_is_between_them(tmp_path: Path) -> None:
    corpus(tmp_path)
    one, other = (trained(tmp_path, name, ["mouthing"], seed=seed) for seed, name in enumerate("ab"))
    mean = average({str(one): 0.7, str(other): 0.3}, tmp_path / "mean")
    a, b, m = (weights(folder, "") for folder in (one, other, mean))
    for key, value in m.items():
        torch.testing.assert_close(value, 0.7 * a[key] + 0.3 * b[key])
    wide = trained(tmp_path, "c", ["mouthing"], config={"experts": ["mouthing"], **TINY, "width": 16})
    for shares, said in (
        ({str(one): 0.7, str(other): 0.4}, "add up to 1"),
        ({str(one): 0.5, str(wide): 0.5}, "one family"),
    ):
        with pytest.raises(InputError, match=said):
            average(shares, tmp_path / "none")


def test_the_shipped_reader_of_letters_is_an_expert() -> None:
    """Its weights have the names and shapes of the expert `spelling` at the default numbers."""
    expert = weights(family.build(family.Config(experts=["spelling"])), "encoders.spelling.")
    shipped = weights(fingerspelling.build(fingerspelling.Config(head_layers=2)), "encoders.signs.")
    assert {k: v.shape for k, v in expert.items()} == {k: v.shape for k, v in shipped.items()}
