"""Frames of a recording, read lazily: what the readers of videos, poses and features have in common.

Letters: T frames, and whatever a frame has behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator

import numpy as np

from mmx.errors import InputError

Run = tuple[np.ndarray, int]
"""A frame and how often it stands."""


class FrameReader:
    """Blocks of frames `(T, *shape)` at `rate`, read lazily: memory does not grow with the length of the file.

    Can be iterated once, like an open file. Closes at the end, by `close()`, or as a context manager.

    Attributes:
        name: for messages and output file names ("talk.mp4", "stdin", "array").
        duration_s: what the file declares; None when it declares nothing. It may be wrong.
        rate: frames a second.
        warnings: what was wrong yet did not stop the reading; complete after the last block.
        remarks: what was done to read it, such as bars around a picture; complete after the last block.
    """

    def __init__(
        self,
        name: str,
        blocks: Generator[np.ndarray, None, None],
        *,
        rate: float,
        duration_s: float | None,
        warnings: list[str],
        remarks: list[str],
        on_close: Callable[[], None] | None = None,
    ) -> None:
        self.name, self.rate, self.duration_s = name, rate, duration_s
        self.warnings, self.remarks = warnings, remarks
        self._source, self._on_close, self._closed = blocks, on_close, False
        self._blocks = self._run()

    def _run(self) -> Generator[np.ndarray, None, None]:
        try:
            yield from self._source
        finally:
            self._release()

    def __iter__(self) -> Iterator[np.ndarray]:
        """Blocks of equal length, the last one shorter.

        Raises:
            MediaError: when nothing at all can be decoded. A file that breaks later ends with a warning.
        """
        if self._closed:
            raise InputError(f"{self.name}: this reader is closed; open it again to read it once more.")
        return self._blocks

    def _release(self) -> None:
        self._source.close()  # first: it may be in the middle of the file that closes next
        if self._on_close is not None:
            self._on_close()
            self._on_close = None

    def close(self) -> None:
        """Close the file if it was opened here, and delete its temporary copy. May be called twice."""
        self._closed = True
        self._blocks.close()
        self._release()

    def __enter__(self) -> FrameReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def blocks_of(runs: Iterable[Run], size: int) -> Iterator[np.ndarray]:
    """The frames, each as often as it stands, in blocks of exactly `size`, the last one shorter."""
    held: list[np.ndarray] = []
    for frame, count in runs:
        while count:
            taken = min(count, size - len(held))
            held += [frame] * taken
            count -= taken
            if len(held) == size:
                yield np.stack(held)
                held = []
    if held:
        yield np.stack(held)


def at_rate(frames_T: np.ndarray, source_rate: float, rate: float) -> np.ndarray:
    """Numbers `(T, *)` that a person's movement or a feature has at one rate, at another: float32, by straight lines.

    Frame `i` is of the time `i / rate`, so that 0 stays where it is.
    """
    x = np.asarray(frames_T, np.float32)
    if source_rate == rate or not len(x):
        return x
    at = np.arange(max(1, round(len(x) * rate / source_rate))) * (source_rate / rate)
    low = np.minimum(at.astype(np.int64), len(x) - 1)
    high = np.minimum(low + 1, len(x) - 1)
    part = np.minimum(at - low, 1.0).astype(np.float32).reshape(-1, *[1] * (x.ndim - 1))
    return x[low] * (1 - part) + x[high] * part
