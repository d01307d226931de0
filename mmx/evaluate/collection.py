"""How well a model finds what it is asked for among the recordings of a test set, each of which has a text.

| asks | for | by |
|---|---|---|
| a text | the recordings that have it | likelihood of a CTC head; token by token and pooled, by a text encoder |
| a recording | its text, among all of them | the same |
| a recording | another of the same text; in another language, where there are several | token by token; pooled |

Texts that are the same are one (`mmx.evaluate.retrieval` has several right answers and ties), and random scores stand
beside each. Every score is exact: no index takes part.

Letters: K recordings, Q texts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmx.errors import InputError
from mmx.evaluate.offline import read_rows, source_of
from mmx.evaluate.retrieval import Retrieval, measure
from mmx.model import Model
from mmx.search.embed import Embedder
from mmx.search.index import Vectors
from mmx.search.similarity import late_interaction

Scores = NDArray[np.floating]
TEXT, ITS_TEXT, EXAMPLE = "text to recordings", "recording to texts", "recording to recordings"
TOKENS, POOLED, LIKELIHOOD, RANDOM = "token by token", "pooled", "likelihood", "random"


@dataclass(frozen=True)
class Ranking:
    """How well one kind of question was answered by one kind of score, among so many documents."""

    asks: str
    by: str
    documents: int
    found: Retrieval

    def __str__(self) -> str:
        return f"| {self.asks} | {self.by} | {self.found} | {self.documents} |"


HEAD = "| asks | by | R@1 (95 %) | R@5 | R@10 | median rank | queries | documents |\n|---|---|--:|--:|--:|--:|--:|--:|"


def evaluate_retrieval(manifest: str | Path, model: Model, *, language: str = "", seed: int = 0) -> list[Ranking]:
    """Of all recordings of a test set.

    Args:
        manifest: see `mmx.train.manifest`; of recordings with their texts.
        model: reads one kind of recording.
        language: of rows that do not say it.
        seed: of the random scores.

    Raises:
        InputError: the manifest or the model cannot be used, or there is nothing to ask for.
    """
    rows = read_rows(manifest, language)
    if not all(row.media for row in rows):
        raise InputError(f"expected recordings with texts for --retrieval, got texts alone in {manifest}")
    embedder = Embedder(model)
    made = [embedder.whole(source_of(row, model)) for row in rows]
    return list(rankings(embedder, made, [r.target for r in rows], [r.src_lang for r in rows], seed))


def rankings(
    embedder: Embedder, made: Sequence[Vectors], texts: Sequence[str], languages: Sequence[str], seed: int = 0
) -> Iterator[Ranking]:
    """Of recordings that are vectors already, one text and one language each."""
    asked = sorted(set(texts))
    right_QK = np.array(asked)[:, None] == np.array(texts)
    chance = np.random.default_rng(seed)
    answered = False
    for by, scores_QK in _by_text(embedder, made, asked):
        yield _ranking(TEXT, by, scores_QK, right_QK)
        yield _ranking(ITS_TEXT, by, scores_QK.T, right_QK.T)
        answered = True
    if answered:
        random_QK = chance.random(right_QK.shape)
        yield _ranking(TEXT, RANDOM, random_QK, right_QK)
        yield _ranking(ITS_TEXT, RANDOM, random_QK.T, right_QK.T)
    same = np.array(texts)[:, None] == np.array(texts)
    spoken = np.array(languages if len(set(languages)) > 1 else range(len(made)))
    others = spoken[:, None] != spoken
    if (same & others).any():
        tokens, pooled = [v.tokens for v in made], np.stack([v.pooled for v in made])
        exact = np.stack([late_interaction(np.asarray(q, np.float32), tokens) for q in tokens])
        for by, scores in ((TOKENS, exact), (POOLED, pooled @ pooled.T), (RANDOM, chance.random(exact.shape))):
            yield _ranking(EXAMPLE, by, scores, same, others)
    elif not answered:
        raise InputError(
            "expected a model that compares texts with recordings, or texts that several recordings have, got neither: "
            "give a test set with texts that recur"
        )


def _by_text(embedder: Embedder, made: Sequence[Vectors], asked: Sequence[str]) -> Iterator[tuple[str, Scores]]:
    """Scores `(Q, K)` of texts and recordings, in each way that the model has."""
    if embedder.reads_text:
        yield LIKELIHOOD, np.array([embedder.likelihoods(text, [v.tokens for v in made]) for text in asked])
    if embedder.shares_space:
        vectors = [embedder.text(text) for text in asked]
        documents = [embedder.shared(v.tokens) for v in made]
        yield TOKENS, np.stack([late_interaction(np.asarray(v.tokens, np.float32), documents) for v in vectors])
        yield POOLED, np.stack([v.pooled for v in vectors]) @ np.stack([v.pooled for v in made]).T


def _ranking(
    asks: str, by: str, scores: Scores, right: NDArray[np.bool_], counted: NDArray[np.bool_] | None = None
) -> Ranking:
    counted = np.ones_like(right) if counted is None else counted
    return Ranking(asks, by, scores.shape[1], measure(scores, right, counted))


def record(found: Sequence[Ranking]) -> list[dict[str, Any]]:
    """Plain data."""
    return [asdict(ranking) for ranking in found]
