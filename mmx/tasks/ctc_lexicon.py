"""CTC decoded with a closed vocabulary: the best path among those that spell words of a list, in any order.

A prefix tree of the words, a token a node, is walked frame by frame, each node with and without a blank behind it; of
all ways into a node the best stays (Viterbi search over a lexicon tree, Ney et al. 1992; token passing, Young et al.
1989). Each word is as likely as the next: no language model. The result is exact, no beam cuts it.

Letters: M memory frames, V vocabulary, S nodes.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mmx.errors import InputError

BETWEEN = 0
"""The node between words: its token is the space."""


class Speller(Protocol):
    """What a tokenizer is asked for here."""

    def encode(self, text: str) -> list[int]:
        """Tokens of a text."""
        ...


class Lexicon:
    """Words as a prefix tree.

    Args:
        words: tokens of each, none empty.
        space: token between words, which is in none of them.
    """

    def __init__(self, words: Iterable[Sequence[int]], space: int):
        self.tokens, self.parents = [space], [BETWEEN]
        nodes: dict[tuple[int, int], int] = {}
        ends: set[int] = set()
        for word in words:
            at = BETWEEN
            for token in word:
                if (at, token) not in nodes:
                    nodes[at, token] = len(self.tokens)
                    self.tokens.append(token)
                    self.parents.append(at)
                at = nodes[at, token]
            ends.add(at)
        self.ends_E = np.array(sorted(ends - {BETWEEN}))
        self.tokens_S, self.parents_S = np.array(self.tokens), np.array(self.parents)
        self.doubled_S = self.tokens_S == self.tokens_S[self.parents_S]

    @classmethod
    def read(cls, path: str | Path, tokenizer: Speller) -> "Lexicon":
        """The words of a text file, between spaces or on lines of their own.

        Raises:
            InputError: there is no such text, no word in it, or the tokenizer has no token for the space.
        """
        try:
            words = sorted(set(Path(path).read_text("utf-8").split()))
        except (OSError, ValueError) as e:
            raise InputError(f"expected a text file with the words that may be written at {path}, got {e}") from e
        space = tokenizer.encode(" ")
        if not words or len(space) != 1:
            got = "none" if not words else "a tokenizer whose pieces hold the space"
            raise InputError(f"expected words in {path} and a model that writes letter by letter, got {got}")
        return cls(map(tokenizer.encode, words), space[0])

    def best_path(self, log_probs_MV: NDArray[np.floating[Any]], blank: int) -> tuple[list[int], float]:
        """What the best path that spells words emits in each frame, and its log-probability.

        A row too short for any word is all blanks.

        Args:
            log_probs_MV: of one row, without padding.
            blank: index of the blank.
        """
        size = len(self.tokens_S)
        emits_S, rests_S = np.full(size, -np.inf), np.full(size, -np.inf)  # best that ends in a token, or in a blank
        rests_S[BETWEEN] = 0.0
        back: list[tuple[NDArray[Any], NDArray[Any]]] = []
        here_S = np.arange(size)
        for scores_V in log_probs_MV:
            enters_S, from_S = self._entering(emits_S, rests_S)
            stays_S = emits_S >= enters_S
            rested_S = rests_S >= emits_S
            back.append((np.where(stays_S, here_S, from_S), np.where(rested_S, here_S + size, here_S)))
            emits_S, rests_S = (
                np.where(stays_S, emits_S, enters_S) + scores_V[self.tokens_S],
                np.where(rested_S, rests_S, emits_S) + scores_V[blank],
            )
        both_S = np.concatenate([emits_S, rests_S])
        over = np.append(self.ends_E, BETWEEN)
        over = np.concatenate([over, over + size])
        at = int(over[both_S[over].argmax()])
        total, path = float(both_S[at]), []
        for emitted_S, rested_S in reversed(back):
            path.append(blank if at >= size else int(self.tokens_S[at]))
            at = int(rested_S[at - size] if at >= size else emitted_S[at])
        return path[::-1], total

    def _entering(self, emits_S: NDArray[Any], rests_S: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """The best way into each node from another one: its score, and where it comes from (S more: from a blank).

        Into a token from the same token leads only a blank; between words leads the end of any.
        """
        size = len(emits_S)
        emitted_S = np.where(self.doubled_S, -np.inf, emits_S[self.parents_S])
        rested_S = rests_S[self.parents_S]
        out_S, from_S = (
            np.maximum(emitted_S, rested_S),
            np.where(rested_S >= emitted_S, self.parents_S + size, self.parents_S),
        )
        ends_E = self.ends_E[np.maximum(emits_S, rests_S)[self.ends_E].argmax()]
        out_S[BETWEEN] = max(emits_S[ends_E], rests_S[ends_E])
        from_S[BETWEEN] = ends_E + size if rests_S[ends_E] >= emits_S[ends_E] else ends_E
        return out_S, from_S
