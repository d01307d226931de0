"""Silero VAD: parity with the package's own model, streaming equal to offline, loading."""

import subprocess
import sys
import warnings
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mmx.errors import CheckpointError, ModelNotFoundError
from mmx.media import silero_vad
from mmx.media.silero_vad import SileroVad, convert, load, load_other, weights_path
from mmx.seq import Seq, pad
from mmx.state import fork, leaves, select, split, stack

RATE_HZ = 16_000


def clip(name: str) -> Tensor:
    """A speech clip of pytest-audioeval, `(N,)` float32 at 16 kHz."""
    soundfile = pytest.importorskip("soundfile")
    soxr = pytest.importorskip("soxr")
    spec = find_spec("pytest_audioeval")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs the package pytest-audioeval: pip install 'mmx[test]'")
    folder = Path(next(iter(spec.submodule_search_locations)))
    wav, rate_hz = soundfile.read(folder / "samples" / "audio" / name, dtype="float32")
    return torch.from_numpy(soxr.resample(wav, rate_hz, RATE_HZ))


def noise(n: int, seed: int, scale: float = 0.1) -> Tensor:
    return scale * torch.randn(n, generator=torch.Generator().manual_seed(seed))


def probabilities(model: SileroVad, wav: Tensor) -> Tensor:
    """`(N,)` to `(T,)`."""
    return model(Seq(wav[None], torch.tensor([len(wav)]), RATE_HZ)).x[0]


@pytest.fixture(scope="module")
def vad() -> SileroVad:
    return load()


@pytest.fixture(scope="module")
def speech() -> Tensor:
    return clip("en/counting.wav")


@pytest.fixture(scope="module")
def reference():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.load(str(weights_path()))


@torch.no_grad()
def frame_by_frame(reference, wav: Tensor) -> Tensor:
    reference.reset_states()
    frames = torch.nn.functional.pad(wav, (0, -len(wav) % 512)).view(-1, 512)
    return torch.cat([reference(f[None], RATE_HZ)[0] for f in frames])


@pytest.mark.parity
@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_parity_with_the_package(vad, reference, speech, scale):
    wav = scale * torch.cat([noise(9_000, 0), speech, torch.zeros(5_000), noise(120_001, 1, 0.3), clip("hi/ginti.wav")])
    ours, theirs = probabilities(vad, wav), frame_by_frame(reference, wav)
    assert len(wav) % 512 != 0  # the last frame is partial
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    assert theirs.max() > 0.9 and theirs.min() < 0.1  # the comparison has seen speech and its absence


@pytest.mark.parametrize("sizes", [[1, 511, 513, 64, 0, 7], [512], [100_000], [3000, 17]])
def test_streaming_equals_offline(vad, speech, sizes):
    wav = torch.cat([noise(3_000, 2), speech])[:40_123]
    state, out, at, k = vad.init_state(1), [], 0, 0
    while at < len(wav) or k == 0:
        n = sizes[k % len(sizes)] if k < 200 else 5000
        part = wav[at : at + n]
        # NaN after the valid samples: blocks must not read their padding.
        x = torch.cat([part, torch.full((9,), torch.nan)])[None]
        at, k = at + len(part), k + 1
        got = vad(Seq(x, torch.tensor([len(part)]), RATE_HZ, final=at >= len(wav)), state)
        assert got.rate == 31.25 and got.lengths.tolist() == [got.x.shape[1]]
        out.append(got.x[0])
    torch.testing.assert_close(torch.cat(out), probabilities(vad, wav), atol=2e-6, rtol=0)


def test_final_may_come_without_samples(vad, speech):
    state, wav = vad.init_state(1), speech[:1300]
    first = vad(Seq(wav[None], torch.tensor([1300]), RATE_HZ, final=False), state)
    last = vad(Seq(wav[None, :0], torch.tensor([0]), RATE_HZ), state)
    assert (first.x.shape[1], last.x.shape[1]) == (2, 1)
    torch.testing.assert_close(torch.cat([first.x, last.x], 1)[0], probabilities(vad, wav), atol=2e-6, rtol=0)
    assert vad(Seq(wav[None, :0], torch.tensor([0]), RATE_HZ), state).x.shape == (1, 0)


