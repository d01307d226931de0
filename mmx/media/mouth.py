"""Mouths out of videos as lip readers are trained on: aligned, grey, 96 x 96 at 25 frames a second.

The face is found in each frame; five of its points that speech hardly moves are averaged over half a second and laid
onto those of a mean face by a similarity transform (least squares: Umeyama 1991), and the square around the mouth is
cut out. Where no face is found there is nothing to cut: such frames are black and counted, and gaps of up to a fifth of
a second are cut at the place in between.

Letters: T frames, H height, W width, P points of a face (`mmx.media.faces.POINTS`). Places in pixels.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmx.errors import InputError, MediaError
from mmx.media.faces import ANCHORS, MOUTH, FaceMesh, FindFaces, Track, Tracker
from mmx.media.source import as_array, reopened
from mmx.media.video import open_video

RATE = 25.0
SIZE = 96
MEAN_FACE = np.array([[-36.5, 94], [-16, 94.5], [16, 94.5], [36.5, 94], [0, 137]], np.float32)
"""The anchors of a mean face in the scale of published lip readers, where the mouth is around (0, 158): rounded from
the mean of 68 points that they share."""
SMOOTH = 12
"""Frames over which the place of a face is averaged, as theirs."""
FILLED = 5
"""Frames of the longest gap that is bridged."""
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Shares of red, green and blue in grey (BT.601)."""
OUTSIDE = 0.25
"""Share of a crop that may be outside of the picture; with more of it outside, the mouth counts as lost."""


@dataclass(frozen=True)
class Faces:
    """What was found in a video.

    Attributes:
        tracks: a face over time each, in order of appearance.
        frames: T, at `RATE`.
        shape: `(H, W)` of the pictures.
        name: of the recording, for messages.
        warnings: what was wrong with the file.
    """

    tracks: list[Track]
    frames: int
    shape: tuple[int, int]
    name: str
    warnings: list[str]


@dataclass(frozen=True)
class Mouth:
    """A mouth over a video.

    Attributes:
        crops: `(T, SIZE, SIZE)` grey bytes; black where the mouth is lost.
        seen: `(T,)`, whether the mouth was found in a frame.
        bridged: `(T,)`, whether its place was taken from the frames around it.
        opening: `(T,)`, see `Track.opening`; not a number where it was not found.
        jitter: how far the anchors move within the crop from frame to frame, root mean square, in its pixels.
        face: number of the track.
    """

    crops: NDArray[np.uint8]
    seen: NDArray[np.bool_]
    bridged: NDArray[np.bool_]
    opening: NDArray[np.float32]
    jitter: float
    face: int

    @property
    def lost(self) -> NDArray[np.bool_]:
        """`(T,)`, the frames that are black."""
        return ~(self.seen | self.bridged)


def find_faces(source: Any, find: FindFaces | None = None) -> Faces:
    """All faces of a video over time.

    Args:
        source: as `mmx.media.video.open_video` takes it.
        find: finds faces in a picture; MediaPipe's mesh when None.

    Raises:
        InputError: the package that finds them is not installed.
        MediaError: the file cannot be read, or has no moving pictures.
    """
    own = FaceMesh() if find is None else None
    tracker, count, shape = Tracker(RATE), 0, (0, 0)
    try:
        with open_video(source, rate=RATE) as reader:
            for block in reader:
                for picture in block:
                    tracker.add((find or own)(picture))  # type: ignore[misc]
                count, shape = count + len(block), block.shape[1:3]
            return Faces(tracker.tracks, count, (shape[0], shape[1]), reader.name, reader.warnings)
    finally:
        if own is not None:
            own.close()


