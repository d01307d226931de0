"""Our own voice: the contract of a synth, blocks that are the whole, what it is taught, and how its parts are joined.

Letters: B rows, U symbols, M frames, F features, D width.
"""

import dataclasses
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from contract_synth import verify_synth

import mmx
from mmx.errors import InputError
from mmx.experiments import voice as experiment
from mmx.interfaces import Speech
from mmx.models.flow_voice import Config, build, prepare
from mmx.models.flow_voice.acoustic import AcousticConfig
from mmx.models.flow_voice.copy_synthesis import split
from mmx.models.flow_voice.frames import COLUMNS, LATENT, RATE_HZ, SOUND, columns, lesson, with_pitch
from mmx.models.flow_voice.join import join
from mmx.models.flow_voice.synth import VOICE, FlowVoice, whole_frames
from mmx.models.flow_voice.vocoder import Vocoder, VocoderConfig
from mmx.seq import Seq, pad
from mmx.train.batch import Batch
from mmx.train.manifest import read_manifest
from mmx.train.objectives.acoustic import AcousticLoss
from mmx.train.optim import initialize
from mmx.weights import hub
from mmx.weights.card import find_card
from mmx.weights.folder import write_model
from mmx.weights.formats import open_checkpoint, write_safetensors

TINY = AcousticConfig(
    voices=2, languages=2, text_width=16, text_blocks=1, width=24, frame_blocks=1, flow_blocks=2, kernel=5, ahead=1
)
SMALL_VOCODER = VocoderConfig(latent=LATENT, width=16, blocks=2, hidden=24, kernel=5, ahead=2, voices=0)
WORDS = ("good", "morning", "to", "you", "all", "today")


def tiny(vocoder: VocoderConfig | None = SMALL_VOCODER, seed: int = 0) -> mmx.Model:
    """Random weights with a flow that moves."""
    torch.manual_seed(seed)
    config = Config(
        acoustic=TINY, vocoder=vocoder, voices=("af_one", "bf_two"), accents=("en-US", "en-GB"), f0_mean=5.0, f0_std=0.3
    )
    model = build(config)
    with torch.no_grad():
        model.synth.acoustic.gain.fill_(0.5)
        model.synth.acoustic.duration_out.weight.mul_(0.1)
        if vocoder is not None:
            model.synth.vocoder.head.bias.fill_(-3.0)
    return model.eval()


def synth(model: mmx.Model | None = None) -> FlowVoice:
    found = (model or tiny()).synth
    assert isinstance(found, FlowVoice)
    return found


def speech(lengths: Sequence[int], seed: int = 0, **how: object) -> Speech:
    """Texts of so many words."""
    texts = [" ".join(WORDS[(seed + i) % len(WORDS)] for i in range(n)) + "." for n in lengths]
    return Speech(texts=texts, tokens=[[0] * n for n in lengths], language="en", **{"voice": 1, **how})  # type: ignore[arg-type]


def taught_row(n: int, seed: int = 0) -> np.ndarray:
    """A sentence of n symbols as training data."""
    rng = np.random.default_rng(seed)
    frames, symbols = rng.integers(1, 5, n).tolist(), rng.integers(0, 178, n).tolist()
    sound = rng.standard_normal((sum(frames), SOUND)).astype(np.float32)
    return columns(sound, frames, symbols, (seed % 2, seed % 2), (0.1, -0.2, 0.25))


def batch(lengths: Sequence[int]) -> Batch:
    rows = pad([torch.from_numpy(taught_row(n, n).astype(np.float32)) for n in lengths], RATE_HZ)
    none = torch.zeros(len(lengths), 0, dtype=torch.int64)
    keys = tuple(f"row {n}" for n in lengths)
    return Batch({}, none, none, ("speak",) * len(lengths), "front", {"features": rows}, keys)


# -------------------- speech


def test_it_keeps_the_contract_of_a_synth() -> None:
    verify_synth(synth(), speech, tolerance=2e-5)


