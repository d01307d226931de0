"""AV-HuBERT: contract, parity with an independent reading of its published names, counts, checkpoints of fairseq's.

Letters: B rows, T frames, N samples, H height, W width, D width.
"""

import math
import pickle
import sys
import types
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from contract import verify_contract
from torch import Tensor, nn

from mmx.errors import CheckpointError, InputError
from mmx.model import tensors
from mmx.models import av_hubert
from mmx.models.av_hubert.sound import StackedFilterbank, filterbank
from mmx.nn.lip_resnet import LipResNet
from mmx.seq import Seq, pad
from mmx.weights.convert import convert, inverted
from mmx.weights.formats import open_checkpoint, pickle_format

TINY = av_hubert.Config(
    width=32, heads=2, layers=2, hidden=48, kernel=8, groups=4, vocab=20, decoder_width=32, decoder_layers=1,
    decoder_heads=2, decoder_hidden=40, ctx=32,
)  # fmt: skip


def randomized(module: nn.Module, seed: int = 0) -> nn.Module:
    """Weights, norms and statistics at random, so that each of them counts."""
    generator = torch.Generator().manual_seed(seed)
    for name, x in tensors(module).items():
        if x.is_floating_point():
            noise = torch.randn(x.shape, generator=generator)
            plain = name.endswith(("running_var", "length")) or (x.dim() == 1 and name.endswith("weight"))
            x.data.copy_(1 + 0.1 * noise if plain else noise * (0.1 if x.dim() < 3 else x[0].numel() ** -0.5))
            if plain:
                x.data.abs_()
    return module.eval()


def pictures(lengths: Sequence[int], seed: int, size: int = 24) -> Seq:
    generator = torch.Generator().manual_seed(seed)
    return pad([torch.randn(n, size, size, generator=generator) for n in lengths], rate=25.0)


def sounds(lengths: Sequence[int], seed: int) -> Seq:
    generator = torch.Generator().manual_seed(seed)
    return pad([0.1 * torch.randn(n, generator=generator) for n in lengths], rate=16_000.0)


def test_the_visual_front_end_keeps_the_contract():
    small = lambda lengths, seed: pictures(lengths, seed, 8)  # noqa: E731
    verify_contract(randomized(LipResNet(16, nn.PReLU)), small, lengths=[7, 3, 1], tolerance=2e-5)


def test_the_sound_front_end_keeps_the_contract():
    verify_contract(StackedFilterbank().eval(), sounds, lengths=[4000, 881, 640, 250, 1], tolerance=2e-4)


def reference_filterbank(wave_N: np.ndarray) -> np.ndarray:
    """Stacked energies by plain loops over windows, as the definition has it."""
    x = np.append(wave_N[0], wave_N[1:] - 0.97 * wave_N[:-1]) if len(wave_N) else wave_N
    count = 1 if len(x) <= 400 else 1 + math.ceil((len(x) - 400) / 160)
    x = np.append(x, np.zeros(400 + 160 * (count - 1) - len(x)))
    power = np.stack([np.abs(np.fft.rfft(x[160 * i : 160 * i + 400], 512)) ** 2 / 512 for i in range(count)])
    energies = power @ filterbank().numpy()
    made = np.log(np.where(energies == 0, np.finfo(float).eps, energies))
    made = np.append(made, np.zeros((-len(made) % 4, 26)), 0).reshape(-1, 104)
    return F.layer_norm(torch.from_numpy(made).float(), (104,)).numpy()


@pytest.mark.parametrize("samples", [1, 400, 401, 880, 881, 1041, 5000])
def test_sound_becomes_stacked_energies(samples: int):
    seq = sounds([samples], 3)
    made = StackedFilterbank()(seq)
    wanted = reference_filterbank(seq.x[0].double().numpy() * 2**15)
    assert made.x.shape[1:] == wanted.shape and np.abs(made.x[0].numpy() - wanted).max() < 1e-4


