"""Translation of text: nothing is dropped, a batch equals single runs, a shortlist equals the whole vocabulary.

The models are tiny and random: what they write means nothing, but it is theirs alone.
"""

import json
import math
import pickle
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import mmx
from mmx.errors import CheckpointError, InputError, MmxWarning, ModelNotFoundError
from mmx.generate import SearchOptions
from mmx.model import Model
from mmx.models.nllb import Config, build
from mmx.models.whisper import Config as WhisperConfig
from mmx.models.whisper import build as build_whisper
from mmx.nn.quantize import supported
from mmx.tasks import translate
from mmx.tasks.text_search import TextSearch, has_loop
from mmx.tasks.translate import translate_text
from mmx.text import shortlist
from mmx.text.translation_tokenizer import TranslationTokenizer

LINES = [
    "The quick brown fox jumps over the lazy dog.",
    "Hello world, how are you?",
    "Это предложение на русском языке. Съешь же ещё этих мягких французских булок.",
    "你好，世界。今天天气很好。",
]
LANGUAGES = ["eng_Latn", "rus_Cyrl", "zho_Hans"]


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small SentencePiece model."""
    import sentencepiece

    folder = tmp_path_factory.mktemp("tokenizer")
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(LINES * 20), model_prefix=str(folder / "m"), vocab_size=160, model_type="bpe",
        hard_vocab_limit=False, character_coverage=1.0, unk_id=0, bos_id=1, eos_id=2, pad_id=-1, minloglevel=2,
    )  # fmt: skip
    (folder / "config.json").write_text(json.dumps({"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}))
    (folder / "special_tokens_map.json").write_text(json.dumps({"additional_special_tokens": LANGUAGES}))
    return folder


@pytest.fixture(scope="module")
def tokenizer(pieces: Path) -> TranslationTokenizer:
    return TranslationTokenizer.from_file(pieces / "m.model")


@pytest.fixture(scope="module")
def model(tokenizer: TranslationTokenizer) -> Model:
    n_vocab = tokenizer.n_vocab + 2  # as NLLB has rows without a token
    config = Config(vocab=n_vocab, ctx=40, width=16, heads=(2, 2), layers=(2, 2), hidden=(32, 32))
    made = build(config).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, p in made.named_parameters():
            # Small biases: what is equal at every step would be written for ever.
            p.copy_((0.05 if name.endswith("bias") else 0.5) * torch.randn(p.shape, generator=generator))
        made.decoder.ln.weight.copy_(torch.randn(16, generator=generator))
    tokenizer.n_vocab = n_vocab
    made.tokenizer = tokenizer
    return made


TEXT = "The quick fox jumps. Hello world, how are you?\n\nThe dog. It is over! Is it?"


def test_every_sentence_is_translated_in_order(model: Model) -> None:
    (got,) = translate_text(model, [TEXT], src="English", to="ru", beam_size=2)
    assert [s.source for s in got.segments] == [
        "The quick fox jumps.", "Hello world, how are you?", "The dog.", "It is over!", "Is it?",
    ]  # fmt: skip
    assert (got.src, got.to) == ("eng_Latn", "rus_Cyrl")
    a, b, *rest = (s.text for s in got.segments)
    assert got.text == f"{a} {b}\n\n{' '.join(rest)}"
    assert all(math.isfinite(s.score) and s.score < 0 for s in got.segments)
    assert len({s.text for s in got.segments}) > 1, "texts that could tell a mixed-up order"


def test_languages_without_spaces_are_joined_without(model: Model) -> None:
    (got,) = translate_text(model, ["Hello. The dog."], src="en", to="zh", beam_size=1)
    assert got.text == "".join(s.text for s in got.segments)


@pytest.mark.parametrize("beam_size", [1, 3])
def test_batches_equal_single_runs(model: Model, beam_size: int) -> None:
    texts = [TEXT, "Hello", "The quick brown fox jumps over the lazy dog, how are you, world?", "", "dog dog fox."]
    options: Any = {"src": "en", "to": "ru", "beam_size": beam_size}
    together = translate_text(model, texts, batch_size=16, **options)
    for text, batched in zip(texts, together, strict=True):
        (single,) = translate_text(model, [text], batch_size=1, **options)
        assert batched.text == single.text
        assert [s.source for s in batched.segments] == [s.source for s in single.segments]
        for a, b in zip(batched.segments, single.segments, strict=True):
            assert a.score == pytest.approx(b.score, abs=1e-5)
            assert (a.cut, a.repetition, a.divided) == (b.cut, b.repetition, b.divided)


def test_the_target_language_matters(model: Model) -> None:
    russian, chinese = (translate_text(model, [TEXT], src="en", to=to, beam_size=1)[0] for to in ("ru", "zh"))
    assert russian.text != chinese.text


def test_a_long_sentence_is_divided_and_nothing_is_lost(model: Model) -> None:
    long = "hello world, " * 60 + "end."
    (got,) = translate_text(model, [long], src="en", to="ru", beam_size=1, max_source=20)
    assert len(got.segments) > 4 and all(s.divided for s in got.segments)
    assert " ".join(s.source for s in got.segments) == long
    tok = model.tokenizer
    assert all(len(tok.source(s.source, "eng_Latn")) <= 20 for s in got.segments)


def test_the_models_own_limit_divides_too(model: Model) -> None:
    (got,) = translate_text(model, ["hello world " * 100], src="en", to="ru", beam_size=1)
    assert len(got.segments) > 1


@pytest.mark.parametrize("text", ["", "   ", "\n\n"])
def test_a_text_without_words_stays_as_it_is(model: Model, text: str) -> None:
    (got,) = translate_text(model, [text], src="en", to="ru")
    assert (got.text, got.segments) == (text, ())


def test_no_texts_give_no_translations(model: Model) -> None:
    assert translate_text(model, [], src="en", to="ru") == []


def test_rows_of_one_batch_have_one_limit(model: Model) -> None:
    """Which depends on their own length alone: with the longest row's, a short one could write more beside it."""
    rows = [translate._Piece(str(n), tuple(range(n)), "", False) for n in (40, 3, 17, 16, 41, 4, 33, 15, 2)]
    batches: list[list[int]] = []

    def write(batch: Sequence[translate._Piece]) -> list[translate.SentenceTranslation]:
        batches.append([len(p.ids) for p in batch])
        return [translate.SentenceTranslation(p.text, p.text, -1.0) for p in batch]

    out = translate._in_batches(rows, 3, write)
    assert [s.text for s in out] == [p.text for p in rows]
    assert batches == [[2, 3, 4], [15, 16], [17], [33, 40, 41]]


