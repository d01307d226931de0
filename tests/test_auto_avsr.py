"""Auto-AVSR's encoder: contract, parity with an independent reading of its published names, count, flat files.

Letters: B rows, T frames, D width, H heads, C head width.
"""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from contract import verify_contract
from test_av_hubert import ReferenceResNet, pictures, randomized
from torch import Tensor, nn

import mmx
from mmx.errors import InputError
from mmx.model import tensors
from mmx.models import auto_avsr
from mmx.seq import Seq
from mmx.weights.convert import inverted

TINY = auto_avsr.Config(width=32, heads=2, layers=2, hidden=48, kernel=5)


def published(model: nn.Module) -> dict[str, Tensor]:
    ours = tensors(model)
    return {theirs: ours[key] for key, theirs in inverted(ours, auto_avsr.KEYS["fairseq2"]).items()}


def linear(x: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))


def norm(x: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], 1e-12)


def half(x: Tensor, w: dict[str, Tensor], at: str, which: str) -> Tensor:
    """Half of a feed-forward part."""
    h = F.silu(linear(norm(x, w, f"{at}norm_ff{which}"), w, f"{at}feed_forward{which}.w_1"))
    return x + 0.5 * linear(h, w, f"{at}feed_forward{which}.w_2")


def attention(x_BTD: Tensor, w: dict[str, Tensor], at: str) -> Tensor:
    """Transformer-XL's four terms, one pair of frames at a time."""
    n, heads, width = x_BTD.shape[1], TINY.heads, TINY.width
    q, k, v = (linear(x_BTD, w, f"{at}linear_{name}").unflatten(-1, (heads, -1)) for name in "qkv")
    octaves = 10_000.0 ** (-torch.arange(0, width, 2) / width)
    scores = torch.empty(len(x_BTD), heads, n, n)
    for i in range(n):
        for j in range(n):
            wave = torch.stack([((i - j) * octaves).sin(), ((i - j) * octaves).cos()], -1).flatten()
            place = (w[f"{at}linear_pos.weight"] @ wave).view(heads, -1)
            content = (q[:, i] + w[f"{at}pos_bias_u"]) * k[:, j]
            position = (q[:, i] + w[f"{at}pos_bias_v"]) * place
            scores[:, :, i, j] = (content + position).sum(-1) / (width // heads) ** 0.5
    mixed = torch.einsum("bhij,bjhc->bihc", scores.softmax(-1), v)
    return linear(mixed.flatten(2), w, f"{at}linear_out")


def convolution(x_BTD: Tensor, w: dict[str, Tensor], at: str) -> Tensor:
    def conv(x: Tensor, name: str, **how: int) -> Tensor:
        return F.conv1d(x, w[f"{at}{name}.weight"], w[f"{at}{name}.bias"], **how)

    h = conv(F.glu(conv(x_BTD.transpose(1, 2), "pointwise_cov1"), 1), "depthwise_conv", padding=2, groups=TINY.width)
    statistics = (w[f"{at}norm.{name}"] for name in ("running_mean", "running_var", "weight", "bias"))
    return conv(F.silu(F.batch_norm(h, *statistics)), "pointwise_cov2").transpose(1, 2)


def reference_memory(w: dict[str, Tensor], lips_BTHW: Tensor) -> Tensor:
    """The encoder by the published names, for whole rows of equal length; distances one by one."""
    front = ReferenceResNet()
    for module in front.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.PReLU):
                module.add_module(name, nn.SiLU())
    held = {k.removeprefix("frontend."): v for k, v in w.items() if k.startswith("frontend.")}
    front.eval().load_state_dict(held)
    x = linear(front(lips_BTHW), w, "proj_encoder") * 32**0.5
    for i in range(TINY.layers):
        at = f"encoder.encoders.{i}."
        x = half(x, w, at, "_macaron")
        x = x + attention(norm(x, w, f"{at}norm_mha"), w, f"{at}self_attn.")
        x = x + convolution(norm(x, w, f"{at}norm_conv"), w, f"{at}conv_module.")
        x = norm(half(x, w, at, ""), w, f"{at}norm_final")
    return norm(x, w, "encoder.after_norm")


def at_random() -> mmx.Model:
    model = auto_avsr.build(TINY)
    randomized(model)
    for name, x in tensors(model).items():
        if name.endswith("conv.norm.variance"):
            x.data.abs_().add_(0.5)
    return model


def memory(model: mmx.Model, lengths: Sequence[int], seed: int) -> tuple[Seq, Tensor]:
    given = pictures(lengths, seed)
    with torch.no_grad():
        return model.memory({"lips": given}, "encoders"), given.x


def test_the_encoder_is_the_published_one_and_swapped_weights_show() -> None:
    model = at_random()
    made, lips = memory(model, [6, 6], 1)
    with torch.no_grad():
        w = published(model)
        wanted = reference_memory(w, lips)
        assert made.rate == 25.0
        assert torch.allclose(made.x, wanted, atol=1e-5)
        a, b = ("encoder.encoders.0.self_attn.pos_bias_" + x for x in "uv")
        assert (reference_memory({**w, a: w[b], b: w[a]}, lips) - wanted).abs().max() > 1e-4


def test_the_encoder_keeps_the_contract() -> None:
    small = lambda lengths, seed: pictures(lengths, seed, 8)  # noqa: E731
    verify_contract(at_random().encoders["lips"], small, lengths=[7, 3, 1], tolerance=2e-5)


def test_rows_do_not_depend_on_others_and_parts_are_refused() -> None:
    model = at_random()
    made, lips = memory(model, [7, 4], 2)
    with torch.no_grad():
        alone = model.memory({"lips": Seq(lips[1:, :4], torch.tensor([4]), 25.0)}, "encoders")
    assert torch.allclose(made.x[1, :4], alone.x[0], atol=1e-5)
    with pytest.raises(InputError, match="final=False"):
        model.encoders["lips"](pictures([3], 0)._replace(final=False))


def test_its_size_is_what_the_published_numbers_make() -> None:
    """12 layers of 768, the front end and its projection; the published whole of 250 M has a decoder and CTC, too."""
    with torch.device("meta"):
        model = auto_avsr.build(auto_avsr.Config())
    assert sum(p.numel() for p in model.parameters()) == 182_046_656


def test_a_flat_file_is_read_from_its_path(tmp_path: Path) -> None:
    model = at_random()
    path = tmp_path / "vsr_base.pth"
    torch.save(
        {**published(model), "ctc.ctc_lo.weight": torch.zeros(3, 32), "decoder.embed.0.weight": torch.zeros(3, 32)},
        path,
    )
    again = mmx.load(path, dtype="float32")
    assert again.card.family == "auto_avsr"
    assert torch.equal(memory(again, [5], 4)[0].x, memory(model, [5], 4)[0].x)
