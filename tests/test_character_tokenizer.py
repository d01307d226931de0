"""Characters as tokens: what is written comes back, what is unknown is said to be."""

from pathlib import Path

import pytest

from mmx.errors import CheckpointError
from mmx.text import character_tokenizer
from mmx.text.character_tokenizer import FILE, SPECIALS


def test_each_character_is_a_token_and_what_was_not_seen_is_unknown(tmp_path: Path) -> None:
    made = character_tokenizer.make(["ab e\u0301", "мир"], ["ukl", "asl"], tmp_path)
    read = character_tokenizer.from_file(tmp_path / FILE, made.n_vocab)
    assert read.decode(read.encode("é мab")) == "é мab" and len(read.encode("é мab")) == 5
    assert read.encode("z") == [SPECIALS.unk] and read.decode([SPECIALS.unk]) == ""
    assert list(read.language_ids) == ["ase_Latn", "ukl_Cyrl"]
    assert read.control_ids == [0, 1, 3, *read.language_ids.values()]
    assert [word for word, _ in read.split_words(read.encode("ab мир"))] == ["ab", " мир"]


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"languages": ["ase_Latn"], "characters": ["ab"]}')
    with pytest.raises(CheckpointError, match="not single"):
        character_tokenizer.from_file(tmp_path / FILE)
