"""What a model reads of a person, found in the pictures that a client sends: points, or the mouth cut out.

No picture is kept.

Letters: J points, C coordinates, H height, W width.
"""

import threading
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mmx.clip import Input
from mmx.errors import InputError
from mmx.media.landmarks import Landmarks
from mmx.media.live_mouth import LiveMouth


class _Looking(Protocol):
    def look(self, picture_HW3: NDArray[np.uint8]) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """What the model reads of the next picture, and points `(J, 2)` to be shown in it; zeros where not found."""
        ...

    def close(self) -> None: ...


class _Points:
    """Points of a body, by the model's extractor."""

    def __init__(self, what: Input):
        self._find = Landmarks(what.points, what.extractor)

    def look(self, picture_HW3: NDArray[np.uint8]) -> tuple[NDArray[Any], NDArray[np.float32]]:
        points_JC = self._find.points(picture_HW3[None])[0]
        return points_JC, points_JC[:, :2]

    def close(self) -> None:
        self._find.close()


class _Mouth:
    """The mouth, cut as `mmx live --camera` does, and the points of the face by which it is cut."""

    def __init__(self, what: Input):
        self._find = LiveMouth(what.shape)

    def look(self, picture_HW3: NDArray[np.uint8]) -> tuple[NDArray[Any], NDArray[np.float32]]:
        crop_HW = self._find.crops(picture_HW3[None])[0]
        return crop_HW, self._find.face

    def close(self) -> None:
        self._find.close()


class Sight:
    """Follows the person in the pictures of one connection.

    A thread looks while another may close: one waits for the other.

    Args:
        what: the model reads.

    Attributes:
        last: frame that was read; None before the first picture.
        place: of it among the session's frames.
        trouble: why nothing can be found here; empty while it can.
    """

    def __init__(self, what: Input):
        self._what = what
        self._looking: _Looking | None = None  # from the first picture on
        self._shown_J2 = np.zeros((0, 2), np.float32)
        self._size = (1, 1)
        self._turn = threading.Lock()
        self._closed = False
        self.last: NDArray[Any] | None = None
        self.place = 0
        self.trouble = ""

    def frame(self, picture_HWC: NDArray[np.uint8], place: int = 0) -> NDArray[Any]:
        """What the model reads of the next picture: points `(J, C)` in its pixels, zeros where a group was not found;
        or the mouth in bytes, black where there is none.

        Raises:
            InputError: what finds them is not installed, or is another version; or it was closed.
        """
        with self._turn:
            if self._closed:
                raise InputError("expected a connection that is open, got a picture after its end")
            if self._looking is None:
                self._looking = _Mouth(self._what) if self._what.shows else _Points(self._what)
            self.last, self._shown_J2 = self._looking.look(picture_HWC)
            self._size, self.place = (picture_HWC.shape[1], picture_HWC.shape[0]), place
            return self.last

    @property
    def shown(self) -> list[Any]:
        """The points of the last picture as `[x, y]` in shares of its width and height; null for what was not found."""
        shares_J2 = np.round(self._shown_J2 / self._size, 4)
        return [xy.tolist() if point.any() else None for xy, point in zip(shares_J2, self._shown_J2, strict=True)]

    def close(self) -> None:
        """Stop looking, once the picture at hand is done; what comes later is refused."""
        with self._turn:
            self._closed = True
            if self._looking is not None:
                self._looking.close()
                self._looking = None
