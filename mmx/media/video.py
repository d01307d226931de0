"""Moving pictures from every container and codec that FFmpeg's libraries (inside PyAV) read, at one rate.

A picture counts from its presentation time on, to the next one's, on the clock that the sound of the file is on
(`Container.origin_s`): time 0 is where the presentation starts. Whatever the file's rate, also where it varies, the
frames that come out stand at `i / rate` seconds; each is the picture whose time is nearest, the last one of several.

Letters: T frames, H height, W width. Times in seconds.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Generator, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from mmx.errors import InputError, MediaError
from mmx.media import decord_film
from mmx.media.blocks import BlockReader
from mmx.media.container import Container, open_pictures, opened
from mmx.media.decode import MAX_GAP_S, packets
from mmx.media.frame_folder import RATE, frame_files, read_picture
from mmx.media.frames import Run, blocks_of
from mmx.media.source import as_array, reason

if TYPE_CHECKING:
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

READERS = ("pyav", "decord")
BACK_S = 1.0
"""A timestamp that is so much earlier than the one before is a clock that restarted."""
MOST_PIXELS = 2**27
"""Of one picture; more is damage, or meant to fill the memory."""


def open_video(
    source: Any,
    *,
    rate: float | None = None,
    shape: tuple[int, ...] | None = None,
    block_s: float = 1.0,
    reader: str = "pyav",
) -> BlockReader:
    """Open the moving pictures of `source` for reading block by block.

    Args:
        source: a path, of a file or of a folder of pictures at 25 a second, ``"-"`` (stdin), an open binary file, the
            bytes of a file, or an array or tensor of bytes at the wanted rate and in the wanted shape.
        rate: wanted frames a second; the file's average rate when None.
        shape: wanted shape of a frame: `(H, W)` grey, `(H, W, 3)` RGB; RGB in the size of the file when None. A picture
            keeps its proportions: it is scaled to fit, with black bars where its own are others, which is remarked.
        block_s: length of a block in seconds. It changes nothing in the frames.
        reader: "pyav", or "decord" (`mmx.media.decord_film`) for the paths of films that it reads as they are.

    Returns:
        A reader of blocks `(T, H, W)` or `(T, H, W, 3)` of bytes. Pictures are turned upright by the file's metadata.
        Before the first one all is black; a packet that cannot be decoded leaves the picture before it standing.

    Raises:
        InputError: an argument that cannot be used.
        MediaError: a file that is missing, unreadable, empty, not media, or without moving pictures.
    """
    if shape is not None and not (len(shape) in (2, 3) and min(shape) > 0 and shape[2:] in ((), (3,))):
        raise InputError(f"expected pictures of shape (H, W) or (H, W, 3), got {shape}")
    if rate is not None and not (math.isfinite(rate) and rate > 0):
        raise InputError(f"expected a rate above 0 frames a second, got {rate}")
    if reader not in READERS:
        raise InputError(f"expected a reader among {', '.join(READERS)}, got {reader!r}")
    given = as_array(source)
    if given is not None:
        return _of_array(given, rate or 25.0, shape, block_s)
    files = frame_files(source)
    if files is not None:
        return _of_folder(files, rate or RATE, shape, block_s)
    container, name, on_close = opened(source, open_pictures)
    rate = rate or float(_average(container.stream))
    warnings, remarks = list(container.warnings), []
    if reader == "decord":
        pixel = float(container.stream.sample_aspect_ratio or 1)
        runs = decord_film.runs(source, rate, Picture(shape, remarks, container.label, pixel).of)
    else:
        runs = _runs(container, Fraction(rate), shape, warnings, remarks)
    return BlockReader(
        name,
        _blocks(runs, max(1, round(block_s * rate))),
        rate=rate,
        duration_s=container.declared_s,
        warnings=warnings,
        remarks=remarks,
        on_close=on_close,
    )


def _of_array(x: np.ndarray, rate: float, shape: tuple[int, ...] | None, block_s: float) -> BlockReader:
    if x.dtype != np.uint8 or x.ndim not in (3, 4) or not x.size or x.shape[1:] != (shape or x.shape[1:]):
        wanted = ", ".join(map(str, shape or ("H", "W", 3)))
        raise InputError(f"expected pictures of bytes of shape (T, {wanted}), got {x.dtype} {x.shape}")
    size = max(1, round(block_s * rate))
    blocks = (x[at : at + size] for at in range(0, len(x), size))
    return BlockReader("array", blocks, rate=rate, duration_s=len(x) / rate, warnings=[], remarks=[])


def _of_folder(files: Sequence[Path], rate: float, shape: tuple[int, ...] | None, block_s: float) -> BlockReader:
    """Each frame is the picture whose time is nearest; those that none is of are not decoded."""
    remarks: list[str] = []
    picture = Picture(shape, remarks, str(files[0].parent), 1.0)
    count = max(1, round(len(files) * rate / RATE))
    shown = (min(len(files) - 1, math.floor(i * RATE / rate + 0.5)) for i in range(count))
    runs = ((picture.of(read_picture(files[i])), len(list(same))) for i, same in itertools.groupby(shown))
    blocks = _blocks(runs, max(1, round(block_s * rate)))
    duration_s = len(files) / RATE
    return BlockReader(files[0].parent.name, blocks, rate=rate, duration_s=duration_s, warnings=[], remarks=remarks)


def _blocks(runs: Generator[Run, None, None], size: int) -> Generator[np.ndarray, None, None]:
    try:
        yield from blocks_of(runs, size)
    finally:
        runs.close()


def _average(stream: VideoStream) -> Fraction:
    return stream.average_rate or stream.guessed_rate or Fraction(25)


def _runs(
    container: Container[VideoStream],
    rate: Fraction,
    shape: tuple[int, ...] | None,
    warnings: list[str],
    remarks: list[str],
) -> Generator[Run, None, None]:
    """Each picture that counts, for how many frames; only these are converted."""
    aspect = container.stream.sample_aspect_ratio
    picture = Picture(shape, remarks, container.label, float(aspect or 1))
    clock, damage = _Clock(container, rate), _Damage()
    last: VideoFrame | None = None
    at = 0
    try:
        for frame in _decoded(container, damage, clock):
            slot = clock.slot(frame)
            if last is None and slot > 0:  # the sound starts earlier
                yield np.zeros_like(picture.of(frame)), slot
            elif last is not None and slot > at:
                yield picture.of(last), slot - at
            last, at = frame, max(at, slot)
        if last is not None:
            yield picture.of(last), max(clock.end_slot - at, 1 if at == 0 else 0)
    finally:
        if last is not None:
            warnings.extend(damage.sentences(clock, container))
    if last is None:
        why = damage.first or damage.end
        raise MediaError(
            f"{container.label}: nothing of its pictures could be decoded ({container.stream.codec_context.name})"
            + (f": {reason(why)}" if why else ": the video stream is empty")
            + ". Copy it again, or convert it."
        )


class _Clock:
    """Where pictures stand: their times, on the file's presentation clock, to frames of the wanted rate."""

    def __init__(self, container: Container[VideoStream], rate: Fraction) -> None:
        self.rate, self.origin_s = rate, container.origin_s
        self.usual_s = 1 / _average(container.stream)
        self.at_s: Fraction | None = None
        self.end_s = Fraction(0)

    def slot(self, frame: VideoFrame) -> int:
        """The frame of the wanted rate from which a picture on counts."""
        base = frame.time_base
        at_s = self.end_s if frame.pts is None or base is None else frame.pts * base - self.origin_s
        if self.at_s is not None and not -BACK_S <= at_s - self.at_s <= MAX_GAP_S:
            self.origin_s += at_s - self.end_s  # timestamps restart (joined recordings) or are broken: go on
            at_s = self.end_s
        self.at_s = at_s
        self.end_s = at_s + ((frame.duration or 0) * base if base and frame.duration else self.usual_s)
        return max(0, self._nearest(at_s))

    @property
    def end_slot(self) -> int:
        """Frames until the last picture ends."""
        return max(0, self._nearest(self.end_s))

    def _nearest(self, at_s: Fraction) -> int:
        return math.floor(at_s * self.rate + Fraction(1, 2))


