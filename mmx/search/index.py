"""An index on disk: a manifest that names segments, each written once and never changed.

    manifest.json            schema, model, segments and what was removed of each; replaced in one rename
    segments/NAME/           entries.jsonl and, where a model embedded them, pooled.npy `(K, D)` float32, tokens.npy
                             `(N, D)` float16 and ends.npy `(K,)`, memory-mapped

What is added is flushed to the disk before a manifest names it: a process that is killed leaves the old index or the
new one, and at most a segment that nobody names, which the next writer deletes.

Letters: K entries, N tokens of all of them, D width.
"""

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmx.errors import InputError
from mmx.files import atomic_write, cannot_write, flush

SCHEMA = 1
MANIFEST = "manifest.json"


class Said(NamedTuple):
    """A word and its times in seconds."""

    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A span of a recording.

    Attributes:
        source: absolute path of the recording.
        start_s: where the span begins.
        end_s: where it ends.
        modality: what of the recording is embedded ("signs"), or "transcript".
        words: what is said in it, with times; of a transcript only.
        size: bytes of the file when it was added.
        mtime_ns: its time of change then.
    """

    source: str
    start_s: float
    end_s: float
    modality: str
    words: tuple[Said, ...] = ()
    size: int = 0
    mtime_ns: int = 0


class Vectors(NamedTuple):
    """What a model made of a span: `pooled` `(D,)` and `tokens` `(N, D)`."""

    pooled: NDArray[np.float32]
    tokens: NDArray[np.floating]


@dataclass(frozen=True)
class ModelMark:
    """The model whose vectors an index holds: its name, for messages, the digest of its weights, and what loads it."""

    name: str
    digest: str
    source: str = ""


@dataclass
class Segment:
    """Entries that were written at once; `removed` are the rows that no longer count."""

    name: str
    folder: Path
    removed: set[int] = field(default_factory=set)

    @cached_property
    def entries(self) -> list[Entry]:
        """All rows, the removed ones too."""
        with (self.folder / "entries.jsonl").open(encoding="utf-8") as file:
            return [_entry(json.loads(line)) for line in file]

    @cached_property
    def embedded(self) -> bool:
        """Whether there are vectors."""
        return (self.folder / "pooled.npy").exists()

    @cached_property
    def pooled(self) -> NDArray[np.float32]:
        """`(K, D)`."""
        return np.load(self.folder / "pooled.npy", mmap_mode="r")

    @cached_property
    def _tokens(self) -> tuple[NDArray[np.float16], NDArray[np.int64]]:
        return np.load(self.folder / "tokens.npy", mmap_mode="r"), np.load(self.folder / "ends.npy")

    def tokens(self, row: int) -> NDArray[np.float16]:
        """`(N, D)` of a row."""
        tokens_ND, ends_K = self._tokens
        return tokens_ND[ends_K[row - 1] if row else 0 : ends_K[row]]

    @property
    def live(self) -> list[int]:
        """Rows that count."""
        return [i for i in range(len(self.entries)) if i not in self.removed]


class Index:
    """An index as its manifest said when it was opened.

    Raises:
        InputError: no index is there, or one of a newer version.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = Path(folder)
        self._load()

    def _load(self) -> None:
        path = self.folder / MANIFEST
        try:
            said: dict[str, Any] = json.loads(path.read_text("utf-8"))
        except (FileNotFoundError, NotADirectoryError) as e:
            raise InputError(
                f"expected an index in {self.folder}, got none: make one with mmx index build FOLDER"
            ) from e
        except ValueError as e:
            raise InputError(f"expected a manifest in {path}, got damage ({e}): build the index again") from e
        if said.get("schema") != SCHEMA:
            raise InputError(f"expected an index of schema {SCHEMA}, got {said.get('schema')!r}: build it again")
        self.model = ModelMark(**said["model"]) if said["model"] else None
        root = self.folder / "segments"
        self.segments = [Segment(s["name"], root / s["name"], set(s["removed"])) for s in said["segments"]]

    @classmethod
    def create(cls, folder: str | os.PathLike[str]) -> "Index":
        """The index in a folder; an empty one where there is none yet."""
        if not (Path(folder) / MANIFEST).exists():
            _write_manifest(Path(folder), None, [])
        return cls(folder)

    def __len__(self) -> int:
        return sum(len(s.live) for s in self.segments)

    def live(self) -> Iterator[tuple[Segment, int, Entry]]:
        """Each segment, row and entry that counts."""
        return ((s, i, s.entries[i]) for s in self.segments for i in s.live)

    def files(self) -> dict[str, tuple[int, int]]:
        """Size and time of change of each recording that is in."""
        return {e.source: (e.size, e.mtime_ns) for _, _, e in self.live()}

    def check_model(self, mark: ModelMark) -> None:
        """Raises `InputError` where the vectors are another model's: they cannot be compared."""
        if self.model is not None and self.model.digest != mark.digest:
            raise InputError(
                f"expected vectors of {self.model.name} ({self.model.digest[:12]}), which made the index in "
                f"{self.folder}, got {mark.name} ({mark.digest[:12]}): search with that model, or build an index with "
                "this one in another folder"
            )

    def update(
        self,
        added: Sequence[tuple[Entry, Vectors | None]],
        removed: Collection[str] = (),
        mark: ModelMark | None = None,
    ) -> None:
        """Add entries and remove all earlier ones of the recordings `removed`, in one step.

        The caller holds `writing`. Raises `OutputError` where it cannot be written, `InputError` for another model.
        """
        if mark is not None:
            self.check_model(mark)
        parts = [[a for a in added if a[1] is None], [a for a in added if a[1] is not None]]
        try:
            names = [_write_segment(self.folder / "segments", part) for part in parts if part]
        except OSError as e:
            raise cannot_write(self.folder, e) from e
        gone = set(removed)
        for segment in self.segments if gone else ():
            segment.removed |= {i for i in segment.live if segment.entries[i].source in gone}
        made = [Segment(name, self.folder / "segments" / name) for name in names]
        kept = [s for s in self.segments if not s.removed or s.live] + made
        _write_manifest(self.folder, self.model or (mark if parts[1] else None), kept)
        self._load_kept(kept, mark if parts[1] else None)

    def _load_kept(self, kept: list[Segment], mark: ModelMark | None) -> None:
        self.segments, self.model = kept, self.model or mark


