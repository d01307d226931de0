"""Any encoder with any decoder: what is composed computes what its parts do, trains what its stage says, and loads.

Letters: B rows, N samples, T frames, M memory frames, U tokens, D width, V vocabulary.
"""

import copy
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_speech import tone
from torch import Tensor, nn
from toys import data
from toys.folders import write_toy

import mmx
from mmx.cli import app as cli
from mmx.clip import Input
from mmx.errors import InputError, ModelNotFoundError
from mmx.generate import SearchOptions, search
from mmx.make import compose as composition
from mmx.make.compose import compose, frozen_patterns
from mmx.model import Model
from mmx.models import composed, nllb, seamless_m4t, w2v_bert, whisper
from mmx.nn.adapters import Chain, Conv
from mmx.seq import Seq, pad
from mmx.streaming.server.engine import Engine
from mmx.text.train_tokenizer import train_tokenizer
from mmx.train.data_check import check_data
from mmx.train.loop import train
from mmx.train.optim import freeze
from mmx.train.options import TrainOptions
from mmx.weights.folder import write_model

WHISPER = whisper.Config(
    n_mels=8, audio_ctx=100, audio_width=16, audio_heads=2, audio_layers=1, vocab=60, text_ctx=32, text_width=20,
    text_heads=2, text_layers=2,
)  # fmt: skip
BERT = w2v_bert.Config(width=16, heads=2, layers=1, hidden=24, features=12, kernel=5, left=4, right=2, adaptor_layers=1)
NLLB = nllb.Config(vocab=275, ctx=64, width=24, heads=(2, 2), layers=(1, 2), hidden=(32, 32))
FAMILIES: dict[str, tuple[Any, Any]] = {
    "whisper": (whisper, WHISPER),
    "w2v_bert": (w2v_bert, BERT),
    "nllb": (nllb, NLLB),
}


def save(folder: Path, name: str) -> Path:
    """A folder of a tiny model of a family, each with weights of its own; NLLB's with a tokenizer."""
    family, config = FAMILIES[name]
    torch.manual_seed(len(name))
    model = family.build(config)
    tokenizer = None
    if name == "nllb":
        tokenizer = folder.parent / "tokenizer"
        train_tokenizer(["the cat sat on the mat", "el gato"] * 20, ["eng_Latn", "spa_Latn"], NLLB.vocab, tokenizer)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.2 * torch.randn(p.shape))
    card = {
        "name": name,
        "summary": "tiny",
        "license": "MIT" if name == "whisper" else "Apache-2.0",
        "commercial": True,
    }
    write_model(folder, model.named_parameters(), family=name, config=dataclasses.asdict(config), card=card,
                tokenizer=tokenizer)  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    out = {name: save(root / name, name) for name in FAMILIES}
    for name in ("tokenizer.json", "tokenizer_config.json"):  # Whisper's is large: any will do to load it
        if (out["nllb"] / name).is_file():
            (out["w2v_bert"] / name).write_bytes((out["nllb"] / name).read_bytes())
    return out


def loaded(folder: Path, name: str) -> Model:
    """A model without its tokenizer."""
    family, config = FAMILIES[name]
    model = family.build(config)
    state = composition.api.open_checkpoint(folder / "model.safetensors", "mmx")
    composition.api.fill(model, state)
    model.card = composition.Card(name=name, family=name, summary="", config=dataclasses.asdict(config), weights=(),
                                  license="MIT", commercial=True)  # fmt: skip
    return model.eval()


@pytest.fixture
def models(folders: dict[str, Path]) -> dict[str, Model]:
    return {name: loaded(folder, name) for name, folder in folders.items()}


def waves(lengths: tuple[int, ...] = (9000, 5000)) -> Seq:
    random = torch.Generator().manual_seed(0)
    return pad([0.1 * torch.randn(n, generator=random) for n in lengths], 16_000.0)


def texts() -> Seq:
    return pad([torch.tensor([5, 6, 7, 8, 2]), torch.tensor([9, 10, 2])])


def parameters(module: nn.Module) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in module.named_parameters()}


