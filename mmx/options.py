"""Options as fields of frozen dataclasses: the one place where an option's name, type, default, range and help stand.

    @dataclass(frozen=True, kw_only=True)
    class Search:
        beam_size: Annotated[int, Option("Hypotheses the search keeps.", least=1)] = 5

        def __post_init__(self) -> None:
            check(self)

The checks, the command line (`mmx.cli.flags`), the signatures of Python (`taking`) and the reference of recipes are
made of it.
"""

import dataclasses
import inspect
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, wraps
from pathlib import Path
from types import NoneType
from typing import Any, Concatenate, ParamSpec, TypeVar, get_args, get_origin, get_type_hints

from mmx.checked import describe, fits
from mmx.errors import InputError, nearest

P = ParamSpec("P")
First = TypeVar("First")
Second = TypeVar("Second")
Made = TypeVar("Made")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Option:
    """What is known of an option besides its name, its type and its default.

    Attributes:
        help: one line.
        least: smallest number, of a list or a table for each entry; `-math.inf` where that will do.
        most: largest number; `math.inf` where that will do.
        above: what a number is larger than.
        below: what a number is smaller than.
        sizes: how many entries a list may have; any number when empty.
        also: other programs' names for it, for a hint.
        flags: further flags of the command line ("--from"), beside the one of its name.
        env: environment variable that the command line reads it from.
        commas: whether several texts are one flag of the command line, with commas, as several numbers are.
        shell: whether it is a flag of the command line; else for Python only.
    """

    help: str
    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    sizes: tuple[int, ...] = ()
    also: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    env: str | None = None
    commas: bool = False
    shell: bool = True

    def range(self) -> str:
        """The numbers that are possible, in words; empty where all are."""
        low = f" from {self.least:g}" if self.least is not None and math.isfinite(self.least) else ""
        low = f" above {self.above:g}" if self.above is not None else low
        high = f" to {self.most:g}" if self.most is not None and self.most < 1e9 else ""
        high = f" to below {self.below:g}" if self.below is not None else high
        return f" of {self.least:g} or more" if low.startswith(" from") and not high else low + high

    def holds(self, number: float) -> bool:
        """Whether a number is possible."""
        return (
            (self.least is None or number >= self.least)
            and (self.most is None or number <= self.most)
            and (self.above is None or number > self.above)
            and (self.below is None or number < self.below)
        )


@cache
def options_of(kind: type) -> Mapping[str, Option]:
    """The options of a dataclass by name, in their order; fields without an `Option` are none."""
    hints = get_type_hints(kind, include_extras=True)
    found = {f.name: [a for a in get_args(hints[f.name]) if isinstance(a, Option)] for f in dataclasses.fields(kind)}
    return {name: first[0] for name, first in found.items() if first}


@cache
def _types(kind: type) -> Mapping[str, Any]:
    return get_type_hints(kind)


def type_of(kind: type, name: str) -> Any:
    """The annotated type of an option."""
    return _types(kind)[name]


def default_of(kind: type, name: str) -> Any:
    """The default of an option; `dataclasses.MISSING` where it has to be said."""
    found = kind.__dataclass_fields__[name]
    return found.default if found.default_factory is dataclasses.MISSING else found.default_factory()


def wanted(kind: type, name: str) -> str:
    """What an option may be, in words: "a number above 0"."""
    option = options_of(kind)[name]
    size = f", {' or '.join(map(str, option.sizes))} of them" if option.sizes else ""
    return f"{describe(type_of(kind, name))}{option.range()}{size}"


def given(options: Any) -> list[str]:
    """The names of the options that are given, other than by default."""
    kind = type(options)
    return [n for n in options_of(kind) if _plain(getattr(options, n)) != _plain(default_of(kind, n))]


def check(options: Any) -> None:
    """Bring values that mean the same to their types (a text to a path, a list or one number to a tuple), and check.

    For the end of `__init__`: the dataclass is frozen, and no one has seen it yet.

    Raises:
        InputError: naming every option whose value cannot be.
    """
    for name in options_of(type(options)):
        object.__setattr__(options, name, settled(type(options), name, getattr(options, name)))
    if found := flaws(options):
        raise InputError("; ".join(found))


def flaws(options: Any) -> list[str]:
    """What is said of each value that cannot be."""
    kind = type(options)
    return [flaw for name in options_of(kind) for flaw in flaws_of(kind, name, getattr(options, name))]


def taking(
    kind: Callable[P, Made], act: Callable[[First, Second, Made], Result]
) -> Callable[Concatenate[First, Second, P], Result]:
    """`act` with the options of a dataclass as keywords of its own, for readers and for type checkers alike."""

    @wraps(act)
    def called(first: First, second: Second, /, *args: P.args, **options: P.kwargs) -> Result:
        return act(first, second, kind(*args, **options))

    own = list(inspect.signature(act).parameters.values())[:2]
    called.__signature__ = inspect.Signature([*own, *inspect.signature(kind).parameters.values()])  # type: ignore[attr-defined]
    return called


def settled(kind: type, name: str, value: Any) -> Any:
    """The value of an option as its type has it, where it means the same; see `check`."""
    annotation = type_of(kind, name)
    kinds = [k for k in (get_args(annotation) or (annotation,)) if k is not NoneType]
    if kinds == [str] and isinstance(value, os.PathLike):
        return os.fspath(value)
    if kinds == [Path] and isinstance(value, str):
        return Path(value)
    if get_origin(annotation) is tuple and ... in kinds:
        if isinstance(value, list):
            return tuple(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return (value,)
    return value


def flaws_of(kind: type, name: str, value: Any, called: str = "") -> list[str]:
    """What is said of the value of one option if it cannot be, by the name that it is `called` by (its own)."""
    option, annotation, called = options_of(kind)[name], type_of(kind, name), called or name
    if isinstance(value, float) and math.isinf(value) and value in (option.least, option.most):
        return []
    entries = list(value.values()) if isinstance(value, Mapping) else value
    entries = entries if isinstance(entries, list | tuple) else [entries]
    numbers = [n for n in entries if isinstance(n, int | float)]
    right_size = not option.sizes or len(entries) in option.sizes
    if fits(value, annotation) and right_size and all(map(option.holds, numbers)):
        return []
    hint = _hint(value, annotation, called)
    return [f"expected {called} = {wanted(kind, name)}, got {value!r}{hint} ({called}: {option.help.rstrip('.')})"]


def _hint(value: Any, annotation: Any, called: str) -> str:
    """How a list of texts is written, or which of the choices may be meant."""
    if isinstance(value, str) and describe(annotation).startswith("a list of texts"):
        return f': write {called} = ["{value}"]'
    texts = [value] if isinstance(value, str) else value if isinstance(value, list | tuple) else []
    arguments = get_args(annotation) if isinstance(value, str) else get_args((*get_args(annotation), None)[0])
    choices = [a for a in arguments if isinstance(a, str)]
    wrong = next((t for t in texts if isinstance(t, str) and t not in choices), None) if choices else None
    return "" if wrong is None else nearest(wrong, choices).replace(" Did", ". Did")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