def crop_mouth(source: Any, face: str | int = "largest", find: FindFaces | None = None) -> tuple[Mouth, Faces]:
    """The mouth of one person of a video, and all faces that were found.

    Args:
        source: as `mmx.media.video.open_video` takes it; it is read twice.
        face: whose mouth: "largest" (over the whole video), "first" (that appears), or a number from 1 in order of
            appearance, from left to right.
        find: see `find_faces`.

    Raises:
        InputError: as `find_faces`, or there is no such face.
        MediaError: as `find_faces`, or no face is in the video.
    """
    with reopened(source) as again:
        faces = find_faces(again(), find)
        return cut_mouth(again(), faces, choose(faces, face)), faces


def choose(faces: Faces, face: str | int) -> Track:
    """The track that is meant; see `crop_mouth`."""
    if not faces.tracks:
        raise MediaError(
            f"{faces.name}: expected a face, got none in {faces.frames} frames: faces from about a tenth of the "
            "picture's height are found, with both eyes in it. Come closer, or turn the light on."
        )
    if face == "largest":
        return max(faces.tracks, key=lambda track: track.area)
    if face == "first":
        return faces.tracks[0]
    number = int(face) if str(face).isdecimal() else 0
    if not 1 <= number <= len(faces.tracks):
        raise InputError(
            f"{faces.name}: expected a face of largest, first, speaking or a number from 1 to {len(faces.tracks)}, "
            f"got {face!r}"
        )
    return faces.tracks[number - 1]


def cut_mouth(source: Any, faces: Faces, track: Track) -> Mouth:
    """The crops of one face's mouth, out of the pictures that it was found in."""
    points_TP2 = track.points(faces.frames)
    seen_T = np.isfinite(points_TP2[:, 0, 0])
    filled_TP2, bridged_T = bridge(points_TP2)
    smooth_TP2 = smoothed(filled_TP2)
    crops_THW = np.zeros((faces.frames, SIZE, SIZE), np.uint8)
    moves = [None if np.isnan(p[0, 0]) else alignment(p[ANCHORS], MEAN_FACE) for p in smooth_TP2]
    for t, picture in enumerate(_grey(source, faces)):
        move = moves[t] if t < len(moves) else None
        if move is None:
            continue
        crop, outside = cut(picture, move, moved(smooth_TP2[t, MOUTH].mean(0), move))
        if outside > OUTSIDE:
            seen_T[t] = bridged_T[t] = False
        else:
            crops_THW[t] = crop
    opening_T = np.where(seen_T, track.opening(faces.frames), np.float32(np.nan))
    return Mouth(crops_THW, seen_T, bridged_T, opening_T, jitter(filled_TP2, moves), track.number)


def _grey(source: Any, faces: Faces) -> Iterator[np.ndarray]:
    shape = faces.shape if as_array(source) is None else None  # an array comes as it is
    with open_video(source, rate=RATE, shape=shape) as reader:
        for block in reader:
            yield from block if block.ndim == 3 else (block @ LUMA).round().astype(np.uint8)


def bridge(points_TP2: np.ndarray) -> tuple[np.ndarray, NDArray[np.bool_]]:
    """Points with gaps of up to `FILLED` frames filled by straight lines, and the frames that were."""
    out, found = points_TP2.copy(), np.flatnonzero(np.isfinite(points_TP2[:, 0, 0]))
    bridged_T = np.zeros(len(out), bool)
    for a, b in itertools.pairwise(found):
        if 1 < b - a <= FILLED + 1:
            part = (np.arange(1, b - a) / (b - a))[:, None, None]
            out[a + 1 : b] = out[a] * (1 - part) + out[b] * part
            bridged_T[a + 1 : b] = True
    return out, bridged_T


