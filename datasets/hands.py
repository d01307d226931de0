"""Points of two hands over time, and what differs from one person and camera to the next.

Letters: T frames, H hands, J points of a hand, C coordinates.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

POINTS = 21
"""Of a hand, as MediaPipe numbers them; the first is the wrist."""
OTHER_HAND = 0.15
"""Of the words of one-handed alphabets. The front sees those who spell with the left hand in a mirror, unless the right
one is as often to be seen."""


class Hands(NamedTuple):
    """Points of two hands: `points` `(T, H, J, C)`, and `present` `(T, H)`, whether each was found."""

    points: Array
    present: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.points)

    def part(self, start: int, stop: int) -> "Hands":
        """Frames from `start` to `stop`."""
        return Hands(self.points[start:stop], self.present[start:stop])

    @property
    def filled(self) -> Array:
        """The points as they are stored: zeros where a hand was not found."""
        return np.where(self.present[..., None, None], self.points, 0.0).astype(np.float32)


def varied(hands: Hands, rng: np.random.Generator, other_hand: float = OTHER_HAND) -> Hands:
    """A word as another person spells it before another camera; a share of them with the other hand."""
    points, present = hands
    if rng.random() < other_hand:
        points, present = mirrored(hands)
    wrist = points[:, :, :1]
    shape = _other_bones(points - wrist, rng)
    turn = _rotation(rng.normal(0, 1, 3) * (0.25, 0.3, 0.2))
    flat = _rotation(np.array([0.0, 0.0, np.arctan2(turn[1, 0], turn[0, 0])]))
    size = np.exp(rng.normal(0, 0.08, 3))
    points = (shape @ turn.T + wrist @ flat.T) * size
    points = points + rng.normal(0, 0.006, points.shape) * rng.random()
    lost = rng.random(present.shape) < 0.12 * rng.random()
    return Hands(points.astype(np.float32), present & ~lost)


def mirrored(hands: Hands) -> Hands:
    """Spelled with the other hand."""
    return Hands(hands.points[:, ::-1] * np.array([-1, 1, 1], np.float32), hands.present[:, ::-1])


PARENT = np.array([0, 0, 1, 2, 3, 0, 5, 6, 7, 0, 9, 10, 11, 0, 13, 14, 15, 0, 17, 18, 19])
"""The point of a hand that each one's bone begins at."""


def _other_bones(shape_THJC: Array, rng: np.random.Generator) -> Array:
    """Hands whose bones have other lengths and, a little, other directions, the same in the whole clip."""
    bones = shape_THJC - shape_THJC[:, :, PARENT]
    length = np.linalg.norm(bones, axis=-1, keepdims=True)
    bones = bones * np.exp(rng.normal(0, 0.12, (1, 1, POINTS, 1))) + length * rng.normal(0, 0.12, (1, 1, POINTS, 3))
    out = np.zeros_like(bones)
    for joint in range(1, POINTS):
        out[:, :, joint] = out[:, :, PARENT[joint]] + bones[:, :, joint]
    return out


def _rotation(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """About x, then y, then z, in radians."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return z @ y @ x
