"""Pictures by decord (extra `video`), a second reader beside PyAV: `open_video(..., reader="decord")`.

decord had its last release in 2021, and reads some files wrongly without a word: it counts from a film's first picture
where its sound began before, stops early, or shows what was cut away. So what a file's container says of its pictures
is read first, without decoding, and a film whose times decord has otherwise is refused.

Letters: T pictures.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Generator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmx.errors import InputError, MediaError
from mmx.extras import import_extra
from mmx.media.container import open_pictures, opened

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

    from mmx.media.frames import Run

REMEDY = "read it with PyAV, the default reader"
REFUSED = {"mpegts": "MPEG-TS, where it loses pictures"}
"""Formats, by FFmpeg's names, that it is known to read wrongly."""
NEAR_S = 0.002
"""That two readers may differ by, for rounding."""


def times_of(source: Any) -> tuple[np.ndarray, float]:
    """When each picture of a film begins, on its clock, and when the last one ends, by its container alone.

    Raises:
        InputError: no path of a file.
        MediaError: a film that decord is known to read wrongly.
    """
    if not isinstance(source, str | os.PathLike) or not Path(source).is_file():
        raise InputError(f"expected the path of a film for decord, got {str(source)[:60]!r}: {REMEDY}")
    container, _, close = opened(source, open_pictures)
    try:
        if container.format in REFUSED:
            raise MediaError(f"{container.label}: expected no {REFUSED[container.format]}, for decord: {REMEDY}.")
        said = list(container.opened.demux(container.stream))
        if any(packet.is_discard for packet in said):
            raise MediaError(f"{container.label}: expected for decord a film that nothing was cut off from: {REMEDY}.")
        base, origin_s = container.stream.time_base or Fraction(1, 25), container.origin_s
        shown = sorted((p.pts * base - origin_s, (p.duration or 0) * base) for p in said if p.pts is not None)
        if not shown:
            raise MediaError(f"{container.label}: expected pictures, got none in its container: {REMEDY}.")
        usual_s = 1 / (container.stream.average_rate or Fraction(25))
        last_s, lasts_s = shown[-1]
        return np.array([start_s for start_s, _ in shown], float), float(last_s + (lasts_s or usual_s))
    finally:
        close()


def runs(
    source: str | os.PathLike[str], rate: float, shown: Callable[[VideoFrame], np.ndarray]
) -> Generator[Run, None, None]:
    """Each picture that counts, for how many frames, as `mmx.media.video` has them.

    Args:
        source: path of a film.
        rate: wanted frames a second.
        shown: makes a frame `(H, W)` or `(H, W, 3)` of a picture.

    Raises:
        InputError: decord is not installed, or `source` is no file.
        MediaError: a film that decord does not read as its container has it.
    """
    from av.video.frame import VideoFrame

    def picture(t: int) -> np.ndarray:
        return shown(VideoFrame.from_ndarray(film[t].asnumpy(), "rgb24"))

    starts_T, end_s = times_of(source)
    film = _checked(source, starts_T)
    slots_T = np.floor(starts_T * rate + 0.5).astype(int).clip(0)
    ends_T = np.append(slots_T[1:], max(math.floor(end_s * rate + 0.5), slots_T[-1] if slots_T[-1] else 1))
    if slots_T[0] > 0:
        yield np.zeros_like(picture(0)), int(slots_T[0])
    for t in np.flatnonzero(ends_T > slots_T):
        yield picture(int(t)), int(ends_T[t] - slots_T[t])


def _checked(source: str | os.PathLike[str], starts_T: np.ndarray) -> Any:
    """decord's reader of a film, if it has the pictures at the container's times."""
    decord = import_extra("decord", "video")
    try:
        film = decord.VideoReader(os.fspath(source), num_threads=1)
        found_T = np.asarray(film.get_frame_timestamp(range(len(film))), float)[:, 0]
    except Exception as e:  # its own errors, and those of C++ underneath
        why = next(iter(str(e).strip().splitlines()), repr(e))
        raise MediaError(f"{source}: expected a film that decord reads, got {why}: {REMEDY}") from e
    if len(found_T) != len(starts_T) or np.abs(found_T - starts_T).max() > NEAR_S:
        raise MediaError(
            f"{source}: expected decord to find {len(starts_T)} pictures, {_span(starts_T)}, as the container says, "
            f"got {len(found_T)}, {_span(found_T)}: {REMEDY}."
        )
    if film[0].shape[2:] != (3,):
        raise MediaError(f"{source}: expected decord to give red, green and blue, got {film[0].shape}: {REMEDY}.")
    return film


def _span(times_T: np.ndarray) -> str:
    return f"{times_T[0]:.3f} to {times_T[-1]:.3f} s" if len(times_T) else "at no time"