PAIRS = [("whisper", "nllb"), ("w2v_bert", "nllb"), ("nllb", "whisper"), ("whisper", "whisper"), ("nllb", "nllb")]
ADAPTERS: dict[str, dict[str, int]] = {
    "linear": {"stride": 3}, "conv": {"layers": 1}, "qformer": {"heads": 2, "window": 4}, "cif": {},
}  # fmt: skip


@pytest.mark.parametrize(("encoder", "decoder"), PAIRS)
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_composition_runs_its_parts_in_order(
    models: dict[str, Model], encoder: str, decoder: str, adapter: str
) -> None:
    a, b = models[encoder], models[decoder]
    model = compose(a, b, adapter=adapter, numbers=ADAPTERS[adapter])
    (name,) = model.encoders
    inputs = {name: waves() if name == "speech" else texts()}
    tokens = torch.tensor([[3, 4, 5], [6, 7, 8]])
    with torch.no_grad():
        got = model(inputs, tokens)
        memory = model.memory(inputs)
        torch.testing.assert_close(got, b.decoder(tokens, memory), rtol=0, atol=1e-6)
        for row in range(2):  # a row does not know its neighbour
            n = int(inputs[name].lengths[row])
            alone = inputs[name].rows(torch.tensor([row]))
            alone = model.memory({name: alone._replace(x=alone.x[:, :n])})
            assert int(alone.lengths) == int(memory.lengths[row])
            want = memory.x[row, : int(alone.lengths)]
            torch.testing.assert_close(alone.x[0, : len(want)], want, rtol=0, atol=2e-5)
    assert memory.x.shape[-1] == b.decoder.token.embedding_dim
    assert got.isfinite().all()


def test_whisper_hears_its_whole_window_and_the_memory_is_of_the_sound(models: dict[str, Model]) -> None:
    """Whisper's encoder was trained on windows filled up with silence: it is shown one, and silence is left out."""
    model = compose(models["whisper"], models["nllb"], adapter="linear", numbers={"stride": 1})
    speech, (front, encoder) = waves(), models["whisper"].stages("speech")
    whole = torch.zeros(2, 100 * 2 * 160)
    whole[:, :9000] = speech.masked
    with torch.no_grad():
        encoded = encoder(front(Seq(whole, torch.tensor([32_000] * 2), 16_000.0)))
        lengths = [math.ceil(n / 320) for n in (9000, 5000)]
        want = model.adapters["speech"](encoded._replace(lengths=torch.tensor(lengths)))
        got = model.memory({"speech": speech})
    assert got.lengths.tolist() == lengths
    for row, n in enumerate(lengths):
        torch.testing.assert_close(got.x[row, :n], want.x[row, :n], rtol=0, atol=1e-6)


def test_the_adapter_of_an_encoder_stays_before_the_new_one(models: dict[str, Model]) -> None:
    model = compose(models["w2v_bert"], models["nllb"], adapter="linear", numbers={"stride": 2})
    chain = model.adapters["speech"]
    assert isinstance(chain, Chain)
    assert chain.stride == 16
    with torch.no_grad():
        own = models["w2v_bert"].memory({"speech": waves((16_000, 9000))})
        got = model.memory({"speech": waves((16_000, 9000))})
        torch.testing.assert_close(got.x, chain.new(own).x, rtol=0, atol=1e-6)


def test_a_part_of_seamless_can_be_taken() -> None:
    text = dataclasses.asdict(dataclasses.replace(NLLB, vocab=60))
    speech = dataclasses.asdict(dataclasses.replace(BERT, final_norm=True))
    config = composed.Config(
        modality="speech",
        encoder=composed.Part(family="w2v_bert", config=speech),
        adapter=composed.Adapter(kind="conv"),
        decoder=composed.Part(family="nllb", config=text),
    )
    parts = seamless_m4t.compose(w2v_bert.Config(**speech), nllb.Config(**text), nn.Identity())
    decoder = nllb.build(nllb.Config(**text))
    model = composed.compose(config, parts, decoder)
    assert set(model.encoders) == {"speech"}
    assert model.synth is None
    assert model.memory({"speech": waves((16_000, 9000))}).x.shape[-1] == NLLB.width


