"""Directions that were never trained, reached by the target token (Johnson et al. 2017, arXiv 1611.04558).

English, French, Spanish and Italian numbers. One model learns all directions but those between Italian and French and
between Italian and Spanish; the control learns those from and into English only. Both then translate between Italian
and French or Spanish. The measure is chrF against copying the source, and how often the output is in the language that
the token asks for. To translate exactly is more than models of this size can be asked for.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import mmx
from mmx.evaluate.metrics import measure
from mmx.experiments import numbers
from mmx.experiments.numbers import USUAL, Direction, LanguageGuess, Size
from mmx.model import Model
from mmx.tasks.translate import translate_text
from mmx.train.loop import train
from mmx.train.manifest import Example

LANGUAGES = ("en", "fr", "es", "it")
UNSEEN: Sequence[Direction] = (("it", "fr"), ("fr", "it"), ("it", "es"), ("es", "it"))
ENGLISH: Sequence[Direction] = [pair for pair in numbers.directions(LANGUAGES) if "en" in pair]


def run(seed: int, folder: Path, size: Size = USUAL) -> dict[str, float]:
    """chrF of the unseen directions, and the share of their outputs in the right language."""
    learned, valid, test = numbers.split(size, seed)
    many = numbers.directions(LANGUAGES, without=UNSEEN)
    texts = ((e.tgt_lang, e.target) for e in numbers.examples(learned, ENGLISH))
    guess = LanguageGuess([*texts, *((e.src_lang, e.source) for e in numbers.examples(learned, [("en", "fr")]))])
    unseen = [numbers.examples(test, [pair]) for pair in UNSEEN]
    out = {"copy chrF": mean(_chrf([e.source for e in rows], [e.target for e in rows]) for rows in unseen)}
    for name, pairs in (("many", many), ("English only", ENGLISH)):
        options = numbers.options(
            folder / name.replace(" ", "-"), numbers.examples(learned, pairs), numbers.examples(valid[:20], pairs),
            seed=seed, updates=size.updates,
        )  # fmt: skip
        model = mmx.load(train(options), dtype="float32")
        written = [_written(model, rows) for rows in unseen]
        found = [(_chrf(w, [e.target for e in rows]), w, rows) for w, rows in zip(written, unseen, strict=True)]
        out[f"{name}: chrF"] = mean(score for score, _, _ in found)
        right = [guess(text) == e.tgt_lang for _, w, rows in found for text, e in zip(w, rows, strict=True)]
        out[f"{name}: right language"] = mean(right)
        seen = numbers.examples(test, [("en", "it")])
        out[f"{name}: en-it chrF"] = _chrf(_written(model, seen), [e.target for e in seen])
    return out


def _chrf(texts: Sequence[str], references: Sequence[str]) -> float:
    return measure("chrf", texts, references, bootstrap=0).value


def _written(model: Model, rows: Sequence[Example]) -> list[str]:
    """What a model writes for the examples of one direction."""
    src, to = rows[0].src_lang, rows[0].tgt_lang
    found = translate_text(model, [e.source for e in rows], src=src, to=to, beam_size=1, batch_size=64)
    return [t.text for t in found]


def main() -> None:
    """Print the table."""
    told = numbers.arguments(__doc__)
    with tempfile.TemporaryDirectory(prefix="mmx-") as spare:
        out = told.out or Path(spare)
        print(numbers.table([run(seed, out / str(seed)) for seed in range(told.seeds)], digits=2))


if __name__ == "__main__":
    main()