# -------------------- guards


def test_loops_are_found() -> None:
    assert has_loop([5] * 8)
    assert has_loop([1, 2, *[7, 8, 9] * 4])
    assert not has_loop([5] * 7)
    assert not has_loop([1, 2, *[7, 8, 9] * 3, 4])
    assert not has_loop(list(range(60)))
    assert not has_loop([])


class Looping(torch.nn.Module):
    """A decoder that always prefers one token, and after it another."""

    def __init__(self, decoder: Any, first: int, second: int):
        super().__init__()
        self.inner, self.ctx, self.dtype, self.device = decoder, decoder.ctx, decoder.dtype, decoder.device
        self.first, self.second = first, second

    def init_state(self, *args: Any) -> Any:
        return self.inner.init_state(*args)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        logits = self.inner(*args, **kwargs)
        logits[..., self.first] += 1000.0
        logits[..., self.second] += 900.0
        return logits


def test_only_text_is_ever_written(model: Model) -> None:
    """Language tokens and rows without a token are never written, however likely they are."""
    whole, tok = model.decoder, model.tokenizer
    model.decoder = Looping(whole, tok.language_ids["eng_Latn"], tok.n_vocab - 1)
    try:
        writer = TextSearch(model, "rus_Cyrl")
        rows = translate._pieces(TEXT, lambda t: tok.source(t, "eng_Latn"), 40)
        found = translate._Sentences(model, writer, SearchOptions(beam_size=3)).search(
            [rows[0]], SearchOptions(beam_size=3)
        )
    finally:
        model.decoder = whole
    assert found[0].tokens and all(tok.is_text(t) for t in found[0].tokens)


