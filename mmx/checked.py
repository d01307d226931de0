"""Whether a value that a person wrote, in TOML or Python, is what an annotation asks for; and how that is said."""

import math
import numbers
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

_WORDS: dict[Any, tuple[str, str]] = {
    str: ("a text", "texts"),
    bool: ("true or false", "true or false"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    Path: ("a path", "paths"),
    Any: ("anything", "values"),
}


def describe(annotation: Any, plural: bool = False) -> str:
    """What an annotation asks for: "a whole number", "a list of texts", "pieces or bytes"."""
    if annotation in _WORDS:
        return _WORDS[annotation][plural]
    kind, arguments = get_origin(annotation), get_args(annotation)
    if kind is Literal:
        *first, last = map(str, arguments)
        return f"{', '.join(first)} or {last}" if first else last
    if isinstance(kind, type) and issubclass(kind, Mapping):
        return "tables" if plural else f"a table of {describe(arguments[1], True)}"
    if isinstance(kind, type) and issubclass(kind, Sequence):
        return "lists" if plural else f"a list of {describe(arguments[0], True)}"
    return " or ".join(describe(a, plural) for a in arguments if a is not NoneType) or str(annotation)


def fits(value: Any, annotation: Any) -> bool:
    """Whether a value is of the annotated type. Numbers are finite; a whole number is a number, true and a text are
    none; a text is no list."""
    if annotation is Any:
        return True
    if annotation is float:
        return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    if annotation is int:
        return isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if isinstance(annotation, type) and not get_args(annotation):
        return isinstance(value, annotation)
    kind, arguments = get_origin(annotation), get_args(annotation)
    if kind is Literal:
        return any(value == a and type(value) is type(a) for a in arguments)
    if kind is tuple and ... not in arguments:
        right_size = isinstance(value, Sequence) and not isinstance(value, str) and len(value) == len(arguments)
        return right_size and all(map(fits, value, arguments))
    if isinstance(kind, type) and issubclass(kind, Mapping):
        return isinstance(value, Mapping) and all(
            isinstance(k, str) and fits(v, arguments[1]) for k, v in value.items()
        )
    if isinstance(kind, type) and issubclass(kind, Sequence):
        return isinstance(value, Sequence) and not isinstance(value, str) and all(fits(v, arguments[0]) for v in value)
    return any(fits(value, a) for a in arguments)
