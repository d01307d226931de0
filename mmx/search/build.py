"""Recordings into an index: what has not changed is skipped, what has is replaced, a batch at a time."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmx.errors import InputError, MmxError
from mmx.files import absolute
from mmx.search.embed import Embedder
from mmx.search.index import Entry, Index, Said, Vectors, writing
from mmx.tasks.result import Transcript

COMMIT = 64
"""Recordings that are added in one step."""
TRANSCRIPT = ".json"
"""Ending of the file next to a recording that is its transcript: what `mmx transcribe -f json` writes."""

Made = Iterable[tuple[Entry, Vectors | None]]
Maker = Callable[[str], Made]


@dataclass
class Counts:
    """What became of recordings; `failed` has the reasons."""

    added: int = 0
    unchanged: int = 0
    failed: tuple[str, ...] = ()


def transcribed(transcribe: Callable[[str], Transcript] | None) -> Maker:
    """Makes an entry of a recording's transcript: of the file next to it, else by `transcribe`, with word times."""

    def make(source: str) -> Made:
        beside = Path(source).with_suffix(TRANSCRIPT)
        if beside.exists():
            try:
                data: dict[str, Any] = json.loads(beside.read_text("utf-8"))
            except ValueError as e:
                raise InputError(f"{beside}: expected a transcript, got no JSON ({e}): transcribe it again") from e
            transcript = Transcript.from_dict(data)
        elif transcribe is not None:
            transcript = transcribe(source)
        else:
            raise InputError(f"{source}: expected {beside.name} next to it, got none: mmx transcribe -f json writes it")
        yield _spoken(source, transcript), None

    return make


def embedded(embedder: Embedder) -> Maker:
    """Makes entries of a model's vectors."""
    return lambda source: embedder(source)


def add(index: Index, sources: Sequence[str], make: Maker, embedder: Embedder | None = None) -> Counts:
    """Add recordings. One that cannot be read is told in `failed`, and the others are added.

    Raises:
        InputError: the vectors of the index are another model's, or another process writes to it.
        OutputError: it cannot be written.
    """
    counts, mark = Counts(), embedder.mark if embedder else None
    with writing(index):
        if mark is not None:
            index.check_model(mark)
        known, waiting = index.files(), dict[str, list[tuple[Entry, Vectors | None]]]()
        for source in dict.fromkeys(str(absolute(s)) for s in sources):
            try:
                state = _state(source)
                if known.get(source) == state:
                    counts.unchanged += 1
                    continue
                size, mtime_ns = state
                waiting[source] = [
                    (replace(e, source=source, size=size, mtime_ns=mtime_ns), v) for e, v in make(source)
                ]
            except (MmxError, OSError) as e:
                counts.failed += (str(e),)
                continue
            counts.added += 1
            if len(waiting) == COMMIT:
                _commit(index, waiting, known, mark)
        _commit(index, waiting, known, mark)
    return counts


def remove(index: Index, paths: Sequence[str]) -> int:
    """Remove recordings, or all in a folder; how many. Raises `InputError` for a path of which nothing is in."""
    with writing(index):
        gone: set[str] = set()
        for path in map(absolute, paths):
            found = {s for s in index.files() if Path(s) == path or path in Path(s).parents}
            if not found:
                raise InputError(f"expected a recording of the index, got {str(path)!r}, of which nothing is in")
            gone |= found
        index.update((), gone)
    return len(gone)


def _commit(index: Index, waiting: dict[str, Any], known: dict[str, tuple[int, int]], mark: Any) -> None:
    if waiting:
        items = [item for made in waiting.values() for item in made]
        index.update(items, [s for s in waiting if s in known], mark)
        waiting.clear()


def _state(source: str) -> tuple[int, int]:
    """Size and time of change of a recording; the later one where its transcript is next to it."""
    stat, beside = Path(source).stat(), Path(source).with_suffix(TRANSCRIPT)
    later = beside.stat().st_mtime_ns if beside.exists() else 0
    return stat.st_size, max(stat.st_mtime_ns, later)


def _spoken(source: str, transcript: Transcript) -> Entry:
    """Segments without word times count as words with the segment's times."""
    words = tuple(w for s in transcript.segments for w in _words(s))
    return Entry(source=source, start_s=0.0, end_s=transcript.duration_s, modality="transcript", words=words)


def _words(segment: Any) -> Iterator[Said]:
    if segment.words:
        yield from (Said(w.text.strip(), w.start_s, w.end_s) for w in segment.words)
    else:
        yield from (Said(w, segment.start_s, segment.end_s) for w in segment.text.split())
