"""Corpora that come in several forms on the disk: the command line of the recipes that make manifests of them."""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from mmx.errors import prints_errors

Row = TypeVar("Row")
Forms = Mapping[str, tuple[int, Callable[[Sequence[str]], Iterable[Row]]]]
"""By name: how many files a form has, and what reads them."""


@prints_errors
def make_manifest(
    forms: Forms[Row], write: Callable[[Iterable[Row], Path], Path], usage: str, arguments: Sequence[str] | None = None
) -> int:
    """`FORM OUT.tsv FILE...`; `arguments` are those of the process when None. Returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if len(given) < 2 or given[0] not in forms or len(given) - 2 != forms[given[0]][0]:
        print(usage, file=sys.stderr)
        return 2
    print(write(forms[given[0]][1](given[2:]), Path(given[1])))
    return 0
