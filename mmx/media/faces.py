"""Faces in the pictures of a video: nine points of each, and which of them belong to one person over time.

Letters: H height, W width, T frames, P points (`POINTS`). Places in pixels, x to the right, y down.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mmx.media.graphs import Graph

POINTS = (
    "right eye, outer corner", "right eye, inner corner", "left eye, inner corner", "left eye, outer corner",
    "under the nose", "right corner of the mouth", "left corner of the mouth", "upper lip, inside",
    "lower lip, inside",
)  # fmt: skip
"""Of a face; right and left are the person's own."""
ANCHORS, MOUTH, LIPS = slice(0, 5), slice(5, 9), slice(7, 9)
"""The points that speech hardly moves, those of the mouth, and the two whose distance is its opening."""
MESH = (33, 133, 362, 263, 2, 61, 291, 13, 14)
"""Their places in MediaPipe's face mesh."""

Face = NDArray[np.float32]
"""The points of one face, `(P, 2)`."""
FindFaces = Callable[[np.ndarray], Sequence[Face]]
"""Finds the faces of a picture `(H, W, 3)` of bytes; called with the pictures of one video in their order."""


class FaceMesh:
    """Faces by MediaPipe's mesh with refined lips: up to `most` of them, from about a tenth of the picture's height.

    Raises:
        InputError: the package is not installed.
    """

    def __init__(self, most: int = 4) -> None:
        self._graph = Graph(
            "face_landmark/face_landmark_front_cpu",
            ["multi_face_landmarks"],
            {"num_faces": most, "with_attention": True, "use_prev_landmarks": True},
        )

    def __call__(self, picture_HW3: np.ndarray) -> list[Face]:
        """The faces of the next picture."""
        size = np.array(picture_HW3.shape[1::-1], np.float32)
        found = self._graph(picture_HW3)["multi_face_landmarks"]
        return [mesh[list(MESH), :2] * size for mesh in found]

    def close(self) -> None:
        """Stop the graph."""
        self._graph.close()


def size_of(face: Face) -> float:
    """How large a face is: from between the eyes to between the corners of the mouth, and from eye to eye, whichever
    is more, as either shrinks where the head turns. In pixels."""
    eyes = (face[:2].mean(0), face[2:4].mean(0))
    down = (face[5:7].mean(0) - face[:4].mean(0), eyes[1] - eyes[0])
    return float(max(np.hypot(*v) for v in down))


@dataclass
class Track:
    """One person's face over a video.

    Attributes:
        number: in order of appearance, from 1; in one picture from left to right.
        places: frame to face, ascending.
    """

    number: int
    places: dict[int, Face] = field(default_factory=dict)

    @property
    def area(self) -> float:
        """Its size squared, summed over the frames that it is in: what stands for its share of the video."""
        return sum(size_of(face) ** 2 for face in self.places.values())

    def points(self, frames: int) -> NDArray[np.float32]:
        """`(T, P, 2)`, not a number where it was not found."""
        out = np.full((frames, len(POINTS), 2), np.nan, np.float32)
        if self.places:
            out[list(self.places)] = np.stack(list(self.places.values()))
        return out

    def opening(self, frames: int) -> NDArray[np.float32]:
        """`(T,)`, between the lips in widths between the outer corners of the eyes; not a number where not found."""
        points_TP2 = self.points(frames)
        wide_T = np.linalg.norm(points_TP2[:, 0] - points_TP2[:, 3], axis=-1)
        return np.linalg.norm(np.diff(points_TP2[:, LIPS], axis=1)[:, 0], axis=-1) / np.maximum(wide_T, 1e-3)


class Tracker:
    """Puts the faces of one picture after the other into tracks, by place.

    A face goes on where the next one is within one size of it; after a loss, within two, as long as `memory_s`. Two
    people who change places while neither is seen are taken for each other: places are all that is looked at.
    """

    def __init__(self, rate: float, memory_s: float = 10.0) -> None:
        self.tracks: list[Track] = []
        self._memory = memory_s * rate
        self._soon = 0.5 * rate
        self._at = 0

    def add(self, faces: Sequence[Face]) -> None:
        """The faces of the next picture."""
        pairs = sorted(
            (distance, k, track.number)
            for track in self.tracks
            for k, face in enumerate(faces)
            if (distance := self._distance(track, face)) is not None
        )
        taken: dict[int, int] = {}
        for _, k, number in pairs:
            if k not in taken and number not in taken.values():
                taken[k] = number
        for k in sorted(range(len(faces)), key=lambda k: float(faces[k][:, 0].mean())):
            if k not in taken:
                self.tracks.append(Track(len(self.tracks) + 1))
                taken[k] = len(self.tracks)
            self.tracks[taken[k] - 1].places[self._at] = faces[k]
        self._at += 1

    def _distance(self, track: Track, face: Face) -> float | None:
        """In sizes of the face, from its last place; None where it is too far, or too long ago."""
        then = next(reversed(track.places))
        last, ago = track.places[then], self._at - then
        size = max(size_of(last), 1e-3)
        distance = float(np.hypot(*(face.mean(0) - last.mean(0)))) / size
        growth = abs(np.log(max(size_of(face), 1e-3) / size))
        near = distance < (1.0 if ago <= self._soon else 2.0) and growth < np.log(2.0)
        return distance if ago <= self._memory and near else None