# -------------------- weights


def test_weights_are_kept_and_the_adapter_comes_from_the_seed(models: dict[str, Model]) -> None:
    a, b = models["whisper"], models["nllb"]
    before = parameters(a), parameters(b)
    first, again, other = (compose(a, b, seed=seed, stage="all") for seed in (1, 1, 2))
    for name, p in first.named_parameters():
        same = torch.equal(p, dict(other.named_parameters())[name])
        assert torch.equal(p, dict(again.named_parameters())[name])
        constant = len(p.unique()) == 1
        assert same == (not name.startswith("adapters.") or constant), name
    assert torch.equal(first.decoder.token.weight, b.decoder.token.weight)
    optimizer = torch.optim.SGD(first.parameters(), lr=0.1)
    first({"speech": waves()}, torch.tensor([[3, 4], [5, 6]])).square().mean().backward()
    optimizer.step()
    assert not torch.equal(first.decoder.token.weight, b.decoder.token.weight)
    for model, want in zip((a, b), before, strict=True):  # training the composition leaves them as they were
        assert all(torch.equal(p, want[n]) for n, p in model.named_parameters())


@pytest.mark.parametrize("stage", ["adapter", "adapter+cross", "all"])
@pytest.mark.parametrize("encoder", ["whisper", "w2v_bert", "nllb"])
def test_a_stage_trains_what_it_says(models: dict[str, Model], encoder: str, stage: Any) -> None:
    model = compose(models[encoder], models["nllb"], stage=stage)
    chained = encoder == "w2v_bert"
    wanted: dict[str, tuple[str, ...]] = {"adapter": ("adapters.speech.new." if chained else "adapters.",)}
    wanted["adapter+cross"] = (*wanted["adapter"], "cross")
    for name, p in model.named_parameters():
        expected = stage == "all" or name.startswith(wanted["adapter"])
        expected |= stage == "adapter+cross" and ".cross" in name
        assert p.requires_grad == expected, name
    patterns = frozen_patterns(model, stage)
    freeze(model, ())
    freeze(model, patterns)  # as a recipe does: every pattern matches something
    assert len(patterns) < 20
    before = parameters(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    (name,) = model.encoders
    inputs = {name: waves() if name == "speech" else texts()}
    model(inputs, torch.tensor([[3, 4], [5, 6]])).square().mean().backward()
    torch.optim.SGD(trained, lr=1.0).step()
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved
    assert moved <= {n for n, p in model.named_parameters() if p.requires_grad}


# -------------------- folders


def test_a_folder_loads_by_its_path_and_is_the_same_model(folders: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "deep" / "composed"
    decoder = folders["nllb"]
    model = compose(loaded(folders["whisper"], "whisper"), decoder, out=out, adapter="conv", seed=3)
    again = mmx.load(out, device="cpu", dtype="float32")
    assert parameters(again).keys() == parameters(model).keys()
    inputs, tokens = {"speech": waves()}, torch.tensor([[3, 4, 5], [6, 7, 8]])
    with torch.no_grad():
        torch.testing.assert_close(again(inputs, tokens), model(inputs, tokens), rtol=0, atol=0)
    assert again.tokenizer.language_ids == mmx.load(decoder, dtype="float32").tokenizer.language_ids
    assert again.card is not None
    assert again.card.family == "composed"
    assert again.card.license == "MIT AND Apache-2.0"
    assert again.card.commercial
    assert json.loads((out / "config.json").read_text())["config"]["adapter"]["kind"] == "conv"
    assert not [p for p in out.parent.iterdir() if p != out], "nothing is left behind"
    # A composition is a model like others: it may be a part of another.
    more = compose(again, decoder)
    assert isinstance(more.adapters["speech"], Chain)
    assert isinstance(more.adapters["speech"].own, Conv)


def test_a_folder_transcribes(folders: dict[str, Path], tmp_path: Path) -> None:
    """Untrained it writes nonsense, but all of the way is there: windows, memory, search, text."""
    out = tmp_path / "composed"
    compose(loaded(folders["whisper"], "whisper"), folders["nllb"], out=out)
    got = mmx.load(out, device="cpu", dtype="float32").transcribe(
        waves((16_000,)).x[0].numpy(), language="en", vad=False, beam_size=2, max_tokens=4
    )
    assert got.duration_s == pytest.approx(1.0)
    assert all(0 <= s.start_s <= s.end_s <= 1 for s in got.segments)


# -------------------- language models


def llm(folder: Path) -> Path:
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install 'mmx[llm]'")
    tokenizers = pytest.importorskip("tokenizers")
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=256, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    torch.manual_seed(5)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ,:.\n"
    vocab = {"<s>": 0, "</s>": 1, "<unk>": 2, **{c: i + 3 for i, c in enumerate(letters)}}
    raw = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))
    raw.add_special_tokens(["<s>", "</s>", "<unk>"])
    raw.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    raw.decoder = tokenizers.decoders.Fuse()
    raw.save(str(folder / "tokenizer.json"))
    return folder