def test_the_triangles_are_those_of_python_speech_features():
    theirs = pytest.importorskip("python_speech_features", reason="the authors' filterbank is not installed")
    assert np.array_equal(filterbank().numpy().T, theirs.get_filterbanks(26, 512, 16_000))


class ReferenceBlock(nn.Module):
    """A residual block by the published names, as torchvision writes it."""

    def __init__(self, before: int, planes: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(before, planes, 3, stride, 1, bias=False), nn.BatchNorm2d(planes)
        self.relu1, self.relu2 = nn.PReLU(planes), nn.PReLU(planes)
        self.conv2, self.bn2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False), nn.BatchNorm2d(planes)
        if stride != 1 or before != planes:
            self.downsample = nn.Sequential(nn.Conv2d(before, planes, 1, stride, bias=False), nn.BatchNorm2d(planes))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(out + (self.downsample(x) if "downsample" in self._modules else x))


class ReferenceResNet(nn.Module):
    """The front end by the published names, over one whole clip."""

    def __init__(self) -> None:
        super().__init__()
        conv = nn.Conv3d(1, 64, (5, 7, 7), (1, 2, 2), (2, 3, 3), bias=False)
        self.frontend3D = nn.Sequential(
            conv, nn.BatchNorm3d(64), nn.PReLU(64), nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))
        )
        layers, before = {}, 64
        for n, planes in enumerate((64, 128, 256, 512), 1):
            layers[f"layer{n}"] = nn.Sequential(
                ReferenceBlock(before, planes, 1 if n == 1 else 2), ReferenceBlock(planes, planes, 1)
            )
            before = planes
        layers["avgpool"] = nn.AdaptiveAvgPool2d(1)
        self.trunk = nn.Sequential()
        for name, layer in layers.items():
            self.trunk.add_module(name, layer)

    def forward(self, x_BTHW: Tensor) -> Tensor:
        h = self.frontend3D(x_BTHW[:, None]).transpose(1, 2)
        return self.trunk(h.flatten(0, 1)).flatten(1).unflatten(0, h.shape[:2])