def test_rows_of_a_batch_are_independent(vad, speech):
    wavs = [speech[:20_000], noise(700, 3), speech[5_000:5_000], speech[3_000:33_333]]
    seq = pad(wavs, RATE_HZ)
    x = torch.where(seq.mask, seq.x, torch.nan)
    got = vad(seq._replace(x=x))
    assert got.lengths.tolist() == [-(-len(w) // 512) for w in wavs]
    for row, n, wav in zip(got.x, got.lengths, wavs, strict=True):
        torch.testing.assert_close(row[:n], probabilities(vad, wav), atol=2e-6, rtol=0)


def test_sessions_at_different_positions_share_a_batch(vad, speech):
    """Two streams at samples 500 and 20 000 are stacked, swapped, forked and heard to their ends."""
    wavs, heard = [speech[:30_000], speech[10_000:37_777]], [500, 20_000]
    states, outs = [vad.init_state(1), vad.init_state(1)], [[], []]
    for wav, n, state, out in zip(wavs, heard, states, outs, strict=True):
        out.append(vad(Seq(wav[None, :n], torch.tensor([n]), RATE_HZ, final=False), state).x[0])
    both = fork(select(stack(states), torch.tensor([1, 0])))
    rests = pad([wavs[1][heard[1] :], wavs[0][heard[0] :]], RATE_HZ)
    for final, cut in ((False, slice(0, 5_000)), (True, slice(5_000, None))):
        lengths = (rests.lengths - (0 if not final else 5_000)).clamp(0, rests.x[:, cut].shape[1])
        got = vad(Seq(rests.x[:, cut], lengths, RATE_HZ, final), both)
        for row, n, out in zip(got.x, got.lengths, outs[::-1], strict=True):
            out.append(row[:n])
    for wav, out in zip(wavs, outs, strict=True):
        torch.testing.assert_close(torch.cat(out), probabilities(vad, wav), atol=2e-6, rtol=0)
    for row in split(both):
        assert torch.equal(dict(leaves(row))["n_rest"], torch.tensor([0]))


def test_chunk_frames_changes_nothing(vad, speech):
    small = load()
    small.chunk_frames = 3
    seq = pad([speech[:30_000], speech[:9_000]], RATE_HZ)
    torch.testing.assert_close(small(seq).x[1, :18], vad(seq).x[1, :18], atol=2e-6, rtol=0)
    torch.testing.assert_close(small(seq).x[0], vad(seq).x[0], atol=2e-6, rtol=0)


def test_no_frame_hears_the_future_and_silence_has_a_gradient(vad, speech):
    wav = torch.cat([torch.zeros(2_048), speech[8_000:12_000]])[None].requires_grad_()
    vad(Seq(wav, torch.tensor([wav.shape[1]]), RATE_HZ)).x[0, 7].backward()
    assert wav.grad is not None and wav.grad.isfinite().all()
    assert wav.grad[0, 8 * 512 :].abs().max() == 0
    assert wav.grad[0, 7 * 512 : 8 * 512].abs().max() > 0


def test_loading_leaves_the_process_alone():
    """The package sets torch's thread count when imported; we must not import it."""
    code = (
        "import sys, torch; torch.set_num_threads(2); from mmx.media import silero_vad; silero_vad.load(); "
        "print(torch.get_num_threads(), 'silero_vad' in sys.modules)"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=root)
    assert done.stdout.split() == ["2", "False"], done.stderr


def test_the_other_training_hears_speech_under_music_that_hides_it_from_the_first(vad, speech):
    t = torch.arange(len(speech)) / RATE_HZ
    chord = torch.stack([(2 * torch.pi * hz * k * t).sin() / k for hz in (196, 247, 294) for k in (1, 2, 3)]).sum(0)
    music = chord * (speech.square().mean() / chord.square().mean()).sqrt() * 10 ** (6 / 20)
    other, clean = load_other(), probabilities(vad, speech) > 0.5
    share = {
        name: float((probabilities(m, speech + music)[clean] > 0.5).float().mean())
        for name, m in (("first", vad), ("other", other))
    }
    assert share["other"] > share["first"] + 0.1, share
    assert float((probabilities(other, music) > 0.5).float().mean()) < 0.02


def test_missing_and_damaged_weights(tmp_path, monkeypatch):
    with pytest.raises(ModelNotFoundError, match="pip install"):
        load(tmp_path / "none.jit")
    (tmp_path / "bad.jit").write_bytes(weights_path().read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="pip install"):
        load(tmp_path / "bad.jit")
    with zipfile.ZipFile(tmp_path / "evil.jit", "w") as z:
        z.writestr("a/data.pkl", b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(CheckpointError, match=r"os\.system"):
        load(tmp_path / "evil.jit")
    monkeypatch.setattr(silero_vad, "find_spec", lambda name: None)
    with pytest.raises(ModelNotFoundError, match="pip install silero-vad"):
        load()


def test_every_key_has_one_rule():
    assert set(convert(silero_vad._read(weights_path()))) == set(SileroVad().state_dict())
    assert sum(p.numel() for p in load().parameters()) == 309_633
    with pytest.raises(CheckpointError, match="'encoder'"):
        convert({"encoder": torch.zeros(1)})


@pytest.mark.parametrize(
    ("x", "rate", "message"),
    [
        (torch.zeros(1, 512, dtype=torch.int16), 16_000, "float"),
        (torch.zeros(512), 16_000, "batch"),
        (torch.zeros(1, 512), 8_000, "resample"),
        (torch.zeros(1, 512), None, "resample"),
    ],
)
def test_refuses_what_it_cannot_hear(vad, x, rate, message):
    with pytest.raises(ValueError, match=message):
        vad(Seq(x, torch.tensor([512]), rate))