@pytest.mark.parametrize("steps", [0, 1, 2, 4])
def test_blocks_are_the_whole_to_the_last_bits(steps: int) -> None:
    """Every frame is made once, from what is remembered: for each number of steps, which look further ahead."""
    voice, said = synth(), speech([5], steps=steps, seed=3, range=1.5)
    voice.steps = steps
    whole = voice.speak(said).wave.x[0]
    for block_s in (0.03, 0.4):
        parts = [part.wave for part in voice.stream(said, block_s)]
        got = torch.cat([part.x[0, : int(part.lengths[0])] for part in parts])
        torch.testing.assert_close(got, whole, atol=1e-4, rtol=0)
        assert len(parts) > 1


def test_speed_pitch_seed_and_voice_are_heard() -> None:
    voice, plain = synth(), speech([4])
    wave = voice.speak(plain).wave
    fast = voice.speak(dataclasses.replace(plain, speed=2.0)).wave
    assert 0.4 < int(fast.lengths[0]) / int(wave.lengths[0]) < 0.75
    for change in ({"pitch": 4.0}, {"range": 1.5}, {"seed": 1}, {"voice": "af_one"}, {"steps": 1}):
        other = voice.speak(dataclasses.replace(plain, **change)).wave  # type: ignore[arg-type]
        n = min(other.x.shape[1], wave.x.shape[1])
        assert (other.x[:, :n] - wave.x[:, :n]).abs().max() > 1e-4, change
    again = voice.speak(dataclasses.replace(plain, voice="bf_two")).wave
    torch.testing.assert_close(again.x, wave.x)


def test_the_vocoder_is_told_the_voice() -> None:
    """All of one that has a name, as much of each as a described voice is the mean of; in blocks too."""
    voice, heard = synth(tiny(dataclasses.replace(SMALL_VOCODER, voices=2))), []
    assert voice.vocoder is not None
    voice.vocoder.register_forward_pre_hook(lambda _, given: heard.append(given[0].x[..., LATENT + 4 :]))
    one, two = voice.acoustic.voice.weight.detach()
    for given, shares in (("af_one", [1, 0]), ("bf_two", [0, 1]), ({VOICE: 0.25 * one + 0.75 * two}, [0.25, 0.75])):
        said = speech([3], voice=given)
        whole = voice.speak(said).wave.x[0]
        torch.testing.assert_close(heard[-1], torch.tensor(shares).float().expand_as(heard[-1]), atol=1e-3, rtol=0)
        parts = [part.wave for part in voice.stream(said, 0.4)]
        got = torch.cat([part.x[0, : int(part.lengths[0])] for part in parts])
        torch.testing.assert_close(got, whole, atol=1e-4, rtol=0)


def test_range_stretches_f0_about_its_middle_and_nothing_else() -> None:
    voice, heard = synth(), []
    assert voice.vocoder is not None
    voice.vocoder.register_forward_pre_hook(lambda _, given: heard.append(given[0]))
    for wide in (1.0, 1.8):
        voice.speak(speech([5, 2], range=wide))
    plain, wide = (seq.x for seq in heard)
    (f0, stretched), n = (x[:, :, LATENT : LATENT + 2] for x in (plain, wide)), heard[0].lengths
    torch.testing.assert_close(wide[..., :LATENT], plain[..., :LATENT])
    torch.testing.assert_close(wide[..., LATENT + 2 :], plain[..., LATENT + 2 :])
    for row in range(2):
        a, b = f0[row, : n[row]], stretched[row, : n[row]]
        torch.testing.assert_close(b - b[0, 0], 1.8 * (a - a[0, 0]), atol=1e-4, rtol=0)
        assert a.min() < ((1.8 * a - b) / 0.8).mean() < a.max(), "the middle is a pitch of the sentence"


def test_a_voice_may_be_a_mean_of_others() -> None:
    voice, table = synth(), synth().acoustic.voice.weight
    own = voice.speak(speech([3], voice=0))
    same = voice.speak(speech([3], voice={VOICE: table[0].detach()}))
    torch.testing.assert_close(same.wave.x, own.wave.x)
    voice.speak(speech([3], voice={VOICE: table.mean(0).detach()}))
    with pytest.raises(InputError, match="'voice' of 16 numbers"):
        voice.speak(speech([3], voice={"style": table[0]}))


