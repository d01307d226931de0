"""Corpora of signing as manifests: what their readers give, and how it is written.

A reader in `readers/` yields a `Signed` for each clip, from the files that a publisher gives out; `write_manifest`
makes the table that `mmx train`, `mmx data check` and `mmx evaluate` read. Nothing is filtered on the way: what is
wrong with a corpus is for `mmx data check` to say.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mmx.errors import InputError
from mmx.files import atomic_write, file_name, replacing

COLUMNS = ("id", "target", "src_lang", "tgt_lang", "task", "start_s", "duration_s", "origin", "gloss", "signer")


@dataclass(frozen=True, kw_only=True)
class Signed:
    """A signed sentence and its translation.

    Attributes:
        id: the publisher's name of the clip.
        text: the translation.
        src_lang: the sign language, by its ISO 639-3 code.
        tgt_lang: language of the text.
        media: by medium (video, pose, features), paths.
        arrays: the same, of what the publisher keeps in one file: `(T, F)`, written beside the manifest.
        start_s: where in the recording the sentence begins.
        duration_s: how long it is; to the end when None. Below zero where the publisher's times are.
        origin: the corpus.
        gloss: of the signs, where there is one.
        signer: who signs, where that is said.
    """

    id: str
    text: str
    src_lang: str
    tgt_lang: str
    media: Mapping[str, Path] = field(default_factory=dict)
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    start_s: float = 0.0
    duration_s: float | None = None
    origin: str
    gloss: str = ""
    signer: str = ""


def write_manifest(clips: Iterable[Signed], path: Path) -> Path:
    """Write a table of the clips, with absolute paths of their media; arrays go to a folder called as the table is.

    Raises:
        InputError: there is no clip.
    """
    rows: list[dict[str, str]] = []
    for clip in clips:
        media = {medium: str(where.absolute()) for medium, where in clip.media.items()}
        for medium, x in clip.arrays.items():
            where = path.with_suffix("") / f"{file_name(clip.id.replace('/', '_'))}.npy"
            _write_array(where, x)
            media[medium] = where.relative_to(path.parent).as_posix()
        duration = "" if clip.duration_s is None else f"{clip.duration_s:.3f}"
        values = (clip.id, clip.text, clip.src_lang, clip.tgt_lang, "translate", f"{clip.start_s:.3f}", duration,
                  clip.origin, clip.gloss, clip.signer)  # fmt: skip
        rows.append({**media, **dict(zip(COLUMNS, values, strict=True))})
    if not rows:
        raise InputError(f"expected clips for {path}, got none")
    columns = (*dict.fromkeys(k for row in rows for k in row if k not in COLUMNS), *COLUMNS)
    lines = ["\t".join(columns), *("\t".join(_cell(row.get(k, "")) for k in columns) for row in rows)]
    return atomic_write(path, "\n".join(lines) + "\n")


def _cell(text: str) -> str:
    """A text without what would end a field or a row."""
    return " ".join(text.split())


def _write_array(path: Path, x: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file, file.open("wb") as f:
        np.save(f, np.asarray(x, np.float32))