def test_a_repetition_is_reported_and_broken(model: Model) -> None:
    a, b = model.tokenizer.encode("fox dog")[1:3]
    whole = model.decoder
    model.decoder = Looping(whole, a, b)
    try:
        (got,) = translate_text(model, ["Hello. How?"], src="en", to="ru", beam_size=1)
    finally:
        model.decoder = whole
    assert all(s.repetition for s in got.segments)
    assert not any(has_loop(model.tokenizer.encode(s.text)) for s in got.segments)


def test_an_unknown_language_suggests_one_of_the_models(model: Model) -> None:
    with pytest.raises(InputError, match="Did you mean 'russian'"):
        translate_text(model, ["x"], src="en", to="Rusian")
    with pytest.raises(InputError, match=r"got German.*eng_Latn, rus_Cyrl, zho_Hans"):
        translate_text(model, ["x"], src="de", to="ru")


def test_a_text_in_another_script_than_its_language_is_told(model: Model) -> None:
    with pytest.warns(MmxWarning, match=r"expected Russian text in the script Cyrl, got mostly Latn: 'Hello'"):
        translate_text(model, ["Hello"], src="ru", to="en", beam_size=1)


def test_bad_calls_say_what_is_wrong(model: Model) -> None:
    with pytest.raises(InputError, match="list of texts"):
        translate_text(model, "one text", src="en", to="ru")
    with pytest.raises(InputError, match="batch_size"):
        translate_text(model, ["x"], src="en", to="ru", batch_size=0)
    speech = build_whisper(
        WhisperConfig(
            n_mels=8, audio_ctx=10, audio_width=8, audio_heads=2, audio_layers=1, vocab=9, text_ctx=16, text_width=8,
            text_heads=2, text_layers=1,
        )
    )  # fmt: skip
    with pytest.raises(InputError, match="translates text"):
        speech.translate_text(["x"], src="en", to="ru")


# -------------------- shortlists


def written(model: Model, ids: list[int] | None) -> list[list[int]]:
    """Tokens of the sentences of `TEXT` by greedy search, kept from looping, over the tokens `ids`."""
    options = SearchOptions(beam_size=1, no_repeat_ngram=3)
    sentences = translate._Sentences(model, TextSearch(model, "rus_Cyrl", ids), options)
    pieces = translate._pieces(TEXT, lambda t: model.tokenizer.source(t, "eng_Latn"), 40)
    return [list(sentences.search([p], options)[0].tokens) for p in pieces]


def test_a_shortlist_that_covers_the_reference_changes_nothing(model: Model) -> None:
    """Greedy: the best token stays the best when others leave."""
    whole = written(model, None)
    used = sorted({t for tokens in whole for t in tokens})
    assert 5 < len(used) < model.tokenizer.n_vocab / 2
    assert written(model, used) == whole
    assert written(model, used[1:]) != whole


def test_a_shortlist_of_everything_changes_nothing(model: Model) -> None:
    options: Any = {"src": "en", "to": "ru", "beam_size": 4}
    assert translate_text(model, [TEXT], shortlist=range(model.tokenizer.n_vocab), **options) == translate_text(
        model, [TEXT], **options
    )


def test_a_shortlist_from_texts_holds_their_pieces(model: Model) -> None:
    tok = model.tokenizer
    ids = shortlist.from_texts(tok, LINES)
    assert set(tok.encode(LINES[0])) <= set(ids) and ids == sorted(set(ids))
    assert len(shortlist.from_texts(tok, LINES, size=5)) == 5


def test_a_shortlist_by_script_holds_one_language(model: Model) -> None:
    tok = model.tokenizer
    ids = set(shortlist.from_script(tok, "Russian"))
    assert set(tok.encode(LINES[2])) <= ids
    assert not {i for i in tok.encode("你好世界") if len(tok.pieces.texts[i]) and tok.pieces.texts[i] != "▁"} & ids
    assert len(ids) < len(tok.pieces.texts)


