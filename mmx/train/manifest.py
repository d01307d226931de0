"""Manifests: what is trained on, one example a line; checked as a whole before hours are spent on it.

A manifest is a table with a header (`.tsv`, fields as they stand, without quoting; or `.csv`, as spreadsheets write
it, with commas or semicolons) or one JSON object a line (`.jsonl`). Its fields are those of `Example`, with a column
for each medium; others are ignored. A row with a recording (`audio`, `video`, `pose`, `features`; several are on one
clock) has its text under `target` or `text`, and its `tgt_lang` is its `src_lang` where it has none. What is to be made
stands under `target_audio` and the like. A folder is a manifest too, of recordings that have a `.txt` of the same name
beside them.
"""

import csv
import hashlib
import io
import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from mmx.errors import InputError
from mmx.media.source import recordings
from mmx.model import Model
from mmx.text import languages

REQUIRED = ("source", "target", "src_lang", "tgt_lang")
SPOKEN = ("audio", "target", "src_lang")
MEDIA = ("audio", "video", "pose", "features")
"""Columns of recordings; with "target_" before it, each is one of what is to be made."""
TARGETS = tuple(f"target_{medium}" for medium in MEDIA)
OPTIONAL = ("id", "origin", "task")
SECONDS = ("start_s", "duration_s")
TASKS = ("transcribe", "translate")
MIN_S = 0.05
"""Speech shorter than this is none."""
_SHOWN = 20


@dataclass(frozen=True)
class Example:
    """A text and its translation, or a recording and its text.

    Attributes:
        source: the text; of a recording, what is said in it, where that is known.
        target: its translation, or what is to be written of the recording; empty where nothing is.
        src_lang: language of the source, as `mmx.text.languages.find_language` takes it.
        tgt_lang: language of the target.
        id: for messages.
        origin: the corpus, for sampling.
        task: what the example teaches, for balancing the loss; of a recording, transcribe or translate.
        media: paths of what is read, by medium, all on one clock; in a manifest, relative to it. Empty for text.
        start_s: where in the recordings the example begins.
        duration_s: how long it is; to the end of the recordings when None.
        makes: paths of what is to be made, by medium.
    """

    source: str
    target: str
    src_lang: str
    tgt_lang: str
    id: str = ""
    origin: str = ""
    task: str = "translate"
    media: Mapping[str, str] = field(default_factory=dict)
    start_s: float = 0.0
    duration_s: float | None = None
    makes: Mapping[str, str] = field(default_factory=dict)

    @property
    def audio(self) -> str:
        """The path of its sound; empty without."""
        return self.media.get("audio", "")

    @property
    def paths(self) -> tuple[str, ...]:
        """Of all files that it names."""
        return (*self.media.values(), *self.makes.values())


def kind_of(example: Example) -> str:
    """What an example is of, in a word; those of several kinds are not trained on together."""
    media = sorted(example.media)
    return "text" if not media else "speech" if media == ["audio"] else " and ".join(media)


class Row(NamedTuple):
    """A row of a manifest: where it is, its example where it is sound, and what is wrong with it."""

    where: str
    example: Example | None
    flaws: tuple[str, ...] = ()


def read_manifest(path: str | Path, spellings: Collection[str] | None = None, language: str = "") -> list[Example]:
    """Read and check a manifest.

    Args:
        path: a `.tsv`, `.csv` or `.jsonl` file in UTF-8, or a folder.
        spellings: the languages that the model has; not checked when None.
        language: what is spoken in rows that do not say it, as those of a folder.

    Raises:
        InputError: naming all that is wrong by line (the first twenty), as `check_manifest` lists it.
    """
    path = Path(path)
    examples, problems = _read(path, spellings, language)
    if problems:
        more = f"\n... and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise InputError(
            f"expected a manifest without mistakes, got {len(problems)} in {path}; mend or remove these lines:\n"
            + "\n".join(problems[:_SHOWN])
            + more
        )
    return examples


