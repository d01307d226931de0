"""Plain parallel text: tab-separated pairs (Tatoeba, Anki), or two files whose lines correspond (NTREX)."""

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

from mmx.datasets.parallel import Pair
from mmx.errors import InputError


def read_tab_pairs(path: Path, origin: str) -> Iterator[Pair]:
    """Read lines of source, tab, target; further columns (attribution) are ignored.

    Args:
        path: A text file in UTF-8, or a .zip with one .txt or .tsv of such lines beside its notes (`_about.txt`).
        origin: Name of the corpus.

    Yields:
        The pairs, as they stand.

    Raises:
        InputError: The archive has no such file, or a line has no tab; the message has its number.
    """
    for number, line in enumerate(_lines(path), 1):
        columns = line.rstrip("\r\n").split("\t")
        if len(columns) < 2:
            raise InputError(f"{path}:{number}: expected source and target with a tab between, got {line[:60]!r}.")
        yield Pair(columns[0], columns[1], origin)


def _lines(path: Path) -> Iterator[str]:
    """Yield the lines of a text file, or of the one text file in an archive."""
    if path.suffix != ".zip":
        with path.open(encoding="utf-8") as file:
            yield from file
        return
    with zipfile.ZipFile(path) as archive:
        names = [n for n in archive.namelist() if n.endswith((".txt", ".tsv")) and not Path(n).name.startswith("_")]
        if len(names) != 1:
            raise InputError(f"Expected one file of sentence pairs in {str(path)!r}, found {names}.")
        with archive.open(names[0]) as file:
            yield from io.TextIOWrapper(file, "utf-8")


def read_line_pairs(source: Path, target: Path, origin: str) -> Iterator[Pair]:
    """Read two text files in UTF-8 whose lines correspond.

    Args:
        source: The file of texts.
        target: The file of their translations.
        origin: Name of the corpus.

    Yields:
        The pairs, as they stand.

    Raises:
        InputError: The files differ in their number of lines.
    """
    left, right = (path.read_text("utf-8").splitlines() for path in (source, target))
    if len(left) != len(right):
        raise InputError(
            f"Expected as many lines in {str(target)!r} as in {str(source)!r} ({len(left)}), got {len(right)}."
        )
    for s, t in zip(left, right, strict=True):
        yield Pair(s, t, origin)
