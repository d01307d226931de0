"""Errors that a person can act on: each message says what was expected, what was found, and the remedy."""

import sys
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

P = ParamSpec("P")


class MmxError(Exception):
    """Base of all errors that mmx raises on purpose. The command line prints it without a traceback."""

    exit_code = 1


class InputError(MmxError):
    """An argument or option that cannot be used (unknown language, bad format name)."""

    exit_code = 2


class MediaError(MmxError):
    """A file or stream that cannot be read as audio or video."""


class ModelNotFoundError(MmxError):
    """No source has the weights that a card asks for."""


class CheckpointError(MmxError):
    """A checkpoint whose content does not match its card (missing, extra or misshapen tensors, damage)."""


class OutputError(MmxError):
    """A result that cannot be written (no permission, disk full)."""


class TrainingError(MmxError):
    """A training that cannot go on (a loss that is no number, a batch that memory does not hold)."""


class MmxWarning(UserWarning):
    """Something that works but that the user should know, such as a non-commercial licence."""


def prints_errors(main: Callable[P, int]) -> Callable[P, int]:
    """Have a program print an `MmxError` without a traceback and return its exit code."""

    @wraps(main)
    def run(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            return main(*args, **kwargs)
        except MmxError as e:
            print(e, file=sys.stderr)
            return e.exit_code

    return run


def nearest(word: str, choices: "list[str] | tuple[str, ...]") -> str:
    """Return `` Did you mean X?`` for the closest choice, or an empty string when nothing is close."""
    import difflib

    match = difflib.get_close_matches(word.lower(), [c.lower() for c in choices], n=1, cutoff=0.5)
    if not match:
        return ""
    return f" Did you mean {next(c for c in choices if c.lower() == match[0])!r}?"