def test_what_it_cannot_say_is_refused() -> None:
    voice = synth()
    assert voice.voices("en-GB") == ["af_one", "bf_two"]
    for wrong in ({"speed": 3.0}, {"speed": 0.0}, {"pitch": 13.0}, {"range": 0.1}, {"voice": "nobody"}, {"voice": 2}):
        with pytest.raises(InputError):
            voice.speak(speech([2], **wrong))
    with pytest.raises(InputError, match="language that these voices speak, en, got 'de'"):
        voice.voices("de")
    with pytest.raises(InputError, match="vocoder"):
        synth(tiny(vocoder=None)).speak(speech([2]))


def test_a_text_without_phonemes_is_no_sound() -> None:
    said = synth().speak(Speech(texts=["☃"], language="en"))
    assert int(said.wave.lengths[0]) == 0
    assert [len(list(part.wave.x[0])) for part in synth().stream(Speech(texts=["☃"], language="en"), 0.4)] == [0]


def test_whole_frames_keep_the_length_of_a_sentence() -> None:
    mean = torch.full((1, 100), 2.4)
    mask = torch.ones(1, 100, dtype=torch.bool)
    assert int(whole_frames(mean, mask).sum()) == 240  # rounding each would make 200
    mask[:, 60:] = False
    assert int(whole_frames(mean, mask).sum()) == 144 and not whole_frames(mean, mask)[:, 60:].any()
    assert int(whole_frames(mean * 0.01, mask).min()) == 0 and int(whole_frames(mean * 0.01, mask)[:, :60].min()) == 1


# -------------------- the field


def test_one_step_says_the_same_for_any_noise() -> None:
    """At time 0 a point is noise alone, which says nothing of the frames; two steps know of it, and differ."""
    voice = synth()
    ends = []
    for steps in (1, 2):
        points = [voice.prepared(speech([4], seed=seed))[0] for seed in (0, 0)]
        noise = torch.randn(points[0].x[..., :SOUND].shape, generator=torch.Generator().manual_seed(1))
        points[1].x[..., :SOUND] = 3 * noise
        for i in range(steps):
            points = [voice.acoustic.step(at, i / steps, 1 / steps) for at in points]
        ends.append([at.x[..., :SOUND] for at in points])
    torch.testing.assert_close(ends[0][0], ends[0][1], atol=1e-5, rtol=0)
    assert (ends[1][0] - ends[1][1]).abs().max() > 0.05


@pytest.mark.parametrize("time", [0.0, 0.3, 0.9, 1.0])
def test_what_is_left_of_a_path_ends_at_prior_and_residual(time: float) -> None:
    """The velocity is (p + d - x) / (1 - t) with d = g + c f, as the module's legend has it; and finite at the end."""
    acoustic = synth().acoustic
    with torch.no_grad():
        acoustic.log_residual.copy_(torch.linspace(-2, 0.5, SOUND))
    at = Seq(torch.randn(2, 6, 2 * SOUND + TINY.width), torch.tensor([6, 6]), RATE_HZ)
    t, s, x, prior = (
        torch.full((2,), time),
        acoustic.log_residual.exp(),
        at.x[..., :SOUND],
        at.x[..., SOUND : 2 * SOUND],
    )
    power = (time * s) ** 2 + (1 - time) ** 2
    guess = time * s**2 * (x - time * prior) / power
    wanted = prior + guess + s * (1 - time) / power.sqrt() * acoustic._network(at, t).x
    velocity = acoustic.velocity(at, t)
    assert bool(velocity.isfinite().all())
    torch.testing.assert_close(x + (1 - time) * velocity, wanted, atol=1e-5, rtol=1e-4)


def test_the_energy_score_is_least_for_the_right_distribution() -> None:
    """A mean is beaten by samples of the right deviation, which beat those of twice that."""
    g = torch.Generator().manual_seed(0)
    frames, draws = torch.randn(300, 8, generator=g), torch.randn(4, 300, 8, generator=g)
    scores = [experiment._energy(deviation * draws, frames)[0] for deviation in (1.0, 0.0, 2.0)]
    assert scores[0] < scores[1] - 0.05 and scores[0] < scores[2] - 0.05
    apart = np.mean([float((draws[i] - draws[j]).norm(dim=1).mean()) for i in range(4) for j in range(4) if i != j])
    wanted = (float((draws - frames).norm(dim=2).mean()) - apart / 2) / 8**0.5
    assert scores[0] == pytest.approx(wanted, rel=1e-5)


