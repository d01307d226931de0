"""The mouth of one person in pictures as they come: as `mmx.media.mouth` cuts it, without what comes later.

Its place is the mean of the frames just before, not of those around; a short loss is cut at the last place, in the true
picture. Of several faces the largest is followed, by its place, until it is lost for longer.

Letters: T frames, H height, W width, P points of a face.
"""

from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mmx.media.faces import ANCHORS, MOUTH, POINTS, Face, FaceMesh, FindFaces, size_of
from mmx.media.mouth import FILLED, LUMA, MEAN_FACE, OUTSIDE, SMOOTH, alignment, cut, moved
from mmx.media.video import Picture


class LiveMouth:
    """Follows one person's mouth in pictures, 25 of them a second.

    Args:
        shape: `(H, W)` of the crops, which show what those of `mmx crop-mouth` do.
        find: finds faces in a picture; MediaPipe's mesh when None.

    Raises:
        InputError: the package that finds them is not installed.
    """

    def __init__(self, shape: Sequence[int], find: FindFaces | None = None):
        self._mesh = FaceMesh() if find is None else None
        self._find = find or self._mesh
        self._shape = tuple(shape)
        self._sized = Picture(self._shape, [], "mouth", 1.0)
        self._places: deque[Face] = deque(maxlen=SMOOTH // 2)
        self._missed = 0

    def crops(self, pictures_THW3: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The mouth in the next pictures, `(T, H, W)` grey bytes; black where there is none."""
        made = [self._crop(picture) for picture in pictures_THW3]
        return np.stack(made) if made else np.zeros((0, *self._shape), np.uint8)

    @property
    def face(self) -> Face:
        """Where the face is in the last picture, `(P, 2)` in its pixels; zeros where there is none."""
        return np.mean(self._places, axis=0) if self._places else np.zeros((len(POINTS), 2), np.float32)

    def close(self) -> None:
        """Stop what finds faces."""
        if self._mesh is not None:
            self._mesh.close()

    def _crop(self, picture_HW3: NDArray[np.uint8]) -> NDArray[np.uint8]:
        import av

        assert self._find is not None
        self._follow(self._find(picture_HW3))
        if self._places:
            place_P2 = np.mean(self._places, axis=0)
            move = alignment(place_P2[ANCHORS], MEAN_FACE)
            grey_HW = (picture_HW3 @ LUMA).round().astype(np.uint8)
            crop, outside = cut(grey_HW, move, moved(place_P2[MOUTH].mean(0), move))
            if outside <= OUTSIDE:
                return self._sized.of(av.VideoFrame.from_ndarray(crop, "gray"))
        return np.zeros(self._shape, np.uint8)

    def _follow(self, faces: Sequence[Face]) -> None:
        """Add the place of the face in this picture; forget where it was, once it is lost for longer."""
        if self._places:
            last = self._places[-1]
            faces = [face for face in faces if _apart(face, last) < size_of(last)]
            found = min(faces, key=lambda face: _apart(face, last), default=None)
        else:
            found = max(faces, key=size_of, default=None)
        if found is not None:
            self._places.append(found)
        self._missed = 0 if found is not None else self._missed + 1
        if self._missed > FILLED:
            self._places.clear()


def _apart(one: Face, other: Face) -> float:
    """Between the middles of two faces, in pixels."""
    return float(np.hypot(*(one.mean(0) - other.mean(0))))
