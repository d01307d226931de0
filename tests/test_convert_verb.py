"""`mmx convert`: a folder that loads with the same outputs, in mmx's shape and in Hugging Face's.

Letters: B rows, U tokens.
"""

import errno
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_fairseq2 import HIDDEN, VOCAB, WIDTH, bert_shapes, card, nllb_tensors, random
from test_seamless_m4t import EOS, LANGUAGE
from test_seamless_m4t import TINY as SEAMLESS
from test_seamless_m4t_v1 import V1
from torch import Tensor

import mmx
from mmx.cli import app as cli
from mmx.errors import CheckpointError, InputError, OutputError
from mmx.make import export
from mmx.make.export import convert_model
from mmx.model import Model
from mmx.models import nllb, w2v_bert, whisper
from mmx.seq import Seq
from mmx.weights.convert import Rule, inverted
from mmx.weights.formats import open_checkpoint

SAMPLE = Path(mmx.__file__).parent / "assets" / "sample.flac"


def transformers_package() -> Any:
    return pytest.importorskip("transformers", reason="needs transformers: pip install 'mmx[bench]'")


def randomized(model: Any, scale: float = 0.2) -> Any:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "embed_positions" not in name:
                p.copy_(scale * torch.randn(p.shape, generator=generator))
    return model.eval()