def test_the_experiment_scores_each_number_of_steps() -> None:
    found = experiment.energy(tiny(None), [torch.from_numpy(taught_row(6, i)).float() for i in range(2)], seeds=2)
    assert list(found) == ["prior", "1", "2", "4", "16"]
    assert found["prior"]["energy"] > found["prior"]["error"] * 0.8 and found["1"]["error"] != found["prior"]["error"]
    assert found["2"]["teachers_roughness"] == found["prior"]["teachers_roughness"] > 1


@torch.no_grad()
def test_without_a_network_the_residual_is_guessed_as_well_as_a_line_can() -> None:
    """For frames that are the prior and white noise of the known deviation no velocity is nearer."""
    acoustic = synth().acoustic
    with torch.no_grad():
        acoustic.gain.zero_()
        acoustic.log_residual.fill_(np.log(0.5))
    g = torch.Generator().manual_seed(0)
    prior, noise, residual = (torch.randn(1, 200, SOUND, generator=g) for _ in range(3))
    end = prior + 0.5 * residual
    for time in (0.2, 0.5, 0.8):
        x = (1 - time) * noise + time * end
        at = Seq(torch.cat([x, prior, torch.zeros(1, 200, TINY.width)], 2), torch.tensor([200]), RATE_HZ)
        velocity, wanted = acoustic.velocity(at, torch.tensor([time])), end - noise
        error = float((velocity - wanted).square().mean())
        assert abs(error - 0.25 / ((time * 0.5) ** 2 + (1 - time) ** 2)) < 0.02 * error
        for near in (0.02 * (x - time * prior), -0.02 * (x - time * prior)):
            assert float((velocity + near - wanted).square().mean()) > error


def test_the_prior_learns_nothing_of_the_flow() -> None:
    """It stays the mean of the frames; the condition learns of both."""
    model = tiny(None)
    AcousticLoss()(model, batch([5, 3])).total["flow"].backward()
    acoustic = synth(model).acoustic
    assert acoustic.prior.weight.grad is None
    assert acoustic.to_frames.weight.grad is not None and acoustic.log_residual.grad is not None


# -------------------- training


def test_training_data_say_what_was_put_into_them() -> None:
    sound = np.random.default_rng(0).standard_normal((9, SOUND)).astype(np.float32)
    row = columns(sound, [2, 3, 1, 3], [0, 7, 7, 0], (5, 2), (0.25, -0.5, 0.125))
    assert row.shape == (9, COLUMNS) and row.dtype == np.float16
    known = lesson(pad([torch.from_numpy(row.astype(np.float32)), torch.from_numpy(taught_row(3)).float()], RATE_HZ))
    assert known.symbols.x[0].tolist() == [0, 7, 7, 0] and known.frames[0].tolist() == [2, 3, 1, 3]
    assert known.symbols.lengths.tolist() == [4, 3] and known.frames[1, 3] == 0
    assert (int(known.voice[0]), int(known.language[0])) == (5, 2)
    assert known.asked[0].tolist() == [0.25, -0.5, 0.125]
    torch.testing.assert_close(known.sound.x[0, :9], torch.from_numpy(sound), atol=2e-3, rtol=1e-3)


def test_pitch_is_drawn_through_what_is_unvoiced() -> None:
    f0_hz = np.array([0, 100, 0, 0, 200, 0], np.float32)
    sound = with_pitch(np.zeros((3, LATENT), np.float32), f0_hz, np.log(100.0), np.log(2.0))
    assert np.allclose(sound[:, LATENT : LATENT + 2].ravel(), [0, 0, 1 / 3, 2 / 3, 1, 1], atol=1e-6)
    assert sound[:, LATENT + 2 :].ravel().tolist() == [-1, 1, -1, -1, 1, -1]


