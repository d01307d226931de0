"""The code HiFi-GAN equals transformers' on single rows, keeps the contract, and streams as it speaks offline.

Letters: B rows, T units, N samples, C channels.
"""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from contract import verify_contract
from torch import Tensor, nn

from mmx.errors import CheckpointError
from mmx.models.seamless_m4t.hifigan import CodeVocoder, Config, Generator, build, fold_weight_norm, hf_rules
from mmx.seq import Seq, pad
from mmx.weights.convert import convert

TINY = Config(
    units=30, unit_width=6, languages=4, language_width=3, speakers=5, speaker_width=2, channels=16,
    strides=(5, 2, 2), kernels=(11, 4, 4), block_kernels=(3, 7), dilations=((1, 3), (1, 2)),
)  # fmt: skip
HOP = 20


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randomize(model: nn.Module, scale: float = 0.15) -> None:
    """Every parameter anew, so that none has a value that hides a mistake (zero, one, equal to another)."""
    generator = random(1)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(scale * torch.randn(p.shape, generator=generator))


@pytest.fixture(scope="module")
def vocoder() -> CodeVocoder:
    model = build(TINY).eval()
    randomize(model, 0.3)
    with torch.no_grad():
        model.duration.out.bias.fill_(1.2)  # about two frames a unit
    return model


def spoken(lengths: Sequence[int], seed: int = 0) -> tuple[Seq, Tensor, Tensor]:
    """Units, languages and speakers."""
    g = random(seed)
    units = pad([torch.randint(0, TINY.units, (n,), generator=g) for n in lengths], 50.0)
    language = torch.randint(0, TINY.languages, (len(lengths),), generator=g)
    speaker = torch.randint(0, TINY.speakers, (len(lengths),), generator=g)
    return units, language, speaker


# -------------------- parity


def reference_config(config: Config) -> Any:
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install 'mmx[bench]'")
    return transformers.SeamlessM4Tv2Config(
        unit_hifi_gan_vocab_size=config.units, unit_embed_dim=config.unit_width,
        vocoder_num_langs=config.languages, lang_embed_dim=config.language_width,
        vocoder_num_spkrs=config.speakers, spkr_embed_dim=config.speaker_width,
        upsample_initial_channel=config.channels, upsample_rates=list(config.strides),
        upsample_kernel_sizes=list(config.kernels), resblock_kernel_sizes=list(config.block_kernels),
        resblock_dilation_sizes=[list(d) for d in config.dilations],
        variance_predictor_kernel_size=config.duration_kernel,
        t2u_pad_token_id=config.units,  # no unit counts as padding
    )  # fmt: skip


def reference_vocoder(config: Config, version: int = 2) -> Any:
    settings = reference_config(config)
    if version == 1:
        from transformers.models.seamless_m4t.modeling_seamless_m4t import SeamlessM4TCodeHifiGan

        return SeamlessM4TCodeHifiGan(settings).eval()
    from transformers.models.seamless_m4t_v2.modeling_seamless_m4t_v2 import SeamlessM4Tv2CodeHifiGan

    return SeamlessM4Tv2CodeHifiGan(settings).eval()


def converted(source: dict[str, Tensor], prefix: str = "") -> CodeVocoder:
    ours = build(TINY).eval()
    shapes = {k: tuple(v.shape) for k, v in ours.state_dict().items()}
    ours.load_state_dict(dict(convert(source, hf_rules(prefix), shapes)), strict=True)
    return ours


@pytest.mark.parity
@pytest.mark.parametrize("version", [1, 2])
def test_a_row_sounds_as_in_transformers(version: int) -> None:
    """Theirs always predicts durations; without, ours must give what their generator gives for the same units."""
    theirs = reference_vocoder(TINY, version)
    randomize(theirs, 0.3)
    with torch.no_grad():
        theirs.dur_predictor.proj.bias.fill_(1.2)  # about two frames a unit
    ours = converted({f"vocoder.{k}": v for k, v in theirs.state_dict().items()}, "vocoder.")
    units, language, speaker = spoken([23])
    with torch.no_grad():
        wav, length = theirs(units.x, speaker[:, None], language[:, None])
        got = ours(units, language, speaker, predict_durations=True)
        assert got.lengths.tolist() == [int(length)] and got.rate == 50 * HOP
        assert got.lengths[0] > 23 * HOP, "the durations are all 1 and test nothing"
        torch.testing.assert_close(got.x, wav, rtol=1e-5, atol=1e-5)

        tongue, voice = theirs.language_embedding(language)[0], theirs.speaker_embedding(speaker)[0]
        x = torch.cat([tongue.expand(1, 23, -1), theirs.unit_embedding(units.x), voice.expand(1, 23, -1)], 2)
        got = ours(units, language, speaker)
        torch.testing.assert_close(got.x, theirs.hifi_gan(x.transpose(1, 2)), rtol=1e-5, atol=1e-5)
        assert got.lengths.tolist() == [23 * HOP] and got.x.abs().max() > 0.05


@pytest.mark.parity
def test_weight_norm_is_folded() -> None:
    """In torch's new way, which transformers applies, and in the old one."""
    theirs = reference_vocoder(TINY)
    randomize(theirs)
    plain = {k: v.clone() for k, v in theirs.state_dict().items()}
    theirs.apply_weight_norm()
    normed = theirs.state_dict()
    assert any("original0" in k for k in normed)
    old = {
        k.replace("parametrizations.weight.original0", "weight_g")
        .replace("parametrizations.weight.original1", "weight_v"): v
        for k, v in normed.items()
    }  # fmt: skip
    for source in (normed, old, plain):
        folded = fold_weight_norm(source)
        assert folded.keys() == plain.keys()
        for key, value in plain.items():
            torch.testing.assert_close(folded[key], value, rtol=1e-6, atol=1e-7)
    del old["hifi_gan.conv_pre.weight_g"]
    with pytest.raises(CheckpointError, match=r"conv_pre\.weight_g"):
        fold_weight_norm(old)