def m2m() -> Any:
    package = transformers_package()
    numbers = {"encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 4}
    return package.M2M100ForConditionalGeneration(
        package.M2M100Config(
            vocab_size=VOCAB,
            d_model=WIDTH,
            max_position_embeddings=20,
            encoder_ffn_dim=24,
            decoder_ffn_dim=40,
            **numbers,
        )
    )


def whisper_model() -> Any:
    package = transformers_package()
    return package.WhisperForConditionalGeneration(
        package.WhisperConfig(
            vocab_size=51_865, num_mel_bins=8, d_model=WIDTH, encoder_layers=1, decoder_layers=2,
            encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=4 * WIDTH, decoder_ffn_dim=4 * WIDTH,
            max_source_positions=20, max_target_positions=12,
        )
    )  # fmt: skip


def bert() -> Any:
    package = transformers_package()
    return package.Wav2Vec2BertModel(
        package.Wav2Vec2BertConfig(
            hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
            feature_projection_input_dim=12, conv_depthwise_kernel_size=5, left_max_position_embeddings=4,
            right_max_position_embeddings=2, add_adapter=True, use_intermediate_ffn_before_adapter=True,
            output_hidden_size=WIDTH, mask_time_prob=0.0,
        )
    )  # fmt: skip


def seamless_v2() -> Any:
    package = transformers_package()
    return package.SeamlessM4Tv2Model(package.SeamlessM4Tv2Config(**SEAMLESS))


def seamless_v1() -> Any:
    package = transformers_package()
    return package.SeamlessM4TModel(package.SeamlessM4TConfig(**V1))


def text_logits(model: Any) -> Tensor:
    ids = torch.tensor([[4, 9, 30, 2], [7, 8, 2, 2]])
    return model(input_ids=ids, attention_mask=torch.ones_like(ids), decoder_input_ids=ids).logits


def speech_logits(model: Any) -> Tensor:
    x = torch.randn(1, 40, 12, generator=torch.Generator().manual_seed(2))
    model.set_modality("speech")
    return model(input_features=x, decoder_input_ids=torch.tensor([[EOS, LANGUAGE, 5]])).logits


def whisper_logits(model: Any) -> Tensor:
    x = torch.randn(1, 8, 40, generator=torch.Generator().manual_seed(2))
    return model(input_features=x, decoder_input_ids=torch.tensor([[50_258, 7, 9]])).logits


def bert_states(model: Any) -> Tensor:
    return model(torch.randn(1, 40, 12, generator=torch.Generator().manual_seed(2))).last_hidden_state


KINDS: dict[str, tuple[Callable[[], Any], Callable[[Any], Tensor]]] = {
    "whisper": (whisper_model, whisper_logits),
    "nllb": (m2m, text_logits),
    "w2v_bert": (bert, bert_states),
    "seamless v2": (seamless_v2, speech_logits),
    "seamless v1": (seamless_v1, speech_logits),
}


@pytest.mark.parity
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_transformers_reads_back_what_was_converted_twice(tmp_path: Path, kind: str) -> None:
    """From Hugging Face's shape to ours and back; every tensor that transformers wants is in the file."""
    make, outputs = KINDS[kind]
    theirs = randomized(make())
    theirs.save_pretrained(tmp_path / "theirs")
    convert_model(tmp_path / "theirs", tmp_path / "ours")
    convert_model(tmp_path / "ours", tmp_path / "back", to="hf")
    back, info = type(theirs).from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not info["unexpected_keys"] and not info["mismatched_keys"]
    lacking = {k for k in info["missing_keys"] if "masked_spec_embed" not in k and "num_batches_tracked" not in k}
    assert not lacking
    wanted = outputs(theirs)
    assert wanted.abs().max() > 0.1, "values that could tell a mistake"
    assert torch.equal(outputs(back.eval()), wanted)


@pytest.fixture(scope="module")
def hf_whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random Whisper with the default model's tokenizer, converted from our shape to Hugging Face's."""
    folder = tmp_path_factory.mktemp("hf")
    theirs = randomized(whisper_model())
    theirs.save_pretrained(folder / "theirs")
    return convert_model(folder / "theirs", folder / "hf", to="hf")


@pytest.mark.parity
def test_their_processor_reads_text_as_ours_does(hf_whisper: Path) -> None:
    """Special tokens and timestamps have their numbers, and a text its tokens (" to" is one token, not two)."""
    processor = transformers_package().AutoProcessor.from_pretrained(hf_whisper)
    tok = mmx.load(hf_whisper, dtype="float32").tokenizer
    text = "It costs €5 to go,\n isn't it? 日本語 नमस्ते"
    ids = processor.tokenizer(text).input_ids
    assert ids == [tok.sot, tok.no_timestamps, *tok.encode(text), tok.eot]
    assert processor.tokenizer.decode(ids, skip_special_tokens=True) == text
    wanted = {
        "<|de|>": tok.language_ids["de"],
        "<|startofprev|>": tok.sot_prev,
        "<|30.00|>": tok.timestamp_begin + 1500,
    }
    assert {name: processor.tokenizer.convert_tokens_to_ids(name) for name in wanted} == wanted
    spoken = processor.tokenizer.decode([tok.timestamp_begin + 7, *tok.encode(" so")], decode_with_timestamps=True)
    assert spoken == "<|0.14|> so"


@pytest.mark.parity
@torch.no_grad()
def test_their_generate_takes_a_language_and_a_task(hf_whisper: Path) -> None:
    package = transformers_package()
    model = package.WhisperForConditionalGeneration.from_pretrained(hf_whisper).eval()
    tok = mmx.load(hf_whisper, dtype="float32").tokenizer
    x = torch.randn(1, 8, 40, generator=torch.Generator().manual_seed(2))
    (written,) = model.generate(x, language="german", task="translate", max_new_tokens=6).tolist()
    assert written and not {*written} & {*tok.non_speech_tokens(), *tok.blank_tokens()}
    # The first token is the likeliest after the prompt that we would give, the suppressed ones left out.
    prompt = [tok.sot, tok.language_ids["de"], tok.translate, tok.no_timestamps]
    logits = model(input_features=x, decoder_input_ids=torch.tensor([prompt])).logits[0, -1]
    logits[[*model.generation_config.suppress_tokens, *tok.blank_tokens()]] = -torch.inf
    assert written[0] == int(logits.argmax())
    config = model.generation_config
    assert [config.lang_to_id["<|de|>"], config.task_to_id["translate"], config.no_timestamps_token_id] == prompt[1:]
    assert set(config.begin_suppress_tokens) == set(tok.blank_tokens())


@pytest.mark.slow
@pytest.mark.parity
@pytest.mark.long
def test_their_pipeline_writes_what_ours_does(tmp_path: Path) -> None:
    """The default model, in their pipeline: the same words, with timestamps within a tenth of a second of the end."""
    import soundfile

    package = transformers_package()
    folder = convert_model("whisper-base", tmp_path / "hf", to="hf")
    sound, rate = soundfile.read(SAMPLE, dtype="float32")
    asr = package.pipeline("automatic-speech-recognition", str(folder))
    theirs = asr(
        {"raw": sound, "sampling_rate": rate}, return_timestamps=True,
        generate_kwargs={"language": "english", "task": "transcribe"},
    )  # fmt: skip
    ours = mmx.load("whisper-base", dtype="float32").transcribe(SAMPLE, language="en", beam_size=1)
    assert theirs["text"].split() == ours.text.split() and len(ours.text.split()) > 5
    (start, end), length = (
        (theirs["chunks"][0]["timestamp"][0], theirs["chunks"][-1]["timestamp"][1]),
        len(sound) / rate,
    )
    assert 0 <= start < 1 and end is not None and abs(end - length) < 1.5
    words = asr(
        {"raw": sound, "sampling_rate": rate}, return_timestamps="word", generate_kwargs={"language": "english"}
    )["chunks"]
    assert "".join(w["text"] for w in words).split() == ours.text.split(), "they part words at hyphens"


@pytest.mark.parity
@torch.no_grad()
def test_their_tokenizer_and_generate_translate_as_ours(tmp_path: Path) -> None:
    """The shipped model: their ids and ours, pieces of bytes and odd spaces too, and the same greedy translation."""
    package = transformers_package()
    folder = convert_model("en-es", tmp_path / "hf", to="hf")
    tok, ours = package.AutoTokenizer.from_pretrained(folder), mmx.load("en-es", dtype="float32")
    texts = [
        "He was not an ill-disposed young man.",
        " It  costs 5 €,\tno more. ",
        "½ ﬁne Ｆｕｌｌ naïve",
        "日本 नम",
    ]
    for text in texts:
        assert tok(text).input_ids == ours.tokenizer.source(text, "eng_Latn")
        assert tok.decode(tok(text).input_ids, skip_special_tokens=True) == ours.tokenizer.decode(
            ours.tokenizer.encode(text)
        )
    model = package.M2M100ForConditionalGeneration.from_pretrained(folder).eval()
    (written,) = model.generate(**tok(texts[0], return_tensors="pt", return_token_type_ids=False), num_beams=1)
    (wanted,) = ours.translate_text(texts[:1], src="en", to="es", beam_size=1)
    assert tok.decode(written, skip_special_tokens=True) == wanted.text and len(wanted.text) > 10


# -------------------- mmx's shape


def tokenizer_files(folder: Path, specials: dict[str, int]) -> None:
    import sentencepiece

    lines = ["the cat sat on there.", "a cat on the hat.", "there, the cat ate on."] * 20
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(lines), model_prefix=str(folder / "spm"), vocab_size=40, model_type="bpe",
        hard_vocab_limit=False, unk_id=0, bos_id=1, eos_id=2, pad_id=-1, minloglevel=2,
    )  # fmt: skip
    if specials:
        (folder / "config.json").write_text(json.dumps(specials))


def asset(folder: Path) -> Path:
    """A tiny NLLB with a tokenizer as fairseq2 publishes one: the weights, a SentencePiece model, a card."""
    folder.mkdir()
    torch.save({"model": nllb_tensors()}, folder / "nllb.pt")
    tokenizer_files(folder, {})
    text = (
        "name: tiny\nmodel_family: nllb\nmodel_arch: tiny\ncheckpoint: nllb.pt\ntokenizer: spm.model\n"
        "tokenizer_config_overrides:\n  langs: [deu_Latn, eng_Latn]\n"
        "model_config_overrides:\n  num_encoder_attn_heads: 2\n  num_decoder_attn_heads: 2\n  max_seq_len: 30\n"
    )
    return card(folder, text)


def logits(model: Model) -> Tensor:
    source = Seq(torch.tensor([[41, 9, 30, 2], [40, 8, 2, 1]]), torch.tensor([4, 3]))
    with torch.no_grad():
        return model({"text": source}, torch.tensor([[2, 41, 7], [2, 40, 9]]))


def test_an_asset_card_becomes_a_folder_that_translates(tmp_path: Path) -> None:
    out = convert_model(asset(tmp_path / "in"), tmp_path / "out")
    assert sorted(p.name for p in out.iterdir()) == [
        "card.toml", "config.json", "model.safetensors", "sentencepiece.bpe.model", "special_tokens_map.json",
    ]  # fmt: skip
    model = mmx.load(out, dtype="float32")
    assert model.card is not None and model.card.family == "nllb" and model.card.config["heads"] == [2, 2]
    tok = model.tokenizer
    size = tok.pieces.texts.__len__()
    assert tok.language_ids == {"deu_Latn": size, "eng_Latn": size + 1}, "languages follow the pieces, in their order"
    assert (tok.specials.bos, tok.specials.pad, tok.specials.eos, tok.specials.unk) == (0, 1, 2, 3)
    (done,) = model.translate_text(["the cat on the hat."], src="en", to="German")
    assert done.to == "deu_Latn"


def test_the_folder_gives_the_logits_of_its_source(tmp_path: Path) -> None:
    """Converting what is a folder of ours already changes nothing, card included."""
    out = convert_model(asset(tmp_path / "in"), tmp_path / "out")
    again = convert_model(out, tmp_path / "again")
    first, second = mmx.load(out, dtype="float32"), mmx.load(again, dtype="float32")
    assert torch.equal(logits(first), logits(second))
    assert (out / "card.toml").read_text() == (again / "card.toml").read_text()
    one, two = (open_checkpoint(folder, "mmx") for folder in (out, again))
    assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def test_without_a_decoder_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMX_CACHE", str(tmp_path / "cache"))
    tensors = random(bert_shapes())
    positive = {k: v.abs() + 0.5 for k, v in tensors.items() if k.endswith("running_var")}
    torch.save({"model": tensors | positive}, tmp_path / "bert.pt")
    out = convert_model(tmp_path / "bert.pt", tmp_path / "out")
    x = Seq(torch.randn(1, 9, 12, generator=torch.Generator().manual_seed(4)), torch.tensor([9]))
    with torch.no_grad():
        wanted = mmx.load(tmp_path / "bert.pt", dtype="float32").encoders["speech"](x).x
        got = mmx.load(out, dtype="float32").encoders["speech"](x).x
    assert torch.equal(got, wanted) and wanted.isfinite().all() and wanted.abs().max() > 0.1


def test_a_licence_that_forbids_business_stays_on_the_card(tmp_path: Path) -> None:
    out = convert_model(asset(tmp_path / "in"), tmp_path / "out")
    text = (out / "card.toml").read_text()
    (out / "card.toml").write_text(
        text.replace("commercial = true", "commercial = false").replace('"unknown"', '"CC-BY-NC-4.0"')
    )
    again = convert_model(out, tmp_path / "again")
    with pytest.warns(mmx.errors.MmxWarning, match=r"CC-BY-NC-4\.0"):
        mmx.load(again, dtype="float32")


def test_memory_stays_below_the_models_size(tmp_path: Path) -> None:
    """The process grows by less than 1.15 times the file; its pages in memory, which can go, are counted."""
    tensors = nllb_tensors()
    for key in list(tensors):
        if ".layers.0.ffn." in key:  # 12.8 MB a matrix
            shape = [200_000 if n == HIDDEN else n for n in tensors[key].shape]
            tensors |= {key.replace(".0.", f".{i}."): torch.zeros(shape) for i in range(6)}
        elif ".layers.0." in key:
            tensors |= {key.replace(".0.", f".{i}."): tensors[key] for i in range(6)}
    torch.save({"model": tensors}, tmp_path / "nllb.pt")
    size = (tmp_path / "nllb.pt").stat().st_size
    code = (
        "import resource, sys\n"
        "from mmx import api, models\nfrom mmx.make import export\n"
        "import mmx.models.nllb, mmx.models.w2v_bert, mmx.models.seamless_m4t_v1, mmx.models.whisper, safetensors\n"
        "import mmx.media.silero_vad\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "export.convert_model(sys.argv[1], sys.argv[2])\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "nllb.pt"), str(tmp_path / "out")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 1.15 * size


# -------------------- errors


def test_a_folder_that_exists_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="exists: choose another name or remove it"):
        convert_model(asset(tmp_path / "in"), tmp_path / "out")


def test_an_unknown_shape_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--to among mmx, hf, got 'h5'"):
        convert_model(tmp_path / "in", tmp_path / "out", to="h5")


def test_a_model_without_that_shape_is_told(tmp_path: Path) -> None:
    """fairseq2's w2v-BERT has batch norm, and Hugging Face's has not."""
    torch.save({"model": random(bert_shapes())}, tmp_path / "bert.pt")
    with pytest.raises(CheckpointError, match="got another model's encoder"):
        convert_model(tmp_path / "bert.pt", tmp_path / "out", to="hf")
    assert not (tmp_path / "out").exists()


def leftovers(folder: Path) -> list[str]:
    return [p.name for p in folder.iterdir() if p.name.startswith(".making") or p.name == "out"]


@pytest.mark.parametrize("to", ["mmx", "hf"])
def test_a_disk_that_fills_up_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    source = asset(tmp_path / "in")
    monkeypatch.setattr("mmx.make.export.write_safetensors", full)
    monkeypatch.setattr("mmx.weights.folder.write_safetensors", full)
    with pytest.raises(OutputError, match="No space left on device: free some space"):
        convert_model(source, tmp_path / "out", to=to)
    assert leftovers(tmp_path) == []


def test_a_disk_that_is_too_full_is_told_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = asset(tmp_path / "in")
    monkeypatch.setattr(export.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 8, 1))
    with pytest.raises(OutputError, match="free some space or choose another disk"):
        convert_model(source, tmp_path / "out")
    assert leftovers(tmp_path) == []


def test_a_damaged_source_leaves_nothing(tmp_path: Path) -> None:
    source = asset(tmp_path / "in")
    tensors = nllb_tensors()
    del tensors["decoder.layer_norm.bias"]
    torch.save({"model": tensors}, tmp_path / "in" / "nllb.pt")
    with pytest.raises(CheckpointError, match=r"decoder\.ln\.bias"):
        convert_model(source, tmp_path / "out")
    assert leftovers(tmp_path) == []


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = str(asset(tmp_path / "in"))
    assert cli.main(["convert", source, str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "out")
    assert cli.main(["convert", source, str(tmp_path / "out")]) == 2
    assert "exists" in capsys.readouterr().err
    assert cli.main(["convert", str(tmp_path / "none.pt"), str(tmp_path / "b")]) == 1
    assert "no such path" in capsys.readouterr().err


# -------------------- the table backwards


TINY = [
    (whisper, whisper.Config(n_mels=8, audio_width=16, audio_heads=2, audio_layers=2, vocab=99, text_ctx=9,
                             text_width=16, text_heads=2, text_layers=2)),
    (nllb, nllb.Config(vocab=61, width=16, heads=(2, 2), layers=(2, 2), hidden=(24, 24))),
    (w2v_bert, w2v_bert.Config(width=16, heads=2, layers=2, hidden=24, features=12, adaptor_layers=1)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("family", "config", "format"), [(f, c, name) for f, c in TINY for name in ("hf", "fairseq2") if name in f.KEYS]
)
def test_the_inverse_of_a_table_is_its_inverse(family: Any, config: Any, format: str) -> None:
    rules = (
        [r for r in family.KEYS[format] if "batch" not in r.pattern] if format == "fairseq2" else family.KEYS[format]
    )
    with torch.device("meta"):
        keys = [k for k, _ in family.build(config).named_parameters()]
    if format == "fairseq2":  # which has the adaptor in Seamless only, and two names for a norm
        keys = [k for k in keys if not k.startswith("adapters") and "conv.norm" not in k]
    names = inverted(keys, rules)
    assert sorted(names) == sorted(keys) and len(set(names.values())) == len(keys)


def test_alternatives_take_the_first_and_what_may_be_absent_is() -> None:
    rules = [Rule(r"(?:a|b(?:c|d))\.(?:x\.)?layers\.(\d+)\.(w|b)", r"l.\1.\2"), Rule(r"z(?:y)?\.k", "k")]
    assert inverted(["l.12.b", "k"], rules) == {"l.12.b": "a.layers.12.b", "k": "z.k"}


def test_a_key_without_a_rule_or_with_two_is_named() -> None:
    with pytest.raises(CheckpointError, match=r"none or several for \(1\): other"):
        inverted(["a", "other"], [Rule("x", "a")])
    with pytest.raises(CheckpointError, match=r"\(1\): a"):
        inverted(["a"], [Rule("x", "a"), Rule("y", "a")])


def test_weights_that_are_no_numbers_are_told(tmp_path: Path) -> None:
    from test_compose import save

    from mmx.errors import MmxWarning
    from mmx.weights.formats import open_checkpoint, write_safetensors

    folder = save(tmp_path / "m", "w2v_bert")
    source = open_checkpoint(folder / "model.safetensors", "mmx")
    tensors = {name: source[name].clone() for name in source}
    name = sorted(n for n in tensors if tensors[n].dim() > 1)[0]
    tensors[name].view(-1)[3] = float("nan")
    write_safetensors(folder / "model.safetensors", tensors.items())
    with pytest.warns(MmxWarning, match=rf"1 of its tensors \({name}"):
        convert_model(folder, tmp_path / "out")
