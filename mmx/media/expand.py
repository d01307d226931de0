"""What a command line names: files, folders and globs, opened up to the recordings that they stand for."""

import glob
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from mmx.errors import InputError
from mmx.files import absolute
from mmx.media.source import MEDIA, is_there, recordings

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def expand(patterns: Sequence[str], endings: Callable[[], frozenset[str]] = lambda: MEDIA) -> list[tuple[str, Path]]:
    """Recordings in order, each once: where it is, and its path from the folder or glob that named it.

    `endings` gives those of the files that a folder is searched for; it is asked for the first folder only.

    Raises `InputError` for a folder or a glob without media; a missing file is left for the reader to report. Hidden
    files are taken when they are named, not from a folder.
    """
    found: dict[str, tuple[str, Path]] = {}
    for pattern in patterns:
        for source, name in _opened(pattern, endings):
            found.setdefault(source if source == "-" else str(absolute(source)), (source, name))
    return list(found.values())


def is_address(source: str) -> bool:
    """Whether it is the address of something on a network ("https://..."), which nothing here opens."""
    return _ADDRESS.match(source) is not None


def _opened(pattern: str, endings: Callable[[], frozenset[str]]) -> list[tuple[str, Path]]:
    if not pattern:
        raise InputError("expected a file, a folder, a glob or -, got an empty name")
    if pattern == "-":
        return [("-", Path("stdin"))]
    if is_address(pattern):  # as it is, for the reader to say what to do: a path would lose a slash
        return [(pattern, Path(Path(pattern).name))]
    path = _home(Path(pattern))
    if path.is_dir():
        wanted = endings()
        inside = recordings(path, wanted)
        if not inside:
            kinds = ", ".join(sorted(wanted)[:6]) + (", ..." if len(wanted) > 6 else "")
            raise InputError(f"expected media files in the folder {pattern}, got none (looked for {kinds})")
        return [(str(p), p.relative_to(path)) for p in inside]
    if path.exists() or not glob.has_magic(pattern):
        return [(str(path), Path(path.name))]
    hits = sorted(p for p in glob.glob(str(path), recursive=True) if is_there(Path(p)))  # noqa: PTH207 (absolute ones too)
    if not hits:
        raise InputError(f"expected files that match {pattern!r}, got none")
    root = Path(os.path.commonpath([str(Path(h).parent) for h in hits]))
    return [(h, Path(h).relative_to(root)) for h in hits]


def _home(path: Path) -> Path:
    """The path from the home folder that `~` stands for; a name that begins so and is no user's is a name."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path
