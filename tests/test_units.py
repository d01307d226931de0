"""UnitY2's text-to-unit model and version 1's equal transformers', row by row and in batches.

Letters: B rows, U decoder states, C characters, T units, D width, V vocabulary.
"""

import copy
import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmx.models.seamless_m4t.units import (
    AutoregressiveConfig,
    Config,
    DurationPredictor,
    TextToUnits,
    build,
    build_autoregressive,
    hf_autoregressive_rules,
    hf_rules,
    repeat,
    spell,
)
from mmx.seq import Seq, pad
from mmx.weights.convert import convert

TINY = Config(
    width=16, heads=2, encoder_layers=2, encoder_hidden=24, decoder_layers=2, duration_hidden=6,
    vocab=41, char_vocab=19, ctx=256, special_units=4, units=30,
)  # fmt: skip
TINY_V1 = AutoregressiveConfig(
    width=16, heads=2, encoder_layers=2, encoder_hidden=24, decoder_layers=2, decoder_hidden=20, vocab=41, ctx=64
)
PLAIN_LENGTHS = (9, 2, 5)


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randomize(model: nn.Module, scale: float = 0.15) -> None:
    """Every parameter anew, so that none has a value that hides a mistake (zero, one, equal to another)."""
    generator = random(1)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(scale * torch.randn(p.shape, generator=generator))


@pytest.fixture(scope="module")
def model() -> TextToUnits:
    ours = build(TINY).eval()
    randomize(ours, 0.3)
    with torch.no_grad():
        ours.duration.out.bias.fill_(1.2)  # about two units a character
    return ours


def read(lengths: Sequence[int] = PLAIN_LENGTHS, seed: int = 0) -> tuple[Seq, Tensor, Tensor]:
    """Decoder states, characters, characters of each state (none for the first and the last)."""
    g = random(seed)
    memory = pad([torch.randn(n, TINY.width, generator=g) for n in lengths])
    counts = [torch.randint(0, 4, (n,), generator=g) for n in lengths]
    for c in counts:
        c[0] = c[-1] = 0
    chars = [torch.randint(2, TINY.char_vocab, (int(c.sum()),), generator=g) for c in counts]
    return memory, pad(chars).x, pad(counts).x


def transformers_package() -> Any:
    return pytest.importorskip("transformers", reason="needs transformers: pip install 'mmx[bench]'")


# -------------------- parity


def reference(config: Config) -> Any:
    package = transformers_package()
    from transformers.models.seamless_m4t_v2 import modeling_seamless_m4t_v2 as code

    settings = package.SeamlessM4Tv2Config(
        hidden_size=config.width, t2u_vocab_size=config.vocab, char_vocab_size=config.char_vocab,
        t2u_encoder_layers=config.encoder_layers, t2u_encoder_ffn_dim=config.encoder_hidden,
        t2u_encoder_attention_heads=config.heads, t2u_decoder_layers=config.decoder_layers,
        t2u_decoder_attention_heads=config.heads, t2u_variance_predictor_embed_dim=config.width,
        t2u_variance_predictor_hidden_dim=config.duration_hidden, t2u_max_position_embeddings=config.ctx,
        t2u_variance_predictor_kernel_size=config.duration_kernel,
    )  # fmt: skip
    return code.SeamlessM4Tv2TextToUnitForConditionalGeneration(settings).eval()


def reference_v1(config: AutoregressiveConfig) -> Any:
    package = transformers_package()
    from transformers.models.seamless_m4t import modeling_seamless_m4t as code

    settings = package.SeamlessM4TConfig(
        hidden_size=config.width, t2u_vocab_size=config.vocab, t2u_max_position_embeddings=config.ctx,
        t2u_encoder_layers=config.encoder_layers, t2u_encoder_ffn_dim=config.encoder_hidden,
        t2u_encoder_attention_heads=config.heads, t2u_decoder_layers=config.decoder_layers,
        t2u_decoder_attention_heads=config.heads, t2u_decoder_ffn_dim=config.decoder_hidden,
    )  # fmt: skip
    return code.SeamlessM4TTextToUnitForConditionalGeneration(settings).eval()