@pytest.mark.parity
def test_the_full_size_has_the_published_parameters() -> None:
    with torch.device("meta"):
        ours, theirs = build(Config()), reference_vocoder(Config())
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters()) == 41_911_362
    shapes = {k: tuple(v.shape) for k, v in ours.state_dict().items()}
    assert {k for k, _ in convert(theirs.state_dict(), hf_rules(), shapes)} == shapes.keys()
    assert (ours.generator.samples, ours.generator.lookahead) == (320, 21)


# -------------------- rows


def test_a_row_does_not_hear_its_neighbours(vocoder: CodeVocoder) -> None:
    units, language, speaker = spoken([23, 0, 7, 1])
    mess = units._replace(x=units.x.masked_fill(~units.mask, -(10**9)))
    for durations in (False, True):
        with torch.no_grad():
            got = vocoder(mess, language, speaker, durations)
            for i, n in enumerate(units.lengths.tolist()):
                row = torch.tensor([i])
                one = units.rows(row)._replace(x=units.x[row, :n])
                alone = vocoder(one, language[row], speaker[row], durations)
                assert alone.lengths[0] == got.lengths[i] == alone.x.shape[1]
                assert durations or got.lengths[i] == n * HOP
                torch.testing.assert_close(got.x[i, : got.lengths[i]], alone.x[0], rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("bad", ["units", "languages", "speakers"])
def test_ids_out_of_range_are_named(vocoder: CodeVocoder, bad: str) -> None:
    units, language, speaker = spoken([4])
    if bad == "units":
        units.x[0, 2] = TINY.units
    elif bad == "languages":
        language[0] = -1
    else:
        speaker[0] = TINY.speakers
    with pytest.raises(ValueError, match=f"expected {bad} from 0"):
        vocoder(units, language, speaker)


# -------------------- streams


def features(lengths: Sequence[int], seed: int) -> Seq:
    return Seq(torch.randn(len(lengths), max(lengths), 5, generator=random(seed)), torch.tensor(lengths), 50.0)


GENERATORS = {
    "lags by whole units": ((2, 2), (4, 4), (3,), ((1,),)),
    "odd strides": ((5, 2), (11, 4), (3, 7), ((1, 3), (1, 2))),
    "kernel of one stride": ((3, 2), (3, 2), (3,), ((1,),)),
    "long kernels": ((2, 3), (8, 11), (3, 5), ((1,), (2,))),
}


@pytest.mark.parametrize("shape", GENERATORS.values(), ids=GENERATORS)
def test_the_generator_keeps_the_contract(shape: Any) -> None:
    """A frame of output is the sound of one unit, so that look-ahead and latency are measured exactly."""
    generator = Generator(5, 8, *shape).eval()
    randomize(generator, 0.3)
    lengths = (3 * generator.lookahead + 5, 2 * generator.lookahead + 1, generator.lookahead, 1)
    verify_contract(generator, features, lengths=lengths)


@pytest.mark.parametrize("shape", GENERATORS.values(), ids=GENERATORS)
def test_the_lookahead_is_no_longer_than_needed(shape: Any) -> None:
    generator = Generator(5, 8, *shape).eval()
    randomize(generator, 0.3)
    x = features([3 * generator.lookahead], 0).x.requires_grad_()
    middle = generator.lookahead + 1
    out = generator(Seq(x, torch.tensor([x.shape[1]]))).x[0, middle, -1]
    (grad,) = torch.autograd.grad(out, x)
    assert int(grad[0].abs().sum(1).nonzero().max()) == middle + generator.lookahead


def test_units_are_spoken_as_they_come(vocoder: CodeVocoder) -> None:
    units, language, speaker = spoken([61, 40])
    state = vocoder.init_state(2)
    parts: list[list[Tensor]] = [[], []]
    with torch.no_grad():
        whole = vocoder(units, language, speaker)
        for at in range(0, 70, 10):
            lengths = (units.lengths - at).clamp(0, 10)
            chunk = Seq(units.x[:, at : at + 10], lengths.clamp(max=units.x[:, at : at + 10].shape[1]), 50.0, at == 60)
            out = vocoder(chunk, language, speaker, state=state)
            assert out.rate == 50.0 * HOP and out.final == (at == 60)
            for row, wav, n in zip(parts, out.x, out.lengths.tolist(), strict=True):
                row.append(wav[:n])
    for i, row in enumerate(parts):
        torch.testing.assert_close(torch.cat(row), whole.x[i, : whole.lengths[i]], rtol=2e-6, atol=2e-6)


def test_reduced_units_do_not_stream(vocoder: CodeVocoder) -> None:
    units, language, speaker = spoken([4])
    with pytest.raises(ValueError, match="expected units of 20 ms in a stream"):
        vocoder(units, language, speaker, predict_durations=True, state=vocoder.init_state(1))


@pytest.mark.parametrize("kernel, factor", [(4, 5), (8, 5)])
def test_an_upsampling_with_inexact_lengths_is_refused(kernel: int, factor: int) -> None:
    with pytest.raises(ValueError, match=f"expected a kernel of {factor} plus an even number"):
        Generator(5, 8, (factor,), (kernel,), (3,), ((1,),))
