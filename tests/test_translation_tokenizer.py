"""The tokenizer of the translation families: transformers' ids on the same SentencePiece model, and odd text."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mmx.errors import CheckpointError, InputError
from mmx.text.translation_tokenizer import Specials, TranslationTokenizer

LINES = [
    "The quick brown fox jumps over the lazy dog.",
    "Hello world, how are you?",
    "Der schnelle braune Fuchs springt über die Straße.",
    "Это предложение на русском языке.",
    "你好，世界。今天天气很好。",
    "مرحبا بالعالم",
    "नमस्ते दुनिया।",
]
TEXTS = [
    "Hello world.", "", "  two  spaces", "a\nb\tc", "an emoji 😀 here", "mixed привет 你好", "ｆｕｌｌ　ｗｉｄｔｈ ﬁ",
    "straße…", "नमस्ते दुनिया।", "مرحبا", "?!", "don't", "x" * 300,
]  # fmt: skip
LITERAL = ["</s>", "a </s> b", "<s>", "<unk>", "<pad>", "<mask>", "__fra__", "eng_Latn", "say en_XX now", "de_DE"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small SentencePiece models of both kinds, numbered as published ones are: unknown 0, begin 1, end 2."""
    import sentencepiece

    folder, out = tmp_path_factory.mktemp("models"), {}
    for kind in ("bpe", "unigram"):
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=iter(LINES * 20), model_prefix=str(folder / kind), vocab_size=130, model_type=kind,
            hard_vocab_limit=False, character_coverage=1.0, unk_id=0, bos_id=1, eos_id=2, pad_id=-1, minloglevel=2,
        )  # fmt: skip
        out[kind] = folder / f"{kind}.model"
    return out


FAIRSEQ = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
SEAMLESS = {"bos_token_id": 2, "pad_token_id": 0, "eos_token_id": 3}
FAMILIES = {
    "NllbTokenizer": ("bpe", FAIRSEQ, ["eng_Latn", "fra_Latn", "zho_Hans"]),
    "SeamlessM4TTokenizer": ("bpe", SEAMLESS, ["__eng__", "__fra__", "__cmn_Hant__"]),
    "MBart50Tokenizer": ("unigram", FAIRSEQ, ["en_XX", "fr_XX", "zh_CN"]),
}