def test_a_language_model_reads_speech_and_its_folder_loads(folders: dict[str, Path], tmp_path: Path) -> None:
    source, out = llm(tmp_path / "llm"), tmp_path / "out"
    model = compose(loaded(folders["whisper"], "whisper"), source, adapter="cif", numbers={"weight": 0.2}, out=out)
    again = mmx.load(out, device="cpu", dtype="float32")
    tok = again.tokenizer
    assert again.decoder.before == (0,), "what the tokenizer puts before every text stands before the speech"
    assert tok.decode(tok.prompt(tok.language("de"))) == "\nWrite what is said, in German:"
    assert tok.eot == 1
    assert {0, 2} <= set(tok.control_ids)
    assert 1 not in tok.control_ids
    inputs, tokens = {"speech": waves()}, torch.tensor([tok.prompt("de")] * 2)
    with torch.no_grad():
        want = model(inputs, tokens)
        torch.testing.assert_close(again(inputs, tokens), want, rtol=0, atol=1e-6)
        reference = pytest.importorskip("transformers").LlamaForCausalLM.from_pretrained(source).eval()
        memory = model.memory(inputs)
        embed = reference.get_input_embeddings()
        row = torch.cat([embed(torch.tensor([0])), memory.x[1, : memory.lengths[1]], embed(tokens[1])])
        theirs = reference(inputs_embeds=row[None]).logits[0, -tokens.shape[1] :]
    torch.testing.assert_close(want[1], theirs, rtol=0, atol=1e-5)
    found = search(again.decoder, memory, tokens, tok.eot, SearchOptions(beam_size=3, max_tokens=4))
    assert len(found.rows) == 2
    got = again.transcribe(waves((16_000,)).x[0].numpy(), language="de", vad=False, beam_size=2, max_tokens=4)
    assert got.language == "de"


def test_a_language_model_is_trained_and_served(folders: dict[str, Path], tmp_path: Path) -> None:
    """Its languages are words of an instruction: a manifest may name any."""
    rows = ["id\taudio\ttext\tsrc_lang", *(f"{hz}\t{tone(tmp_path / f'{hz}.wav', hz)}\tla\tca" for hz in (300, 500))]
    (manifest := tmp_path / "data.tsv").write_text("\n".join(rows) + "\n", "utf-8")
    compose(loaded(folders["whisper"], "whisper"), llm(tmp_path / "llm"), out=tmp_path / "out")
    assert not check_data(manifest, tmp_path / "out").problems
    places = {
        "train": str(manifest),
        "valid": str(manifest),
        "init": str(tmp_path / "out"),
        "out": str(tmp_path / "run"),
    }
    made = mmx.load(train(TrainOptions(**places, updates=1, warmup=1, valid_every=1)), device="cpu", dtype="float32")
    Engine(made).check("ca", None)
    assert Engine(made).targets == {"en": "English"}, "a page cannot list what words name"


