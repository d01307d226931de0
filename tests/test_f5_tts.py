"""F5-TTS and E2-TTS equal the package f5-tts: field, sampler, text; and what its shell does around them.

Letters: B rows, T frames, U tokens, F mels.
"""

import dataclasses
import random as python_random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import f5_reference
import pytest
import torch
from contract_synth import verify_synth
from test_vocos import reference as their_vocoder
from torch import Tensor, nn

import mmx
from mmx.errors import CheckpointError, InputError
from mmx.interfaces import Speech
from mmx.make.export import convert_model
from mmx.model import Model
from mmx.models import f5_tts, vocos
from mmx.models.f5_tts import KEYS, Config, build, build_field
from mmx.models.f5_tts.dit import rotations
from mmx.models.f5_tts.field import Field
from mmx.models.f5_tts.sampling import PRUNED, Sampling, noise, sample, times
from mmx.models.f5_tts.synth import InfillSynth, faded, split
from mmx.models.f5_tts.tokenizer import PinyinTokenizer, symbols
from mmx.seq import Seq, pad
from mmx.tasks import reference as reference_voices
from mmx.tasks.reference import Reference
from mmx.weights.convert import convert
from mmx.weights.formats import write_safetensors

MELS, VOCAB = 10, 29
SOUND = vocos.Config(mels=MELS, width=8, hidden=12, layers=1, n_fft=64, hop=16)
SIZES: dict[str, Any] = {"vocab": VOCAB, "width": 32, "heads": 2, "hidden": 48, "layers": 4, "vocoder": SOUND}
KINDS = {
    "v1": Config(**SIZES, text_width=12, text_layers=2),
    "v0": Config(**SIZES, text_width=12, text_layers=2, clears_fillers=False, rotary_heads=1),
    "e2": Config(**SIZES, text_width=MELS, text_layers=0, clears_fillers=False, rotary_heads=1, backbone="unet"),
}


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randomize(model: nn.Module, scale: float = 0.15) -> None:
    """Every parameter anew, so that none has a value that hides a mistake (zero, one, equal to another)."""
    generator = random(1)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(scale * torch.randn(p.shape, generator=generator))


def given(frames: Sequence[int], known: Sequence[int], tokens: Sequence[int], seed: int = 0) -> tuple[Seq, Seq, Tensor]:
    """Mels of which the first are known, tokens, and noise."""
    g = random(seed)
    rows = [torch.randn(n, MELS, generator=g) for n in frames]
    for row, n in zip(rows, known, strict=True):
        row[n:] = 0
    texts = [torch.randint(0, VOCAB, (n,), generator=g) for n in tokens]
    return pad(rows, 93.75), pad(texts), noise(frames, MELS, range(len(frames)), torch.device("cpu"))


# -------------------- parity


def reference(config: Config) -> Any:
    package = f5_reference.f5_tts()
    make = {"dit": package.DiT, "unet": package.UNetT}[config.backbone]
    return make(
        dim=config.width, depth=config.layers, heads=config.heads, dim_head=config.width // config.heads,
        ff_mult=config.hidden / config.width, mel_dim=config.vocoder.mels, text_num_embeds=config.vocab,
        text_dim=config.text_width, text_mask_padding=config.clears_fillers, conv_layers=config.text_layers,
        pe_attn_head=config.rotary_heads,
    ).eval()  # fmt: skip


def converted(source: dict[str, Tensor], config: Config) -> Field:
    with torch.device("meta"):
        field = build_field(config)
    expected = {f"synth.field.{k}": tuple(v.shape) for k, v in field.named_parameters()}
    made = dict(convert({f"ema_model.transformer.{k}": v for k, v in source.items()}, KEYS["hf"], expected))
    field.load_state_dict({k.removeprefix("synth.field."): v for k, v in made.items()}, strict=True, assign=True)
    return field.eval()


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest) -> tuple[Any, Field]:
    theirs = reference(KINDS[request.param])
    randomize(theirs)
    return theirs, converted(theirs.state_dict(), KINDS[request.param])


