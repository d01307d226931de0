"""What the outputs of recordings are called, so that none ever replaces another recording's (decision 10).

A recording's output has the recording's name. Where that name is another's, in this run or since an earlier one, or
where nothing is known of the file that has it, the output gets a longer one. Which recording an output is of is
written down in the user's state folder, not among the outputs; without that record nothing is replaced either.
"""

import hashlib
import json
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmx.files import absolute, file_name
from mmx.media.expand import expand
from mmx.media.source import MEDIA

LONGEST = 240
"""Bytes of a stem: file systems take names of 255, with the ending."""
MANY = 500
"""Folders with records, from which on the records of folders that are gone are deleted."""


@dataclass(frozen=True)
class Input:
    """A recording and the stem of its outputs, relative to the output folder."""

    source: str
    stem: Path


@dataclass(frozen=True)
class Recording:
    """What tells a recording from others: where it is, or, when it was moved, its name, size and time."""

    path: str
    size: int
    mtime_ns: int

    def is_of(self, other: "Recording") -> bool:
        """Whether it, which was written down, is the other: the same path, or one to which it was moved since."""
        if self.path == other.path:
            return True
        same = Path(self.path).name == Path(other.path).name and self.unchanged(other)
        return same and not os.path.lexists(self.path)

    def unchanged(self, other: "Recording") -> bool:
        """Whether size and time are the same."""
        return (self.size, self.mtime_ns) == (other.size, other.mtime_ns)


def recording(source: str) -> Recording | None:
    """The recording at a path; None for standard input, which may be anything, and what is not there."""
    try:
        stat = Path(source).stat() if source != "-" else None
    except (OSError, ValueError):
        return None
    return stat and Recording(str(absolute(source)), stat.st_size, stat.st_mtime_ns)


# ------------------------------------------------------------------------------------------ names within a run


def named(patterns: Sequence[str], endings: Callable[[], frozenset[str]] = lambda: MEDIA) -> list[Input]:
    """The recordings that files, folders and globs stand for, no two with one stem; errors as of `expand`."""
    return apart([Input(source, name) for source, name in expand(patterns, endings)])


def apart(inputs: Sequence[Input]) -> list[Input]:
    """Give each recording a stem of its own, the shortest of: a, a.wav, folder/a, folder/a.wav, else a-2."""
    root = _common_folder([i.source for i in inputs if i.source != "-"])
    names = [_names(i, root) for i in inputs]
    uses = Counter(key(n) for row in names for n in set(row))
    taken: set[str] = set()
    out: list[Input] = []
    for item, row in zip(inputs, names, strict=True):
        best = next((n for n in row if uses[key(n)] == 1), row[-1])
        stem = next(s for s in _numbered(best) if key(s) not in taken)
        taken.add(key(stem))
        out.append(Input(item.source, stem))
    return out


def _names(item: Input, root: Path | None) -> list[Path]:
    """The stems that a recording may have, the best first."""
    whole = [item.stem]
    if item.source != "-" and root is not None:
        whole.append(absolute(item.source).relative_to(root))
    return [_fitting(n) for w in whole for n in (w.with_suffix(""), w)]


def _fitting(stem: Path) -> Path:
    """The stem as every file system takes it."""
    plain = Path(*map(file_name, stem.parts)) if stem.parts else stem
    return plain if len(os.fsencode(plain.name)) <= LONGEST else _with_mark(plain, str(stem))


def _with_mark(stem: Path, source: str) -> Path:
    """The stem with a mark that is the same whenever the source is: for a name that is another's already."""
    mark, name = hashlib.sha256(os.fsencode(source)).hexdigest()[:8], stem.name
    while len(os.fsencode(name)) > LONGEST - len(mark) - 1:
        name = name[:-1]
    return stem.with_name(f"{name}-{mark}")


def _numbered(stem: Path) -> Iterator[Path]:
    yield stem
    number = 2
    while True:
        yield stem.with_name(f"{stem.name}-{number}")
        number += 1


def _common_folder(sources: Sequence[str]) -> Path | None:
    try:
        return Path(os.path.commonpath([absolute(s).parent for s in sources]))
    except ValueError:  # no sources, or several drives
        return None


def key(stem: Path) -> str:
    """The same for two names that are one file where neither case nor the way accents are coded counts."""
    return unicodedata.normalize("NFC", str(stem)).casefold()


# --------------------------------------------------------------------------------- names that are there already