def test_a_language_model_has_no_attention_to_the_memory(folders: dict[str, Path], tmp_path: Path) -> None:
    source = llm(tmp_path / "llm")
    with pytest.raises(InputError, match="use adapter or all"):
        compose(loaded(folders["whisper"], "whisper"), source, stage="adapter+cross")
    model = compose(loaded(folders["whisper"], "whisper"), source)
    assert frozen_patterns(model, "adapter") == ("encoders.*", "decoder.*")


# -------------------- what cannot be


def test_what_cannot_be_composed_is_said(folders: dict[str, Path], tmp_path: Path, models: dict[str, Model]) -> None:
    hears, writes = models["w2v_bert"], models["nllb"]
    with pytest.raises(InputError, match=r"as the decoder, got one of the family w2v_bert, which only encodes"):
        compose(models["whisper"], hears)
    with pytest.raises(InputError, match=r"Did you mean 'conv'"):
        compose(hears, writes, adapter="cnov")
    with pytest.raises(InputError, match=r"Did you mean 'stride'"):
        compose(hears, writes, adapter="linear", numbers={"strides": 2})
    with pytest.raises(InputError, match=r"a modality .* speech, got 'text'"):
        compose(hears, writes, modality="text")
    other = copy.copy(writes)
    other.tokenizer = object()
    with pytest.raises(InputError, match="the same tokenizer"):
        compose(writes, other, modality="text")
    with pytest.raises(InputError, match=r"whole number.*2\.5"):
        compose(hears, writes, adapter="qformer", numbers={"layers": 2.5})
    with pytest.raises(InputError, match=r"Did you mean 'adapter'"):
        compose(hears, writes, stage="adaptor")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="which exists"):
        compose(hears, folders["nllb"], out=tmp_path)
    with pytest.raises(InputError, match="name or path of the decoder"):
        compose(hears, writes, out=tmp_path / "new")
    with pytest.raises(ModelNotFoundError, match="nllb-200-distilled-600m"):
        compose(hears, "nllb-200-distiled-600m")
    mute = Model(front={}, encoders={}, decoder=writes.decoder)
    with pytest.raises(InputError, match="without a card"):
        compose(mute, writes)
    mute.card = writes.card
    with pytest.raises(InputError, match="which only writes"):
        compose(mute, writes)


def test_a_quantized_model_cannot_be_trained(models: dict[str, Model]) -> None:
    from mmx.nn.quantize import quantize_linears, supported

    if not supported():
        pytest.skip("needs int8 on this CPU")
    quantize_linears(models["nllb"].decoder)
    with pytest.raises(InputError, match='dtype="float32"'):
        compose(models["whisper"], models["nllb"])


# -------------------- the command


