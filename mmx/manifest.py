"""Manifests: what is trained on, one example a line; checked as a whole before hours are spent on it.

A manifest is a table with a header (`.tsv`, fields as they stand, without quoting) or one JSON object a line
(`.jsonl`). Its fields are those of `Example`; others are ignored.
"""

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmx import languages
from mmx.errors import InputError

REQUIRED = ("source", "target", "src_lang", "tgt_lang")
OPTIONAL = ("id", "origin", "task")
_SHOWN = 20


@dataclass(frozen=True)
class Example:
    """A text and its translation.

    Attributes:
        source: the text.
        target: its translation.
        src_lang: language of the source, as `mmx.languages.find_language` takes it.
        tgt_lang: language of the target.
        id: for messages.
        origin: the corpus, for sampling.
        task: what the example teaches, for balancing the loss.
    """

    source: str
    target: str
    src_lang: str
    tgt_lang: str
    id: str = ""
    origin: str = ""
    task: str = "translate"


def read_manifest(path: str | Path, spellings: Collection[str] | None = None) -> list[Example]:
    """Read and check a manifest.

    Args:
        path: a `.tsv` or `.jsonl` file in UTF-8.
        spellings: the languages that the model has; not checked when None.

    Raises:
        InputError: naming all that is wrong by line (the first twenty), as `check_manifest` lists it.
    """
    path = Path(path)
    examples, problems = _read(path, spellings)
    if problems:
        more = f"\n... and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise InputError(
            f"expected a manifest without mistakes, got {len(problems)} in {path}; mend or remove these lines:\n"
            + "\n".join(problems[:_SHOWN])
            + more
        )
    return examples


def check_manifest(path: str | Path, spellings: Collection[str] | None = None) -> list[str]:
    """What is wrong with a manifest, each with its line number; empty when nothing is. Arguments as above."""
    return _read(Path(path), spellings)[1]


def _read(path: Path, spellings: Collection[str] | None) -> tuple[list[Example], list[str]]:
    kinds: dict[str, Callable[[Path, list[str]], Iterator[tuple[int, Mapping[str, Any]]]]] = {
        ".tsv": _tsv_rows,
        ".jsonl": _jsonl_rows,
    }
    if path.suffix not in kinds:
        raise InputError(f"expected a manifest that ends in {' or '.join(kinds)}, got {str(path)!r}")
    examples: list[Example] = []
    problems: list[str] = []
    verdicts: dict[str, str] = {}
    try:
        for number, row in kinds[path.suffix](path, problems):
            found = _flaws(row, spellings, verdicts)
            problems += [f"line {number}: {flaw}" for flaw in found]
            if not found:
                examples.append(Example(**{k: row[k] for k in (*REQUIRED, *OPTIONAL) if row.get(k)}))
    except OSError as e:
        raise InputError(f"expected a manifest at {path}, got {e.strerror or e}") from e
    if not examples and not problems:
        problems.append("line 1: expected examples, got none")
    return examples, problems


def _flaws(row: Mapping[str, Any], spellings: Collection[str] | None, verdicts: dict[str, str]) -> list[str]:
    """What is wrong with one row; `verdicts` remembers those on languages, which are few and slow to find."""
    missing = [name for name in REQUIRED if name not in row]
    if missing:
        return [f"expected the fields {', '.join(REQUIRED)}, got none called {', '.join(missing)}"]
    bad = [k for k in (*REQUIRED, *OPTIONAL) if not isinstance(row.get(k, ""), str)]
    if bad:
        return [f"expected text in {', '.join(bad)}, got something else"]
    flaws = [f"expected a {name}, got an empty text" for name in ("source", "target") if not row[name].strip()]
    for name in ("src_lang", "tgt_lang"):
        verdict = verdicts.setdefault(row[name], _language_flaw(row[name], spellings))
        if verdict:
            flaws.append(f"{name}: {verdict}")
    return flaws


def _language_flaw(text: str, spellings: Collection[str] | None) -> str:
    try:
        if spellings is None:
            languages.find_language(text)
        else:
            languages.choose(text, spellings)
    except InputError as e:
        return str(e)
    return ""


def _lines(path: Path, problems: list[str]) -> Iterator[tuple[int, str]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as e:
                problems.append(f"line {number}: expected UTF-8, got byte {e.object[e.start]:#04x}")


def _tsv_rows(path: Path, problems: list[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    header: list[str] = []
    for number, line in _lines(path, problems):
        fields = line.split("\t")
        if number == 1:
            header = fields
            missing = [name for name in REQUIRED if name not in header]
            if missing:
                problems.append(f"line 1: expected the columns {', '.join(REQUIRED)}, got none called {missing}")
                return
        elif len(fields) != len(header):
            problems.append(f"line {number}: expected {len(header)} fields between tabs, got {len(fields)}")
        else:
            yield number, dict(zip(header, fields, strict=True))


def _jsonl_rows(path: Path, problems: list[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in _lines(path, problems):
        try:
            row = json.loads(line)
        except ValueError as e:
            problems.append(f"line {number}: expected a JSON object, got something else ({e})")
            continue
        if isinstance(row, dict):
            yield number, row
        else:
            problems.append(f"line {number}: expected a JSON object, got {type(row).__name__}")
