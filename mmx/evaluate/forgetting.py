"""What a model forgot: its directions before and after it learned something else.

A model that goes on with a new language loses the old ones unless their data are replayed. `report` shows by how much,
direction by direction.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from mmx import api
from mmx.errors import InputError
from mmx.evaluate.metrics import measure
from mmx.model import Model
from mmx.tasks.translate import translate_text
from mmx.text.translation_tokenizer import TranslationTokenizer
from mmx.train.data import Data
from mmx.train.manifest import Example, read_manifest
from mmx.train.objectives.token import token_losses
from mmx.train.sampling import Sampler


@dataclass(frozen=True)
class Score:
    """How well a model does in one direction.

    Attributes:
        loss: nats for a character of the target, which models with different tokenizers can be compared by.
        chrf: character n-gram F-score (Popović 2015) of what it writes, 0 to 100.
    """

    loss: float
    chrf: float


@dataclass(frozen=True)
class Change:
    """One direction before and after; None where the model does not have its languages.

    Attributes:
        direction: as the manifest spells its languages ("en-es").
        before: of the model before.
        after: of the model after.
    """

    direction: str
    before: Score | None
    after: Score | None

    @property
    def rise(self) -> float:
        """By which share of itself the loss rose, below zero where it fell; not a number for a new direction."""
        return self.after.loss / self.before.loss - 1 if self.before and self.after else math.nan


@dataclass(frozen=True)
class Report:
    """The changes of all directions of a manifest; as text, a table."""

    changes: tuple[Change, ...]

    @property
    def worst(self) -> float:
        """The largest `rise` of a direction that was there before; not a number where none was."""
        return max((c.rise for c in self.changes if not math.isnan(c.rise)), default=math.nan)

    def __str__(self) -> str:
        head = f"{'direction':<14} {'loss':>8} {'after':>8} {'rise':>8} {'chrF':>7} {'after':>7} {'change':>7}"
        return "\n".join([head, *map(_line, self.changes)])


def _line(change: Change) -> str:
    before, after = change.before, change.after
    cells = [
        f"{s.loss:8.4f}" if s else f"{'-':>8}" for s in (before, after)
    ] + [f"{change.rise:+8.1%}" if before and after else f"{'-':>8}"]  # fmt: skip
    cells += [f"{s.chrf:7.1f}" if s else f"{'-':>7}" for s in (before, after)]
    cells.append(f"{after.chrf - before.chrf:+7.1f}" if before and after else f"{'-':>7}")
    return f"{change.direction:<14} " + " ".join(cells)


def report(model_before: Model | str | Path, model_after: Model | str | Path, manifest: str | Path) -> Report:
    """Compare two models on the same examples.

    Args:
        model_before: that translates text, or its name or path.
        model_after: the same later; it may have more languages.
        manifest: held-out examples of all directions; see `mmx.train.manifest`.

    Raises:
        InputError: the manifest has mistakes, or a model does not translate text.
    """
    examples = read_manifest(manifest)
    before, after = (score(_loaded(m), examples) for m in (model_before, model_after))
    directions = dict.fromkeys(map(direction, examples))
    return Report(tuple(Change(d, before.get(d), after.get(d)) for d in directions))


def direction(example: Example) -> str:
    """How the direction of an example is called."""
    return f"{example.src_lang}-{example.tgt_lang}"


def score(model: Model, examples: Sequence[Example], batch_tokens: int = 4096) -> dict[str, Score]:
    """Loss and chrF by direction; directions whose languages the model does not have are left out.

    Args:
        model: that translates text.
        examples: of any directions.
        batch_tokens: of a batch, both sides and padding included.

    Raises:
        InputError: the model does not translate text, or sacrebleu is not installed.
    """
    if "text" not in model.encoders or not isinstance(model.tokenizer, TranslationTokenizer):
        raise InputError(f"expected a model that translates text, got {model.name}")
    groups: dict[str, list[Example]] = {}
    for example in examples:
        groups.setdefault(direction(example), []).append(example)
    known = {name: rows for name, rows in groups.items() if _has(model.tokenizer, (rows[0].src_lang, rows[0].tgt_lang))}
    return {name: Score(loss(model, rows, batch_tokens), chrf(model, rows)) for name, rows in known.items()}


@torch.no_grad()
def loss(model: Model, examples: Sequence[Example], batch_tokens: int = 4096) -> float:
    """Nats for a character of the targets, without smoothing or dropout."""
    data = Data(examples, model, max_tokens=min(model.require_decoder().ctx, batch_tokens // 2))
    model.eval()
    device = model.require_decoder().device
    batches = Sampler(data.lengths, data.groups, batch_tokens).epoch(0)
    nll = sum(float(token_losses(model, data.batch(rows).to(device)).nll.sum()) for rows in batches)
    return nll / sum(len(e.target) for e in data.examples)


def chrf(model: Model, examples: Sequence[Example]) -> float:
    """chrF of the greedy translations of one direction, 0 to 100."""
    first = examples[0]
    found = translate_text(
        model, [e.source for e in examples], src=first.src_lang, to=first.tgt_lang, beam_size=1, batch_size=64
    )
    return measure("chrf", [t.text for t in found], [e.target for e in examples], bootstrap=0).value


def _has(tokenizer: TranslationTokenizer, codes: Iterable[str]) -> bool:
    try:
        for code in codes:
            tokenizer.language(code)
    except InputError:
        return False
    return True


def _loaded(model: Model | str | Path) -> Model:
    return model if isinstance(model, Model) else api.load(model, dtype="float32")
