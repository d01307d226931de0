"""Tokenizers under their contract, and faults that the contract must find."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from contract import ContractError
from contract_tokenizer import verify_tokenizer

from mmx.api import outline
from mmx.errors import ModelNotFoundError
from mmx.text import byte_tokenizer, character_tokenizer
from mmx.text.translation_tokenizer import TranslationTokenizer


@pytest.mark.parametrize(
    ("name", "languages", "texts"),
    [
        ("whisper-base", ("en", "German", "zho"), ("he was not", "I said no, twice.", "ni\u00f1o", "我们")),
        ("en-es", ("English", "es"), ("he was not", "I said no, twice.", "el ni\u00f1o")),
        ("fingerspelling", ("ase", "gsg"), ("anna", "z")),
        ("lips-and-sound", ("en",), ("he was not",)),
    ],
)
def test_the_tokenizers_that_ship_keep_the_contract(name: str, languages: Sequence[str], texts: Sequence[str]) -> None:
    try:
        tokenizer = outline(name, download=False).require_tokenizer()
    except ModelNotFoundError as e:
        pytest.skip(f"the tokenizer of {name} was not measured: {e}")
    verify_tokenizer(tokenizer, languages, texts)


def test_bytes_and_characters_keep_the_contract(tmp_path: Path) -> None:
    verify_tokenizer(byte_tokenizer.byte_tokenizer(["eng_Latn", "deu_Latn"]), ["en", "German"])
    letters = character_tokenizer.make(["he was not, twice. I said"], ["en", "de"], tmp_path)
    verify_tokenizer(letters, ["en", "German"])


class Wrapped:
    """A tokenizer of bytes, to be spoilt."""

    def __init__(self) -> None:
        self.good = byte_tokenizer.byte_tokenizer(["eng_Latn", "deu_Latn"])

    def __getattr__(self, name: str) -> Any:
        return getattr(self.good, name)


def spoilt(name: str, change: Callable[[TranslationTokenizer, Any], Any]) -> Any:
    """The tokenizer with another value or method."""
    found = Wrapped()
    setattr(found, name, change(found.good, getattr(found.good, name)))
    return found


def loses_a_word(tok: TranslationTokenizer, _: Any) -> Callable[[Iterable[int]], list[tuple[str, list[int]]]]:
    return lambda ids: tok.split_words(ids)[:-1]


@pytest.mark.parametrize(
    ("check", "name", "change"),
    [
        ("numbers", "n_vocab", lambda *_: 100),
        ("numbers", "control_ids", lambda tok, ids: [*ids, tok.eot]),
        ("back", "decode", lambda _, decode: lambda ids: decode(list(ids)[1:])),
        ("back", "encode", lambda _, encode: lambda text: encode(text.upper())),
        ("words", "split_words", loses_a_word),
        ("words", "split_words", lambda _, split: lambda ids: [(" x", own) for _, own in split(ids)]),
        ("controls", "decode", lambda tok, decode: lambda ids: decode(ids) + "?" * (tok.eot in (ids := list(ids)))),
        ("named", "language", lambda _, language: lambda text: language(text).lower()),
        ("named", "language", lambda *_: lambda text: "eng_Latn"),
        ("named", "control_ids", lambda tok, ids: [i for i in ids if i not in tok.language_ids.values()]),
        ("prompts", "prompt", lambda _, prompt: lambda language: prompt("eng_Latn")),
        ("read", "source", lambda *_: lambda text, language: []),
        ("read", "foreign", lambda *_: lambda text: ["h"]),
    ],
)
def test_a_fault_is_found_and_named(check: str, name: str, change: Any) -> None:
    with pytest.raises(ContractError) as found:
        verify_tokenizer(spoilt(name, change), ["en", "German"])
    assert found.value.check == check, found.value
