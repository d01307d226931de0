"""Points that a model reads, found in the pictures that a client sends; no picture is kept.

Letters: J points, C coordinates, H height, W width.
"""

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmx.clip import Input
from mmx.errors import InputError
from mmx.media.landmarks import Landmarks


class Sight:
    """Follows the person in the pictures of one connection.

    A thread looks while another may close: one waits for the other.

    Args:
        what: the model reads.
    """

    def __init__(self, what: Input):
        self._what = what
        self._find: Landmarks | None = None  # from the first picture on
        self._last_JC = np.zeros((0, 3), np.float32)
        self._size = (1, 1)
        self._turn = threading.Lock()
        self._closed = False

    def points(self, picture_HWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Points `(J, C)` of the next picture, in its pixels; zeros where a group was not found.

        Raises:
            InputError: what finds them is not installed, or is another version; or it was closed.
        """
        with self._turn:
            if self._closed:
                raise InputError("expected a connection that is open, got a picture after its end")
            if self._find is None:
                self._find = Landmarks(self._what.points, self._what.extractor)
            self._last_JC = self._find.points(picture_HWC[None])[0]
            self._size = (picture_HWC.shape[1], picture_HWC.shape[0])
            return self._last_JC

    @property
    def shown(self) -> list[Any]:
        """The points of the last picture as `[x, y]` in shares of its width and height; null for what was not found."""
        shares_JC = np.round(self._last_JC[:, :2] / self._size, 4)
        return [xy.tolist() if point.any() else None for xy, point in zip(shares_JC, self._last_JC, strict=True)]

    def close(self) -> None:
        """Stop looking, once the picture at hand is done; what comes later is refused."""
        with self._turn:
            self._closed = True
            if self._find is not None:
                self._find.close()
                self._find = None
