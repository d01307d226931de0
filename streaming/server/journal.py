"""What a live session must not lose when its server is killed, in files.

Sound and commands are written down before the client is told that they are safe, and a line of the session's log before
any client sees it; both are flushed to the disk, so that a power cut loses no more than a killed process does. So a
server that starts again goes on with all that was acknowledged, and says nothing twice. Everything here may wait for
the disk: it runs in threads of its own, never on the event loop. Of each session a folder holds:

    ID.AT.journal            what the client sent, in order; AT is where the file begins in the whole journal
    ID.log.jsonl             the lines of its log
    ID.TURN.TRACK.safetensors  its streams
    ID.session.json          the rest; written last, and pointing to the others
"""

import json
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Protocol

from mmx.files import atomic_write, flush
from mmx.streaming.server.state import private_opener

SEGMENT = 1 << 20
"""Bytes, after which a journal goes on in another file, so that what was heard can be deleted."""
_HEAD = struct.Struct("<cI")  # kind and length of a record


class Streams(Protocol):
    """What has streams to be kept: `Interpreter`."""

    def save(self, stem: Path) -> dict[str, Any]:
        """Write the streams beside each other; what else `restore` needs."""
        ...


@dataclass(frozen=True)
class Record:
    """What a client sent: `sound` as 16-bit samples, or a `command` in JSON; `end` is its place in the journal."""

    kind: str
    data: bytes
    end: int


class Journal:
    """The files of one session.

    Args:
        folder: theirs, made where it is missing.
        id: of the session.
        end: bytes of the journal so far.
        lines: of the log so far.
        log_size: bytes of these.
        turn: how often `keep` was called.
    """

    def __init__(self, folder: Path, id: str, end: int = 0, lines: int = 0, log_size: int = 0, turn: int = 0):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder, self.id, self.end = folder, id, end
        self.lines, self.log_size, self.turn = lines, log_size, turn
        self._begin = end
        self._file = self._begun(end)

    def _begun(self, at: int) -> Any:
        path = self._path(f"{at:016d}.journal")
        file = open(path, "wb", buffering=0, opener=private_opener)  # noqa: SIM115 - open while it lives
        flush(self.folder)
        return file

    def _path(self, name: str) -> Path:
        return self.folder / f"{self.id}.{name}"

    def add(self, kind: str, data: bytes) -> int:
        """Write down what the client sent; its place, for `keep`. Raises `OSError`, and then holds none of it."""
        return self.add_all([(kind, data)])[0]

    def add_all(self, sent: Sequence[tuple[str, bytes]]) -> list[int]:
        """As `add`, several at once: they are on the disk when it returns, or none of them is there."""
        if self.end - self._begin > SEGMENT:
            following = self._begun(self.end)
            self._file.close()  # now that there is another
            self._file, self._begin = following, self.end
        heads = [_HEAD.pack(kind[:1].encode(), len(data)) for kind, data in sent]
        record = memoryview(b"".join(x for head, (_, data) in zip(heads, sent, strict=True) for x in (head, data)))
        try:
            at = 0
            while at < len(record):  # an unbuffered file may take less at once
                at += self._file.write(record[at:]) or 0
            _sync(self._file.fileno())
        except OSError:
            self._file.seek(self.end - self._begin)
            self._file.truncate()
            raise
        ends = list(accumulate((_HEAD.size + len(data) for _, data in sent), initial=self.end))[1:]
        self.end = ends[-1]
        return ends

    def keep(self, facts: dict[str, Any], lines: list[str], streams: Streams | None, heard_to: int) -> None:
        """Write what the session is after a turn: `lines` are new in its log, what lies before `heard_to` in the
        journal is not needed any more. All of it is kept, or the turn before it."""
        with open(self._path("log.jsonl"), "ab", opener=private_opener) as log:
            log.truncate(self.log_size)  # what a turn wrote that failed
            log.write("".join(f"{line}\n" for line in lines).encode())
            log.flush()
            _sync(log.fileno())
        self.log_size = self._path("log.jsonl").stat().st_size
        self.lines += len(lines)
        self.turn += 1
        saved = None if streams is None else streams.save(self._path(f"{self.turn:08d}.part"))
        for path in self.folder.glob(f"{self.id}.{self.turn:08d}.*.safetensors"):
            path.chmod(0o600)
            with open(path, "rb+") as file:
                _sync(file.fileno())
        facts = {**facts, "lines": self.lines, "heard_to": heard_to, "turn": self.turn, "interpreter": saved}
        atomic_write(self._path("session.json"), json.dumps(facts, ensure_ascii=False))
        self._path("session.json").chmod(0o600)
        flush(self.folder)
        for path in self.folder.glob(f"{self.id}.*.safetensors"):
            if not path.name.startswith(f"{self.id}.{self.turn:08d}."):
                path.unlink()
        segments = sorted(self.folder.glob(f"{self.id}.*.journal"))
        for path, following in pairwise(segments):
            if _begins(following) <= heard_to:
                path.unlink()

    def close(self) -> None:
        """Write no more; the files stay."""
        self._file.close()

    def drop(self) -> None:
        """Delete the session."""
        self.close()
        for path in self.folder.glob(f"{self.id}.*"):
            path.unlink()


def _sync(descriptor: int) -> None:
    """What was written is on the disk, as far as the system can tell."""
    getattr(os, "fdatasync", os.fsync)(descriptor)


def _begins(segment: Path) -> int:
    return int(segment.name.split(".")[-2])


@dataclass(frozen=True)
class StoredSession:
    """What `read` finds of a session: the facts that it gave, the lines of its log, what is still to be heard, and the
    stem of its streams' files."""

    facts: dict[str, Any]
    lines: list[str]
    records: list[Record]
    stem: Path
    journal: Journal


def read(path: Path) -> StoredSession:
    """A session of which `path` is the `ID.session.json`, to go on with.

    Raises:
        ValueError, KeyError, OSError: the files are damaged.
    """
    facts, id = json.loads(path.read_text("utf-8")), path.name.removesuffix(".session.json")
    log = path.with_name(f"{id}.log.jsonl")
    lines = log.read_bytes().decode().split("\n")[: facts["lines"]]
    if len(lines) < facts["lines"]:
        raise ValueError(f"expected {facts['lines']} lines in {log}, got {len(lines)}")
    records = list(_records(sorted(path.parent.glob(f"{id}.*.journal")), facts["heard_to"]))
    end = records[-1].end if records else facts["heard_to"]
    size = sum(len(line.encode()) + 1 for line in lines)  # what follows nobody has seen
    journal = Journal(path.parent, id, end, len(lines), size, facts["turn"])
    return StoredSession(facts, lines, records, path.with_name(f"{id}.{facts['turn']:08d}.part"), journal)


def _records(segments: list[Path], since: int) -> Iterator[Record]:
    """All whole records after a place; what was cut off in the middle was not acknowledged."""
    at = since
    limits = [*(_begins(s) for s in segments[1:]), None]
    for segment, limit in zip(segments, limits, strict=True):
        if limit is not None and limit <= at:
            continue
        data, begin = segment.read_bytes(), _begins(segment)
        data = data if limit is None else data[: limit - begin]
        while at - begin + _HEAD.size <= len(data):
            kind, length = _HEAD.unpack_from(data, at - begin)
            if at - begin + _HEAD.size + length > len(data):
                break
            start = at - begin + _HEAD.size
            at += _HEAD.size + length
            yield Record({b"s": "sound", b"c": "command"}[kind], data[start : start + length], at)
