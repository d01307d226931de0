"""The vocoder of our own voice: a stream equals the whole, its joins cannot be found, and F0 is what one asks for.

Letters: B rows, M latent frames, C channels, N samples.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from contract import verify_contract
from torch import Tensor

from mmx.errors import InputError
from mmx.experiments import voice as experiment
from mmx.media.write import write_audio
from mmx.model import Model
from mmx.models.flow_voice import copy_synthesis
from mmx.models.flow_voice.vocoder import BINS, HOP, RATE, Vocoder, VocoderConfig, pulses
from mmx.nn.discriminators import Discriminators
from mmx.seq import Seq
from mmx.train.batch import Batch
from mmx.train.checkpoints import latest_checkpoint
from mmx.train.loop import TrainOptions, train
from mmx.train.manifest import read_manifest
from mmx.train.objectives.adversarial import FOOLED, MATCHED, TOLD, AdversarialLoss, detached, matching
from mmx.train.objectives.spectral import SpectralLoss, mel_losses, periodicity, periodicity_losses, spectral_losses

TINY = VocoderConfig(latent=6, width=16, blocks=2, hidden=24, kernel=5, ahead=2, voices=0)
KNOWING = replace(TINY, voices=3)
SAMPLES = 2 * HOP


def tiny(config: VocoderConfig = TINY, seed: int = 0) -> Vocoder:
    """Random weights, by which the three sources are about equally loud."""
    torch.manual_seed(seed)
    made = Vocoder(config).eval()
    with torch.no_grad():
        made.head.bias.zero_()
        made.head.bias.sub_(3.0)
        for block in made.blocks:
            block.scale.fill_(0.7)  # type: ignore[union-attr,operator]
    return made


def latents(lengths: Sequence[int], seed: int = 0, config: VocoderConfig = TINY) -> Seq:
    """Random frames, voiced half of the time, with an F0 that glides, of one voice after the other."""
    g = torch.Generator().manual_seed(seed)
    n_rows, n_frames = len(lengths), max(lengths)
    x = torch.randn(n_rows, n_frames, config.latent, generator=g)
    log_hz = 5.0 + 0.3 * torch.randn(n_rows, n_frames, 2, generator=g)
    voiced = torch.randn(n_rows, n_frames, 2, generator=g)
    shares = torch.eye(config.voices)[torch.arange(n_rows) % config.voices] if config.voices else x.new_zeros(n_rows, 0)
    x = torch.cat([x, log_hz, voiced, shares[:, None].expand(-1, n_frames, -1)], 2)
    return Seq(x, torch.tensor(list(lengths)), 40.0)


def in_blocks(vocoder: Vocoder, seq: Seq, size: int) -> list[Tensor]:
    """The samples of the first row, as they come of blocks of `size` frames."""
    state, parts = vocoder.init_state(1), []
    n = seq.x.shape[1]
    for at in range(0, n, size):
        x = seq.x[:, at : at + size]
        piece = Seq(x, torch.tensor([x.shape[1]]), seq.rate, at + size >= n)
        with torch.no_grad():
            out = vocoder(piece, state)
        parts.append(out.x[0, : int(out.lengths[0])])
    return parts


def test_it_is_a_block():
    """Chunks, sessions, padding, threads: see contract.py."""
    verify_contract(tiny(), latents, tolerance=2e-5)
    with pytest.raises(AssertionError, match="chunks"):
        broken = tiny()
        broken.room -= 1  # the F0 of one frame is forgotten
        verify_contract(broken, latents, tolerance=2e-5)


def test_it_is_a_block_that_is_told_the_voice():
    """Of which the shares are heard, and nothing else of what is told."""
    vocoder = tiny(KNOWING)
    verify_contract(vocoder, lambda lengths, seed=0: latents(lengths, seed, KNOWING), tolerance=2e-5)
    one = latents([20], config=KNOWING)
    other = one._replace(x=one.x.clone())
    other.x[..., -3:] = torch.tensor([0.0, 1.0, 0.0])
    with torch.no_grad():
        assert float((vocoder(one).x - vocoder(other).x).abs().max()) > 1e-4


def test_it_looks_as_far_ahead_as_it_says():
    """No sample depends on more, and a sample comes out as soon as that much is there."""
    vocoder = tiny()
    seq = latents([30])
    x = seq.x.clone().requires_grad_()
    out = vocoder(seq._replace(x=x)).x[0]
    assert len(out) == 30 * SAMPLES
    for frame in (0, 3, 10):
        (grad,) = torch.autograd.grad(out[frame * SAMPLES : (frame + 1) * SAMPLES].square().sum(), x, retain_graph=True)
        seen = int(grad[0, :, : TINY.latent].ne(0).any(1).nonzero().max())
        assert seen == frame + vocoder.lookahead
    state = vocoder.init_state(1)
    with torch.no_grad():
        first = vocoder(Seq(seq.x[:, :20], torch.tensor([20]), 40.0, False), state)
    assert int(first.lengths[0]) >= (20 - vocoder.lookahead) * SAMPLES


def clicks(wave: Tensor, at: Sequence[int]) -> float:
    """The sound above 11.4 kHz, where no harmonics are, within 2 ms of some samples and of all: a ratio of medians."""
    spectrum = torch.fft.rfft(wave * torch.hann_window(len(wave)))
    spectrum[: int(11_400 * len(wave) / RATE)] = 0
    high = torch.fft.irfft(spectrum, len(wave)).square()
    level = torch.nn.functional.max_pool1d(high[None], 97, 1, 48)[0] + 1e-16
    return float(level[torch.tensor(list(at))].median() / level.median())


def test_no_click_at_the_joins():
    """Where blocks meet the upper spectrum is as anywhere; a phase that starts anew at each block is found."""
    vocoder = tiny()
    with torch.no_grad():  # harmonics alone, and steady: what breaks is heard
        vocoder.head.weight.zero_()
        vocoder.head.bias.fill_(-30.0)
        vocoder.head.bias[:BINS] = torch.linspace(0, -9, 601)
    seq = latents([200])
    seq.x[..., TINY.latent : TINY.latent + 2] = math.log(173.21)
    seq.x[..., TINY.latent + 2 :] = 1.0
    parts = in_blocks(vocoder, seq, 16)
    whole, blocks = vocoder(seq).x[0].detach(), torch.cat(parts)
    joins = np.cumsum([len(p) for p in parts])[1:-2].tolist()
    torch.testing.assert_close(blocks, whole, rtol=1e-4, atol=1e-5)
    for wave in (whole, blocks):
        assert clicks(wave, joins) < 3
    broken = whole.clone()
    for at in joins:
        broken[at:] = torch.roll(broken[at:], 37)
    assert clicks(broken, joins) > 100


def test_pulses_have_the_pitch_and_the_phase_that_were_asked_for():
    """All harmonics of equal strength; two halves go on where the first ended."""
    pitch = torch.tensor([[[200.0, 1.0]]]).expand(1, 81, 2)
    wave, phase = pulses(pitch, torch.zeros(1, dtype=torch.float64))
    assert wave.shape == (1, RATE)
    power = torch.fft.rfft(wave[0]).abs() / (RATE / 2)
    peaks = torch.arange(200, 11_001, 200)
    torch.testing.assert_close(power[peaks], torch.ones(len(peaks)), rtol=2e-3, atol=2e-3)
    power[peaks] = 0
    assert float(power[1:].max()) < 2e-3
    first, middle = pulses(pitch[:, :41], torch.zeros(1, dtype=torch.float64))
    second, _ = pulses(pitch[:, :41], middle[:, -1])
    torch.testing.assert_close(torch.cat([first, second], 1), wave, rtol=1e-3, atol=2e-3)
    assert float(phase[0, -1]) == pytest.approx(0.0, abs=1e-9) or float(phase[0, -1]) == pytest.approx(1.0, abs=1e-9)


def test_unvoiced_frames_have_no_pulses():
    """Whatever F0 they name; the noise is the same each time and not the same in each frame."""
    vocoder = tiny()
    seq = latents([40])
    seq.x[..., TINY.latent + 2 :] = -1.0
    other = seq.x.clone()
    with torch.no_grad():
        vocoder.head.weight.zero_()
        one = vocoder(seq).x[0]
        other[..., TINY.latent : TINY.latent + 2] += 0.5
        assert torch.equal(vocoder(seq._replace(x=other)).x[0], one)
    frames = one[: len(one) // HOP * HOP].unflatten(0, (-1, HOP)).numpy()
    assert np.abs(np.corrcoef(frames[2:-2]) - np.eye(len(frames) - 4)).max() < 0.5


def test_noise_begins_anywhere_in_training():
    """In use it is the same each time, and a stream in training goes on where it was."""
    vocoder, seq = tiny(), latents([20])
    with torch.no_grad():
        vocoder.head.weight.zero_()  # what is made depends on no latent, of which training has its own noise
        assert torch.equal(vocoder(seq).x, vocoder(seq).x)
        begun = in_blocks(vocoder, seq, 10)
        vocoder.train()
        assert float((vocoder(seq).x - vocoder(seq).x).abs().max()) > 1e-3
        for one, other in zip(begun, in_blocks(vocoder, seq, 10), strict=True):
            assert torch.equal(one, other)


def test_refusals():
    """Blocks that see less ahead than the window of a frame needs, or more than their kernel."""
    for wrong in ({"kernel": 3, "ahead": 3}, {"blocks": 1, "ahead": 1}):
        with pytest.raises(ValueError, match="ahead"):
            VocoderConfig(**wrong)


# -------------------- training


def spoken(lengths: Sequence[int]) -> Batch:
    """Latents, and as what is to be made the sound of another vocoder."""
    seq = latents(lengths)
    with torch.no_grad():
        wave = tiny(seed=1)(seq)
    none = torch.zeros(len(lengths), 0, dtype=torch.int64)
    keys = tuple(f"row {n}" for n in lengths)
    return Batch({"latent": seq}, none, none, ("speak",) * len(lengths), "front", {"audio": wave}, keys)


ALONE = copy_synthesis.Config(**asdict(TINY))


def judging() -> Model:
    """A vocoder with discriminators."""
    return copy_synthesis.build(replace(ALONE, discriminators=2))


def write_pairs(folder: Path) -> Path:
    """The manifest of three latents with their sound."""
    rows = ["id\tsrc_lang\ttgt_lang\tsource\tfeatures\ttarget_audio\torigin"]
    for i, n in enumerate((20, 25, 30)):
        batch = spoken([n])
        np.save(folder / f"{i}.npy", batch.inputs["latent"].x[0].numpy())
        write_audio(folder / f"{i}.wav", [batch.outputs["audio"].x[0].clamp(-1, 1).numpy()], float(RATE))
        rows.append(f"{i}\ten\ten\tx\t{i}.npy\t{i}.wav\ttest")
    (folder / "pairs.tsv").write_text("\n".join(rows) + "\n")
    return folder / "pairs.tsv"


def test_the_spectral_loss_ignores_phase_and_hears_pitch_and_level():
    """Another phase costs next to nothing, twice the amplitude log 2 of each logarithm, another pitch a lot."""
    time = torch.arange(RATE)[None] / RATE
    tone, shifted, other = (torch.sin(2 * math.pi * f * time + p) for f, p in ((440, 0.0), (440, 1.0), (470, 0.0)))
    assert float(spectral_losses(shifted, tone)) < 0.05 < 0.2 < float(spectral_losses(other, tone))
    assert float(mel_losses(shifted, tone, RATE)) < 0.05 < 0.1 < float(mel_losses(other, tone, RATE))
    noise = 0.1 * torch.randn(1, RATE, generator=torch.Generator().manual_seed(0))
    assert float(mel_losses(2 * noise, noise, RATE)) == pytest.approx(math.log(2), abs=0.01)
    assert float(spectral_losses(2 * noise, noise)) == pytest.approx(math.log(2) + 1, abs=0.05)


def test_the_loss_of_periodicity_hears_noise_and_forgives_a_harmonic_beside_its_place():
    """To the spectral loss harmonics that are 1 % beside their place are three quarters as bad as noise is."""
    time, phases = torch.arange(RATE)[None] / RATE, torch.Generator().manual_seed(0)

    def pitched(hz: float) -> Tensor:
        """Harmonics up to 10 kHz with phases at random."""
        order = torch.arange(1, int(10_000 / hz) + 1)[:, None]
        turned = 2 * math.pi * (order * hz * time + torch.rand(len(order), 1, generator=phases))
        return 0.02 * turned.sin().sum(0, keepdim=True)

    voice, near, noise = pitched(150), pitched(151.5), torch.randn(1, RATE, generator=phases) * pitched(150).std()
    alike, _ = periodicity(voice, RATE)
    period = round((1 / 150) * RATE / 1024 * 256) - round(0.002 * RATE / 1024 * 256)
    assert float(alike[..., period].min()) > 0.75 > 0.45 > float(periodicity(noise, RATE)[0][..., period].mean())
    assert float(periodicity_losses(voice, voice, RATE)) == 0
    heard, forgiven = (float(periodicity_losses(x, voice, RATE)) for x in (noise, near))
    assert forgiven < 0.35 * heard
    assert float(spectral_losses(near, voice)) > 0.7 * float(spectral_losses(noise, voice))


def test_it_learns_the_sound_that_goes_with_a_latent():
    """In a few updates."""
    model, objective, batch = copy_synthesis.build(ALONE), SpectralLoss(seconds=0.5), spoken([40, 25])
    assert objective.needs(model).makes == "audio" and objective.needs(model).rate == RATE
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    seen = []
    for _ in range(12):
        found = objective(model, batch)
        weights = objective.weights(objective.count(batch))
        loss = torch.stack([loss * weights[name] for name, loss in found.total.items()]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    assert seen[-1] < 0.8 * seen[0]


def test_both_sides_are_cut_at_the_same_place():
    """Samples of the frames that are read, of each row its own, whatever the other rows are."""
    frames = Seq(torch.arange(60.0)[None, :, None].expand(2, 60, 1), torch.tensor([60, 45]), 40.0)
    wave = Seq(frames.x[..., 0].repeat_interleave(SAMPLES, 1), frames.lengths * SAMPLES, float(RATE))
    read, heard = SpectralLoss(seconds=0.5).cut(frames, wave, ["a", "b"])
    assert torch.equal(read.x[..., 0].repeat_interleave(SAMPLES, 1), heard.x)
    assert not torch.equal(heard.x[0], heard.x[1])
    (alone, _) = SpectralLoss(seconds=0.5).cut(frames.rows(torch.tensor([1])), wave.rows(torch.tensor([1])), ["b"])
    assert torch.equal(alone.x[0], read.x[1])


# -------------------- discriminators


def judged(objective: AdversarialLoss, model: Model, batch: Batch, *names: str) -> set[str]:
    """Which side of a model, its vocoder and its discriminators, some of the losses teach."""
    model.zero_grad()
    found = objective(model, batch)
    torch.stack([found.total[name] for name in names]).sum().backward()
    grads = {name: p.grad for name, p in model.named_parameters()}
    return {name.partition(".")[0] for name, grad in grads.items() if grad is not None and bool(grad.any())}


def test_each_side_learns_from_its_own_losses_alone():
    """What fools the discriminators does not change them; what they learn does not change the vocoder."""
    torch.manual_seed(0)
    model, objective, batch = judging(), AdversarialLoss(seconds=0.3), spoken([40, 25])
    assert judged(objective, model, batch, FOOLED, MATCHED) == {"encoders"}
    assert judged(objective, model, batch, TOLD) == {"heads"}


def test_discriminators_learn_to_tell_what_is_made():
    """From one error for both guesses to a fraction of it, while the vocoder stays as it is."""
    torch.manual_seed(0)
    model, objective, batch = judging(), AdversarialLoss(seconds=0.25), spoken([20, 15])
    optimizer = torch.optim.Adam(model.heads.parameters(), 1e-2)
    told = []
    for _ in range(20):
        loss = objective(model, batch).total[TOLD] / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        told.append(loss.item())
    assert told[-1] < 0.3 < 0.5 < told[0]  # 0.5: all scores are one half
    found = objective(model, batch).figures
    assert float(found[FOOLED]) / 2 > 0.4  # the made wave is far from what is taken for recorded


def test_a_wave_that_is_the_recording_matches_it():
    """The distance of what the layers see is 0 for the same wave, and greater the more it differs."""
    discriminators, wave = Discriminators(2), torch.randn(2, 6000, generator=torch.Generator().manual_seed(0)) / 10
    real = discriminators(wave)
    near, far = (matching(detached(discriminators, wave + x * wave.roll(1, 1)), real) for x in (0.1, 1.0))
    assert float(matching(detached(discriminators, wave), real).abs().max()) == 0
    assert bool((near < far).all()) and float(near.min()) > 0


def test_a_model_without_discriminators_is_refused():
    with pytest.raises(InputError, match="head 'discriminators'"):
        AdversarialLoss().needs(copy_synthesis.build(ALONE))


def test_a_training_with_discriminators_resumes_with_the_same_bits(tmp_path: Path):
    """Their weights and the optimizer's moments are in the checkpoint as everything else is."""
    manifest = write_pairs(tmp_path)

    def run(out: str, updates: int) -> dict[str, Tensor]:
        config = {**asdict(TINY), "discriminators": 2}
        options = TrainOptions(
            train=str(manifest), valid=str(manifest), out=str(tmp_path / out), objective="adversarial",
            family="mmx.models.flow_voice.copy_synthesis", config=config, objective_config={"seconds": 0.3},
            updates=updates, warmup=0, batch_tokens=140, max_tokens=140, valid_every=2, save_every=1,
        )  # fmt: skip
        train(options)
        found = latest_checkpoint(tmp_path / out / "checkpoints")
        assert found is not None
        return {name: found[0][name] for name in found[0]}

    whole = run("whole", 4)
    run("parts", 2)
    parts = run("parts", 4)
    assert any(name.startswith("optimizer.heads.discriminators.") for name in whole)
    assert set(whole) == set(parts) and all(torch.equal(whole[name], parts[name]) for name in whole)


def test_copies_are_made_for_listening(tmp_path: Path):
    """Of latents in a manifest, by a vocoder or as the data have them, each as long as it was."""
    rows = read_manifest(write_pairs(tmp_path))
    experiment.copy(tmp_path / "own", tiny(seed=1), rows)
    experiment.copy(tmp_path / "teacher", None, rows)
    for file in experiment.recordings(tmp_path / "own"):
        made, wanted = soundfile.read(file)[0], soundfile.read(tmp_path / "teacher" / file.name)[0]
        np.testing.assert_allclose(made, wanted, atol=2e-4)  # the data are of the same vocoder