def test_a_shortlist_is_asked_for_by_a_text_or_by_script(model: Model, tmp_path: Path) -> None:
    tok, corpus = model.tokenizer, tmp_path / "corpus.txt"
    corpus.write_text("\n".join(LINES), "utf-8")
    assert shortlist.read(tok, "rus_Cyrl", str(corpus)) == shortlist.from_texts(tok, LINES)
    assert shortlist.read(tok, "rus_Cyrl", "script") == shortlist.from_script(tok, "rus_Cyrl")
    options: Any = {"src": "en", "to": "ru", "beam_size": 1}
    by_path = translate_text(model, [TEXT], shortlist=str(corpus), **options)
    assert by_path == translate_text(model, [TEXT], shortlist=shortlist.from_texts(tok, LINES), **options)
    assert by_path != translate_text(model, [TEXT], shortlist=shortlist.from_texts(tok, LINES[:1]), **options)


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\x00"], ids=["missing", "empty", "binary"])
def test_a_shortlist_needs_a_text(model: Model, tmp_path: Path, content: bytes | None) -> None:
    corpus = tmp_path / "corpus.txt"
    if content is not None:
        corpus.write_bytes(content)
    with pytest.raises(InputError, match="text in rus_Cyrl for a shortlist"):
        shortlist.read(model.tokenizer, "rus_Cyrl", str(corpus))


@pytest.mark.parametrize("ids", [[], [3, 1], [1, 1], [-1, 2], [10**6]], ids=str)
def test_a_shortlist_that_is_none_is_an_error(model: Model, ids: list[int]) -> None:
    with pytest.raises(InputError, match="ascending token ids"):
        shortlist.ShortlistDecoder(model.decoder, model.decoder.token.weight, ids)


# -------------------- checkpoints


def theirs(ours: str) -> str:
    """Hugging Face's name of a parameter."""
    for a, b in (
        ("encoders.text.token", "model.shared"), ("encoders.text.", "model.encoder."), ("decoder.", "model.decoder."),
        ("attn_ln", "self_attn_layer_norm"), ("cross_ln", "encoder_attn_layer_norm"), ("mlp_ln", "final_layer_norm"),
        (".attn.", ".self_attn."), (".cross.", ".encoder_attn."), (".query.", ".q_proj."), (".key.", ".k_proj."),
        (".value.", ".v_proj."), (".out.", ".out_proj."), (".mlp.0.", ".fc1."), (".mlp.2.", ".fc2."),
        ("coder.ln.", "coder.layer_norm."), ("model.enmodel.", "model.en"),
    ):  # fmt: skip
        ours = ours.replace(a, b)
    return ours