class _Damage:
    """What went wrong while decoding."""

    def __init__(self) -> None:
        self.packets = 0
        self.first: BaseException | None = None
        self.at_s = 0.0
        self.end: BaseException | None = None

    def sentences(self, clock: _Clock, container: Container[VideoStream]) -> list[str]:
        """The warnings for the reader."""
        said, now_s, expected_s = [], float(clock.end_s), container.expected_s
        if self.first is not None:
            said.append(
                f"the video is damaged at {self.at_s:.1f} s: {self.packets} packet(s) from there on could not be "
                f"decoded, the picture before stands for them ({reason(self.first)})"
            )
        if self.end is not None:
            said.append(f"the video is damaged after {now_s:.1f} s: decoded up to there ({reason(self.end)})")
        elif container.cut_off or (expected_s is not None and now_s < expected_s - 0.5):
            declared = "" if expected_s is None else f": its header declares {expected_s:.1f} s"
            said.append(f"the video is cut off after {now_s:.1f} s{declared}")
        return said


def _decoded(container: Container[VideoStream], damage: _Damage, clock: _Clock) -> Iterator[VideoFrame]:
    """Decoded frames in order of presentation; a packet that fails is skipped."""
    for _, frames, error in packets(container, damage):
        if error is not None:
            if damage.first is None:
                damage.first, damage.at_s = error, float(clock.end_s)
            damage.packets += 1
        for frame in frames:
            yield cast("VideoFrame", frame)


