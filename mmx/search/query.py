"""Answers of an index: spans of recordings, the best first."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from mmx.search import words
from mmx.search.embed import Embedder
from mmx.search.index import Index, Vectors
from mmx.search.nearest import FEW, candidates
from mmx.search.similarity import late_interaction

CANDIDATES = 200
"""That an approximate search hands to the exact comparison."""


@dataclass(frozen=True)
class Hit:
    """A span that answers.

    Attributes:
        source: the recording.
        start_s: where the span begins.
        end_s: where it ends.
        score: of `by`; scores of one kind alone can be compared.
        by: "words" (mean likeness, at most 1), "ctc" (log-likelihood a token, at most about 0), "example" or "text"
            (cosines, token by token).
        text: the words, with some around them; empty for what has no transcript.
    """

    source: str
    start_s: float
    end_s: float
    score: float
    by: str
    text: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def by_words(index: Index, text: str, count: int, around: int = 4) -> list[Hit]:
    """Where the transcripts say a text."""
    hits = []
    for _, _, entry in index.live():
        for place in words.find(text, entry.words) if entry.words else ():
            shown = entry.words[max(0, place.first - around) : place.last + around]
            said = entry.words[place.first : place.last]
            line = " ".join(w.text.strip() for w in shown)
            hits.append(Hit(entry.source, said[0].start_s, said[-1].end_s, place.score, "words", line))
    return _best(hits, count)


def by_likelihood(index: Index, text: str, embedder: Embedder, count: int, language: str = "") -> list[Hit]:
    """Spans in which the model most likely reads a text: each one is scored."""
    index.check_model(embedder.mark)
    rows = [(s, i, e) for s, i, e in index.live() if s.embedded]
    scores = embedder.likelihoods(text, [s.tokens(i) for s, i, _ in rows], language)
    hits = [Hit(e.source, e.start_s, e.end_s, x, "ctc") for (_, _, e), x in zip(rows, scores, strict=True)]
    return _best((h for h in hits if h.score > float("-inf")), count)


def by_example(
    index: Index, example: Vectors, count: int, candidate_count: int = CANDIDATES, few: int = FEW
) -> list[Hit]:
    """Spans that are most like an example: candidates by the pooled vector, then token by token."""
    rows = candidates(index, example.pooled, max(count, candidate_count), few)
    scores = late_interaction(example.tokens, [index.segments[s].tokens(i) for s, i in rows])
    return _best(_hits(index, rows, scores, "example"), count)


def by_text(
    index: Index, text: str, embedder: Embedder, count: int, candidate_count: int = CANDIDATES, few: int = FEW
) -> list[Hit]:
    """Spans nearest to a text in the space of both, of a model with a text encoder: candidates, then token by token."""
    index.check_model(embedder.mark)
    asked = embedder.text(text)
    rows = candidates(index, asked.pooled, max(count, candidate_count), few)
    documents = [embedder.shared(index.segments[s].tokens(i)) for s, i in rows]
    return _best(_hits(index, rows, late_interaction(asked.tokens, documents), "text"), count)


def _hits(index: Index, rows: Iterable[tuple[int, int]], scores: Iterable[float], by: str) -> Iterable[Hit]:
    for (s, i), score in zip(rows, scores, strict=True):
        entry = index.segments[s].entries[i]
        yield Hit(entry.source, entry.start_s, entry.end_s, float(score), by)


def _best(hits: Iterable[Hit], count: int) -> list[Hit]:
    return sorted(hits, key=lambda h: (-h.score, h.source, h.start_s))[:count]