class Pair:
    """Ours and transformers' tokenizer on one SentencePiece model."""

    def __init__(self, name: str, models: dict[str, Path], folder: Path):
        kind, config, self.languages = FAMILIES[name]
        transformers = pytest.importorskip("transformers", reason="needs transformers: pip install 'mmx[bench]'")
        pytest.importorskip("google.protobuf", reason="transformers needs it: pip install protobuf")
        self.file = folder / "sentencepiece.bpe.model"
        shutil.copy(models[kind], self.file)
        more = {} if name.startswith("MBart") else {"additional_special_tokens": self.languages}
        self.theirs: Any = getattr(transformers, name).from_pretrained(folder, **more)
        tokens = {t: self.theirs.convert_tokens_to_ids(t) for t in self.languages}
        (folder / "config.json").write_text(json.dumps(config))
        numbered = {str(i): {"content": t} for t, i in tokens.items()}
        (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": numbered}))
        self.ours = TranslationTokenizer.from_file(self.file)


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request: pytest.FixtureRequest, models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(request.param, models, tmp_path_factory.mktemp("theirs"))


@pytest.fixture(scope="module", params=["model", "json"])
def ours(request: pytest.FixtureRequest, pair: Pair) -> TranslationTokenizer:
    if request.param == "model":
        return pair.ours
    saved = pair.file.parent / "saved"
    pair.theirs.save_pretrained(saved)
    return TranslationTokenizer.from_file(saved / "tokenizer.json")


@pytest.mark.parity
@pytest.mark.parametrize("text", TEXTS)
def test_ids_and_text_are_the_references(text: str, pair: Pair, ours: TranslationTokenizer) -> None:
    wanted = pair.theirs(text, add_special_tokens=False).input_ids
    assert ours.encode(text) == wanted
    known = [i for i in wanted if i != pair.theirs.unk_token_id]
    assert ours.decode(known) == pair.theirs.decode(known, skip_special_tokens=True).lstrip(" ")


@pytest.mark.parity
def test_source_and_prompt_are_the_references(pair: Pair, ours: TranslationTokenizer) -> None:
    theirs = pair.theirs
    theirs.src_lang = pair.languages[0]
    english, french = (ours.language(name) for name in ("English", "French"))
    assert ours.source("Hello world.", english) == theirs("Hello world.").input_ids
    assert ours.prompt(french) == [theirs.eos_token_id, theirs.convert_tokens_to_ids(pair.languages[1])]
    s = ours.specials
    got = (s.bos, s.pad, s.eos, s.unk)
    assert got == tuple(theirs.convert_tokens_to_ids(t) for t in ("<s>", "<pad>", "</s>", "<unk>"))


@pytest.mark.parity
@pytest.mark.parametrize("text", LITERAL)
def test_text_never_turns_into_a_control_token(text: str, ours: TranslationTokenizer) -> None:
    ids = ours.encode(text)
    assert ids and not set(ids) & (set(ours.control_ids) | {ours.eot}) - {ours.specials.unk}


@pytest.mark.parity
def test_control_ids_are_all_but_text_and_the_end(ours: TranslationTokenizer) -> None:
    s, controls = ours.specials, set(ours.control_ids)
    assert {s.bos, s.pad, s.unk, *ours.language_ids.values()} <= controls
    assert s.eos not in controls
    assert ours.decode([s.bos, s.eos, *ours.language_ids.values(), *ours.encode("Hello world.")]) == "Hello world."


# -------------------- ours, without a reference


@pytest.fixture
def folder(models: dict[str, Path], tmp_path: Path) -> Path:
    shutil.copy(models["bpe"], tmp_path / "sentencepiece.bpe.model")
    (tmp_path / "config.json").write_text(json.dumps(FAIRSEQ))
    return tmp_path


def read(folder: Path, n_vocab: int | None = None) -> TranslationTokenizer:
    return TranslationTokenizer.from_file(folder / "sentencepiece.bpe.model", n_vocab)


def test_a_bare_list_of_languages_is_numbered_after_the_pieces(folder: Path) -> None:
    names = ["ace_Arab", "deu_Latn"]
    (folder / "special_tokens_map.json").write_text(json.dumps({"additional_special_tokens": names}))
    tok = read(folder)
    assert tok.language_ids == {"ace_Arab": 131, "deu_Latn": 132}
    assert tok.specials == Specials(0, 1, 2, 3)


def test_seamless_lists_its_languages_with_the_generation_options(folder: Path) -> None:
    codes = {"text_decoder_lang_to_code_id": {"eng": 140, "cmn_Hant": 141}}
    (folder / "generation_config.json").write_text(json.dumps(codes))
    tok = read(folder)
    assert tok.prompt(tok.language("zh-TW")) == [2, 141]


def test_m2m_100_numbers_the_pieces_anew(folder: Path) -> None:
    plain = _with_languages(folder)
    pieces = [p for p in plain.pieces.texts if p]
    vocab = {p: i for i, p in enumerate(["<s>", "<pad>", "</s>", "<unk>", *reversed(pieces)])}
    (folder / "vocab.json").write_text(json.dumps(vocab))
    tok = read(folder)
    assert tok.encode("Hello world.") == [vocab[plain.pieces.texts[i]] for i in plain.encode("Hello world.")]
    assert tok.decode(tok.encode("Hello world.")) == "Hello world."


def _with_languages(folder: Path) -> TranslationTokenizer:
    names = ["eng_Latn", "deu_Latn"]
    (folder / "special_tokens_map.json").write_text(json.dumps({"additional_special_tokens": names}))
    return read(folder)


@pytest.mark.parametrize("text", ["\x00", "a\x00b", "\ud83d", "\u200b", "\ufeff", "▁", "▁ ▁a", "\r\n", "ก" * 50])
def test_odd_text_is_read(text: str, folder: Path) -> None:
    tok = _with_languages(folder)
    assert all(0 <= i < tok.n_vocab for i in tok.encode(text))


def test_an_unknown_language_names_what_there_is(folder: Path) -> None:
    tok = _with_languages(folder)
    with pytest.raises(InputError, match="deu_Latn"):
        tok.language("Zulu")
    with pytest.raises(InputError, match="Did you mean 'german'"):
        tok.language("Germn")
    with pytest.raises(InputError, match="'German'"):
        tok.source("x", "German")


def test_a_model_without_its_small_files_says_which(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"language tokens.*special_tokens_map\.json"):
        read(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read(folder)


def test_a_vocabulary_that_is_too_small_is_an_error(folder: Path) -> None:
    _with_languages(folder)
    with pytest.raises(CheckpointError, match="vocabulary of 131"):
        read(folder, 131)
    assert read(folder, 140).n_vocab == 140


@pytest.mark.parametrize("content", [b"", b"not a model", b"{}", b"[]", b'{"added_tokens": []}'])
@pytest.mark.parametrize("name", ["sentencepiece.bpe.model", "tokenizer.json"])
def test_a_damaged_file_is_an_error(content: bytes, name: str, folder: Path) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError, match="expected a translation tokenizer"):
        TranslationTokenizer.from_file(folder / name)


def test_words_without_spaces_are_pieces(folder: Path) -> None:
    (folder / "special_tokens_map.json").write_text(json.dumps({"additional_special_tokens": ["zho_Hans"]}))
    tok = read(folder)
    ids = tok.encode("你好，世界。今天天气很好。")
    words = tok.split_words(ids)
    assert [i for _, group in words for i in group] == ids
    assert len(words) > 4
    assert all(text.strip()[:1].isalpha() for text, _ in words[1:]), "marks stay with the word before"
    assert len(tok.split_words(tok.encode("Hello world, how are you?"))) == 5