class Folder:
    """A folder that outputs are written to, and whose each of them is.

    Args:
        path: the folder; it need not exist yet.
        endings: of the files that are to be written for each recording, without a dot.
    """

    def __init__(self, path: Path, endings: Sequence[str]):
        self.path, self.endings = path, tuple(endings)
        self._file = _record_file(path)
        self._records: dict[str, tuple[Path, Recording, frozenset[str]]] = {}
        for line in _lines(self._file):
            with suppress(KeyError, TypeError, ValueError):  # of a newer version, or half written
                data = json.loads(line)
                at = Recording(data["source"], data["size"], data["mtime_ns"])
                self._keep(Path(data["stem"]), at, frozenset(data["endings"]))

    def _keep(self, stem: Path, mine: Recording, endings: frozenset[str]) -> None:
        _, whose, before = self._records.get(key(stem), (stem, mine, frozenset[str]()))
        self._records[key(stem)] = (stem, mine, endings | before if whose.is_of(mine) else endings)

    def stems(self, mine: Recording) -> list[Path]:
        """The names that outputs of the recording have had here, the last one first."""
        return [stem for stem, whose, _ in reversed(self._records.values()) if whose.is_of(mine)]

    def allows(self, stem: Path, mine: Recording | None) -> bool:
        """Whether a recording's outputs may have this name: none of another recording, or unknown, is replaced."""
        ours: frozenset[str] = frozenset()
        if key(stem) in self._records:
            had, whose, endings = self._records[key(stem)]
            if mine is not None and whose.is_of(mine):
                ours = endings
            elif any(self._has(had, e) for e in endings):
                return False
        return all(e in ours or not self._has(stem, e) for e in self.endings)

    def done(self, stem: Path, mine: Recording | None) -> bool:
        """Whether all outputs are there, made of the recording as it is now.

        Of outputs without a record (made elsewhere, or by an older version), name and time must do.
        """
        if mine is None or not all(self._has(stem, e) for e in self.endings):
            return False
        if key(stem) in self._records:
            _, whose, endings = self._records[key(stem)]
            return whose.is_of(mine) and whose.unchanged(mine) and endings.issuperset(self.endings)
        return min(self._at(stem, e).stat().st_mtime_ns for e in self.endings) >= mine.mtime_ns

    def note(self, stem: Path, mine: Recording | None) -> None:
        """Write down that outputs of the recording were written; without a state folder, that is forgotten."""
        if mine is None:
            return
        before = self._records.get(key(stem))
        self._keep(stem, mine, frozenset(self.endings))
        now = self._records[key(stem)]
        if before == now or self._file is None:
            return
        line = {"stem": str(stem), "source": mine.path, "size": mine.size, "mtime_ns": mine.mtime_ns,
                "endings": sorted(now[2])}  # fmt: skip
        with suppress(OSError):
            _append(self._file, self.path, line)

    def _at(self, stem: Path, ending: str) -> Path:
        return self.path / f"{stem}.{ending}"

    def _has(self, stem: Path, ending: str) -> bool:
        return os.path.lexists(self._at(stem, ending))


def assign_names(
    inputs: Sequence[Input], folders: Sequence[Folder], skip_existing: bool, say: Callable[[str], None]
) -> tuple[list[Input], int]:
    """The recordings to read, with the names of their outputs, and how many are done already.

    A recording keeps the name that its outputs had. What is called otherwise than its name would have it is told.
    """
    taken: set[str] = set()
    chosen: dict[int, Path] = {}
    done: set[int] = set()
    known = [recording(i.source) if folders else None for i in inputs]
    for n, (item, mine) in enumerate(zip(inputs, known, strict=True)):
        had = [stem for f in folders for stem in (f.stems(mine) if mine else ())]
        if skip_existing and (made := next((s for s in [*had, item.stem] if _all_done(folders, s, mine)), None)):
            done.add(n)
            taken.add(key(made))
        elif kept := next((s for s in had if key(s) not in taken and _allowed(folders, s, mine)), None):
            chosen[n] = kept
            taken.add(key(kept))
    for n, (item, mine) in enumerate(zip(inputs, known, strict=True)):
        if n in done or n in chosen:
            continue
        free = (s for s in _longer(item) if key(s) not in taken and _allowed(folders, s, mine))
        last = _with_mark(item.stem, str(absolute(item.source)))  # its own, whatever is known of it
        chosen[n] = next(free, last) if item.source != "-" else next(
            s for s in _numbered(item.stem) if key(s) not in taken and _allowed(folders, s, None)
        )  # fmt: skip
        taken.add(key(chosen[n]))
        if chosen[n] != item.stem:
            say(
                f"{item.source}: an output called {str(item.stem)!r} is there already, of another recording or of an "
                f"unknown one, and stays; this one's is called {str(chosen[n])!r}"
            )
    return [Input(inputs[n].source, chosen[n]) for n in range(len(inputs)) if n not in done], len(done)


def _longer(item: Input) -> list[Path]:
    return [item.stem, _fitting(item.stem.with_name(Path(item.source).name or item.stem.name))]


def _allowed(folders: Sequence[Folder], stem: Path, mine: Recording | None) -> bool:
    return all(f.allows(stem, mine) for f in folders)


def _all_done(folders: Sequence[Folder], stem: Path, mine: Recording | None) -> bool:
    return all(f.done(stem, mine) for f in folders)


# ---------------------------------------------------------------------------------------------------- the record


def _record_file(folder: Path) -> Path | None:
    """Where the outputs of a folder are written down: `$XDG_STATE_HOME/mmx/outputs`, else below ~/.local/state."""
    try:
        state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    except RuntimeError:  # no home
        return None
    name = hashlib.sha256(os.fsencode(os.path.realpath(folder))).hexdigest()[:32]
    return state / "mmx" / "outputs" / f"{name}.jsonl"


def _lines(file: Path | None) -> list[str]:
    try:
        return [] if file is None else file.read_text("ascii").splitlines()
    except (OSError, ValueError):
        return []


def _append(file: Path, folder: Path, line: dict[str, Any]) -> None:
    """Add a line in one write, so that several processes can; the first line names the folder."""
    text = json.dumps(line) + "\n"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        _forget_what_is_gone(file.parent)
        text = json.dumps({"folder": os.path.realpath(folder)}) + "\n" + text
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(descriptor, text.encode("ascii"))
    finally:
        os.close(descriptor)


def _forget_what_is_gone(records: Path) -> None:
    files = list(records.glob("*.jsonl"))
    for file in files if len(files) > MANY else ():
        with suppress(OSError, ValueError, KeyError, TypeError):
            with file.open(encoding="ascii") as lines:
                folder = json.loads(lines.readline())["folder"]
            if not Path(folder).exists():
                file.unlink()