def their_velocity(theirs: Any, x: Tensor, known: Tensor, tokens: Tensor, time: Tensor, drop: bool) -> Tensor:
    with torch.no_grad():
        return theirs(x=x, cond=known, text=tokens, time=time, drop_audio_cond=drop, drop_text=drop)


@pytest.mark.parity
@pytest.mark.parametrize(("n_frames", "n_tokens"), [(37, 11), (20, 31)], ids=["fillers", "cut_text"])
def test_the_velocity_is_the_references(pair: tuple[Any, Field], n_frames: int, n_tokens: int) -> None:
    theirs, ours = pair
    known, tokens, x = given([n_frames], [9], [n_tokens])
    for drop in (False, True):
        wanted = their_velocity(theirs, x, known.x, tokens.x, torch.tensor([0.3]), drop)
        with torch.no_grad():
            got = ours.velocity(x, torch.tensor([0.3]), ours.condition(known, tokens, drop))
        assert wanted.abs().max() > 0.1
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parity
def test_single_layers_are_the_references() -> None:
    theirs, config = reference(KINDS["v1"]), KINDS["v1"]
    randomize(theirs)
    ours = converted(theirs.state_dict(), config)
    clock, x = torch.tensor([0.1, 0.8]), torch.randn(2, 17, config.width, generator=random(4))
    with torch.no_grad():
        times_BD = theirs.time_embed(clock)
        torch.testing.assert_close(ours.clock(clock), times_BD, rtol=1e-6, atol=1e-6)
        wanted = theirs.input_embed.conv_pos_embed(x)
        torch.testing.assert_close(ours.positions(x, None), wanted, rtol=1e-6, atol=1e-6)
        block, layer = theirs.transformer_blocks[1], ours.backbone.layers[1]  # pyright: ignore
        wanted = block(x, times_BD, rope=theirs.rotary_embed.forward_from_seq_len(17))
        got = layer(x, ours.steps(clock)[1], rotations(17, 16, x.device), None)
        torch.testing.assert_close(got, wanted, rtol=1e-6, atol=2e-6)


