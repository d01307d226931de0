"""Blocks of a recording, one after the other: what every reader of media gives, of sound, pictures, poses, features."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Self

import numpy as np

from mmx.errors import InputError


class BlockReader:
    """Blocks of a recording at `rate`, read lazily: memory does not grow with the length of the file.

    Can be iterated once, like an open file. Closes at the end, by `close()`, or as a context manager.

    Attributes:
        name: for messages and output file names ("talk.mp4", "stdin", "array").
        duration_s: what the file declares; None when it declares nothing. It may be wrong.
        rate: frames or samples a second.
        warnings: what was wrong yet did not stop the reading; complete after the last block.
        remarks: what was done to read it, such as bars around a picture, or that of two channels which cancel each
            other one was taken; complete after the last block.
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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