@pytest.fixture
def checkpoint(model: Model, pieces: Path, tmp_path: Path) -> Path:
    """A folder as Hugging Face has it, with the weights of `model` in two files."""
    tensors = {theirs(k): v.detach().clone() for k, v in model.named_parameters()}
    names = sorted(tensors)
    index = {}
    for n, part in enumerate((names[::2], names[1::2])):
        file = f"model-0000{n + 1}-of-00002.safetensors"
        save_file({k: tensors[k] for k in part}, str(tmp_path / file))
        index |= dict.fromkeys(part, file)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    numbers = {
        "model_type": "m2m_100", "vocab_size": model.tokenizer.n_vocab, "max_position_embeddings": 40, "d_model": 16,
        "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_layers": 2, "decoder_layers": 2,
        "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "activation_function": "relu", "scale_embedding": True,
        "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(numbers))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"additional_special_tokens": LANGUAGES}))
    shutil.copy(pieces / "m.model", tmp_path / "sentencepiece.bpe.model")
    return tmp_path


def load(path: Path) -> Model:
    return mmx.load(path, dtype="float32", device="cpu")


def shard(folder: Path) -> Path:
    return folder / "model-00001-of-00002.safetensors"


def change(folder: Path, **tensors: Tensor | None) -> str:
    """Replace, add or (None) remove tensors of the first shard; returns the name of its first one."""
    held = load_file(str(shard(folder)))
    first = sorted(held)[0]
    for name, value in tensors.items():
        held.pop(first if name == "first" else name, None)
        if value is not None:
            held[first if name == "first" else name] = value
    save_file(held, str(shard(folder)))
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    index = {k: f for k, f in index.items() if f != shard(folder).name} | dict.fromkeys(held, shard(folder).name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return first


def test_a_sharded_folder_loads_and_translates(checkpoint: Path, model: Model) -> None:
    options: Any = {"src": "en", "to": "ru", "beam_size": 2}
    loaded = load(checkpoint)
    assert loaded.translate_text([TEXT], **options) == translate_text(model, [TEXT], **options)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
@pytest.mark.parametrize("ids", [None, range(4, 60)], ids=["whole", "shortlist"])
def test_other_precisions_translate_too(checkpoint: Path, dtype: Any, ids: Any) -> None:
    if dtype == "int8" and not supported():
        pytest.skip("needs an int8 engine for this CPU")
    loaded = mmx.load(checkpoint, dtype=dtype, device="cpu")
    (got,) = loaded.translate_text([TEXT], src="en", to="ru", beam_size=2, shortlist=ids)
    assert len(got.segments) == 5 and all(s.text and math.isfinite(s.score) for s in got.segments)


def test_safetensors_are_read_in_place(checkpoint: Path, tmp_path_factory: Any, monkeypatch: Any) -> None:
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("MMX_CACHE", str(cache))
    load(checkpoint)
    assert list(cache.iterdir()) == []


def test_the_older_file_of_pickled_tensors_loads(checkpoint: Path, model: Model) -> None:
    tensors = {theirs(k): v.detach().clone() for k, v in model.named_parameters()}
    tensors |= {
        "lm_head.weight": tensors["model.shared.weight"],
        "model.encoder.embed_positions.weights": torch.ones(3),
    }
    (checkpoint / "model.safetensors.index.json").unlink()
    torch.save(tensors, checkpoint / "pytorch_model.bin")
    loaded = load(checkpoint)
    assert all(torch.equal(v, dict(model.named_parameters())[k]) for k, v in loaded.named_parameters())


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, ("raise SystemExit('code from a checkpoint was run')",)


def test_a_pickle_that_runs_code_is_refused(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors.index.json").unlink()
    (checkpoint / "pytorch_model.bin").write_bytes(pickle.dumps({"x": Evil()}))
    with pytest.raises(CheckpointError, match="nothing was executed"):
        load(checkpoint)


def test_a_missing_tensor_is_named(checkpoint: Path) -> None:
    change(checkpoint, first=None)
    with pytest.raises(CheckpointError, match=r"missing \(1\): decoder\.ln\.bias"):
        load(checkpoint)


def test_an_extra_tensor_is_named(checkpoint: Path) -> None:
    change(checkpoint, surplus=torch.ones(2))
    with pytest.raises(CheckpointError, match=r"matched by none \(1\): surplus"):
        load(checkpoint)


def test_a_misshapen_tensor_is_named(checkpoint: Path) -> None:
    change(checkpoint, first=torch.ones(17))
    with pytest.raises(CheckpointError, match=r"decoder\.ln\.bias expected \(16,\), got \(17,\)"):
        load(checkpoint)


def test_a_truncated_shard_is_an_error(checkpoint: Path) -> None:
    data = shard(checkpoint).read_bytes()
    shard(checkpoint).write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match="download it again"):
        load(checkpoint)


def test_a_missing_shard_is_named(checkpoint: Path) -> None:
    shard(checkpoint).unlink()
    with pytest.raises(CheckpointError, match=shard(checkpoint).name):
        load(checkpoint)


def test_a_folder_without_a_tokenizer_says_so(checkpoint: Path) -> None:
    (checkpoint / "sentencepiece.bpe.model").unlink()
    with pytest.raises(ModelNotFoundError, match=r"tokenizer\.json or sentencepiece\.bpe\.model"):
        load(checkpoint)


def test_a_long_sentence_keeps_its_end() -> None:
    """en-es learned from short sentences and leaves half of a long one: its card has it cut."""
    text = (
        "When in the course of human events it becomes necessary for one people to dissolve the political bands which "
        "have connected them with another, and to assume among the powers of the earth the separate and equal station "
        "to which the laws of nature entitle them, a decent respect to the opinions of mankind requires that they "
        "should declare the causes which impel them to the separation."
    )
    model = mmx.load("en-es")
    (whole,) = translate_text(model, [text], src="en", to="es", max_source=256)
    (cut,) = translate_text(model, [text], src="en", to="es")
    assert len(cut.segments) > 1 and all(s.divided for s in cut.segments)
    assert len(cut.text) > 1.3 * len(whole.text)