@contextmanager
def writing(index: Index) -> Iterator[Index]:
    """Hold the index against other writers, as its manifest says now; a killed process lets go.

    Raises:
        InputError: another process writes to it.
    """
    with (index.folder / "lock").open("a") as file:
        with contextlib.suppress(ImportError):  # Windows: two writers are the user's to avoid
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as e:
                raise InputError(f"expected no other writer of {index.folder}, got one: wait for it") from e
        index._load()
        known = {s.name for s in index.segments}
        for left in (index.folder / "segments").glob("*"):
            if left.name not in known:
                shutil.rmtree(left, ignore_errors=True)
        yield index


def _entry(said: dict[str, Any]) -> Entry:
    return Entry(**{**said, "words": tuple(Said(*w) for w in said["words"])})


def _write_segment(root: Path, items: Sequence[tuple[Entry, Vectors | None]]) -> str:
    """Write and flush a segment; its name."""
    name = secrets.token_hex(8)
    folder = root / name
    folder.mkdir(parents=True)
    with (folder / "entries.jsonl").open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(asdict(entry), ensure_ascii=False) + "\n" for entry, _ in items)
    vectors = [v for _, v in items if v is not None]
    if vectors:
        np.save(folder / "pooled.npy", np.stack([v.pooled for v in vectors]).astype(np.float32))
        np.save(folder / "tokens.npy", np.concatenate([v.tokens for v in vectors]).astype(np.float16))
        np.save(folder / "ends.npy", np.cumsum([len(v.tokens) for v in vectors], dtype=np.int64))
    for path in [*folder.iterdir(), folder, root]:
        flush(path)
    return name


def _write_manifest(folder: Path, model: ModelMark | None, segments: Sequence[Segment]) -> None:
    said = {
        "schema": SCHEMA,
        "model": asdict(model) if model else None,
        "segments": [{"name": s.name, "removed": sorted(s.removed)} for s in segments],
    }
    atomic_write(folder / MANIFEST, json.dumps(said, indent=1) + "\n")
    flush(folder)
