"""Vocos and its mels equal the package vocos, whose mels are torchaudio's, and keep the contract.

Letters: B rows, T frames, N samples.
"""

from typing import Any

import f5_reference
import numpy as np
import pytest
import torch
from contract import verify_contract
from torch import Tensor, nn

from mmx import api
from mmx.media.mel import LogMel, htk_filterbank
from mmx.models import vocos
from mmx.models.vocos import Config
from mmx.seq import Seq, pad
from mmx.weights.convert import convert

TINY = Config(mels=10, width=12, hidden=20, layers=2, n_fft=64, hop=16)


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randomize(model: nn.Module, scale: float = 0.2) -> None:
    generator = random(1)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(scale * torch.randn(p.shape, generator=generator))


def mels(lengths: Any, seed: int = 0) -> Seq:
    return pad([torch.randn(n, TINY.mels, generator=random(seed + i)) for i, n in enumerate(lengths)], 1500.0)


def waves(lengths: Any, seed: int = 0) -> Seq:
    return pad([0.1 * torch.randn(n, generator=random(seed + i)) for i, n in enumerate(lengths)], 24_000.0)


# -------------------- parity


def reference(config: Config) -> Any:
    package = f5_reference.vocos()
    from vocos.heads import ISTFTHead
    from vocos.models import VocosBackbone

    backbone = VocosBackbone(config.mels, config.width, config.hidden, config.layers)
    head = ISTFTHead(config.width, config.n_fft, config.hop, padding="center")
    return package.Vocos(nn.Identity(), backbone, head).eval()


def converted(source: dict[str, Tensor], config: Config) -> vocos.Vocos:
    with torch.device("meta"):
        model = vocos.build(config)
    expected = {k: tuple(v.shape) for k, v in model.named_parameters()}
    api.fill(model, dict(convert(source, vocos.KEYS["hf"], expected)))
    for name, buffer in model.named_buffers():  # as load leaves them: they are computed on the CPU
        assert not buffer.is_meta, name
    encoder = model.encoders["speech"].eval()
    assert isinstance(encoder, vocos.Vocos)
    return encoder


@pytest.mark.parity
def test_a_row_sounds_as_in_the_package() -> None:
    theirs = reference(TINY)
    randomize(theirs)
    ours = converted(theirs.state_dict(), TINY)
    seq = mels([23])
    with torch.no_grad():
        inner = theirs.backbone(seq.x.transpose(1, 2))
        wanted = theirs.decode(seq.x.transpose(1, 2))
        got = ours(seq)
    assert got.x.shape == (1, 23, 16) and wanted.shape == (1, 22 * 16)
    assert wanted.abs().max() > 0.05 and inner.std() > 0.05
    torch.testing.assert_close(got.x.flatten(1)[:, : 22 * 16], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parity
def test_one_layer_is_that_of_the_package() -> None:
    theirs = reference(TINY)
    randomize(theirs)
    ours, x = converted(theirs.state_dict(), TINY), mels([9]).x
    wide = torch.randn(1, 9, TINY.width, generator=random(3))
    with torch.no_grad():
        wanted = theirs.backbone.convnext[1](wide.transpose(1, 2)).transpose(1, 2)
        torch.testing.assert_close(ours.layers[1](wide, None), wanted, rtol=1e-6, atol=1e-6)
        wanted = theirs.backbone.embed(x.transpose(1, 2))
        torch.testing.assert_close(ours.pre(x.transpose(1, 2)), wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parity
def test_swapped_weights_are_noticed() -> None:
    theirs = reference(TINY)
    randomize(theirs)
    state = theirs.state_dict()
    a, b = "backbone.convnext.0.gamma", "backbone.convnext.1.gamma"
    state[a], state[b] = state[b].clone(), state[a].clone()
    ours, seq = converted(state, TINY), mels([23])
    with torch.no_grad():
        wanted = theirs.decode(seq.x.transpose(1, 2))
        assert float((ours(seq).x.flatten(1)[:, : 22 * 16] - wanted).abs().max()) > 1e-3


@pytest.mark.parity
def test_mels_are_those_of_the_reference() -> None:
    """Filters as transformers has them of torchaudio, windows as torch's transform centres and mirrors them."""
    audio = pytest.importorskip("transformers.audio_utils", reason="needs transformers: pip install 'mmx[bench]'")
    filters = audio.mel_filter_bank(513, 100, 0.0, 12_000.0, 24_000, norm=None, mel_scale="htk")
    np.testing.assert_allclose(htk_filterbank(24_000, 1024, 100).numpy(), filters.T, rtol=1e-6, atol=1e-6)
    front, wave = LogMel(), waves([24_000])
    spectrum = torch.stft(wave.x, 1024, 256, window=torch.hann_window(1024), center=True, return_complex=True).abs()
    wanted = (torch.from_numpy(filters.T).float() @ spectrum).clamp(min=1e-5).log().transpose(1, 2)
    got = front(wave)
    assert got.rate == 93.75 and got.lengths.tolist() == [94] and wanted.std() > 0.3
    torch.testing.assert_close(got.x, wanted, rtol=1e-5, atol=1e-5)


def test_the_full_size_has_the_published_parameters() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in vocos.build(Config()).parameters()) == 13_531_650


# -------------------- behaviour


def test_the_network_keeps_the_contract() -> None:
    model = vocos.build(TINY).encoders["speech"].eval()
    randomize(model)
    verify_contract(model, lambda lengths, seed: mels(lengths, seed))


def test_the_mels_keep_the_contract() -> None:
    verify_contract(LogMel(20, 64, 16).eval(), lambda lengths, seed: waves(lengths, seed), lengths=[200, 64, 33, 5])


def test_a_spectrum_becomes_the_sound_that_it_is_of() -> None:
    """The inverse transform undoes the transform, ends included."""
    network, wave = vocos.Vocos(Config()), waves([40 * 256, 17 * 256])
    spectra = [
        torch.stft(row[:n], 1024, 256, window=network.window, center=True, return_complex=True).T[:-1]
        for row, n in zip(wave.x, wave.lengths.tolist(), strict=True)
    ]
    sound = network.sound(pad(spectra).x, pad(spectra).mask).flatten(1)
    for row, wanted, n in zip(sound, wave.x, (39 * 256, 16 * 256), strict=True):
        torch.testing.assert_close(row[:n], wanted[:n], rtol=1e-5, atol=1e-5)
