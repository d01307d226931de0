"""Corpora of people who talk in pictures as manifests: what their readers give, and how it is written.

A reader in `readers/` yields a `Talk` for each clip; `write_manifest` makes the table that `mmx train`, `mmx evaluate`
and `mmx data check` read. Nothing is filtered on the way, and mouths are not cut: `mmx crop-mouth` does that.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mmx.errors import InputError
from mmx.files import atomic_write

COLUMNS = (
    "video",
    "audio",
    "id",
    "target",
    "src_lang",
    "tgt_lang",
    "task",
    "start_s",
    "duration_s",
    "origin",
    "speaker",
)


@dataclass(frozen=True, kw_only=True)
class Talk:
    """A clip of somebody who talks.

    Attributes:
        id: the publisher's name of the clip.
        text: what is said, or its translation.
        video: the film.
        audio: its sound, which may be in the film.
        src_lang: language that is spoken.
        tgt_lang: language of the text; the spoken one when empty.
        start_s: where in the film the clip begins.
        duration_s: how long it is; to the end when None.
        origin: the corpus.
        speaker: who talks, where that is said.
    """

    id: str
    text: str
    video: Path
    audio: Path
    src_lang: str
    tgt_lang: str = ""
    start_s: float = 0.0
    duration_s: float | None = None
    origin: str
    speaker: str = ""


def lines_of(path: Path, what: str) -> list[str]:
    """The lines of a text file of annotations. Raises `InputError` where there is none."""
    try:
        return path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"expected {what} at {path}, got {e}") from e


def write_manifest(clips: Iterable[Talk], path: Path) -> Path:
    """Write a table of the clips, with absolute paths of their media. Raises `InputError` where there is no clip."""
    lines = ["\t".join(COLUMNS)]
    for clip in clips:
        target = clip.tgt_lang or clip.src_lang
        task = "transcribe" if target == clip.src_lang else "translate"
        duration = "" if clip.duration_s is None else f"{clip.duration_s:.3f}"
        values = (
            str(clip.video.absolute()), str(clip.audio.absolute()), clip.id, clip.text, clip.src_lang, target, task,
            f"{clip.start_s:.3f}", duration, clip.origin, clip.speaker,
        )  # fmt: skip
        lines.append("\t".join(" ".join(value.split()) for value in values))
    if len(lines) == 1:
        raise InputError(f"expected clips for {path}, got none: check the folder and the split")
    return atomic_write(path, "\n".join(lines) + "\n")
