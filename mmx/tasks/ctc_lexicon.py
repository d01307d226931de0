"""CTC decoded with a closed vocabulary: the best path among those that spell words of a list, in any order.

A prefix tree of the words, a token a node, is walked frame by frame, each node with and without a blank behind it; of
all ways into a node the best stays (Viterbi search over a lexicon tree, Ney et al. 1992; token passing, Young et al.
1989). Each word is as likely as the next: no language model. The result is exact, no beam cuts it.

Letters: B rows, M memory frames, V vocabulary, S nodes, E nodes that end a word.
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

    def best_paths(
        self, log_probs_BMV: NDArray[np.floating[Any]], lengths: Sequence[int], blank: int
    ) -> list[tuple[list[int], float]]:
        """What the best path that spells words emits in each frame of each row, and its log-probability.

        A row too short for any word is all blanks.

        Args:
            log_probs_BMV: of the tokens and the blank.
            lengths: frames of each row.
            blank: index of the blank.
        """
        n_rows, size = len(lengths), len(self.tokens_S)
        emits_BS, rests_BS = np.full(
            (2, n_rows, size), -np.inf, log_probs_BMV.dtype
        )  # best that ends in a token, a blank
        rests_BS[:, BETWEEN] = 0.0
        back: list[tuple[NDArray[Any], NDArray[Any]]] = []
        ends = [self._end(emits_BS[b], rests_BS[b]) for b in range(n_rows)]
        here_S = np.arange(size, dtype=np.int32)
        for m in range(max(lengths, default=0)):
            scores_BV = log_probs_BMV[:, m]
            enters_BS, from_BS = self._entering(emits_BS, rests_BS)
            stays_BS, rested_BS = emits_BS >= enters_BS, rests_BS >= emits_BS
            back.append((np.where(stays_BS, here_S, from_BS), np.where(rested_BS, here_S + size, here_S)))
            emits_BS, rests_BS = (
                np.where(stays_BS, emits_BS, enters_BS) + scores_BV[:, self.tokens_S],
                np.where(rested_BS, rests_BS, emits_BS) + scores_BV[:, blank, None],
            )
            for b in [b for b, n in enumerate(lengths) if n == m + 1]:
                ends[b] = self._end(emits_BS[b], rests_BS[b])
        return [(self._traced(b, ends[b][0], back[:n], blank), ends[b][1]) for b, n in enumerate(lengths)]

    def _end(self, emits_S: NDArray[Any], rests_S: NDArray[Any]) -> tuple[int, float]:
        """The best node in which a text may end (S more: with a blank), and its score."""
        over = np.append(self.ends_E, BETWEEN)
        scores = np.concatenate([emits_S[over], rests_S[over]])
        best = int(scores.argmax())
        return int(np.concatenate([over, over + len(emits_S)])[best]), float(scores[best])

    def _traced(self, row: int, at: int, back: Sequence[tuple[NDArray[Any], NDArray[Any]]], blank: int) -> list[int]:
        """What was emitted on the way to a node."""
        path, size = [], len(self.tokens_S)
        for emitted_BS, rested_BS in reversed(back):
            path.append(blank if at >= size else self.tokens[at])
            at = int(rested_BS[row, at - size] if at >= size else emitted_BS[row, at])
        return path[::-1]

    def _entering(self, emits_BS: NDArray[Any], rests_BS: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """The best way into each node from another one: its score, and where it comes from (S more: from a blank).

        Into a token from the same token leads only a blank; between words leads the end of any.
        """
        size, rows = len(self.tokens_S), np.arange(len(emits_BS))
        emitted_BS = np.where(self.doubled_S, -np.inf, emits_BS[:, self.parents_S]).astype(emits_BS.dtype)
        rested_BS = rests_BS[:, self.parents_S]
        out_BS = np.maximum(emitted_BS, rested_BS)
        from_BS = np.where(rested_BS >= emitted_BS, self.parents_S + size, self.parents_S).astype(np.int32)
        ends_B = self.ends_E[np.maximum(emits_BS, rests_BS)[:, self.ends_E].argmax(-1)]
        out_BS[:, BETWEEN] = np.maximum(emits_BS[rows, ends_B], rests_BS[rows, ends_B])
        from_BS[:, BETWEEN] = np.where(rests_BS[rows, ends_B] >= emits_BS[rows, ends_B], ends_B + size, ends_B)
        return out_BS, from_BS
