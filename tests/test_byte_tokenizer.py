"""The tokenizer of bytes: any text comes back, nothing is unknown, and models are trained and loaded with it."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import mmx
from mmx.errors import CheckpointError, InputError
from mmx.make.export import convert_model
from mmx.tasks.translate import translate_text
from mmx.text import byte_tokenizer
from mmx.text.byte_tokenizer import FIRST, LANGUAGES, SPECIALS
from mmx.text.shortlist import from_script
from mmx.text.train_tokenizer import train_tokenizer
from mmx.train.loop import TrainOptions, train

TOK = byte_tokenizer.byte_tokenizer(["eng_Latn", "rus_Cyrl", "tam_Taml"])


@given(st.text())
@example("  two  spaces \n\ttabs\r\n ")
@example("привет, 世界 😀 🏴󠁧󠁢󠁥󠁮󠁧󠁿 e\u0301 \x00 \u2581 <0xC3> </s> eng_Latn")
def test_any_text_comes_back(text: str) -> None:
    ids = TOK.encode(text)
    assert TOK.decode(ids) == text
    assert TOK.specials.unk not in ids
    assert not set(ids) & set(TOK.control_ids) and TOK.eot not in ids
    assert TOK.source(text, "rus_Cyrl") == [LANGUAGES + 1, *ids, SPECIALS.eos]


@given(st.lists(st.integers(0, TOK.n_vocab - 1)))
def test_any_ids_are_decoded(ids: list[int]) -> None:
    data = bytes(i - FIRST for i in ids if FIRST <= i < LANGUAGES)
    assert TOK.decode(ids) == data.decode("utf-8", "replace")
    words = TOK.split_words(ids)
    assert [i for _, word in words for i in word] == ids


@settings(max_examples=50)
@given(st.text(alphabet=st.characters(exclude_characters="\u2581", exclude_categories=("Cs",))))
def test_words_are_cut_at_spaces_and_are_the_text(text: str) -> None:
    words = [word for word, _ in TOK.split_words(TOK.encode(text))]
    assert "".join(words) == text
    assert all(" " not in word[1:] for word in words)


def test_lone_surrogates_become_the_replacement_character() -> None:
    assert TOK.decode(TOK.encode("a\ud800b")) == "a\ufffdb"


def test_half_a_character_is_no_error() -> None:
    ids = TOK.encode("я")
    assert len(ids) == 2
    assert TOK.decode(ids[:1]) == "\ufffd" == TOK.decode(ids[1:])
    assert TOK.decode([*ids[:1], *TOK.encode("b")]) == "\ufffdb"


def test_language_tokens_follow_the_bytes() -> None:
    assert TOK.language_ids == {"eng_Latn": 260, "rus_Cyrl": 261, "tam_Taml": 262}
    assert TOK.prompt(TOK.language("Tamil")) == [2, 262]
    assert TOK.control_ids == [0, 1, 3, 260, 261, 262]
    with pytest.raises(InputError, match="one of the model's languages"):
        TOK.source("x", "deu_Latn")


def test_words_of_pieces_with_bytes_are_spelled(tmp_path: Path) -> None:
    """SentencePiece's fallback to bytes, which is the same in small."""
    rng = random.Random(0)
    texts = ["".join(rng.choices("abcdefgh ", k=30)) for _ in range(200)]
    tok = train_tokenizer(texts, ["en"], 290, tmp_path)
    words = tok.split_words(tok.encode("abc яя de"))
    assert [word for word, _ in words] == [" abc", " яя", " de"]


def test_a_shortlist_by_script_keeps_the_bytes() -> None:
    assert set(TOK.encode("привет")) <= set(from_script(TOK, "ru"))


def test_files(tmp_path: Path) -> None:
    made = byte_tokenizer.make(["ru", "English", "eng_Latn"], tmp_path)
    read = byte_tokenizer.from_file(tmp_path / byte_tokenizer.FILE, 262)
    assert made.language_ids == read.language_ids == {"eng_Latn": 260, "rus_Cyrl": 261}
    with pytest.raises(CheckpointError, match="vocabulary of 261"):
        byte_tokenizer.from_file(tmp_path / byte_tokenizer.FILE, 261)
    for text in ("{", "[]", '{"languages": []}', '{"languages": [3]}'):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(CheckpointError, match="list of languages"):
            byte_tokenizer.from_file(tmp_path / "bad.json")
    with pytest.raises(InputError, match="Did you mean"):
        byte_tokenizer.make(["englsh"], tmp_path)


WORDS = {"one": "один", "two": "два", "three": "три", "six": "шесть", "ten": "десять"}


@pytest.mark.slow
def test_a_byte_model_trains_resumes_loads_and_converts(tmp_path: Path) -> None:
    rng = random.Random(0)
    chosen = [rng.choices(list(WORDS), k=rng.randint(1, 2)) for _ in range(200)]
    lines = [f"{' '.join(c)}\t{' '.join(WORDS[w] for w in c)}\ten\tru" for c in chosen]
    manifest = tmp_path / "train.tsv"
    manifest.write_text("\n".join(["source\ttarget\tsrc_lang\ttgt_lang", *lines]), "utf-8")
    options = TrainOptions(
        train=str(manifest), valid=str(manifest), out=str(tmp_path / "run"), tokenizer="bytes",
        config={"ctx": 96, "width": 64, "heads": [4, 4], "layers": [1, 1], "hidden": [128, 128]}, updates=150,
        batch_tokens=2000, lr=5e-3, warmup=30, dropout=0.0, threads=1, valid_every=50, save_every=50, log_every=50,
    )  # fmt: skip
    train(replace(options, updates=50))
    folder = train(options)
    model = mmx.load(folder, dtype="float32")
    assert model.tokenizer.pieces.bytes_only and model.tokenizer.n_vocab == 262 == len(model.decoder.token.weight)
    texts = ["one ten", "six", "three two"]
    got = [t.text for t in translate_text(model, texts, src="en", to="ru", beam_size=1)]
    assert got == ["один десять", "шесть", "три два"]
    converted = mmx.load(convert_model(folder, tmp_path / "converted"), dtype="float32")
    assert translate_text(converted, texts[:1], src="en", to="ru", beam_size=1)[0].text == got[0]
    assert json.loads((folder / "bytes.json").read_text()) == {"languages": ["eng_Latn", "rus_Cyrl"]}
    onward = replace(options, init=str(folder), config={}, tokenizer="pieces", out=str(tmp_path / "again"))
    again = train(replace(onward, updates=1, lr=1e-9))
    assert (again / "bytes.json").is_file()
    with pytest.raises(InputError, match="for tokenizer"):
        train(replace(options, tokenizer="pieces"))


def test_an_unknown_tokenizer() -> None:
    with pytest.raises(InputError, match="pieces, bytes or characters, got 'letters'"):
        TrainOptions(train="a", valid="b", out="c", tokenizer="letters")  # pyright: ignore[reportArgumentType]