def require_recordings(examples: Iterable[Example], path: str | Path) -> None:
    """Raise `InputError` naming the recordings of a manifest that are not there (the first five)."""
    gone = [p for p in dict.fromkeys(p for e in examples for p in e.paths) if not Path(p).exists()]
    if gone:
        more = f" and {len(gone) - 5} more" if len(gone) > 5 else ""
        raise InputError(
            f"expected the recordings that {path} names, got none at {', '.join(gone[:5])}{more}: correct the names, "
            "which are relative to the manifest, or remove the rows"
        )


def check_manifest(path: str | Path, spellings: Collection[str] | None = None, language: str = "") -> list[str]:
    """What is wrong with a manifest, each with its line number; empty when nothing is. Arguments as above."""
    return _read(Path(path), spellings, language)[1]


def digest_manifest(path: str | Path) -> str:
    """SHA-256, in hexadecimal, of a manifest's file; of a folder's names, sizes and texts. Recordings are not read."""
    path, found = Path(path), hashlib.sha256()
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    for audio in recordings(path):
        found.update(f"{audio.relative_to(path).as_posix()}\t{audio.stat().st_size}\n".encode())
        text = audio.with_suffix(".txt")
        found.update(text.read_bytes() if text.is_file() else b"")
    return found.hexdigest()


def _read(path: Path, spellings: Collection[str] | None, language: str) -> tuple[list[Example], list[str]]:
    rows = list(manifest_rows(path, spellings, language))
    problems = [f"{row.where}: {flaw}" for row in rows for flaw in row.flaws]
    examples = [row.example for row in rows if row.example is not None]
    if not rows:
        problems.append("line 1: expected examples, got none")
    return examples, problems


def languages_of(model: Model) -> Collection[str] | None:
    """The languages that a manifest may name for a model; None where its tokens name none, or it has no tokenizer."""
    return None if model.tokenizer is None else model.tokenizer.language_ids or None


def manifest_rows(path: Path, spellings: Collection[str] | None = None, language: str = "") -> Iterator[Row]:
    """The rows of a manifest with their mistakes, in order; arguments as of `read_manifest`.

    Raises:
        InputError: there is no such manifest, or it has another ending.
    """
    kinds: dict[str, Callable[[Path], Iterator[tuple[str, Mapping[str, Any] | str]]]] = {
        ".tsv": _tsv_rows,
        ".csv": _csv_rows,
        ".jsonl": _jsonl_rows,
    }
    if path.suffix not in kinds and not path.is_dir():
        raise InputError(f"expected a folder, or a manifest that ends in .tsv, .csv or .jsonl, got {str(path)!r}")
    verdicts: dict[str, str] = {}
    try:
        for where, row in (_folder_rows if path.is_dir() else kinds[path.suffix])(path):
            yield _checked(where, row, path if path.is_dir() else path.parent, spellings, language, verdicts)
    except OSError as e:
        where = "" if path.is_absolute() else f", from the folder {Path.cwd()}"
        raise InputError(f"expected a manifest at {path}{where}, got {e.strerror or e}") from e


def _checked(
    where: str,
    row: Mapping[str, Any] | str,
    folder: Path,
    spellings: Collection[str] | None,
    language: str,
    verdicts: dict[str, str],
) -> Row:
    if isinstance(row, str):
        return Row(where, None, (row,))
    fields = _whole(row, language)
    flaws = _flaws(fields, spellings, verdicts)
    if flaws:
        return Row(where, None, tuple(flaws))
    texts = {"source": "", "target": "", **{k: fields[k] for k in (*REQUIRED, *OPTIONAL) if fields.get(k)}}
    makes = {k.removeprefix("target_"): str(folder / fields[k]) for k in TARGETS if fields.get(k)}
    if not is_recorded(fields):
        return Row(where, Example(**texts, makes=makes))
    numbers: dict[str, Any] = {k: float(fields[k]) for k in SECONDS if fields.get(k) not in (None, "")}
    media = {k: str(folder / fields[k]) for k in MEDIA if fields.get(k)}
    return Row(where, Example(**texts, media=media, makes=makes, **numbers))


