"""LoRA: nothing at first, all of it in the weights at last, and nothing else is touched between."""

import pytest
import torch
from torch import Tensor, nn

from mmx.errors import InputError
from mmx.model import Model
from mmx.models.whisper import Config, build
from mmx.nn.lora import LoRALinear, add_lora, merge_lora
from mmx.nn.quantize import quantize_linears, supported
from mmx.seq import Seq

CONFIG = Config(n_mels=8, audio_ctx=20, audio_width=16, audio_heads=2, audio_layers=1, vocab=30, text_ctx=16,
                text_width=16, text_heads=2, text_layers=2)  # fmt: skip


def tiny() -> Model:
    torch.manual_seed(0)
    return build(CONFIG).eval()


def logits(model: Model) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    wave = torch.randn(2, 3200, generator=generator) * 0.1
    tokens = torch.randint(30, (2, 7), generator=generator)
    return model({"speech": Seq(wave, torch.tensor([3200, 3200]), 16_000.0)}, tokens)


def trainable(model: Model) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def trained(model: Model) -> Model:
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for value in trainable(model).values():
            value.copy_(torch.randn(value.shape, generator=generator) * 0.1)
    return model


@torch.no_grad()
def test_lora_starts_at_zero_and_merges_exactly() -> None:
    model = tiny()
    names, before = [n for n, _ in model.named_parameters()], logits(model)
    chosen = add_lora(model, 4, 8.0, ["decoder.layers.*", "encoders.*.query"])
    assert "decoder.layers.1.cross.value" in chosen and "decoder.layers.0.mlp.2" in chosen
    assert "encoders.speech.layers.0.attn.query" in chosen and "encoders.speech.layers.0.attn.key" not in chosen
    assert torch.equal(logits(model), before)
    after = logits(trained(model))
    assert (after - before).abs().max() > 1e-2
    merge_lora(model)
    assert [n for n, _ in model.named_parameters()] == names
    torch.testing.assert_close(logits(model), after, rtol=1e-5, atol=1e-5)


def test_only_its_matrices_are_trained() -> None:
    model = tiny()
    frozen = {n: p.detach().clone() for n, p in model.named_parameters()}
    chosen = add_lora(model, 2, 4.0, ["decoder.layers.*"])
    learned = {n for n, p in model.named_parameters() if p.requires_grad}
    assert learned == {f"{n}.{k}" for n in chosen for k in ("down", "up")}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(2):
        logits(model).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    now = {n.replace(".base.", "."): p for n, p in model.named_parameters() if n not in learned}
    assert now.keys() == frozen.keys()
    assert [n for n in frozen if not torch.equal(now[n], frozen[n])] == []
    assert all(value.abs().max() > 0.05 for value in trainable(model).values())  # both of each pair moved


def test_the_formula() -> None:
    layer = LoRALinear(nn.Linear(3, 2), rank=2, alpha=6.0)
    with torch.no_grad():
        layer.up.copy_(torch.tensor([[1.0, 0.0], [0.5, 2.0]]))
    x = torch.randn(4, 3)
    wanted = layer.base(x) + 3.0 * x @ layer.down.T @ layer.up.T
    torch.testing.assert_close(layer(x), wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(layer.merged()(x), wanted, rtol=1e-5, atol=1e-6)


def test_dropout_acts_in_training_only() -> None:
    layer = LoRALinear(nn.Linear(8, 8), 2, 4.0, dropout=0.5)
    nn.init.normal_(layer.up)
    x = torch.randn(4, 8)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


def test_a_tied_output_projection_stays_tied() -> None:
    model = tiny()
    assert "decoder.head" not in add_lora(model, 2, 4.0, ["decoder.*"])
    merge_lora(trained(model))
    assert model.decoder.head.weight is model.decoder.token.weight


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match=r"\['decodr\.\*'\], which match none"):
        add_lora(tiny(), 2, 4.0, ["decoder.layers.*", "decodr.*"])
    with pytest.raises(InputError, match="1 or more"):
        add_lora(tiny(), 0)
    model = tiny()
    add_lora(model, 2)
    with pytest.raises(InputError, match="merge it first"):
        add_lora(model, 2)
    if supported():
        with pytest.raises(InputError, match="dtype float32"):
            add_lora(quantize_linears(tiny()), 2, 4.0, ["decoder.*.query"])
