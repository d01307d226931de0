"""Augmentation: what is hidden, sped up and made noisy, and that a key decides all of it."""

import importlib.util
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mmx import extras
from mmx.errors import InputError, MmxWarning
from mmx.train.augment import POLICIES, MaskPolicy, Noise, Speeds, in_turn, mask_features, mask_policy, with_noise

RATE = 16_000


def has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


needs_speechbrain = pytest.mark.skipif(not (has("speechbrain") and has("torchaudio")), reason="extra `speechbrain`")


def features(seed: int = 0) -> Tensor:
    return torch.randn(300, 80, generator=torch.Generator().manual_seed(seed)) + 5


def test_masks_are_bands_and_stretches_of_the_policys_size() -> None:
    x, policy = features(), MaskPolicy(frequency=10, bands=1, time=40, stretches=1)
    widths, heights = [], []
    for key in map(str, range(200)):
        hidden = mask_features(x, policy, key) != x
        bands, stretches = hidden.all(0), hidden.all(1)
        assert torch.equal(hidden, bands[None, :] | stretches[:, None])
        for found, sizes in ((bands, heights), (stretches, widths)):
            at = found.nonzero()[:, 0]
            assert len(at) == 0 or int(at[-1] - at[0]) == len(at) - 1  # one piece
            sizes.append(len(at))
    assert max(heights) == 10 and max(widths) == 40
    assert sum(heights) / 200 == pytest.approx(5, abs=1) and sum(widths) / 200 == pytest.approx(20, abs=4)


def test_masks_are_the_mean_and_leave_the_input_alone() -> None:
    x = features()
    before = x.clone()
    out = mask_features(x, POLICIES["LD"], "a")
    assert torch.equal(x, before)
    assert out[out != x].unique().tolist() == [pytest.approx(float(x.mean()))]


def test_a_key_decides_the_masks() -> None:
    x, policy = features(), POLICIES["LB"]
    torch.manual_seed(1)
    first = mask_features(x, policy, "1/2/3")
    torch.manual_seed(2)
    assert torch.equal(mask_features(x, policy, "1/2/3"), first)
    assert not torch.equal(mask_features(x, policy, "1/2/4"), first)


def test_padding_is_not_masked_in_place_of_speech() -> None:
    x, policy = features(), MaskPolicy(0, 0, 100, 2, share=0.2)
    for key in map(str, range(50)):
        hidden = (mask_features(x, policy, key, frames=50) != x).all(1)
        assert not hidden[50:].any()
        assert hidden.sum() <= 20  # two stretches of a fifth


def test_the_papers_policies() -> None:
    assert POLICIES["LB"] == MaskPolicy(27, 1, 100, 1, 1.0)
    assert POLICIES["LD"] == MaskPolicy(27, 2, 100, 2, 1.0)
    with pytest.raises(InputError, match="Did you mean 'LD'"):
        mask_policy("ld")


def test_without_speechbrain_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'mmx\[speechbrain\]'"):
        Speeds()


def test_bad_numbers_are_named() -> None:
    with pytest.raises(InputError, match="speeds in percent"):
        Speeds([0, 100])
    with pytest.raises(InputError, match="ratio in dB"):
        Noise([20.0, 5.0])


def test_steps_follow_one_another() -> None:
    both = in_turn([lambda x, key: x + len(key), lambda x, key: x * 2])
    assert both is not None and both(torch.ones(1), "abc").item() == 8
    assert in_turn([]) is None


def test_a_compiled_part_that_does_not_load_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def load(name: str) -> object:
        calls.append(name)
        if len(calls) == 1:
            raise OSError("libc10_cuda.so: cannot open")
        return name

    monkeypatch.setattr(extras.importlib, "import_module", load)
    monkeypatch.delitem(extras.sys.modules, "torchaudio._extension", raising=False)
    with pytest.warns(MmxWarning, match="libc10_cuda"):
        extras.import_torchaudio()
    stub = extras.sys.modules.pop("torchaudio._extension")
    assert not getattr(stub, "_IS_TORCHAUDIO_EXT_AVAILABLE")  # noqa: B009 - made at run time
    with pytest.raises(InputError, match="forced_align"):
        getattr(stub, "fail_if_no_align")(_forced_align)()  # noqa: B009


def _forced_align() -> None: ...


_forced_align.__name__ = "forced_align"


# -------------------- with speechbrain


@needs_speechbrain
@pytest.mark.filterwarnings("ignore")
def test_speeds_change_length_and_pitch() -> None:
    wave = torch.sin(2 * math.pi * 440 * torch.arange(RATE) / RATE)
    faster = Speeds([110])(wave, "x")
    assert len(faster) == math.ceil(RATE * 100 / 110)
    peak_hz = float(torch.fft.rfft(faster).abs().argmax()) * RATE / len(faster)
    assert peak_hz == pytest.approx(440 * 1.1, abs=2)
    assert torch.equal(Speeds([100])(wave, "x"), wave)
    drawn = [len(Speeds([90, 100, 110])(wave, str(i))) for i in range(30)]
    assert len(set(drawn)) == 3


def test_noise_has_the_ratio_and_repeats_itself() -> None:
    wave = torch.sin(2 * math.pi * 440 * torch.arange(RATE) / RATE)
    state = torch.get_rng_state()
    noise = Noise((10.0, 10.0))
    noisy = noise(wave, "a")
    assert torch.equal(torch.get_rng_state(), state)
    share = float((noisy @ wave) / (wave @ wave))  # of the speech in the mixture
    rest = noisy - share * wave
    assert 10 * math.log10(float((share * wave).square().sum() / rest.square().sum())) == pytest.approx(10, abs=0.2)
    torch.manual_seed(9)
    assert torch.equal(noise(wave, "a"), noisy)
    assert not torch.equal(noise(wave, "b"), noisy)
    assert torch.equal(Noise(share=0.0)(wave, "a"), wave)


def test_the_pauses_of_speech_do_not_count_in_the_ratio() -> None:
    speech = torch.sin(2 * math.pi * 440 * torch.arange(RATE) / RATE)
    noise = torch.randn(3 * RATE, generator=torch.Generator().manual_seed(0))
    padded = torch.cat([torch.zeros(RATE), speech, torch.zeros(RATE)])
    rest = with_noise(padded, noise, -5.0) - padded
    assert 10 * math.log10(float(speech.square().mean() / rest.square().mean())) == pytest.approx(-5, abs=0.1)
    assert not with_noise(torch.zeros(RATE), noise[:RATE], 0.0).any()


def test_noise_from_recordings(tmp_path: Path) -> None:
    sf = pytest.importorskip("soundfile")
    hum = torch.sin(2 * math.pi * 100 * torch.arange(RATE // 2) / RATE)
    sf.write(tmp_path / "hum.wav", hum.numpy(), RATE)
    noisy = Noise((0.0, 0.0), folder=tmp_path)(torch.sin(2 * math.pi * 440 * torch.arange(RATE) / RATE), "a")
    spectrum = torch.fft.rfft(noisy).abs()
    assert spectrum[100] > 0.3 * spectrum[440]
    (tmp_path / "hum.wav").unlink()
    with pytest.raises(InputError, match="recordings of noise"):
        Noise(folder=tmp_path)
