"""Auto-AVSR's lip readers: contract, parity with an independent reading of the published names, count, flat files.

Letters: B rows, T frames, D width, H heads, C head width.
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from contract import verify_contract
from contract_decoder import verify_decoder
from test_av_hubert import ReferenceResNet, pictures, randomized
from torch import Tensor, nn

import mmx
from mmx.errors import InputError
from mmx.generate import SearchOptions, search
from mmx.model import tensors
from mmx.models import auto_avsr
from mmx.nn.ctc_prefix import CTCPrefix
from mmx.seq import Seq
from mmx.weights.convert import inverted

TINY = auto_avsr.Config(width=32, heads=2, layers=2, hidden=48, kernel=5)
WRITES = dataclasses.replace(TINY, vocab=11, decoder_layers=2, decoder_hidden=24)


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


def looks_at(x_UD: Tensor, at_MD: Tensor, w: dict[str, Tensor], name: str, causal: bool) -> Tensor:
    """Scaled dot-product attention, a head after the other."""
    q, k, v = (linear(x, w, f"{name}.linear_{p}") for p, x in (("q", x_UD), ("k", at_MD), ("v", at_MD)))
    heads = []
    for part in range(TINY.heads):
        c = slice(part * 16, part * 16 + 16)
        scores = q[:, c] @ k[:, c].T / 4
        if causal:
            scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf)
        heads.append(scores.softmax(-1) @ v[:, c])
    return linear(torch.cat(heads, -1), w, f"{name}.linear_out")


def reference_logits(w: dict[str, Tensor], tokens_U: Tensor, memory_MD: Tensor) -> Tensor:
    """The decoder by the published names, for one text."""
    octaves = 10_000.0 ** (-torch.arange(0, 32, 2) / 32)
    waves = [torch.stack([(u * octaves).sin(), (u * octaves).cos()], -1).flatten() for u in range(len(tokens_U))]
    x = w["decoder.embed.0.weight"][tokens_U] * 32**0.5 + torch.stack(waves)
    for i in range(WRITES.decoder_layers):
        at = f"decoder.decoders.{i}."
        h = norm(x, w, f"{at}norm1")
        x = x + looks_at(h, h, w, f"{at}self_attn", True)
        x = x + looks_at(norm(x, w, f"{at}norm2"), memory_MD, w, f"{at}src_attn", False)
        h = norm(x, w, f"{at}norm3")
        x = x + linear(F.relu(linear(h, w, f"{at}feed_forward.w_1")), w, f"{at}feed_forward.w_2")
    return linear(norm(x, w, "decoder.after_norm"), w, "decoder.output_layer")


def at_random(config: auto_avsr.Config = TINY) -> mmx.Model:
    model = auto_avsr.build(config)
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
    """12 layers of 768, the front end and its projection; with 6 of the decoder and CTC, the published 250 M."""
    with torch.device("meta"):
        encoder, whole = (auto_avsr.build(auto_avsr.Config(vocab=vocab)) for vocab in (0, 5049))
    assert sum(p.numel() for p in encoder.parameters()) == 182_046_656
    assert sum(p.numel() for p in whole.parameters()) == 250_401_842


def test_the_decoder_and_ctc_are_the_published_ones_and_swapped_weights_show() -> None:
    model = at_random(WRITES)
    w, decoder = published(model), model.require_decoder()
    made, _ = memory(model, [6, 4], 1)
    tokens = torch.tensor([[10, 3, 7, 3], [10, 0, 9, 2]])
    with torch.no_grad():
        got, scores = decoder(tokens, made), model.heads["ctc"](made.x)
        for b, n in enumerate((6, 4)):
            wanted = reference_logits(w, tokens[b], made.x[b, :n])
            torch.testing.assert_close(got[b], wanted, atol=1e-5, rtol=1e-5)
        a, b = "decoder.decoders.1.norm1.weight", "decoder.decoders.1.norm2.weight"
        swapped = reference_logits({**w, a: w[b], b: w[a]}, tokens[0], made.x[0])
        assert (swapped - got[0]).abs().max() > 1e-4
        theirs = linear(made.x, w, "ctc.ctc_lo")
    assert torch.equal(scores[..., -1], theirs[..., 0]) and torch.equal(scores[..., 1:-1], theirs[..., 1:])
    assert bool(scores[..., 0].isinf().all())  # no token is the blank's number


def test_the_decoder_keeps_the_contract() -> None:
    verify_decoder(at_random(WRITES).require_decoder(), WRITES.vocab, tolerance=2e-5)


def test_the_joint_beam_takes_the_decoder_and_ctc_and_never_writes_the_blank() -> None:
    model = at_random(WRITES)
    made, _ = memory(model, [8], 3)
    options, eot = SearchOptions(beam_size=4, max_tokens=6), WRITES.vocab - 1
    with torch.inference_mode():
        scores = model.heads["ctc"](made.x).log_softmax(-1)
        judge = CTCPrefix(scores, made.lengths, eot, 0.4)
        found = search(model.require_decoder(), made, torch.tensor([[eot]]), eot, options, rescore=judge).rows[0][0]
    assert not {0, eot} & set(found.tokens) and math.isfinite(found.log_prob)


def test_a_flat_file_is_read_from_its_path(tmp_path: Path) -> None:
    for config in (TINY, WRITES):
        model, path = at_random(config), tmp_path / f"vsr_{config.vocab}.pth"
        torch.save(published(model), path)
        again = mmx.load(path, dtype="float32")
        assert again.card.family == "auto_avsr" and tensors(again).keys() == tensors(model).keys()
        made, wanted = memory(again, [5], 4)[0], memory(model, [5], 4)[0]
        assert torch.equal(made.x, wanted.x)
        if config.vocab:
            token = torch.tensor([[10]])
            torch.testing.assert_close(again.require_decoder()(token, made), model.require_decoder()(token, wanted))
            torch.testing.assert_close(again.heads["ctc"](made.x), model.heads["ctc"](wanted.x))