def smoothed(points_TP2: np.ndarray) -> np.ndarray:
    """The mean of each frame and up to `SMOOTH / 2` on either side, as many on one as on the other, within one span
    in which the face is seen: at its ends the place is not drawn inwards."""
    known_T = np.isfinite(points_TP2[:, 0, 0])
    out = points_TP2.copy()
    for a, b in spans(known_T):
        sums = np.concatenate([np.zeros((1, *points_TP2.shape[1:])), points_TP2[a:b].astype(np.float64).cumsum(0)])
        at = np.arange(b - a)
        reach = np.minimum(SMOOTH // 2, np.minimum(at, b - a - 1 - at))
        out[a:b] = (sums[at + reach + 1] - sums[at - reach]) / (2 * reach + 1)[:, None, None]
    return out


def alignment(from_P2: np.ndarray, to_P2: np.ndarray) -> NDArray[np.float64]:
    """The similarity transform `(2, 3)` (turn, scale, shift) that takes points nearest to others, by least squares."""
    a, b = from_P2.mean(0), to_P2.mean(0)
    z = (from_P2[:, 0] - a[0]) + 1j * (from_P2[:, 1] - a[1])
    w = (to_P2[:, 0] - b[0]) + 1j * (to_P2[:, 1] - b[1])
    turn = (z.conj() * w).sum() / max(float((abs(z) ** 2).sum()), 1e-9)
    m = np.array([[turn.real, -turn.imag], [turn.imag, turn.real]])
    return np.concatenate([m, (b - m @ a)[:, None]], 1)


def moved(points_P2: np.ndarray, move: np.ndarray) -> np.ndarray:
    """Points `(*, 2)` under a transform `(2, 3)`."""
    return points_P2 @ move[:, :2].T + move[:, 2]


def cut(picture_HW: np.ndarray, move: np.ndarray, centre: np.ndarray) -> tuple[NDArray[np.uint8], float]:
    """The square of `SIZE` around a place of the aligned picture, and the share of it that is outside of the picture.

    Where the picture is finer than the crop, each pixel is the mean of several.
    """
    scale = float(np.hypot(move[0, 0], move[1, 0]))
    fine = int(min(8, max(1, math.ceil(1 / max(scale, 1e-6)))))
    steps = (np.arange(SIZE * fine) + 0.5) / fine - SIZE / 2
    to_crop = np.stack(np.meshgrid(steps + centre[0], steps + centre[1]), -1)
    inverse = np.linalg.inv(move[:, :2])
    places = (to_crop - move[:, 2]) @ inverse.T
    values, inside = _bilinear(picture_HW.astype(np.float32), places - 0.5)
    if fine > 1:
        values = values.reshape(SIZE, fine, SIZE, fine).mean((1, 3))
    return np.round(values).astype(np.uint8), 1.0 - float(inside.mean())


def _bilinear(x_HW: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values between the centres of pixels, 0 outside of the picture, and whether a place is inside."""
    h, w = x_HW.shape
    x, y = places[..., 0], places[..., 1]
    inside = (x > -1) & (x < w) & (y > -1) & (y < h)
    x, y = x.clip(0, w - 1), y.clip(0, h - 1)
    x0, y0 = np.minimum(x.astype(int), max(0, w - 2)), np.minimum(y.astype(int), max(0, h - 2))
    x1, y1 = np.minimum(x0 + 1, w - 1), np.minimum(y0 + 1, h - 1)
    dx, dy = x - x0, y - y0
    top = x_HW[y0, x0] * (1 - dx) + x_HW[y0, x1] * dx
    low = x_HW[y1, x0] * (1 - dx) + x_HW[y1, x1] * dx
    return np.where(inside, top * (1 - dy) + low * dy, 0.0), inside


def spans(yes_T: np.ndarray) -> list[tuple[int, int]]:
    """The runs of true values, from and to a frame."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], yes_T.astype(np.int8), [0]])))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def jitter(points_TP2: np.ndarray, moves: list[Any]) -> float:
    """How far the mean of the anchors moves from frame to frame once aligned; see `Mouth`. 0 of fewer than two."""
    steps: list[float] = []
    before: np.ndarray | None = None
    for points, move in zip(points_TP2, moves, strict=True):
        now = None if move is None else moved(points[ANCHORS], move).mean(0)
        if now is not None and before is not None:
            steps.append(float(((now - before) ** 2).sum()))
        before = now
    return math.sqrt(sum(steps) / len(steps)) if steps else 0.0