def shapes_of(model: nn.Module, tied: str = "") -> dict[str, tuple[int, ...]]:
    return {k: tuple(v.shape) for k, v in model.state_dict().items() if k != tied}


@pytest.mark.parity
def test_units_are_those_of_transformers() -> None:
    theirs = reference(TINY)
    randomize(theirs, 0.3)
    with torch.no_grad():
        theirs.model.decoder.duration_predictor.proj.bias.fill_(1.2)
    source = {f"t2u_model.{k}": v for k, v in theirs.state_dict().items()}
    ours = build(TINY).eval()
    ours.load_state_dict(dict(convert(source, hf_rules("t2u_model."), shapes_of(ours))), strict=True)
    memory, chars, counts = read()
    with torch.no_grad():
        wanted = theirs(
            inputs_embeds=memory.x, attention_mask=memory.mask.long(), char_input_ids=chars, char_count_per_id=counts
        )
        got = ours(memory, chars, counts)
    assert got.rate == 50.0 and got.lengths.tolist() == wanted.padding_mask.sum(1).tolist()
    assert int(got.lengths.sum()) > int(counts.sum()), "the durations are all 1 and test nothing"
    for i, n in enumerate(got.lengths.tolist()):
        torch.testing.assert_close(got.x[i, :n], wanted.last_hidden_state[i, :n], rtol=1e-5, atol=1e-5)


@pytest.mark.parity
def test_version_1_is_the_text_decoder_over_units() -> None:
    theirs = reference_v1(TINY_V1)
    randomize(theirs, 0.3)
    ours = build_autoregressive(TINY_V1).eval()
    tied = "decoder.head.weight"
    source = {f"t2u_model.{k}": v for k, v in theirs.state_dict().items()}
    tensors = dict(convert(source, hf_autoregressive_rules("t2u_model."), shapes_of(ours, tied)))
    assert ours.load_state_dict(tensors, strict=False).missing_keys == [tied]
    memory, _, _ = read()
    tokens = torch.randint(4, TINY_V1.vocab, (3, 7), generator=random(2))
    with torch.no_grad():
        wanted = theirs(inputs_embeds=memory.x, attention_mask=memory.mask.long(), decoder_input_ids=tokens)
        got = ours({"states": memory}, tokens)
    torch.testing.assert_close(got, wanted.logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parity
@pytest.mark.parametrize("version", [1, 2])
def test_the_full_size_has_the_published_parameters(version: int) -> None:
    with torch.device("meta"):
        if version == 2:
            theirs, ours, rules, tied, count = reference(Config()), build(Config()), hf_rules(), "", 261_759_747
        else:
            theirs, ours = reference_v1(AutoregressiveConfig()), build_autoregressive(AutoregressiveConfig())
            rules, tied, count = hf_autoregressive_rules(), "decoder.head.weight", 287_397_888
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters()) == count
    shapes = shapes_of(ours, tied)
    # Weights that are only described cannot be compared, so the copy under a second name is left out.
    source = {k: v for k, v in theirs.state_dict().items() if k != "lm_head.weight"}
    assert {k for k, _ in convert(source, rules, shapes)} == shapes.keys()


# -------------------- characters

PIECES = ["<pad>", "<unk>", "</s>", "▁Hi", ",", "▁", "▁you", "!", "▁a", "ß", "5", "...", "▁-", ".", "x", "é?"]
ID_TO_TEXT = {str(i): p for i, p in enumerate(PIECES) if i > 1}
CHAR_TO_ID = {c: i + 2 for i, c in enumerate("▁Hiyoua,!5-.xé")}  # neither ß nor ?
TEXTS = {
    "a space after a mark goes to the mark": [[3, 4, 6, 7]],
    "a lone space lends nothing": [[4, 5, 6]],
    "marks in a row": [[3, 7, 4, 8, 13]],
    "digits and letters are no marks": [[10, 8, 9, 6, 14, 3]],
    "a mark of several characters is none": [[11, 8, 12, 6]],
    "unknown tokens": [[1, 8, 7, 1, 13, 6, 1]],
    "rows of unequal length": [[3, 4, 6, 7, 8], [13], [6, 6]],
    "a row with nothing": [[], [3, 4, 6]],
}


