"""Letters in 19 sign languages, by example and by text: `python -m mmx.experiments.retrieval [MODEL] [LANGUAGES]`.

The recordings of spoken-to-signed (MIT), a letter each; of some languages only, with commas between, as of those that a
model never saw. Without a model the tokens are what the front end of a family makes of the points, before any weight.
Compared: token by token, the pooled vector alone, and random scores; a recording asks for the same letter in another
language. With a model that writes, letters ask as texts, too, for their recordings in all languages, and recordings for
their letter; the model is told no language.
"""

import csv
import sys
import unicodedata
from importlib import import_module
from importlib.resources import files
from pathlib import Path

from mmx.api import load
from mmx.evaluate.collection import HEAD, rankings
from mmx.search.embed import Embedder


def main(model: str = "", languages: str = "") -> None:
    """Print a table."""
    if model:
        embedder = Embedder(load(model, device="cpu", dtype="float32"))
    else:
        family = import_module("mmx.models.fingerspelling")
        embedder = Embedder(family.build(family.Config()).eval(), end="encoders")
    lexicon = Path(str(files("spoken_to_signed"))) / "assets" / "fingerspelling_lexicon"
    with (lexicon / "data.csv").open(encoding="utf-8") as table:
        rows = [r for r in csv.DictReader(table) if not languages or r["signed_language"] in languages.split(",")]
    made = [embedder.whole(lexicon / row["path"]) for row in rows]
    letters = [unicodedata.normalize("NFC", row["words"]).casefold() for row in rows]
    print(HEAD)
    for ranking in rankings(embedder, made, letters, [row["signed_language"] for row in rows]):
        print(ranking, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:3])
