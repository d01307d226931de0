"""Monotonic heads equal the published formula, element by element, under the names of the published checkpoint.

Letters: B rows, U tokens, M memory frames, P pooled frames, D width, H heads, C head width.
"""

import tomllib
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmx.errors import CheckpointError, InputError
from mmx.model import Model
from mmx.models.monotonic import (
    KEYS,
    Config,
    MonotonicDecoder,
    MonotonicHeads,
    PChoose,
    build,
    config_from,
    pooled,
    prepare_source,
)
from mmx.nn.decoder import DecoderLayer, LearnedPositions, TextDecoder
from mmx.seq import Seq
from mmx.streaming.emma.heads import WEIGHTS, HeadsConfig, build_heads, find_heads, read_heads, write_heads
from mmx.weights.card import find_card
from mmx.weights.convert import convert, plan
from mmx.weights.formats import LazyTensors

TINY = Config(vocab=23, ctx=32, width=16, heads=4, layers=2, hidden=24, energy_layers=2)
TOKENS = torch.tensor([[3, 9, 4, 11, 6]])


def random(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def randomize(module: nn.Module, scale: float = 0.4) -> None:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(scale * torch.randn(p.shape, generator=generator))


# -------------------- the published names


def published(c: Config, style: str = "fairseq2") -> dict[str, Tensor]:
    """A checkpoint of random numbers with every name that the published one has."""
    names = {
        "fairseq2": ("text_decoder_frontend.embed", "final_proj", "text_decoder.", "output_proj",
                     "encoder_decoder_attn", "ffn.inner_proj", "ffn.output_proj", "ffn_layer_norm",
                     "p_choose_layer.energy_bias",
                     "p_choose_layer.q_energy_proj.", "p_choose_layer.k_energy_proj."),
        "fairseq": ("decoder.embed_tokens", "decoder.output_projection", "decoder.", "out_proj", "encoder_attn",
                    "fc1", "fc2", "final_layer_norm", "encoder_attn.energy_bias",
                    "encoder_attn.target_energy_layer.", "encoder_attn.source_energy_layer."),
    }[style]  # fmt: skip
    embed, head, root, out, cross, up, down, mlp_ln, bias, query, key = names
    shapes: dict[str, tuple[int, ...]] = {f"{embed}.weight": (c.vocab, c.width)}
    for i in range(c.layers):
        at = f"{root}layers.{i}."
        for attention in ("self_attn", cross):
            for part in ("q_proj", "k_proj", "v_proj", out):
                shapes |= {
                    f"{at}{attention}.{part}.weight": (c.width, c.width),
                    f"{at}{attention}.{part}.bias": (c.width,),
                }
        shapes |= {f"{at}{up}.weight": (c.hidden, c.width), f"{at}{up}.bias": (c.hidden,)}
        shapes |= {f"{at}{down}.weight": (c.width, c.hidden), f"{at}{down}.bias": (c.width,)}
        for ln in ("self_attn_layer_norm", f"{cross}_layer_norm", mlp_ln):
            shapes |= {f"{at}{ln}.weight": (c.width,), f"{at}{ln}.bias": (c.width,)}
        shapes[at + bias] = (1,)
        for n in range(c.energy_layers):
            for side in (query, key):
                shapes[f"{at}{side}layers.{2 * n}.weight"] = (c.width, c.width)
                shapes[f"{at}{side}layers.{2 * n}.bias"] = (c.width,)
    shapes |= {f"{root}layer_norm.weight": (c.width,), f"{root}layer_norm.bias": (c.width,)}
    tensors = {k: random(*shape, seed=i, scale=0.4) for i, (k, shape) in enumerate(shapes.items())}
    return tensors | {f"{head}.weight": tensors[f"{embed}.weight"]}


def loaded(c: Config, source: dict[str, Tensor], style: str = "fairseq2") -> MonotonicDecoder:
    model = build(c)
    lazy = prepare_source(style, LazyTensors({k: tuple(v.shape) for k, v in source.items()}, source.__getitem__))
    expected = {k: tuple(v.shape) for k, v in model.named_parameters(remove_duplicate=True)}
    found = dict(convert(lazy, KEYS[style], expected))
    model.load_state_dict(found, strict=False)
    assert found.keys() == expected.keys()
    return model.decoder.eval()


@pytest.mark.parametrize("style", ["fairseq2", "fairseq"])
def test_every_published_name_has_its_place(style: str) -> None:
    source = published(TINY, style)
    assert all(plan(source, KEYS[style]).values())
    loaded(TINY, source, style)


@pytest.mark.parametrize("style", ["fairseq2", "fairseq"])
def test_the_numbers_are_read_from_the_shapes(style: str) -> None:
    shapes = {k: tuple(v.shape) for k, v in published(TINY, style).items()}
    meta = {"num_decoder_attn_heads": 4, "max_seq_len": 32}
    assert Config(**config_from(style, meta, shapes)) == TINY
    assert config_from(style, {}, shapes)["heads"] == 16


def test_an_unknown_name_is_an_error() -> None:
    source = published(TINY) | {"text_decoder.layers.0.p_choose_layer.v_energy_proj.layers.0.bias": torch.zeros(16)}
    with pytest.raises(CheckpointError, match="v_energy_proj"):
        plan(source, KEYS["fairseq2"])


def test_the_published_size() -> None:
    """24 layers of 8 linear maps of 1024 to 1024 and one bias are the heads; the rest is NLLB's decoder."""
    with torch.device("meta"):
        decoder = build(Config()).decoder
    assert isinstance(decoder, MonotonicDecoder)
    assert sum(p.numel() for p in decoder.heads.parameters()) == 24 * (8 * (1024 * 1024 + 1024) + 1)
    layer = 2 * (4 * (1024 * 1024 + 1024)) + (2 * 1024 * 8192 + 8192 + 1024) + 3 * 2048
    assert sum(p.numel() for p in decoder.text.parameters()) == 256_102 * 1024 + 24 * layer + 2048


def test_fairseq_has_its_special_tokens_elsewhere() -> None:
    theirs = published(TINY, "fairseq")
    rows = theirs["decoder.embed_tokens.weight"]
    ours = loaded(TINY, theirs, "fairseq").text.token.weight
    assert torch.equal(ours[:4], rows[[1, 3, 0, 2]])  # (bos, pad, eos, unk) to (pad, unk, bos, eos)
    assert torch.equal(ours[4:], rows[4:])


def test_the_row_that_stands_for_no_token_is_dropped() -> None:
    source = {"decoder.embed_tokens.weight": random(256_103, 1)}
    got = prepare_source("fairseq", LazyTensors({"decoder.embed_tokens.weight": (256_103, 1)}, source.__getitem__))
    assert got.shapes["decoder.embed_tokens.weight"] == (256_102, 1)
    assert got["decoder.embed_tokens.weight"].shape == (256_102, 1)


# -------------------- the formula


def linear(source: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return x @ source[f"{name}.weight"].T + source[f"{name}.bias"]


def norm(source: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], source[f"{name}.weight"], source[f"{name}.bias"])


def attended(source: dict[str, Tensor], name: str, heads: int, x: Tensor, memory: Tensor, causal: bool) -> Tensor:
    q, k, v = (
        linear(source, f"{name}.{p}_proj", y).unflatten(-1, (heads, -1))
        for p, y in zip("qkv", (x, memory, memory), strict=True)
    )
    scores = torch.einsum("buhc,bmhc->bhum", q, k) / q.shape[-1] ** 0.5
    if causal:
        scores = scores + torch.full(scores.shape[-2:], -torch.inf).triu(1)
    return linear(source, f"{name}.output_proj", torch.einsum("bhum,bmhc->buhc", scores.softmax(-1), v).flatten(2))


def energy_by_hand(source: dict[str, Tensor], at: str, c: Config, x: Tensor, memory: Tensor) -> Tensor:
    """`sigmoid((q . k / sqrt(C) + bias) / temperature)` with the keys pooled first, the last pool being smaller."""
    q, k = x, F.avg_pool1d(memory.transpose(1, 2), c.pooling, ceil_mode=True).transpose(1, 2)
    for n in range(c.energy_layers):
        q = linear(source, f"{at}.q_energy_proj.layers.{2 * n}", q).relu()
        k = linear(source, f"{at}.k_energy_proj.layers.{2 * n}", k).relu()
    q, k = (y.unflatten(-1, (c.heads, -1)) for y in (q, k))
    energy = torch.einsum("buhc,bphc->bhup", q, k) / (c.width // c.heads) ** 0.5
    return ((energy + source[f"{at}.energy_bias"]) / c.temperature).sigmoid()


@torch.no_grad()
def by_hand(source: dict[str, Tensor], c: Config, tokens: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and p of the whole decoder, from the published names."""
    half = c.width // 2
    angle = (torch.arange(tokens.shape[1]) + 2)[:, None] * torch.exp(
        -torch.arange(half) * torch.tensor(10_000.0).log() / (half - 1)
    )
    x = source["final_proj.weight"][tokens] * c.width**0.5 + torch.cat([angle.sin(), angle.cos()], 1)
    p = []
    for i in range(c.layers):
        at = f"text_decoder.layers.{i}"
        h = norm(source, f"{at}.self_attn_layer_norm", x)
        x = x + attended(source, f"{at}.self_attn", c.heads, h, h, True)
        h = norm(source, f"{at}.encoder_decoder_attn_layer_norm", x)
        p.append(energy_by_hand(source, f"{at}.p_choose_layer", c, h, memory))
        x = x + attended(source, f"{at}.encoder_decoder_attn", c.heads, h, memory, False)
        h = linear(source, f"{at}.ffn.inner_proj", norm(source, f"{at}.ffn_layer_norm", x)).relu()
        x = x + linear(source, f"{at}.ffn.output_proj", h)
    return norm(source, "text_decoder.layer_norm", x) @ source["final_proj.weight"].T, torch.cat(p, 1)


@pytest.mark.parametrize("frames", [1, 6, 7])
def test_the_decoder_is_the_published_formula(frames: int) -> None:
    source = published(TINY)
    decoder, memory = loaded(TINY, source), random(1, frames, TINY.width, seed=99)
    seq = Seq(memory, torch.tensor([frames]))
    logits, p = by_hand(source, TINY, TOKENS, memory)
    with torch.no_grad():
        torch.testing.assert_close(decoder(TOKENS, seq), logits, atol=1e-5, rtol=1e-5)
        got = decoder.p_choose(TOKENS, seq)
    assert got.shape == (1, TINY.layers * TINY.heads, TOKENS.shape[1], -(-frames // TINY.pooling))
    torch.testing.assert_close(got, p, atol=1e-6, rtol=0)
    assert p.std() > 0.01


def test_tokens_one_at_a_time_get_the_same_p() -> None:
    decoder, seq = loaded(TINY, published(TINY)), Seq(random(1, 7, TINY.width), torch.tensor([7]))
    state = decoder.init_state(1, 8)
    with torch.no_grad():
        whole = decoder.p_choose(TOKENS, seq)
        steps = [decoder.p_choose(TOKENS[:, i : i + 1], seq, state) for i in range(TOKENS.shape[1])]
    torch.testing.assert_close(torch.cat(steps, 2), whole, atol=1e-5, rtol=0)


def test_pooling_ignores_padding() -> None:
    x = random(2, 11, 3)
    x[1, 5:] = float("nan")
    got = pooled(Seq(x, torch.tensor([11, 5]), 50.0), 4)
    assert got.lengths.tolist() == [3, 2]
    assert got.rate == 12.5
    expected = torch.stack([x[1, :4].mean(0), x[1, 4:5].mean(0)])
    torch.testing.assert_close(got.x[1, :2], expected)
    torch.testing.assert_close(got.x[0], F.avg_pool1d(x[:1].transpose(1, 2), 4, ceil_mode=True)[0].T)


# -------------------- heads for another decoder


SMALL = HeadsConfig(model="tiny", layers=(1, 2), width=16, heads=2, hidden=8, pooling=4)


def small_decoder() -> TextDecoder:
    decoder = TextDecoder(23, [DecoderLayer(16, 4, 24) for _ in range(3)], LearnedPositions(32, 16))
    randomize(decoder)
    return decoder.eval()


def small_heads() -> MonotonicHeads:
    heads = build_heads(SMALL)
    randomize(heads)
    return heads.eval()


@torch.no_grad()
@pytest.mark.parametrize("heard", [1, 4, 6, 8])
def test_p_is_that_of_the_last_frames_heard(heard: int) -> None:
    """What the model was padded with is seen by cross-attention, not by the heads."""
    decoder, heads = small_decoder(), small_heads()
    memory = Seq(random(1, 12, 16), torch.tensor([12]))
    got = heads.p_choose(decoder, TOKENS, memory, torch.tensor([heard]))
    energies = heads.energies(decoder, TOKENS, memory)
    assert energies.shape == (1, 4, 5, 3)
    last = random(1, 12, 16)[:, (heard - 1) // 4 * 4 : heard].mean(1, keepdim=True)
    states: dict[int, Tensor] = {}
    decoder.hidden(TOKENS, memory, watch=lambda i, h: states.update({i: h}))
    by_layer = [heads.layers[str(i)](states[i], Seq(last, torch.tensor([1])))[..., 0] for i in (1, 2)]
    torch.testing.assert_close(got, torch.cat(by_layer, 1).sigmoid(), atol=1e-6, rtol=0)
    if heard % 4 == 0:
        torch.testing.assert_close(got, energies[..., heard // 4 - 1].sigmoid(), atol=1e-6, rtol=0)


def test_watching_changes_nothing() -> None:
    decoder, memory = small_decoder(), Seq(random(1, 12, 16), torch.tensor([12]))
    seen: list[int] = []
    with torch.no_grad():
        watched = decoder.hidden(TOKENS, memory, watch=lambda i, h: seen.append(i))
        assert torch.equal(watched, decoder.hidden(TOKENS, memory))
    assert seen == [0, 1, 2]


def test_heads_in_a_file(tmp_path: Path) -> None:
    heads = small_heads()
    write_heads(heads, SMALL, tmp_path / "heads.safetensors")
    found, config = read_heads(tmp_path / "heads.safetensors")
    assert tuple(config.layers) == SMALL.layers
    for (name, mine), theirs in zip(heads.state_dict().items(), found.state_dict().values(), strict=True):
        torch.testing.assert_close(mine.half().float(), theirs, atol=0, rtol=0, msg=name)


SHIPPED = sorted(WEIGHTS.glob("emma-*.safetensors"))


@pytest.mark.parametrize("path", SHIPPED, ids=[p.stem for p in SHIPPED])
def test_what_ships_is_small_and_has_a_card(path: Path) -> None:
    heads, config = read_heads(path)
    card = tomllib.loads(path.with_suffix(".toml").read_text("utf-8"))
    assert path.stat().st_size < 4e6
    assert card["name"] == path.stem == f"emma-{config.model}"
    assert card["parameters"] == sum(p.numel() for p in heads.parameters())
    assert card["license"] == "Apache-2.0"
    assert card["results"]
    assert card["data"]
    base = find_card(config.model).config
    assert config.width == base["text_width"]
    assert max(config.layers) < base["text_layers"]
    model = Model(front={}, encoders={}, decoder=small_decoder())
    model.card = find_card(config.model)
    assert find_heads(model).state_dict().keys() == heads.state_dict().keys()


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "heads.safetensors").write_bytes(b"no heads")
    with pytest.raises(CheckpointError, match="monotonic heads"):
        read_heads(tmp_path / "heads.safetensors")


def test_a_model_without_heads_is_told_what_to_do() -> None:
    with pytest.raises(InputError, match="alignatt"):
        find_heads(Model(front={}, encoders={}, decoder=small_decoder()))


def test_heads_of_a_file_serve_the_model_they_were_trained_for(tmp_path: Path) -> None:
    model = Model(front={}, encoders={}, decoder=small_decoder())
    model.card = find_card("whisper-base")
    heads = build_heads(HeadsConfig())
    write_heads(heads, HeadsConfig(), tmp_path / "mine.safetensors")
    found = find_heads(model, tmp_path / "mine.safetensors").state_dict()
    torch.testing.assert_close(found, {k: v.half().float() for k, v in heads.state_dict().items()})
    write_heads(heads, HeadsConfig(model="whisper-tiny"), tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"heads for whisper-base, got .* for whisper-tiny"):
        find_heads(model, tmp_path / "other.safetensors")


def test_heads_need_a_width_that_divides() -> None:
    with pytest.raises(ValueError, match="divisible by 3"):
        PChoose(16, 3, 8, 1, 2)