@pytest.mark.parity
@pytest.mark.parametrize("rows", TEXTS.values(), ids=TEXTS)
def test_characters_are_counted_as_in_transformers(rows: list[list[int]]) -> None:
    transformers_package()
    from transformers.models.seamless_m4t_v2.modeling_seamless_m4t_v2 import SeamlessM4Tv2PreTrainedModel as Reference

    held: Any = SimpleNamespace(generation_config=SimpleNamespace(id_to_text=ID_TO_TEXT, char_to_id=CHAR_TO_ID))
    ids = pad([torch.tensor(r, dtype=torch.int64) for r in rows]).x
    pieces = Reference._indices_to_subwords(held, ids)
    counts = Reference._count_character_length_in_subword(held, ids, pieces)
    nothing = counts.new_zeros(len(counts), 1)
    counts = torch.cat([nothing, counts, nothing], 1)
    chars = Reference._get_char_input_ids(held, ids, pieces, counts)
    got = spell(rows, ID_TO_TEXT, CHAR_TO_ID)
    assert got.per_token.tolist() == counts.tolist()
    assert got.chars.tolist() == chars.tolist()


def test_spelling_by_hand() -> None:
    got = spell([[3, 4, 6, 7]], ID_TO_TEXT, CHAR_TO_ID)  # "▁Hi" "," "▁you" "!": the comma takes the space
    assert got.per_token.tolist() == [[0, 3, 2, 3, 1, 0]]
    assert got.chars.tolist() == [[CHAR_TO_ID[c] for c in "▁Hi,▁you!"]]


def test_a_control_symbol_is_silent() -> None:
    got = spell([[3, 999, 8]], ID_TO_TEXT, CHAR_TO_ID)
    assert got.per_token.tolist() == [[0, 3, 0, 2, 0]] and got.chars.shape == (1, 5)


# -------------------- rows


def test_a_row_does_not_know_its_neighbours(model: TextToUnits) -> None:
    memory, chars, counts = read()
    mess = memory._replace(x=memory.x.masked_fill(~memory.mask[..., None], math.nan))
    wrong_counts = counts.masked_fill(~memory.mask, 7)
    with torch.no_grad():
        got = model(mess, chars, wrong_counts)
        for i, n in enumerate(memory.lengths.tolist()):
            row = slice(i, i + 1)
            alone = model(
                Seq(memory.x[row, :n], torch.tensor([n])), chars[row, : int(counts[i].sum())], counts[row, :n]
            )
            assert alone.lengths[0] == got.lengths[i] == alone.x.shape[1]
            torch.testing.assert_close(got.x[i, : got.lengths[i]], alone.x[0], rtol=2e-6, atol=2e-6)
    assert got.lengths[1] == 0, "a row of silent tokens is part of this test"


def test_nothing_to_say_is_no_error(model: TextToUnits) -> None:
    memory, chars, counts = read((2, 2))
    got = model.units(memory, chars, counts)
    assert got.x.shape == (2, 0) and got.lengths.tolist() == [0, 0]


def test_no_gradient_comes_from_the_padding(model: TextToUnits) -> None:
    memory, chars, counts = read()
    x = memory.x.masked_fill(~memory.mask[..., None], math.nan).requires_grad_()
    out = model(memory._replace(x=x), chars, counts)
    (grad,) = torch.autograd.grad(out.masked.square().sum(), x)
    assert bool(grad.isfinite().all()) and not grad[~memory.mask].any() and grad[memory.mask].any()


