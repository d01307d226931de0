"""Checkpoint conversion as a table: every source key matches exactly one rule, every target key is produced.

A family lists its rules per format (`KEYS` in `models/<family>.py`); this file only applies them.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmx.errors import CheckpointError

ZERO = "<zero>"
"""In a list of targets: a part that has no place in our model and must be all zeros in the source."""


@dataclass(frozen=True)
class Rule:
    """One line of a conversion table.

    Attributes:
        pattern: regular expression that must match a source key whole.
        target: template of our key (`\\1` refers to a group); a list splits the tensor evenly along its first
            dimension; None drops it.
        reason: why it is dropped; required with `target=None`.
        tied: the source may hold the tensor under several names that this pattern matches. One of them suffices,
            and all that there are must be equal.
    """

    pattern: str
    target: str | Sequence[str] | None
    reason: str = ""
    tied: bool = False

    def __post_init__(self) -> None:
        if self.target is None and not self.reason:
            raise ValueError(f"expected a reason for dropping {self.pattern!r}, got none")


def plan(keys: Iterable[str], rules: Sequence[Rule]) -> dict[str, list[str] | None]:
    """Source key to our keys (several for a fused tensor), None for a dropped one.

    Raises `CheckpointError` naming every source key that no rule or more than one rule matches.
    """
    compiled = [(re.compile(r.pattern), r) for r in rules]
    out: dict[str, list[str] | None] = {}
    unknown, ambiguous = [], []
    for key in keys:
        hits = [(m, r) for rx, r in compiled if (m := rx.fullmatch(key))]
        if len(hits) != 1:
            (ambiguous if hits else unknown).append(key)
            continue
        match, rule = hits[0]
        if rule.target is None:
            out[key] = None
        else:
            targets = [rule.target] if isinstance(rule.target, str) else rule.target
            out[key] = [t if t == ZERO else match.expand(t) for t in targets]
    if unknown or ambiguous:
        raise CheckpointError(
            "expected every checkpoint key to match exactly one conversion rule; "
            + _listing("matched by none", unknown)
            + _listing("matched by several", ambiguous)
            + "Is this a checkpoint of another family or version?"
        )
    return out


def convert(
    source: Mapping[str, Tensor], rules: Sequence[Rule], expected: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[str, Tensor]]:
    """Our tensors, one at a time, so that the peak memory is one tensor above the source's.

    Args:
        source: published key to tensor; may be lazy.
        rules: the family's table for this format.
        expected: our key to shape, as the built model has them.

    Raises:
        CheckpointError: naming all missing, extra and misshapen tensors.
    """
    todo = _without_copies(plan(source, rules), source, rules)
    produced = [t for targets in todo.values() if targets for t in targets if t != ZERO]
    missing = sorted(expected.keys() - set(produced))
    extra = sorted(set(produced) - expected.keys())
    twice = sorted(k for k, n in Counter(produced).items() if n > 1)
    if missing or extra or twice:
        raise CheckpointError(
            "expected the checkpoint to hold exactly the model's tensors; "
            + _listing("missing", missing)
            + _listing("extra", extra)
            + _listing("given twice", twice)
            + "Do the card's config numbers belong to this checkpoint?"
        )
    wrong: list[str] = []
    for key, targets in todo.items():
        if targets is None:
            continue
        tensor = source[key]
        if len(targets) > 1 and (not tensor.dim() or len(tensor) % len(targets)):
            wrong.append(f"{key} expected {len(targets)} equal parts, got {tuple(tensor.shape)}")
            continue
        parts = tensor.chunk(len(targets)) if len(targets) > 1 else (tensor,)
        for target, part in zip(targets, parts, strict=True):
            if target == ZERO:
                if part.count_nonzero():
                    raise CheckpointError(f"expected zeros in the unused part of {key!r}, got others: not this family")
            elif tuple(part.shape) != expected[target]:
                wrong.append(f"{target} expected {expected[target]}, got {tuple(part.shape)}")
            elif not wrong:
                yield target, part
    if wrong:
        raise CheckpointError(_listing("misshapen tensors", wrong) + "Do the config numbers belong to this checkpoint?")


def _without_copies(
    todo: Mapping[str, list[str] | None], source: Mapping[str, Tensor], rules: Sequence[Rule]
) -> dict[str, list[str] | None]:
    """Of the names of each tied tensor only the first; raises `CheckpointError` when they are not equal."""
    tied = [re.compile(r.pattern) for r in rules if r.tied]
    first: dict[tuple[str, ...], str] = {}
    out, unequal = dict(todo), []
    for key, targets in todo.items():
        if not targets or not any(rx.fullmatch(key) for rx in tied):
            continue
        original = first.setdefault(tuple(targets), key)
        if original != key:
            del out[key]
            if not torch.equal(source[original], source[key]):
                unequal.append(f"{original} and {key}")
    if unequal:
        raise CheckpointError(
            _listing("expected names of one tensor, got different ones", unequal)
            + "A checkpoint whose tied weights were trained apart is not supported"
        )
    return out


def _listing(title: str, items: Sequence[str], limit: int = 12) -> str:
    if not items:
        return ""
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return f"{title} ({len(items)}): {', '.join(items[:limit])}{more}. "
