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


def plan_misses(keys: Iterable[str], rules: Sequence[Rule]) -> int:
    """How many keys no rule matches."""
    compiled = [re.compile(r.pattern) for r in rules]
    return sum(not any(rx.fullmatch(key) for rx in compiled) for key in keys)


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


# -------------------- the table backwards


def inverted(keys: Iterable[str], rules: Sequence[Rule]) -> dict[str, str]:
    """Our keys to published ones: of the names that a rule knows for a tensor, the first.

    Rules that drop or split a tensor have no inverse: what they drop is not written.

    Raises:
        CheckpointError: naming every key of ours that not exactly one rule gives.
    """
    backward = [(_template_regex(r.target), r) for r in rules if isinstance(r.target, str)]
    out: dict[str, str] = {}
    bad = []
    for key in keys:
        named = [(_fill(rule.pattern, m.groupdict()), rule) for rx, rule in backward if (m := rx.fullmatch(key))]
        names = [
            name
            for name, rule in named
            if (m := re.fullmatch(rule.pattern, name)) and m.expand(str(rule.target)) == key
        ]
        if len(names) == 1:
            out[key] = names[0]
        else:
            bad.append(key)
    if bad:
        raise CheckpointError("expected one published name for each tensor; " + _listing("none or several for", bad))
    return out


def _template_regex(template: str) -> re.Pattern[str]:
    """What a target template can give, with its groups by number."""
    seen: set[str] = set()
    parts = []
    for part in re.split(r"(\\\d)", template):
        if not re.fullmatch(r"\\\d", part):
            parts.append(re.escape(part))
        elif part in seen:
            parts.append(f"(?P=g{part[1]})")
        else:
            seen.add(part)
            parts.append(f"(?P<g{part[1]}>.*)")
    return re.compile("".join(parts))


def _fill(pattern: str, groups: Mapping[str, str]) -> str:
    """A text that the pattern matches: groups as given, the first of alternatives, nothing for what may be absent.

    Patterns of the tables hold literals, groups and alternatives; no sets or repetitions outside of a group.
    """
    out, at, number = "", 0, 0
    while at < len(pattern):
        if pattern[at] == "\\":
            out, at = out + pattern[at + 1], at + 2
        elif pattern[at] != "(":
            out, at = out + pattern[at], at + 1
        else:
            end, first = _group(pattern, at)
            captures = not pattern.startswith("(?:", at)
            number += captures
            optional = pattern[end : end + 1] == "?"
            if captures:
                out += groups[f"g{number}"]
            elif not optional:
                out += _fill(first, {})
            at = end + optional
    return out


def _group(pattern: str, start: int) -> tuple[int, str]:
    """Where the group that opens at `start` ends, and its first alternative."""
    depth, bar, at = 0, None, start
    while True:
        if pattern[at] == "\\":
            at += 1
        elif pattern[at] == "|" and depth == 1 and bar is None:
            bar = at
        depth += {"(": 1, ")": -1}.get(pattern[at], 0) if pattern[at - 1] != "\\" else 0
        at += 1
        if depth == 0:
            return at, pattern[start + 3 : bar or at - 1]


# -------------------- numbers from shapes


def found(shapes: Mapping[str, tuple[int, ...]], pattern: str) -> tuple[int, ...] | None:
    """The shape of the first tensor whose whole key the pattern matches, if any."""
    return next((shape for key, shape in shapes.items() if re.fullmatch(pattern, key)), None)


def needed(shapes: Mapping[str, tuple[int, ...]], pattern: str) -> tuple[int, ...]:
    """As `found`; raises `KeyError` when there is none."""
    shape = found(shapes, pattern)
    if shape is None:
        raise KeyError(re.sub(r"\(\?:[^)]*\)\??|\\", "", pattern))
    return shape


def count(shapes: Iterable[str], pattern: str) -> int:
    """One more than the largest number that the pattern's group finds among the keys; 0 when it finds none."""
    return 1 + max((int(m[1]) for key in shapes if (m := re.fullmatch(pattern, key))), default=-1)


# -------------------- details


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
