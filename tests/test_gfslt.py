"""GFSLT: shapes and counts as published, blocks under the contract, converted checkpoints, and both stages."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contract import verify_contract
from torch import nn

import mmx
from mmx.errors import InputError, TrainingError
from mmx.model import Model, tensors
from mmx.models import gfslt
from mmx.models.gfslt.encoder import EachFrame, PoseConv, SignEmbedding, TemporalConv
from mmx.models.gfslt.front import Features, Mixed, Pictures, Points
from mmx.nn.resnet import ResNet18
from mmx.nn.vit import ImageTower
from mmx.seq import Seq, pad
from mmx.text import byte_tokenizer
from mmx.train.batch import Batch
from mmx.train.loop import train
from mmx.train.objectives.cico import CiCoLoss
from mmx.train.objectives.pairs import swapped
from mmx.train.objectives.visual_language import FOUND, NAME, RESTORED, VisualLanguageLoss
from mmx.train.options import TrainOptions
from mmx.weights.convert import convert

TINY = gfslt.Config(
    vocab=byte_tokenizer.LANGUAGES + 2, reads="pose", ctx=64, width=16, heads=2, layers=(1, 1, 1), hidden=32
)


def built(**changes: Any) -> Model:
    torch.manual_seed(0)
    model = gfslt.build(dataclasses.replace(TINY, **changes))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 1.5)
    model.tokenizer = byte_tokenizer.byte_tokenizer(["ase_Latn", "eng_Latn"])
    return model.eval()


def numbers(*shape: int) -> Any:
    """Makes rows of random numbers."""

    def make(lengths: Sequence[int], seed: int) -> Seq:
        g = torch.Generator().manual_seed(seed)
        return Seq(torch.randn(len(lengths), max(lengths), *shape, generator=g), torch.tensor(lengths), 25.0)

    return make


# -------------------- blocks


def test_blocks_keep_the_contract() -> None:
    verify_contract(Pictures(4), numbers(4, 4, 3))
    verify_contract(Points(), numbers(*Points.shape))
    verify_contract(Features(6), numbers(6))
    model = built()
    verify_contract(PoseConv(6, 8).eval(), numbers(6))  # streams, in a bounded window
    verify_contract(model.encoders["signs"], numbers(math.prod(Points.shape)), tolerance=1e-5)
    torch.manual_seed(0)
    verify_contract(TemporalConv(5, 8).eval(), numbers(5))
    verify_contract(SignEmbedding(5, 8).eval(), numbers(5))


def test_each_picture_is_seen_by_itself() -> None:
    torch.manual_seed(0)
    for tower, width in ((ResNet18(), 512), (ImageTower(32, 16, 12, 2, 1, 6), 6)):
        verify_contract(EachFrame(tower.eval(), width), numbers(3, 32, 32), lengths=(3, 2, 1), tolerance=1e-4)


def test_time_is_read_as_published() -> None:
    torch.manual_seed(1)
    block = TemporalConv(3, 4).eval()
    x = torch.randn(10, 3)
    filled = torch.cat([x[:1].expand(8, 3), x, x[-1:].expand(2 + 8, 3)])  # to 12, a multiple of 4, and 8 at each end
    stack = nn.Sequential(*(m for c, n in zip(block.convs, block.norms, strict=True) for m in (
        c, n, nn.ReLU(), nn.MaxPool1d(2))))  # fmt: skip
    wanted = stack(filled.T[None])[0].T
    out = block(Seq(x[None], torch.tensor([10]), 25.0))
    assert out.lengths.tolist() == [len(wanted)] == [4]
    torch.testing.assert_close(out.x[0], wanted)


def test_points_know_no_place_and_no_size() -> None:
    seq = numbers(*Points.shape)([7], 0)
    seq.x[:, 3, 40:] = 0  # a hand that was not found
    moved = seq._replace(x=torch.where(seq.x != 0, 30 * seq.x + torch.tensor([200.0, 90.0, 5.0]), 0.0))
    got = Points()(seq).x
    torch.testing.assert_close(Points()(moved).x, got, atol=1e-3, rtol=1e-3)
    assert not got[0, 3, 3 * 40 :].any() and got[0, 2].any()


# -------------------- shapes and weights


def test_the_published_size() -> None:
    with torch.device("meta"):
        model = gfslt.build(gfslt.Config())
        tower = ImageTower()
    assert sum(p.numel() for p in model.parameters()) == 115_412_544  # 115.4 M
    assert sum(p.numel() for p in model.encoders["signs"].frames.tower.parameters()) == 11_176_512  # type: ignore[union-attr]
    assert sum(p.numel() for p in tower.parameters()) == 87_849_216  # CLIP ViT-B/32's image half


@pytest.mark.long
def test_the_image_tower_is_clips() -> None:
    package = pytest.importorskip("transformers", reason="needs transformers: pip install 'mmx[test]'")
    config = package.CLIPVisionConfig(
        hidden_size=12, intermediate_size=48, num_hidden_layers=2, num_attention_heads=3, image_size=32, patch_size=16,
        projection_dim=6, hidden_act="quick_gelu",
    )  # fmt: skip
    theirs = package.CLIPVisionModelWithProjection(config).eval()
    ours = ImageTower(32, 16, 12, 3, 2, 6).eval()
    from mmx.weights.convert import Rule

    one, layer = r"vision_model\.", r"vision_model\.encoder\.layers\.(\d+)\."
    rules = [
        Rule(rf"{one}embeddings\.class_embedding", "whole"),
        Rule(rf"{one}embeddings\.patch_embedding\.weight", "patches.weight"),
        Rule(rf"{one}embeddings\.position_embedding\.weight", "positions"),
        Rule(rf"{one}embeddings\.position_ids", None, "counts"),
        Rule(rf"{one}pre_layrnorm\.(.+)", r"before.\1"),
        Rule(rf"{one}post_layernorm\.(.+)", r"after.\1"),
        Rule(r"visual_projection\.weight", "project.weight"),
        *(Rule(rf"{layer}self_attn\.{n[0]}_proj\.(.+)", rf"layers.\1.attn.{n}.\2") for n in ("query", "key", "value")),
        Rule(rf"{layer}self_attn\.out_proj\.(.+)", r"layers.\1.attn.out.\2"),
        Rule(rf"{layer}layer_norm1\.(.+)", r"layers.\1.attn_ln.\2"),
        Rule(rf"{layer}layer_norm2\.(.+)", r"layers.\1.mlp_ln.\2"),
        Rule(rf"{layer}mlp\.fc1\.(.+)", r"layers.\1.mlp.0.\2"),
        Rule(rf"{layer}mlp\.fc2\.(.+)", r"layers.\1.mlp.2.\2"),
    ]
    shapes = {k: tuple(v.shape) for k, v in tensors(ours).items()}
    ours.load_state_dict(dict(convert(theirs.state_dict(), rules, shapes)))
    x = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(pixel_values=x).image_embeds, atol=1e-5, rtol=1e-5)


def published(model: Model) -> dict[str, torch.Tensor]:
    """The model's weights under the names that GFSLT's training writes."""
    import re

    out = {}
    tables = [
        (r"encoders\.signs\.frames\.tower\.(.+)", r"backbone.conv_2d.resnet.\1"),
        (r"encoders\.signs\.embed\.project\.(.+)", r"sign_emb.src_emb.\1"),
        (r"encoders\.signs\.embed\.norm\.(.+)", r"sign_emb.bn_ac.0.\1"),
        (r"decoder\.token\.weight", "mbart.model.shared.weight"),
        (r"decoder\.head\.weight", "mbart.lm_head.weight"),
        (r"(?:encoders\.signs|decoder)\.ln\.(.+)", r"mbart.model.SIDE.layer_norm.\1"),
        (r"(?:encoders\.signs|decoder)\.embed_ln\.(.+)", r"mbart.model.SIDE.layernorm_embedding.\1"),
        (r"(?:encoders\.signs|decoder)\.positions\.weight", r"mbart.model.SIDE.embed_positions.weight"),
        (r"(?:encoders\.signs|decoder)\.(layers\.\d+)\.mlp\.0\.(.+)", r"mbart.model.SIDE.\1.fc1.\2"),
        (r"(?:encoders\.signs|decoder)\.(layers\.\d+)\.mlp\.2\.(.+)", r"mbart.model.SIDE.\1.fc2.\2"),
        (r"(?:encoders\.signs|decoder)\.(layers\.\d+)\.mlp_ln\.(.+)", r"mbart.model.SIDE.\1.final_layer_norm.\2"),
        (r"(?:encoders\.signs|decoder)\.(layers\.\d+)\.(attn|cross)_ln\.(.+)", r"mbart.model.SIDE.\1.\2_layer_norm.\3"),
        (r"(?:encoders\.signs|decoder)\.(layers\.\d+)\.(attn|cross)\.(\w)\w+\.(.+)",
         r"mbart.model.SIDE.\1.\2.\3_proj.\4"),
        (r"encoders\.signs\.temporal\.convs\.(\d)\.(.+)", r"backbone.conv_1d.temporal_conv.C\1.\2"),
        (r"encoders\.signs\.temporal\.norms\.(\d)\.(.+)", r"backbone.conv_1d.temporal_conv.N\1.\2"),
    ]  # fmt: skip
    for key, value in tensors(model).items():
        (hit,) = [m.expand(to) for pattern, to in tables if (m := re.fullmatch(pattern, key))]
        name = hit.replace("SIDE", "encoder" if key.startswith("encoders") else "decoder")
        for a, b in ((".attn", ".self_attn"), (".cross", ".encoder_attn"), (".o_proj", ".out_proj"), (".C0", ".0"),
                     (".C1", ".4"), (".N0", ".1"), (".N1", ".5")):  # fmt: skip
            name = name.replace(a, b)
        out[name] = value
    return out


def test_a_published_checkpoint_is_converted() -> None:
    model = built(reads="video", pixels=32, layers=(2, 0, 1))
    theirs = published(model) | {"mbart.final_logits_bias": torch.zeros(1, TINY.vocab)}
    theirs |= {f"mbart.model.{side}.embed_tokens.weight": theirs["mbart.model.shared.weight"]
               for side in ("encoder", "decoder")}  # fmt: skip
    shapes = {k: tuple(v.shape) for k, v in theirs.items()}
    found = gfslt.config_from("gfslt", {}, shapes)
    assert found == {"vocab": TINY.vocab, "ctx": 64, "width": 16, "layers": (2, 0, 1), "hidden": 32}
    wanted = tensors(model)
    got = dict(convert(theirs, gfslt.KEYS["gfslt"], {k: tuple(v.shape) for k, v in wanted.items()}))
    assert got.keys() == wanted.keys()
    assert all(torch.equal(got[k], wanted[k]) for k in wanted)


# -------------------- stage 1


def batch(model: Model, rows: int = 4, seed: int = 0) -> Batch:
    g = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([24, 17, 21, 9, 30, 12][:rows])
    signs = Seq(torch.randn(rows, int(lengths.max()), *Points.shape, generator=g), lengths, 25.0)
    tokens = torch.randint(4, 260, (rows, 6), generator=g)
    targets = torch.cat([tokens[:, 1:], torch.full((rows, 1), 2)], 1)
    targets[:, 0] = -100
    return Batch({"signs": signs}, tokens, targets, ("translate",) * rows)


def test_the_losses_are_those_of_the_formulas() -> None:
    model = built()
    b = batch(model)
    text = Seq(b.targets[:, 1:], torch.full((4,), 5))
    with torch.no_grad():
        a_BD, t_BD = model.embed(dict(b.inputs)), model.embed({"text": text})
        soft = VisualLanguageLoss(restore=0)(model, b)
        pairs = VisualLanguageLoss(restore=0, loss="sigmoid")(model, b)
    logits = a_BD @ t_BD.T / 0.07
    diagonal = logits.diagonal()
    wanted = (logits.logsumexp(1) + logits.logsumexp(0) - 2 * diagonal).sum() / 2
    torch.testing.assert_close(soft.total[NAME], wanted)
    z = logits - 10.0
    signs = -torch.ones(4, 4) + 2 * torch.eye(4)
    torch.testing.assert_close(pairs.total[NAME], torch.log1p(torch.exp(-signs * z)).sum())
    assert (
        soft.counts == {NAME: 4, FOUND: 4, RESTORED: 20}
        and soft.figures[FOUND] == (logits.argmax(1) == torch.arange(4)).sum()
    )


def test_cicos_loss_is_that_of_the_equations() -> None:
    """Token by token in numpy, of rows without padding; and padding changes nothing."""
    model = built()
    b = batch(model)
    text = Seq(b.targets[:, 1:], torch.full((4,), 5))
    with torch.no_grad():
        got = CiCoLoss()(model, b)
        signs = model.embed_each(dict(b.inputs))
        words = model.embed_each({"text": text})
        wider = b.inputs["signs"]._replace(x=torch.nn.functional.pad(b.inputs["signs"].x, (0, 0, 0, 0, 0, 9)))
        torch.testing.assert_close(
            CiCoLoss()(model, b._replace(inputs={"signs": wider})).total["cico"], got.total["cico"]
        )
    rows = [[x[:n].double().numpy() for x, n in zip(s.x, s.lengths, strict=True)] for s in (signs, words)]
    assert len({len(x) for x in rows[0]}) > 1

    def way(of: np.ndarray, others: np.ndarray) -> float:
        of, others = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (of, others))
        found = []
        for token in of:
            likeness = np.array([token @ other for other in others])
            weights = np.exp(likeness / 0.07)
            found.append((weights * likeness).sum() / weights.sum())
        return float(np.mean(found))

    forth = np.array([[way(a, t) for t in rows[1]] for a in rows[0]]) / 0.07
    back = np.array([[way(t, a) for t in rows[1]] for a in rows[0]]) / 0.07
    losses = [np.log(np.exp(x).sum(axis)) - x.diagonal() for x in (forth, back) for axis in (0, 1)]
    assert got.total["cico"].item() == pytest.approx(sum(x.sum() for x in losses) / 4, rel=1e-4)
    assert got.figures["found"] == ((forth + back).argmax(1) == np.arange(4)).sum()


def test_words_change_places_for_words_to_signs_alone_and_in_training_alone() -> None:
    torch.manual_seed(3)
    model = built()
    tok = model.require_tokenizer()
    rows = [torch.tensor([*tok.encode(text), tok.eot]) for text in ("sun in the north", "rain", "wind and snow")]
    text, signs = pad(rows), model.embed_each(dict(batch(model, 3).inputs))
    for row, before in zip(swapped(text, tok, 1.0).x, rows, strict=True):
        words, old = (tok.decode(ids.tolist()).split() for ids in (row, before))
        assert sorted(words) == sorted(old)
        assert sum(a != b for a, b in zip(words, old, strict=True)) == (2 if len(old) > 1 else 0)
        assert row[: len(before)][-1] == tok.eot
    assert torch.equal(swapped(text, tok, 0.0).x, text.x)
    calm, moved = CiCoLoss(swap=0.0), CiCoLoss(swap=1.0)
    with torch.no_grad():
        for at_test in zip(moved._both_ways(model, signs, text), calm._both_ways(model, signs, text), strict=True):
            torch.testing.assert_close(*at_test)
        model.train()
        forth, back = zip(moved._both_ways(model, signs, text), calm._both_ways(model, signs, text), strict=True)
    torch.testing.assert_close(*forth)
    differs = (back[0] - back[1]).abs().amax(0) > 1e-6
    assert differs.tolist() == [True, False, True]  # of texts of several words


def test_cicos_loss_may_restore_texts_beside_it() -> None:
    model = built()
    both, alone = CiCoLoss(restore=2.0, mask=0.0), VisualLanguageLoss(mask=0.0)
    found, other = both(model, batch(model)), alone(model, batch(model))
    torch.testing.assert_close(found.total[RESTORED], other.total[RESTORED])
    assert both.weights({"cico": 4, RESTORED: 20}) == {"cico": 0.25, RESTORED: 0.1}
    assert RESTORED not in CiCoLoss()(model, batch(model)).total


def test_features_of_two_models_are_mixed() -> None:
    verify_contract(Mixed(5, 0.8), numbers(10))
    x = numbers(10)([7], 0)
    torch.testing.assert_close(Mixed(5, 0.8)(x).x, 0.8 * x.x[..., :5] + 0.2 * x.x[..., 5:])
    model, one = built(reads="features", features=5, mix=0.9), built(reads="features", features=5)
    assert model.inputs["signs"].shape == (10,)
    twice = x._replace(x=torch.cat([x.x[..., :5]] * 2, -1))
    of_one = one.memory({"signs": x._replace(x=x.x[..., :5])}).x
    torch.testing.assert_close(model.memory({"signs": twice}).x, of_one)


def test_chunks_give_the_gradient_of_the_whole_batch() -> None:
    model = built()  # in evaluation mode: batch norm would see each chunk alone
    grads = []
    for chunk in (0, 3):
        model.zero_grad()
        torch.manual_seed(1)
        losses = VisualLanguageLoss(chunk=chunk)(model, batch(model, 6))
        (losses.total[NAME] + losses.total[RESTORED]).backward()
        grads.append({k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys() and any("signs" in k for k in grads[0])
    for k, g in grads[0].items():
        torch.testing.assert_close(grads[1][k], g, atol=1e-5, rtol=1e-4)


def test_a_text_is_restored_from_what_is_left_of_it() -> None:
    model = built()
    losses = VisualLanguageLoss(mask=0.5)(model, batch(model))
    losses.total[RESTORED].backward()
    assert all(p.grad is None for k, p in model.named_parameters() if k.startswith("encoders.text.layers"))
    assert all(p.grad is not None for k, p in model.named_parameters() if k.startswith("decoder.layers"))


def test_one_row_has_nothing_to_be_told_apart_from() -> None:
    model, loss = built().train(), VisualLanguageLoss()
    one = batch(model, 1)
    for _ in range(2):
        loss(model, one)
    loss(model, batch(model, 2))  # they were the ends of epochs
    for _ in range(2):
        loss(model, one)
    with pytest.raises(TrainingError, match=r"alone its loss is 0.*Raise batch_tokens"):
        loss(model, one)
    for refuses in (loss, CiCoLoss()):
        with pytest.raises(InputError, match="without a text encoder and a similarity"):
            refuses.needs(built(layers=(1, 0, 1)))


def test_both_stages_by_recipes(tmp_path: Path) -> None:
    rng, lines = np.random.default_rng(0), ["pose\ttarget\tsrc_lang\ttgt_lang\ttask"]
    for i in range(8):
        np.save(tmp_path / f"{i}.npy", rng.normal(0, 1, (20 + i, *Points.shape)).astype(np.float32))
        lines.append(f"{i}.npy\t{'abcd'[i % 4] * (1 + i // 4)}\tase\ten\ttranslate")
    manifest = tmp_path / "train.tsv"
    manifest.write_text("\n".join(lines) + "\n")
    numbers_of = {k: v for k, v in dataclasses.asdict(TINY).items() if k not in ("vocab", "tower", "tied")}
    more: dict[str, Any] = {"train": str(manifest), "valid": str(manifest), "updates": 4, "valid_every": 2, "warmup": 1,
                            "batch_tokens": 60, "threads": 1}  # fmt: skip
    first = train(TrainOptions(out=str(tmp_path / "1"), family="gfslt", tokenizer="bytes", config=numbers_of,
                               objective="visual_language", objective_config={"loss": "sigmoid"}, **more))  # fmt: skip
    second = train(TrainOptions(out=str(tmp_path / "2"), init=str(first), **more))
    before, after = (tensors(mmx.load(f, device="cpu", dtype="float32")) for f in (first, second))
    same = [k for k in before if torch.equal(before[k], after[k])]
    assert any("encoders.text.layers" in k for k in same)  # stage 2 has no use for it
    assert not any(k.startswith(("encoders.signs.layers", "decoder.layers")) for k in same)
    text = mmx.load(second, device="cpu", dtype="float32").transcribe(
        str(tmp_path / "0.npy"), language="ase", task="translate", to="en", beam_size=1
    )
    assert text.task == "translate"