def test_the_command_composes_and_says_what_comes_next(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["compose", "--encoder", str(folders["nllb"]), "--decoder", str(folders["nllb"]), "--out", str(out)]
    assert cli.main([*arguments, "--adapter", "conv", "--numbers", "layers=1,kernel=3"]) == 0
    shown = capsys.readouterr().out
    model = mmx.load(out, device="cpu", dtype="float32")
    for part in (model.encoders, model.adapters, model.decoder):
        assert f"{sum(p.numel() for p in part.parameters()):,} parameters" in shown
    assert f'init = "{out}"' in shown
    assert 'freeze = ["encoders.*", "decoder.*"]' in shown
    assert "mmx train" in shown
    assert cli.main(arguments) == 2
    assert "which exists" in capsys.readouterr().err
    assert cli.main([*arguments[:-1], str(tmp_path / "no"), "--numbers", "layers"]) == 2
    assert "layers=3" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


class Keypoints(nn.Module):
    """A front end of another clock: 25 frames a second of `(T, F)` keypoints."""

    stride, lookahead = 1, 0
    medium, rate, shape = "features", 25.0, (4,)

    def init_state(self, batch: int, capacity: int = 0) -> Any:
        return {}

    def forward(self, seq: Seq, state: Any = None) -> Seq:
        return seq._replace(x=seq.masked)


class Signs(nn.Module):
    """An encoder with a longest input, `ctx`, which says whether it needs all of it."""

    stride, lookahead, width, ctx = 1, math.inf, 6, 50

    def __init__(self, whole_windows: bool):
        super().__init__()
        self.whole_windows, self.project = whole_windows, nn.Linear(4, 6)

    def init_state(self, batch: int, capacity: int = 0) -> Any:
        return {}

    def forward(self, seq: Seq, state: Any = None) -> Seq:
        assert not self.whole_windows or seq.x.shape[1] == self.ctx
        return seq._replace(x=self.project(seq.masked))


@pytest.mark.parametrize("whole", [False, True])
def test_padding_is_in_the_encoders_own_frames(models: dict[str, Model], whole: bool) -> None:
    signs, front = Signs(whole), Keypoints()
    config = composed.Config(
        modality="pose",
        encoder=composed.Part(family="whisper", config={}),
        adapter=composed.Adapter(kind="linear", numbers={"stride": 1}),
        decoder=composed.Part(family="nllb", config={}),
    )
    source = Model(front={"pose": front}, encoders={"pose": signs})
    model = composed.compose(config, source, models["nllb"])
    seq = pad([torch.randn(20, 4), torch.randn(7, 4)])._replace(rate=25.0)
    with torch.no_grad():
        got, want = model.memory({"pose": seq}), model.adapters["pose"](_loose(signs)(seq))
    assert got.lengths.tolist() == [20, 7]
    torch.testing.assert_close(got.x[1, :7], want.x[1, :7], rtol=0, atol=1e-6)
    if whole:
        assert model.encoders["pose"].window_s == 2.0
        assert model.inputs == {"pose": Input("features", 25.0, (4,))}
        source.front["pose"] = nn.Identity()
        source.front["pose"].stride = 1  # type: ignore[assignment]
        with pytest.raises(InputError, match="`rate`"):
            composed.compose(config, source, models["nllb"])


def _loose(signs: Signs) -> Signs:
    """The same weights, for inputs of any length."""
    again = copy.copy(signs)
    again.whole_windows = False
    return again


def test_sound_of_another_rate_is_refused(models: dict[str, Model]) -> None:
    whisper_like = copy.deepcopy(models["whisper"])
    front: Any = whisper_like.front["speech"]
    front.medium, front.rate, front.shape = "audio", 8000.0, ()
    model = compose(whisper_like, models["nllb"])
    composed: Any = compose(models["whisper"], models["nllb"]).encoders["speech"]
    assert model.encoders["speech"].window_s == 2 * composed.window_s
    with pytest.raises(InputError, match="at 8000 Hz"):
        model.tokenizer = object()
        model.transcribe(torch.zeros(8000), language="en")


@pytest.mark.parametrize("kind", ["linear", "conv", "qformer", "cif"])
def test_poses_to_a_translators_text(
    folders: dict[str, Path], tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written runs: an encoder of a family in tests/, of another clock, with batch norm, and NLLB's decoder."""
    pytest.importorskip("soundfile")
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    toy = write_toy("pose_to_text", tmp_path / "toy")
    out = tmp_path / "composed"
    made = compose(toy, folders["nllb"], adapter=kind, out=out)
    model = mmx.load(out, device="cpu", dtype="float32")
    signs = pad([torch.from_numpy(data.pose("one two", i)) for i in range(2)], 25.0)
    tokens = torch.tensor([[3, 4, 5]] * 2)
    with torch.no_grad():
        torch.testing.assert_close(model({"pose": signs}, tokens), made({"pose": signs}, tokens))
    np.save(tmp_path / "signs.npy", signs.x[0].numpy())
    done = model.transcribe(tmp_path / "signs.npy", language="eng_Latn", beam_size=1, max_tokens=8)
    assert done.duration_s == len(signs.x[0]) / 25 and done.model == "composed"


def test_sound_past_the_window_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 1600"):
        composed.PaddedFront(whisper.LogMel(8), 1600, Input("audio", 16_000.0))(waves((1601,)))
