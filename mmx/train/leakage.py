"""What training data share with data that a model will be judged by."""

import math
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from mmx.train.manifest import Example, manifest_rows

Span = tuple[float, float, str]
"""Start, end, and where it is said."""


def leaks(
    examples: Sequence[tuple[int, Example]], held_out: Sequence[str | Path], language: str = ""
) -> Iterator[tuple[int, str]]:
    """Rows whose text, or whose part of a recording, a held-out manifest has too.

    Texts are compared without case, punctuation and spaces: a model may know such a sentence by heart.

    Args:
        examples: of the training, with the numbers of their rows.
        held_out: manifests of what it is judged by.
        language: what is spoken in rows that do not say it.
    """
    texts: dict[tuple[str, str], str] = {}
    spans: dict[str, list[Span]] = defaultdict(list)
    for path in map(Path, held_out):
        for row in manifest_rows(path, None, language):
            if row.example is None:
                continue
            where = f"{path}, {row.where}"
            texts.setdefault((row.example.tgt_lang, _plain(row.example.target)), where)
            for file in row.example.media.values():
                spans[str(Path(file).absolute())].append((*_span(row.example), where))
    for i, example in examples:
        where = texts.get((example.tgt_lang, _plain(example.target))) if example.target else None
        if where:
            yield i, f"expected a text that is not held out, got {example.target[:60]!r}, as in {where}"
        start_s, end_s = _span(example)
        for file in example.media.values():
            overlap = (w for s, e, w in spans.get(str(Path(file).absolute()), ()) if s < end_s and start_s < e)
            if where := next(overlap, None):
                yield i, f"{file}: expected a recording that is not held out, got one of {where}"


def _span(example: Example) -> tuple[float, float]:
    return example.start_s, math.inf if example.duration_s is None else example.start_s + example.duration_s


def _plain(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKC", text).casefold() if c.isalnum())