def published(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a model under a fine-tuned file's names."""
    ours = tensors(model)
    names = inverted(ours, av_hubert.KEYS["fairseq"])
    within = {
        name: name if name.startswith(("decoder.", "encoder.proj")) else f"encoder.w2v_model.{name}"
        for name in names.values()
    }
    return {within[name]: ours[key] for key, name in names.items()}


def reference_memory(w: dict[str, Tensor], lips_BTHW: Tensor, sound_BTF: Tensor) -> Tensor:
    """The encoder by the published names, for whole rows of equal length."""
    e = "encoder.w2v_model."
    front = ReferenceResNet().eval()
    front.load_state_dict(
        {k.removeprefix(f"{e}feature_extractor_video.resnet."): v for k, v in w.items() if ".resnet." in k}
    )
    linear = lambda x, name: F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])  # noqa: E731
    norm = lambda x, name: F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"])  # noqa: E731
    video = linear(front(lips_BTHW), f"{e}feature_extractor_video.proj")
    audio = linear(sound_BTF, f"{e}feature_extractor_audio.proj")
    x = linear(norm(torch.cat([audio, video], -1), f"{e}layer_norm"), f"{e}post_extract_proj")
    v, g = w[f"{e}encoder.pos_conv.0.weight_v"], w[f"{e}encoder.pos_conv.0.weight_g"]
    kernel = torch._weight_norm(v, g, 2)
    around = F.conv1d(x.transpose(1, 2), kernel, w[f"{e}encoder.pos_conv.0.bias"], padding=v.shape[2] // 2, groups=4)
    x = x + F.gelu(around[..., :-1]).transpose(1, 2)
    for i in range(TINY.layers):
        at = f"{e}encoder.layers.{i}."
        h = norm(x, f"{at}self_attn_layer_norm").transpose(0, 1)
        q = [w[f"{at}self_attn.{p}_proj.weight"] for p in "qkv"]
        b = torch.cat([w[f"{at}self_attn.{p}_proj.bias"] for p in "qkv"])
        out = [w[f"{at}self_attn.out_proj.{p}"] for p in ("weight", "bias")]
        h = F.multi_head_attention_forward(
            h, h, h, TINY.width, TINY.heads, None, b, None, None, False, 0.0, *out, training=False, need_weights=False,
            use_separate_proj_weight=True, q_proj_weight=q[0], k_proj_weight=q[1], v_proj_weight=q[2],
        )[0]  # fmt: skip
        x = x + h.transpose(0, 1)
        x = x + linear(F.gelu(linear(norm(x, f"{at}final_layer_norm"), f"{at}fc1")), f"{at}fc2")
    return norm(x, f"{e}encoder.layer_norm")


def features(frames: Sequence[int], seed: int) -> dict[str, Seq]:
    """What the fronts would give: pictures of a mouth and stacked energies."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "lips": pictures(frames, seed),
        "speech": pad([torch.randn(n, 104, generator=generator) for n in frames], rate=25.0),
    }


def test_the_encoder_is_the_published_one_and_swapped_weights_show():
    model = randomized(av_hubert.build(TINY))
    given = features([6, 6], 1)
    with torch.no_grad():
        ours = model.memory(given, "encoders")
        w = published(model)
        wanted = reference_memory(w, given["lips"].x, given["speech"].x)
        assert ours.rate == 25.0 and torch.allclose(ours.x, wanted, atol=1e-5)
        a, b = (f"encoder.w2v_model.encoder.layers.0.self_attn.{p}_proj.weight" for p in "qk")
        assert (
            reference_memory({**w, a: w[b], b: w[a]}, given["lips"].x, given["speech"].x) - wanted
        ).abs().max() > 1e-3


def test_a_modality_that_is_absent_is_zeros_and_rows_do_not_depend_on_others():
    model = randomized(av_hubert.build(TINY))
    given = features([7, 4], 2)
    with torch.no_grad():
        both = model.memory(given, "encoders")
        assert both.lengths.tolist() == [7, 4]
        alone = model.memory(
            {n: s._replace(x=s.x[1:, :4], lengths=s.lengths[1:]) for n, s in given.items()}, "encoders"
        )
        assert torch.allclose(both.x[1, :4], alone.x[0], atol=1e-5)
        lips, sound = (model.memory({name: given[name]}, "encoders").x for name in ("lips", "speech"))
        assert (lips - both.x).abs().max() > 1e-2 and (sound - both.x).abs().max() > 1e-2
        none = given["speech"]._replace(lengths=torch.zeros(2, dtype=torch.int64))
        features_lost = {"lips": given["lips"], "speech": none}
        encoded = {n: model.encode(n, s, "encoders") for n, s in features_lost.items()}
        assert torch.allclose(model.fuse(encoded).x, lips, atol=1e-5)
        swapped = {"lips": none._replace(x=none.x.new_zeros(2, 0, 24, 24)), "speech": given["speech"]}
        assert torch.allclose(model.memory(swapped, "encoders").x, sound, atol=1e-5)
    with pytest.raises(InputError, match="final=False"):
        model.memory({n: s._replace(final=False) for n, s in given.items()}, "encoders")


def test_training_drops_a_modality_from_rows_never_both():
    fuse = av_hubert.Fusion(TINY).train()
    ones = {name: torch.ones(400, 1, TINY.width) for name in ("speech", "lips")}
    torch.manual_seed(0)
    fuse._drop(ones)
    kept = torch.stack([ones[name].amax((1, 2)) for name in ("speech", "lips")])
    shares = [float((kept == torch.tensor(which)[:, None]).all(0).float().mean()) for which in ([1, 1], [0, 1], [1, 0])]
    assert np.allclose(shares, [0.5, 0.25, 0.25], atol=0.07) and float(kept.amax(0).min()) == 1


def test_pictures_are_cut_and_normalized_as_published():
    front = av_hubert.MouthFront().eval()
    x = torch.randint(0, 256, (1, 2, 96, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    made = front(Seq(x, torch.tensor([2]), 25.0)).x
    assert torch.allclose(made, (x[:, :, 4:92, 4:92] / 255 - 0.421) / 0.165, atol=1e-6)
    cuts = {float(front.train()(Seq(x, torch.tensor([2]), 25.0)).x.sum()) for _ in range(5)}
    assert len(cuts) > 1


@pytest.mark.parametrize(
    ("numbers", "count"),
    [
        ({}, 102_620_288),
        ({"width": 1024, "heads": 16, "layers": 24, "hidden": 4096}, 324_622_976),
    ],
)  # fmt: skip
def test_sizes_are_the_published_ones(numbers: dict[str, int], count: int):
    """103 M and 325 M in the paper's table 1."""
    with torch.device("meta"):
        model = av_hubert.build(av_hubert.Config(**numbers))
    assert sum(p.numel() for p in model.parameters()) == count


def fairseq_file(path: Path, weights: dict[str, Tensor], extra: object = None) -> Path:
    """A checkpoint with objects of packages that are not installed, as fairseq writes it."""
    modules = {name: types.ModuleType(name) for name in ("fairseq", "fairseq.data", "fairseq.data.dictionary")}
    words = type("Dictionary", (), {"__module__": "fairseq.data.dictionary"})
    modules["fairseq.data.dictionary"].Dictionary = words
    held = words()
    held.symbols = ["<s>", "<pad>"]
    sys.modules.update(modules)
    try:
        torch.save({"cfg": extra, "model": weights, "task_state": {"target_dictionary": held}}, path)
    finally:
        for name in modules:
            del sys.modules[name]
    return path


@pytest.mark.parametrize("tuned", [True, False])
def test_files_of_fairseq_are_read_without_it(tmp_path: Path, tuned: bool):
    model = randomized(av_hubert.build(TINY))
    weights = published(model)
    if not tuned:
        encoder = {k.removeprefix("encoder.w2v_model."): v for k, v in weights.items() if not k.startswith("decoder.")}
        weights = {**encoder, "mask_emb": torch.zeros(32), "label_embs_concat": torch.zeros(5, 3)}
    path = fairseq_file(tmp_path / "a.pt", weights)
    assert pickle_format(path) == "fairseq" and "fairseq" not in sys.modules
    source = open_checkpoint(path, "fairseq")
    assert av_hubert.sniff("fairseq", source)
    numbers = av_hubert.config_from("fairseq", {}, source.shapes)
    wanted = {"width": 32, "layers": 2, "hidden": 48, "kernel": 8, "groups": 4}
    assert numbers.items() >= wanted.items() and ("vocab" in numbers) == tuned
    heads = {"heads": 2, **({"decoder_heads": 2} if tuned else {})}
    again = av_hubert.build(av_hubert.Config(**{**numbers, **heads, "ctx": 32}))
    expected = {k: tuple(v.shape) for k, v in tensors(again).items()}
    again.load_state_dict(dict(convert(source, av_hubert.KEYS["fairseq"], expected)), strict=False)
    given = features([5], 4)
    with torch.no_grad():
        assert torch.equal(again.eval().memory(given, "encoders").x, model.memory(given, "encoders").x)


class _Evil:
    def __reduce__(self):
        return (print, ("executed",))


def test_a_file_that_asks_to_run_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = fairseq_file(tmp_path / "a.pt", {"x": torch.zeros(1)}, _Evil())
    try:
        open_checkpoint(path, "fairseq")
    except CheckpointError as e:
        assert "nothing was executed" in str(e)
    assert "executed" not in capsys.readouterr().out
    assert pickle.dumps(_Evil())


def test_text_is_written_from_lips_alone():
    model = randomized(av_hubert.build(TINY))
    with torch.no_grad():
        memory = model.memory({"lips": features([5], 5)["lips"]}, "encoders")
        assert model.decoder.forward(torch.tensor([[2, 5]]), memory).shape == (1, 2, 20)
