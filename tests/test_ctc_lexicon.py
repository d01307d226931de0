"""CTC with a closed vocabulary: exactly the best path that spells its words, and what the option says.

Letters: M memory frames, V vocabulary.
"""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from mmx.errors import InputError
from mmx.tasks.ctc_lexicon import Lexicon
from mmx.tasks.ctc_recognizer import best_paths
from mmx.text import byte_tokenizer

SPACE, A, B, BLANK = range(4)
WORDS = ("a", "aa", "ab", "bab")
LETTERS = " ab"


def lexicon() -> Lexicon:
    return Lexicon([[LETTERS.index(c) for c in word] for word in WORDS], SPACE)


def spelled(path: tuple[int, ...]) -> str:
    return "".join(LETTERS[t] for t, _ in itertools.groupby(path) if t != BLANK)


def allowed(text: str) -> bool:
    """Words with one space between them, and maybe one behind."""
    return not text or (not text.startswith(" ") and all(w in WORDS for w in text.removesuffix(" ").split(" ")))


@pytest.mark.parametrize("seed", range(4))
def test_no_path_that_spells_words_is_better(seed: int) -> None:
    scores_MV = np.random.default_rng(seed).normal(0, 2, (6, 4))
    paths = (p for p in itertools.product(range(4), repeat=6) if allowed(spelled(p)))
    best = max(paths, key=lambda p: sum(scores_MV[m, t] for m, t in enumerate(p)))
    ((path, total),) = lexicon().best_paths(scores_MV[None], [6], BLANK)
    assert (tuple(path), total) == (best, pytest.approx(sum(scores_MV[m, t] for m, t in enumerate(best))))


def test_rows_are_read_to_their_own_ends() -> None:
    scores = torch.full((2, 4, 4), -9.0)
    scores[..., BLANK] = -1.0
    for row, tokens in enumerate(([B, BLANK, A, A], [B, A, A, A])):  # "b" is no word, nor "ba"
        scores[row, range(4), tokens] = 0.0
    free, closed = (best_paths(scores, torch.tensor([2, 3]), BLANK, words) for words in (None, lexicon()))
    assert [spelled(tuple(p.tokens)) for p in free] == ["b", "ba"]
    assert [spelled(tuple(p.tokens)) for p in closed] == ["", "a"]
    assert [p.log_prob for p in closed] == pytest.approx([-1 / 2, -1 / 3])
    assert lexicon().best_paths(np.zeros((1, 0, 4)), [0], BLANK) == [([], 0.0)]


def test_a_text_file_is_a_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("bat\ncat dog\n\ncat\n", "utf-8")
    tok = byte_tokenizer.byte_tokenizer(["eng_Latn"])
    read = Lexicon.read(tmp_path / "words.txt", tok)
    assert len(read.tokens) == 1 + 3 * 3
    (tmp_path / "words.txt").write_text(" \n", "utf-8")
    for file, told in (("words.txt", "got none"), ("none.txt", "at .*none.txt")):
        with pytest.raises(InputError, match=told):
            Lexicon.read(tmp_path / file, tok)