def test_small_batches_add_up_to_a_large_one() -> None:
    model, objective = tiny(None), AcousticLoss()

    def update(batches: list[Batch]) -> torch.Tensor:
        model.zero_grad()
        counts = {k: sum(objective.count(b)[k] for b in batches) for k in objective.parts}
        weights = objective.weights(counts)
        for one in batches:
            found = objective(model, one)
            sum((loss * weights[name] for name, loss in found.total.items()), torch.zeros(())).backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    whole = update([batch([5, 3, 8])])
    assert whole.abs().max() > 1e-3
    torch.testing.assert_close(update([batch([5]), batch([3, 8])]), whole, rtol=1e-3, atol=1e-5)


def test_it_learns_a_sentence_by_heart() -> None:
    torch.manual_seed(0)
    model, objective, rows = build(dataclasses.replace(_config(), vocoder=None)), AcousticLoss(), batch([6, 9])
    initialize(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=8e-3)
    losses = []
    for turn in range(80):
        found = objective(model, rows._replace(keys=(f"{turn}a", f"{turn}b")))
        losses.append({name: float(x) / 2 for name, x in found.figures.items()})
        sum((x for x in found.total.values()), torch.zeros(())).backward()
        optimizer.step()
        optimizer.zero_grad()
    first, last = losses[0], {k: np.mean([row[k] for row in losses[-10:]]) for k in losses[0]}
    assert last["prior"] < 0.5 * first["prior"] and last["duration"] < 0.2 * first["duration"]
    assert last["flow"] < 0.8 * first["flow"]


def _config() -> Config:
    return Config(
        acoustic=TINY, vocoder=SMALL_VOCODER, voices=("af_one", "bf_two"), accents=("en-US", "en-GB"), f0_mean=5.0,
        f0_std=0.3,
    )  # fmt: skip


class Drawn:
    """In the teacher's place: frames, F0 and decoder output at random."""

    names = ("af_one", "bf_two")

    def __init__(self, *parts: object):
        self.rng = np.random.default_rng(0)

    def say(self, symbols: Sequence[int], name: str, asked: tuple[float, float, float]) -> object:
        frames = self.rng.integers(1, 9, len(symbols) + 2)
        f0_hz = self.rng.uniform(0, 200, 2 * frames.sum()).astype(np.float32)
        return frames, f0_hz, self.rng.standard_normal((frames.sum(), 1024)).astype(np.float32)


def test_one_command_makes_what_a_voice_is_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("hibari", reason='needs the extra voices: pip install "mmx[voices]"')
    monkeypatch.setattr(prepare.hub, "locate", lambda card: None)
    monkeypatch.setattr(prepare.hub, "joined", lambda found: nullcontext(tmp_path))
    monkeypatch.setattr(prepare.teacher, "Teacher", Drawn)
    rows = [f"en-{i}\tThe boats come back before the rain.\ten" for i in range(70)]
    (tmp_path / "sentences.tsv").write_text("\n".join(["id\ttext\tsrc_lang", *rows]) + "\n")
    assert prepare.main([str(tmp_path), "--hours", "0.07"]) == 0
    train, valid = (read_manifest(tmp_path / f"{name}.tsv") for name in ("train", "valid"))
    found = [np.load(row.makes["features"]) for row in (*train, *valid)]
    assert len(valid) == 1 and 50 < len(train) < 69
    assert {x.shape[1] for x in found} == {COLUMNS} and 250 < sum(map(len, found)) / RATE_HZ < 260
    latent = (tmp_path / "latent.npz").read_bytes()
    assert prepare.main([str(tmp_path), "--hours", "0.01"]) == 0
    assert (tmp_path / "latent.npz").read_bytes() == latent, "what was found before is kept"


def test_pairs_hold_which_voice_it_is(tmp_path: Path) -> None:
    """Beside the latent, F0 in Hz and voicing, as the vocoder reads them."""
    f0_hz = np.concatenate([np.linspace(100, 180, 40), np.full(20, 7.0), np.linspace(150, 90, 40)]).astype(np.float32)
    hidden = np.random.default_rng(0).standard_normal((50, 1024)).astype(np.float32)
    take = prepare.teacher.Take("one", "text", [0, 5, 0], np.array([50]), f0_hz, hidden, 1, 0, (0.0, 0.0, 0.0))
    for folder in ("features", "audio"):
        (tmp_path / folder).mkdir()
    latent = prepare.teacher.Latent.of(hidden, f0_hz)
    row = prepare.pairs.write_pair(take, np.zeros(50 * 600, np.float32), f0_hz, latent, tmp_path, 3).split("\t")
    features = np.load(tmp_path / row[4])
    assert features.shape == (50, SOUND + 3)
    assert (features[:, SOUND:] == [0, 1, 0]).all()
    hz, voiced = np.exp(features[:, LATENT : LATENT + 2]).reshape(-1), features[:, LATENT + 2 : SOUND].reshape(-1) > 0
    assert (voiced == (f0_hz > 40)).all()
    np.testing.assert_allclose(hz[voiced], f0_hz[voiced], rtol=1e-5)  # half floats would be 0.2 % out of tune