def is_recorded(row: Mapping[str, Any]) -> bool:
    """Whether a row is of a recording: it names one, or has a place for one and no text to translate."""
    return any(row.get(k) for k in MEDIA) or (any(k in row for k in MEDIA) and not row.get("source"))


def _does_without_text(row: Mapping[str, Any]) -> bool:
    """Whether there is something to learn of a row that has no column for a text: what is to be made, or two media."""
    return "target" not in row and (any(row.get(k) for k in TARGETS) or sum(bool(row.get(k)) for k in MEDIA) > 1)


def _whole(row: Mapping[str, Any], language: str) -> dict[str, Any]:
    """The row with what goes without saying."""
    fields = dict(row)
    if language and not fields.get("src_lang"):
        fields["src_lang"] = language
    makes = any(fields.get(k) for k in TARGETS)
    if makes and not fields.get("tgt_lang"):
        fields["tgt_lang"] = fields.get("src_lang", "")
    if makes and not fields.get("target") and not fields.get("text") and not fields.get("task"):
        fields["task"] = "speak"
    if not is_recorded(fields):
        return fields
    if "target" not in fields and "text" in fields:
        fields["target"] = fields["text"]
    if not fields.get("tgt_lang"):
        fields["tgt_lang"] = "en" if fields.get("task") == "translate" else fields.get("src_lang", "")
    if not fields.get("task"):
        fields["task"] = TASKS[not _one_language(fields.get("src_lang"), fields.get("tgt_lang"))]
    return fields


def _one_language(a: Any, b: Any) -> bool:
    """Whether two spellings are of one language ("en", "English"); what is none is named as a flaw of its own."""
    if a == b or not (isinstance(a, str) and isinstance(b, str)):
        return a == b
    try:
        return languages.find_language(a).code == languages.find_language(b).code
    except InputError:
        return False


def _flaws(row: Mapping[str, Any], spellings: Collection[str] | None, verdicts: dict[str, str]) -> list[str]:
    """What is wrong with one row; `verdicts` remembers those on languages, which are few and slow to find."""
    spoken, textless = is_recorded(row), _does_without_text(row)
    wanted = SPOKEN if spoken else REQUIRED
    if spoken and "audio" not in row:
        wanted = (next(k for k in MEDIA if k in row), *SPOKEN[1:])
    wanted = tuple(name for name in wanted if name != "target" or not textless)
    missing = [name for name in wanted if name not in row]
    if missing:
        remedy = ": say it in the rows, or for all of them by the option language" if missing == ["src_lang"] else ""
        return [f"expected the fields {', '.join(wanted)}, got none called {', '.join(missing)}{remedy}"]
    bad = [k for k in (*REQUIRED, *OPTIONAL, *MEDIA, *TARGETS) if not isinstance(row.get(k, ""), str)]
    if bad:
        return [f"expected text in {', '.join(bad)}, got something else"]
    texts = [name for name in ("source", "target") if name in wanted]
    flaws = [f"expected a {name}, got an empty text" for name in texts if not row[name].strip()]
    for name in ("src_lang", "tgt_lang"):
        if row[name] not in verdicts:
            verdicts[row[name]] = _language_flaw(row[name], spellings)
        if verdicts[row[name]]:
            flaws.append(f"{name}: {verdicts[row[name]]}")
    return flaws + _spoken_flaws(row) if spoken else flaws


def _spoken_flaws(row: Mapping[str, Any]) -> list[str]:
    columns = [k for k in MEDIA if k in row]
    flaws = []
    if not any(row[k].strip() for k in columns):
        flaws = [f"expected a recording under {' or '.join(columns)}, got an empty name"]
    if row["task"] not in TASKS and "target" in row:
        flaws.append(f"expected the task {' or '.join(TASKS)}, got {row['task']!r}")
    for name, lowest in zip(SECONDS, (0.0, MIN_S), strict=True):
        value = row.get(name)
        try:
            sound = value in (None, "") or lowest <= float(value) < math.inf
        except (TypeError, ValueError):
            sound = False
        if not sound:
            flaws.append(f"expected {name} of {lowest:g} seconds or more, got {value!r}")
    return flaws


