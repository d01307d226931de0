"""Find what was said in transcripts: words in a row, written otherwise or a little wrong too."""

import difflib
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from mmx.errors import InputError
from mmx.search.index import Said

LEAST = 0.75
"""Mean likeness of the words, below which a place is no match."""
LEAST_OF_A_WORD = 0.7
"""Below which two words are as different as any."""


class Place(NamedTuple):
    """Words `first` to `last` (excluded), and how like the query they are, in (0, 1]."""

    first: int
    last: int
    score: float


def normalized(text: str) -> list[str]:
    """Words in lower case without marks around them; compatible letters (NFKC) are one."""
    words = unicodedata.normalize("NFKC", text).casefold().split()
    return [w for w in ("".join(c for c in word if c.isalnum()) for word in words) if w]


def find(query: str, words: Sequence[Said], least: float = LEAST) -> list[Place]:
    """Places of a query in a transcript, the best first; no two share a word.

    Raises:
        InputError: the query has no word.
    """
    wanted = normalized(query)
    if not wanted:
        raise InputError(f"expected words to search for, got {query!r}")
    heard = [(i, w) for i, said in enumerate(words) for w in normalized(said.text)]
    alike = [{h: likeness(w, h) for h in {h for _, h in heard}} for w in wanted]
    places = []
    for at in range(len(heard) - len(wanted) + 1):
        score = sum(alike[k][heard[at + k][1]] for k in range(len(wanted))) / len(wanted)
        if score >= least:
            places.append(Place(heard[at][0], heard[at + len(wanted) - 1][0] + 1, score))
    kept: list[Place] = []
    for place in sorted(places, key=lambda p: -p.score):
        if all(place.last <= k.first or place.first >= k.last for k in kept):
            kept.append(place)
    return kept


@lru_cache(maxsize=100_000)
def likeness(a: str, b: str) -> float:
    """1 for the same word, 0 for one that is too different (difflib's ratio)."""
    if a == b:
        return 1.0
    if 2 * min(len(a), len(b)) < LEAST_OF_A_WORD * (len(a) + len(b)):
        return 0.0
    ratio = difflib.SequenceMatcher(None, a, b, autojunk=False).ratio()
    return ratio if ratio >= LEAST_OF_A_WORD else 0.0