@pytest.mark.parity
@pytest.mark.parametrize(
    ("steps", "guidance", "sway"), [(5, 2.0, -1.0), (16, 0.5, -1.0), (4, 2.0, 0.0), (7, 0.0, 0.5)], ids=str
)
def test_the_sampler_is_the_references(pair: tuple[Any, Field], steps: int, guidance: float, sway: float) -> None:
    theirs, ours = pair
    known, tokens, _ = given([40], [12], [14])
    front = nn.Identity()
    front.n_mel_channels = MELS  # pyright: ignore[reportAttributeAccessIssue]
    solver = f5_reference.f5_tts().CFM(theirs, num_channels=MELS, mel_spec_module=front)
    with torch.no_grad():
        wanted, path = solver.sample(
            known.x[:, :12], tokens.x, 40, steps=steps, cfg_strength=guidance, sway_sampling_coef=sway, seed=3
        )
    start = noise([40], MELS, [3], torch.device("cpu"))
    torch.testing.assert_close(path[0], start)
    told, untold = (ours.condition(known, tokens, drop) for drop in (False, True))
    got = sample(ours, start, told, untold, Sampling(steps=steps, guidance=guidance, sway=sway))
    assert (wanted - path[0])[:, 12:].abs().max() > 0.1
    torch.testing.assert_close(got, path[-1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got[:, 12:], wanted[:, 12:], rtol=1e-5, atol=1e-5)


@pytest.mark.parity
def test_swapped_weights_are_noticed() -> None:
    theirs, config = reference(KINDS["v1"]), KINDS["v1"]
    randomize(theirs)
    state = theirs.state_dict()
    a, b = (f"transformer_blocks.2.attn.to_{n}.weight" for n in "qk")
    state[a], state[b] = state[b].clone(), state[a].clone()
    ours = converted(state, config)
    known, tokens, x = given([37], [9], [11])
    wanted = their_velocity(theirs, x, known.x, tokens.x, torch.tensor([0.3]), False)
    with torch.no_grad():
        got = ours.velocity(x, torch.tensor([0.3]), ours.condition(known, tokens))
    assert float((got - wanted).abs().max()) > 1e-3


@pytest.mark.parity
def test_texts_are_cut_as_the_reference_cuts_them() -> None:
    f5_reference.f5_tts()
    from f5_tts.model.utils import convert_char_to_pinyin

    r = python_random.Random(0)
    pool = [*"abXYZ0123 ..,,;:!?'\"()-_%/@é…—“”‘’ñü€\n[]<>=*^~|$"]
    texts = ["".join(r.choices(pool, k=r.randint(1, 20))) for _ in range(2000)]
    texts += [
        "He said (loudly): it's 3.14, or well-known... e.g. U.S.A.!",
        "你好，世界! 100% 朋友 (GPT-4) 不是 U盘。",
        "",
    ]
    for text, wanted in zip(texts, convert_char_to_pinyin(texts), strict=True):
        assert symbols(text) == wanted, text


PUBLISHED = {
    "v1": (Config(), 335.8), "v0": (Config(clears_fillers=False, rotary_heads=1), 335.8),
    "e2": (Config(backbone="unet", text_width=100, text_layers=0, layers=24, hidden=4096, rotary_heads=1), 333.2),
    "v1_small": (Config(width=768, heads=12, hidden=1536, layers=18), None),
}  # fmt: skip
"""And the millions of parameters that their authors name, who count them without the table of symbols."""


@pytest.mark.parity
@pytest.mark.parametrize("kind", PUBLISHED)
def test_the_full_size_has_the_references_tensors(kind: str) -> None:
    """Number and shapes, by converting; nothing is allocated."""
    config, total = PUBLISHED[kind]
    with torch.device("meta"):
        theirs, ours = reference(config), build_field(config)
    count = sum(p.numel() for p in theirs.parameters())
    assert sum(p.numel() for p in ours.parameters()) == count
    table = ours.text.token.weight.numel()
    assert total is None or round((count - table) / 1e6, 1) == total
    converted(theirs.state_dict(), config)


# -------------------- the field and the sampler


@pytest.fixture(scope="module", params=KINDS)
def field(request: pytest.FixtureRequest) -> Field:
    made = build_field(KINDS[request.param]).eval()
    randomize(made)
    return made


def test_a_row_does_not_know_its_neighbours(field: Field) -> None:
    frames, prompts, texts = (37, 20, 9), (9, 4, 5), (11, 31, 2)
    known, tokens, x = given(frames, prompts, texts)
    time = torch.tensor([0.3, 0.7, 0.1])
    with torch.no_grad():
        together = field.velocity(x, time, field.condition(known._replace(x=nan_after(known)), tokens))
        for b, n in enumerate(frames):
            one, text = Seq(known.x[b : b + 1, :n], known.lengths[b : b + 1]), tokens.rows(torch.tensor([b]))
            condition = field.condition(one, text._replace(x=text.x[:, : texts[b]]))
            alone = field.velocity(x[b : b + 1, :n], time[b : b + 1], condition)
            torch.testing.assert_close(together[b : b + 1, :n], alone, rtol=1e-5, atol=1e-5)


def nan_after(seq: Seq) -> Tensor:
    return torch.where(seq.mask[..., None], seq.x, torch.nan)


def test_the_grids_go_from_0_to_1_and_never_back() -> None:
    for steps in (1, 3, 8, 32, *PRUNED):
        for sway in (-1.0, 0.0, 1.7):
            grid = times(Sampling(steps=steps, sway=sway))
            assert len(grid) == steps + 1 and grid[0] == 0 and float(grid[-1]) == pytest.approx(1.0)
            assert bool((grid.diff() > 0).all())
    with pytest.raises(InputError, match="sway from -1"):
        Sampling(sway=-1.5)
    with pytest.raises(InputError, match="at least 1 step"):
        Sampling(steps=0)


def test_guidance_is_away_from_what_the_text_and_the_voice_do_not_say(field: Field) -> None:
    """One step of known length: the velocity with them, and twice what they add to it."""
    known, tokens, x = given([21], [6], [8])
    told, untold = (field.condition(known, tokens, drop) for drop in (False, True))
    assert not untold.x[..., :MELS].any()
    with torch.no_grad():
        a, b = (field.velocity(x, torch.zeros(1), c) for c in (told, untold))
    assert (a - b).abs().max() > 0.01
    got = sample(field, x, told, untold, Sampling(steps=1, guidance=2.0))
    torch.testing.assert_close(got, x + a + 2 * (a - b), rtol=1e-5, atol=1e-5)


# -------------------- the synth

LETTERS = " abcdefghijklmnopqrstuvwxyz.,"


def tiny_model(config: Config = KINDS["v1"]) -> Model:
    model = build(config).eval()
    randomize(model)
    model.tokenizer = PinyinTokenizer({c: i for i, c in enumerate(LETTERS)})
    f5_tts.finish(model, Path())
    return model


def voice(seconds: float = 2.0, text: str = "what is said here. ") -> Reference:
    return Reference(torch.randn(round(seconds * 1500) + 1, MELS, generator=random(5)), text)


@pytest.fixture
def synth(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> InfillSynth:
    monkeypatch.setenv("MMX_DATA", str(tmp_path))
    reference_voices.save("anna", voice(0.05))
    made = tiny_model().synth
    assert isinstance(made, InfillSynth)
    return made


def speech(*texts: str, **changes: Any) -> Speech:
    return Speech(**{"texts": texts, "language": "eng_Latn", "steps": 2, **changes})


def test_it_keeps_the_contract(synth: InfillSynth) -> None:
    def make(lengths: Sequence[int], seed: int) -> Speech:
        r = python_random.Random(seed)
        return speech(*("".join(r.choices(LETTERS[1:27], k=5 * n)) for n in lengths))

    verify_synth(synth, make)


def test_a_text_takes_the_time_that_the_recording_took_for_as_many_bytes(synth: InfillSynth) -> None:
    text = "twenty bytes of this"
    for speed in (1.0, 2.0):
        sound = synth.speak(speech(text, voice="anna", speed=speed)).wave
        frames = int(75 / len(voice().text) * len(text) / speed)
        assert sound.lengths.tolist() == [(frames - 1) * 16], speed


def test_a_long_text_is_said_in_parts_whose_blocks_are_the_whole(
    synth: InfillSynth, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmx.models.f5_tts.synth.LEAST_BYTES", 20)
    monkeypatch.setattr("mmx.models.f5_tts.synth.WINDOW_S", 0.5)
    asked = speech("a first clause, then another one, and a last one.", voice=voice(0.2).tensors())
    whole = synth.speak(asked).wave
    blocks = [s.wave.x[0] for s in synth.stream(asked, 0.5)]
    assert len([b for b in blocks if len(b)]) >= 3
    torch.testing.assert_close(torch.cat(blocks), whole.x[0])


def test_another_seed_is_another_sound(synth: InfillSynth) -> None:
    a, b, c = (synth.speak(speech("the same words", seed=s)).wave.x for s in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"voice": "nobody"}, "voice among anna"), ({"voice": 7}, "mmx voice add"), ({"speed": 9.0}, "speed from"),
        ({"pitch": 2.0}, "pitch of its recording"), ({"language": "fra_Latn"}, "eng"),
        ({"voice": {"mels": torch.zeros(9, 3), "text": torch.ones(2, dtype=torch.uint8)}}, "10 mels"),
        ({"voice": {"speaker": torch.zeros(9)}}, "mels and text"), ({"texts": ("добрый день",)}, "letters of English"),
    ],
)  # fmt: skip
def test_what_it_cannot_do_is_told(synth: InfillSynth, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        synth.speak(speech("a text", **changes) if "texts" not in changes else speech(*changes["texts"]))


def test_nothing_to_say_is_no_sound(synth: InfillSynth) -> None:
    assert synth.speak(speech("  \n ")).wave.x.shape == (1, 0)


def test_a_text_is_split_where_people_pause_else_at_words_else_anywhere() -> None:
    assert split("One, two; three. Four", 10) == ["One, two;", "three.", "Four"]
    assert split("one two three four", 9) == ["one two", "three", "four"]
    assert split("abcdefghij", 4) == ["abcd", "efgh", "ij"]
    assert split("café bar", 40) == ["café bar"]
    assert split("你好。世界！", 9) == ["你好。", "世界！"]
    assert split("", 9) == []
    long = " ".join(["word"] * 20_000)
    parts = split(long, 100)
    assert " ".join(parts) == long and max(map(len, parts)) <= 100


def test_joins_are_faded_and_nothing_is_lost() -> None:
    waves = [torch.ones(1000), torch.ones(40), torch.ones(1000)]
    got = torch.cat(list(faded(iter(waves), 100)))
    torch.testing.assert_close(got, torch.ones(len(got)))
    assert len(got) == 2040 - 40 - 100
    assert torch.cat(list(faded(iter([]), 100))).shape == (0,)


# -------------------- checkpoints


def publish(folder: Path, kind: str = "v1") -> Path:
    """A checkpoint as its authors publish it: the field, the vocoder in its own folder, the symbols."""
    config = dataclasses.replace(KINDS[kind], width=64, heads=1)
    theirs, sound = reference(config), their_vocoder(config.vocoder)
    randomize(theirs)
    randomize(sound)
    tensors = {f"ema_model.transformer.{k}": v for k, v in theirs.state_dict().items()}
    extra = {"initted": torch.tensor(True), "step": torch.tensor(7), "ema_model.mel_spec.window": torch.ones(4)}
    (folder / "vocos").mkdir(parents=True)
    torch.save(sound.state_dict(), folder / "vocos" / "pytorch_model.bin")
    (folder / "vocab.txt").write_text("\n".join(LETTERS) + "\n")
    write_safetensors(folder / "model_7.safetensors", (tensors | extra).items())
    return folder / "model_7.safetensors"


@pytest.mark.parity
@pytest.mark.parametrize("kind", ["v1", "e2"])
def test_a_published_checkpoint_is_loaded_and_speaks(tmp_path: Path, kind: str) -> None:
    path = publish(tmp_path / "F5TTS_v1_Base", kind)
    model = mmx.load(path, dtype="float32", device="cpu")
    config = dataclasses.replace(KINDS[kind], width=64, heads=1)
    assert f5_tts.Config(**model.card.config) == config
    sound = model.synth.speak(speech("some words", voice=voice(0.3).tensors())).wave
    assert sound.x.abs().max() > 1e-3 and sound.rate == 24_000
    convert_model(str(path), tmp_path / "own")
    again = mmx.load(tmp_path / "own", dtype="float32", device="cpu")
    copied = again.synth.speak(speech("some words", voice=voice(0.3).tensors())).wave
    torch.testing.assert_close(copied.x, sound.x)


@pytest.mark.parity
def test_a_vocabulary_of_another_model_is_told(tmp_path: Path) -> None:
    path = publish(tmp_path / "F5TTS_v1_Base")
    (path.parent / "vocab.txt").write_text("\n".join(LETTERS[:9]) + "\n")
    with pytest.raises(CheckpointError, match=r"29 symbols in .*, got 9"):
        mmx.load(path)
    (path.parent / "vocab.txt").write_text("\n".join(LETTERS[::-1]) + "\n")
    with pytest.raises(CheckpointError, match="first symbol is the space"):
        mmx.load(path)
