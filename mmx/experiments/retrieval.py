"""Letters in 19 sign languages, by example and by text: `python -m mmx.experiments.retrieval [MODEL]`.

The 600 recordings of spoken-to-signed (MIT), a letter each. Without a model the tokens are what the front end of a
family makes of the points, before any weight. Compared: token by token, the pooled vector alone, and random scores; a
recording asks for the same letter in another language. With a model that writes, letters ask as texts, too, for their
recordings in all languages, of which the model is told none.
"""

import csv
import sys
import unicodedata
from importlib import import_module
from importlib.resources import files
from pathlib import Path

import numpy as np

from mmx.api import load
from mmx.evaluate.retrieval import Retrieval, measure
from mmx.search.embed import Embedder
from mmx.search.similarity import late_interaction


def main(model: str = "") -> None:
    """Print a table."""
    if model:
        embedder = Embedder(load(model, device="cpu", dtype="float32"))
    else:
        family = import_module("mmx.models.fingerspelling")
        embedder = Embedder(family.build(family.Config()).eval(), end="encoders")
    lexicon = Path(str(files("spoken_to_signed"))) / "assets" / "fingerspelling_lexicon"
    with (lexicon / "data.csv").open(encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    made = [next(iter(embedder(lexicon / row["path"])))[1] for row in rows]
    letters = np.array([unicodedata.normalize("NFC", row["words"]).casefold() for row in rows])
    languages = np.array([row["signed_language"] for row in rows])
    tokens, pooled = [v.tokens for v in made], np.stack([v.pooled for v in made])
    exact = np.stack([late_interaction(np.asarray(q, np.float32), tokens) for q in tokens])
    right, counted = letters[:, None] == letters, languages[:, None] != languages
    chance = np.random.default_rng(0).random(exact.shape)
    for name, scores in (("token by token", exact), ("pooled", pooled @ pooled.T), ("random", chance)):
        print(_row(name, measure(scores, right, counted)))
    if model:
        asked = sorted(set(letters.tolist()))
        by_text = np.stack([embedder.likelihoods(text, tokens) for text in asked])
        right = np.array(asked)[:, None] == letters
        for name, scores in (("text", by_text), ("random", chance[: len(asked)])):
            print(_row(f"letter by {name}", measure(scores, right, np.ones_like(right))))


def _row(name: str, got: Retrieval) -> str:
    shares = " | ".join(f"{100 * share:.1f}" for share in (got.r1, got.r5, got.r10))
    return f"| {name} | {shares} | {got.median_rank:g} | {got.queries} |"


if __name__ == "__main__":
    main(*sys.argv[1:2])