def test_the_latent_of_the_shipped_weights_is_there_to_go_on_with() -> None:
    latent = prepare.teacher.read_latent(hub.SHIPPED / "flow_voice" / "latent.npz")
    assert latent is not None and latent.basis.shape == (1024, LATENT)
    assert np.allclose(latent.basis.T.astype(np.float32) @ latent.basis.astype(np.float32), np.eye(LATENT), atol=2e-3)
    config = find_card("flow-voice").config
    assert (latent.f0_mean, latent.f0_std) == (config["f0_mean"], config["f0_std"])


def test_parts_are_joined_to_a_model_that_speaks(tmp_path: Path) -> None:
    model, config = tiny(None), dataclasses.asdict(dataclasses.replace(_config(), vocoder=None))
    values = dict(model.named_parameters()).items()
    card = {"name": "acoustic", "summary": "a test", "license": "Apache-2.0", "commercial": True}
    write_model(tmp_path / "acoustic", values, family="flow_voice", config=config, card=card)
    vocoder = Vocoder(SMALL_VOCODER)
    write_safetensors(tmp_path / "vocoder.safetensors", vocoder.named_parameters())
    out = join(tmp_path / "acoustic", tmp_path / "vocoder.safetensors", tmp_path / "joined", SMALL_VOCODER)
    loaded = mmx.load(out, dtype="float32")
    wave = loaded.synth.speak(speech([3])).wave
    assert wave.x.shape[1] > 1000 and float(wave.x.abs().max()) > 0
    with pytest.raises(InputError, match="do not fit"):
        join(tmp_path / "acoustic", tmp_path / "vocoder.safetensors", tmp_path / "other", VocoderConfig(latent=LATENT))
    assert not (tmp_path / "other").exists()


def test_a_vocoder_that_was_taken_out_is_put_back(tmp_path: Path) -> None:
    """With new discriminators, which do not come back with it, the sound is the same."""
    config = dataclasses.replace(_config(), vocoder=SMALL_VOCODER)
    torch.manual_seed(0)
    model = build(config)
    card = {"name": "voice", "summary": "a test", "license": "Apache-2.0", "commercial": True}
    numbers, values = dataclasses.asdict(config), dict(model.named_parameters()).items()
    write_model(tmp_path / "voice", values, family="flow_voice", config=numbers, card=card)
    alone = split(str(tmp_path / "voice"), tmp_path / "alone", discriminators=2)
    assert "discriminators" in mmx.load(alone).heads
    out = join(tmp_path / "voice", alone / "model.safetensors", tmp_path / "joined", SMALL_VOCODER)
    before, after = (open_checkpoint(f / "model.safetensors", "mmx") for f in (tmp_path / "voice", out))
    assert set(before) == set(after)
    for name, value in before.items():
        assert torch.equal(after[name], value.half()), name
    with pytest.raises(InputError, match="vocoder of its own"):
        split(str(alone), tmp_path / "none")


def test_rows_of_a_batch_do_not_see_each_other() -> None:
    """Longer neighbours change nothing of what a sentence is taught."""
    taught = synth(tiny(None)).taught
    alone, beside = (taught(batch(lengths).outputs["features"]) for lengths in ([4], [4, 12]))
    n = int(alone.target.lengths[0])
    torch.testing.assert_close(beside.prior[:1, :n], alone.prior, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(beside.log_frames[:1, :4], alone.log_frames, atol=1e-5, rtol=1e-4)
    assert isinstance(alone.condition, Seq)
