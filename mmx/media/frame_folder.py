"""A folder of pictures as a film, one file a frame: how PHOENIX-2014T and CSL-Daily keep theirs."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mmx.errors import MediaError
from mmx.media.container import SEALED
from mmx.media.source import reason

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})
RATE = 25.0
"""Frames a second of a folder, which says none; it is that of the corpora that come so."""


def frame_files(source: Any) -> list[Path] | None:
    """The pictures of a folder in the order of the numbers in their names; None where `source` is no folder.

    Raises:
        MediaError: there is no picture in it.
    """
    if not isinstance(source, str | os.PathLike) or not Path(source).is_dir():
        return None
    files = [p for p in Path(source).iterdir() if p.suffix.lower() in ENDINGS and not p.name.startswith(".")]
    if not files:
        raise MediaError(f"{source}: expected a file, or a folder of pictures, got a folder without any.")
    return sorted(files, key=_number)


def _number(path: Path) -> list[tuple[int, str]]:
    """So that 10 comes after 9."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", path.stem)]


def read_picture(path: Path) -> VideoFrame:
    """The decoded picture. Raises `MediaError` where it is none."""
    import av

    try:
        with av.open(io.BytesIO(path.read_bytes()), "r", options=SEALED) as container:
            return cast("VideoFrame", next(container.decode(video=0)))
    except (OSError, StopIteration, IndexError, av.FFmpegError) as e:
        raise MediaError(f"{path}: expected a picture, got {reason(e)}. Copy it again.") from e