class Picture:
    """Decoded frames to arrays of bytes: upright, in the wanted size and colours."""

    def __init__(self, shape: tuple[int, ...] | None, remarks: list[str], label: str, pixel: float) -> None:
        import av

        self.shape, self.remarks, self.label = shape, remarks, label
        self.pixel = pixel  # width of one, where its height is 1
        self.format = "gray" if shape is not None and len(shape) == 2 else "rgb24"
        # Several threads gain nothing at these sizes; older versions have but one.
        self.how: dict[str, Any] = {"threads": 1} if int(av.__version__.partition(".")[0]) >= 17 else {}

    def of(self, frame: VideoFrame) -> np.ndarray:
        """`(H, W)` or `(H, W, 3)` of bytes."""
        if frame.width * frame.height > MOST_PIXELS:
            raise MediaError(f"{self.label}: expected pictures of a size, got {frame.width} x {frame.height} pixels")
        turns = round(frame.rotation / 90) % 4
        if frame.rotation % 90:
            self._remark(f"pictures turned by {frame.rotation} degrees are shown as if by {90 * turns}")
        wide, high = self._fitted(frame, turns % 2 == 1)
        size = {"width": high, "height": wide} if turns % 2 else {"width": wide, "height": high}
        x = frame.to_ndarray(format=self.format, **size, **self.how)
        x = np.rot90(x, turns)
        if self.shape is None or x.shape == self.shape:
            return np.ascontiguousarray(x)
        self._remark(
            f"pictures of {frame.width} x {frame.height} fill {wide} x {high} of {self.shape[1]} x {self.shape[0]}: "
            "black bars are around them"
        )
        out = np.zeros(self.shape, np.uint8)
        top, left = (self.shape[0] - high) // 2, (self.shape[1] - wide) // 2
        out[top : top + high, left : left + wide] = x
        return out

    def _fitted(self, frame: VideoFrame, on_its_side: bool) -> tuple[int, int]:
        """Width and height in which the upright picture is shown."""
        shown = frame.width * self.pixel, float(frame.height)
        wide, high = (shown[1], shown[0]) if on_its_side else shown
        if self.shape is None:
            return max(1, round(wide)), max(1, round(high))
        scale = min(self.shape[1] / wide, self.shape[0] / high)
        return max(1, round(wide * scale)), max(1, round(high * scale))

    def _remark(self, text: str) -> None:
        if text not in self.remarks:
            self.remarks.append(text)