def _language_flaw(text: str, spellings: Collection[str] | None) -> str:
    if not text:
        return "expected a language, got none: say it in the row, or for all rows by the option language"
    try:
        if spellings is None:
            languages.find_language(text)
        else:
            languages.choose(text, spellings)
    except InputError as e:
        return str(e)
    return ""


def _lines(path: Path) -> Iterator[tuple[int, str | None, str]]:
    """Number, text and flaw of each line; one of the latter two."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n"), ""
            except UnicodeDecodeError as e:
                yield number, None, f"expected UTF-8, got byte {e.object[e.start]:#04x}"


def _tsv_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any] | str]]:
    return _table((number, flaw if line is None else line.split("\t")) for number, line, flaw in _lines(path))


def _csv_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any] | str]]:
    """Quoted fields may hold the separator, quotes and line ends; a row is named by the line that it ends in."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = e.object[: e.start].count(b"\n") + 1
        return iter([(f"line {line}", f"expected UTF-8, got byte {e.object[e.start]:#04x}: save it as CSV in UTF-8")])
    header = text.partition("\n")[0]
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=";" if header.count(";") > header.count(",") else ",")
    return _table((rows.line_num, fields) for fields in rows if fields)


def _table(rows: Iterable[tuple[int, list[str] | str]]) -> Iterator[tuple[str, Mapping[str, Any] | str]]:
    """Rows under the names of the first, the header; a text in place of the fields is a flaw."""
    header: list[str] | None = None
    for number, fields in rows:
        where = f"line {number}"
        if isinstance(fields, str):
            yield where, fields
        elif header is None:
            header = [name.strip() for name in fields]
            if flaw := _header_flaw(header):
                yield where, flaw
                return
        elif len(fields) != len(header):
            yield where, f"expected {len(header)} fields, as the header has, got {len(fields)}"
        else:
            yield where, dict(zip(header, fields, strict=True))


def _header_flaw(header: Sequence[str]) -> str:
    written = "target" if "target" in header else "text"
    media = [k for k in MEDIA if k in header]
    wanted = (media[0], written) if media else REQUIRED
    if len(media) > 1 or any(k in header for k in TARGETS):
        wanted = ("src_lang",) if media else ("source", "src_lang")
    missing = [name for name in wanted if name not in header]
    if not missing:
        return ""
    flaw = f"expected the columns {', '.join(wanted)}, got none called {missing}"
    if len(header) == 1 and any(sign in header[0] for sign in ",;"):
        return f"{flaw}: there is no tab between them, but commas; name the file .csv, or write tabs"
    return flaw


def _jsonl_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any] | str]]:
    for number, line, flaw in _lines(path):
        where = f"line {number}"
        try:
            row = json.loads(line) if line is not None else {}
        except ValueError as e:
            row, flaw = {}, f"expected a JSON object, got something else ({e})"
        if not isinstance(row, dict):
            row, flaw = {}, f"expected a JSON object, got {type(row).__name__}"
        yield where, flaw or row


def _folder_rows(folder: Path) -> Iterator[tuple[str, Mapping[str, Any] | str]]:
    """Recordings beside texts; the folder's name is the origin."""
    for audio in recordings(folder):
        name, text = audio.relative_to(folder).as_posix(), audio.with_suffix(".txt")
        try:
            said = text.read_text("utf-8-sig")
        except FileNotFoundError:
            yield name, f"expected its text in {text.name} beside it, got none"
        except ValueError:
            yield text.name, "expected a text in UTF-8, got something else"
        else:
            row = {"audio": name, "target": " ".join(said.split()), "id": name, "origin": folder.resolve().name}
            yield name, row
