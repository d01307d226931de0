"""I3D: elementwise as the reference in torch, windows as if each were alone, published files, features for training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contract import verify_contract
from test_gfslt import numbers
from torch import nn

import mmx
from mmx.clip import Input
from mmx.errors import InputError
from mmx.experiments.talking_mouths import write_pictures
from mmx.make.features import make
from mmx.model import tensors
from mmx.models import i3d
from mmx.nn.i3d import EPS, I3D, Unit, same
from mmx.seq import Seq
from mmx.train.manifest import read_manifest
from mmx.train.reading import read_recording


def randomized(net: Any) -> Any:
    torch.manual_seed(0)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm3d):
            assert m.running_mean is not None and m.running_var is not None
            m.running_mean.normal_(std=0.1)
            m.running_var.uniform_(0.5, 1.5)
            m.eps = EPS  # the package's copy has another, made for other weights
    return net.eval()


def pictures(lengths: Sequence[int], seed: int) -> Seq:
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(len(lengths), max(lengths), 3, 16, 16, generator=g) - 0.5
    return Seq(x, torch.tensor(lengths), 25.0)


def test_features_are_those_of_the_reference() -> None:
    reference = pytest.importorskip(
        "cdfvd.third_party.i3d.pytorch_i3d", reason="needs the reference: pip install --no-deps cd-fvd"
    )
    theirs = randomized(reference.InceptionI3d(400))
    ours = I3D().eval()
    missing, unknown = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert not missing and all(key.startswith("logits.") for key in unknown)
    x = pictures([16], 0).x.transpose(1, 2)
    x = nn.functional.interpolate(x, size=(16, 224, 224), mode="trilinear")
    with torch.inference_mode():
        h = x
        for name in reference.InceptionI3d.VALID_ENDPOINTS[:-2]:
            h = theirs.end_points[name](h)
        torch.testing.assert_close(ours(x), theirs.avg_pool(h).flatten(1), rtol=1e-4, atol=1e-5)
        odd = x[:, :, :9, :101, :77]
        h = odd
        for name in reference.InceptionI3d.VALID_ENDPOINTS[:-2]:
            h = theirs.end_points[name](h)
        torch.testing.assert_close(ours(odd), h.mean((2, 3, 4)), rtol=1e-4, atol=1e-5)


def test_its_size_and_its_edges() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in I3D().parameters()) == 12_287_264
    for n, kernel, stride in ((16, 7, 2), (15, 3, 2), (7, 2, 2), (5, 3, 1), (1, 3, 2)):
        sizes, k, s = (n,) * 3, (kernel,) * 3, (stride,) * 3
        out = Unit(1, 1, k, s).eval()(torch.ones(1, 1, *sizes)).shape[-3:]
        assert tuple(out) == (-(-n // stride),) * 3
    assert same(torch.ones(1, 1, 1, 1, 4), (1, 1, 3), (1, 1, 2))[0, 0, 0, 0].tolist() == [1, 1, 1, 1, 0]


def tiny() -> i3d.Windows:
    """Of three frames, so that the contract is quick."""
    return randomized(i3d.Windows(i3d.Config(window=3, step=2, at_once=2)))


def test_windows_are_as_if_each_were_alone() -> None:
    block = tiny()
    verify_contract(i3d.Pictures(), numbers(256, 256, 3), lengths=(2, 1))
    verify_contract(block, pictures, lengths=(6, 3, 1), tolerance=1e-4)
    seq = pictures([7, 2, 0], 0)
    with torch.inference_mode():
        made = block(seq)
        assert made.lengths.tolist() == [3, 1, 0] and made.rate == 12.5
        for m in range(3):
            clip = seq.x[:1, 2 * m : 2 * m + 3].transpose(1, 2)
            torch.testing.assert_close(made.x[0, m], block.net(clip)[0], rtol=1e-4, atol=1e-5)
        short = seq.x[1:2, [0, 1, 1]].transpose(1, 2)
        torch.testing.assert_close(made.x[1, 0], block.net(short)[0], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="from 1"):
        i3d.Config(step=0)


def test_a_published_file_gives_features_to_train_on(tmp_path: Path) -> None:
    model = i3d.build(i3d.Config())
    randomized(model)
    prefix = f"encoders.{i3d.SIGNS}.net."
    theirs = {"module." + k.removeprefix(prefix): v for k, v in tensors(model).items()}
    theirs |= {
        "module.logits.conv3d.weight": torch.zeros(5, 1024, 1, 1, 1),
        "module.logits.conv3d.bias": torch.zeros(5),
    }
    torch.save({"epoch": 3, "state_dict": theirs}, tmp_path / "bsl.pth")
    loaded = mmx.load(tmp_path / "bsl.pth", device="cpu", dtype="float32")
    for key, value in tensors(model).items():
        torch.testing.assert_close(tensors(loaded)[key], value)
    write_pictures(tmp_path / "a.mkv", np.random.default_rng(0).integers(0, 255, (17, 64, 64)).astype(np.uint8))
    (tmp_path / "clips.tsv").write_text("video\ttext\tsrc_lang\na.mkv\tone\tase\n")
    manifest = make(tmp_path / "clips.tsv", tmp_path / "out", loaded)
    with np.load(tmp_path / "out" / "0.npz") as held:
        assert held["features"].shape == (2, 1024) and float(held["rate"]) == 25.0
    (row,) = read_manifest(manifest)
    assert row.target == "one"
    assert read_recording(row, {"signs": Input("features", 25.0, (1024,))})["signs"].shape == (2, 1024)
    (tmp_path / "texts.tsv").write_text("source\ttarget\tsrc_lang\ttgt_lang\na\tb\ten\tes\n")
    with pytest.raises(InputError, match="got texts"):
        make(tmp_path / "texts.tsv", tmp_path / "none", loaded)