def test_units_are_the_vocoders(model: TextToUnits) -> None:
    memory, chars, counts = read()
    model = copy.deepcopy(model)
    with torch.no_grad():
        model.head.weight[[1, 36]] *= 10
    with torch.no_grad():
        logits, got = model(memory, chars, counts), model.units(memory, chars, counts)
    spoken = logits.x[..., 4:34]
    assert got.x.dtype == torch.int64 and got.rate == 50.0 and torch.equal(got.lengths, logits.lengths)
    assert torch.equal(spoken.gather(2, got.x[..., None])[..., 0][got.mask], spoken.amax(2)[got.mask])
    controls = logits.x.argmax(2)[got.mask]
    assert bool(((controls < 4) | (controls >= 34)).any()), (
        "no control symbol is likeliest anywhere: this tests nothing"
    )


# -------------------- durations


def test_durations_may_be_given(model: TextToUnits) -> None:
    memory, chars, counts = read()
    durations = torch.randint(0, 3, chars.shape, generator=random(3))
    with torch.no_grad():
        got = model(memory, chars, counts, durations=durations)
        spelled = model.characters(memory, chars, counts)
        predicted = model.duration(spelled)
        own = model(memory, chars, counts, durations=predicted)
        plain = model(memory, chars, counts)
    assert got.lengths.tolist() == [int(d[: int(c.sum())].sum()) for d, c in zip(durations, counts, strict=True)]
    assert torch.equal(own.x, plain.x) and torch.equal(own.lengths, plain.lengths)


def test_a_factor_scales_durations_before_rounding(model: TextToUnits) -> None:
    memory, chars, counts = read()
    with torch.no_grad():
        spelled = model.characters(memory, chars, counts)
        one, three = model.duration(spelled), model.duration(spelled, 3.0)
        assert bool((three != 3 * one)[spelled.mask].any()), "rounding first would give multiples"
        ratio = three.sum() / one.sum()
        assert 2.5 < ratio < 3.5
        assert torch.equal(model(memory, chars, counts, 3.0).lengths, three.sum(1))
        tiny = model.duration(spelled, 1e-6)
    assert torch.equal(tiny, spelled.mask.long())  # one unit a character at least, none in the padding


def test_repeat_is_repeat_interleave() -> None:
    g = random(4)
    lengths = [6, 0, 4, 1]
    seq = pad([torch.randn(n, 3, generator=g) for n in lengths])
    times = torch.randint(0, 4, seq.x.shape[:2], generator=g)
    times[0, :2] = times[0, -1] = 0  # at the ends too
    got = repeat(seq, times, 50.0)
    for i, n in enumerate(lengths):
        wanted = seq.x[i, :n].repeat_interleave(times[i, :n], 0)
        assert got.lengths[i] == len(wanted)
        assert torch.equal(got.x[i, : len(wanted)], wanted)


def test_the_duration_predictor_ignores_the_padding() -> None:
    predictor = DurationPredictor(5, 4, 3).eval()
    randomize(predictor, 0.5)
    with torch.no_grad():
        predictor.out.bias.fill_(1.5)
    seq = pad([torch.randn(n, 5, generator=random(n)) for n in (8, 3)])
    mess = seq._replace(x=seq.x.masked_fill(~seq.mask[..., None], math.nan))
    with torch.no_grad():
        got = predictor(mess)
        assert torch.equal(got[1, :3], predictor(Seq(seq.x[1:, :3], torch.tensor([3])))[0])
    assert not got[1, 3:].any() and len(got[0].unique()) > 1


# -------------------- bad input


def test_characters_and_counts_must_belong_together(model: TextToUnits) -> None:
    memory, chars, counts = read()
    with pytest.raises(ValueError, match="characters that chars_per_token counts, got 2"):
        model(memory, chars[:, :2], counts)
    with pytest.raises(ValueError, match="one count for each frame"):
        model(memory, chars, counts[:, :-1])


def test_too_long_a_text_is_refused_with_a_remedy(model: TextToUnits) -> None:
    memory, chars, counts = read()
    with pytest.raises(ValueError, match=r"at most 256 frames.*sentence by sentence"):
        model(memory, chars, counts, durations=torch.full_like(chars, 100))
