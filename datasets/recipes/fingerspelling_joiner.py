"""Words joined from recorded letters as spoken-to-signed joins poses, hundreds of times as fast, and with labels.

What `concatenate_poses` of spoken-to-signed 0.4 does (Walsh et al. 2024, "Sign Stitching"), for the points of hands and
body: each letter without the hand at rest, played faster where it is longer than 0.8 s; two letters meet where they are
most alike; between them a gap, filled by straight lines like every other; a low-pass filter; hands at rest hidden. A
letter that is spelled twice is therefore one that is held longer, with the seam as the only trace.

Here it is known besides which letter each frame shows. `tests/test_fingerspelling.py` compares it with the package.

Letters: T frames, P points, C coordinates.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LONGEST_S = 0.8
"""A letter that takes longer is played faster."""
GAP_S = 0.07
SEAM = 0.3
"""Share of a letter, and seconds, at its end and its beginning in which the next one may be joined."""
CUTOFF_HZ, ORDER = 6.0, 4
REST, SHOWN_S = 0.15, 0.2
"""How high, from the hips to the shoulders, a wrist is that is not at rest, and for how long it has to be there."""
BODY = ("SHOULDER", "HIP", "WRIST")


@dataclass(frozen=True)
class Recording:
    """A letter as the package takes it: from the middle of the shoulders, in their widths.

    Attributes:
        points: `(T, P, C)` of the body, then of the left and the right hand.
        sure: `(T, P)`, 0 where a point was not found.
        first: frame in which the hand is raised.
        last: the one after the last before it falls.
        fps: frames a second.
        body: places among the points of shoulders, hips and wrists, as "LEFT_HIP".
        hands: place of the first point of the hands.
    """

    points: Array
    sure: Array
    first: int
    last: int
    fps: float
    body: dict[str, int]
    hands: int

    def part(self, start: int, stop: int) -> tuple[Array, Array]:
        """Points and how sure they are."""
        return self.points[start:stop], self.sure[start:stop]


def read(file: Path) -> Recording:
    """A .pose file of the lexicon."""
    from pose_format import Pose  # type: ignore[import-not-found]
    from spoken_to_signed.gloss_to_pose import concatenate  # type: ignore[import-not-found]

    hands = ["LEFT_HAND_LANDMARKS", "RIGHT_HAND_LANDMARKS"]
    pose = Pose.read(file.read_bytes()).get_components(["POSE_LANDMARKS", *hands])
    pose = concatenate.normalize_pose(pose)
    first, last = concatenate.active_signing_span(pose)
    at = {
        f"{side}_{name}": pose.header.get_point_index("POSE_LANDMARKS", f"{side}_{name}")
        for side in ("LEFT", "RIGHT")
        for name in BODY
    }
    start = pose.header.get_point_index(hands[0], "WRIST")
    points = np.ma.getdata(pose.body.data)[:, 0, :, :3].astype(np.float64)
    return Recording(points, np.array(pose.body.confidence)[:, 0], first, last, float(pose.body.fps), at, start)


def join(
    letters: Sequence[Recording], longest_s: float = LONGEST_S
) -> tuple[Array, NDArray[np.bool_], NDArray[np.int64]]:
    """A word.

    Args:
        letters: recordings of one language.
        longest_s: a letter that takes longer is played as fast as that.

    Returns:
        Points of the hands `(T, 2, 21, C)`, as `Recording.points` are; whether each hand is shown `(T, 2)`; and the
        place in the word of the letter that each frame shows, -1 for none.
    """
    fps, last = letters[0].fps, len(letters) - 1
    signs = [_sign(r, i == 0, i == last, longest_s) for i, r in enumerate(letters)]
    seams = [_seam(a, b, fps) for a, b in itertools.pairwise(signs)]
    starts, stops = [0, *(b for _, b in seams)], [*(a for a, _ in seams), len(signs[-1][0])]
    gap, parts, places = int(GAP_S * fps), [], []
    for i, ((points, sure, shown), start, stop) in enumerate(zip(signs, starts, stops, strict=True)):
        parts.append((points[start:stop], sure[start:stop]))
        places.append(np.where(shown[start:stop], i, -1))
        if i < last:
            parts.append((np.zeros((gap, *points.shape[1:])), np.zeros((gap, points.shape[1]))))
            places.append(np.full(gap, -1))
    points, sure = _filled(np.concatenate([p for p, _ in parts]), np.concatenate([s for _, s in parts]))
    points = _smoothed(points, fps)
    found = sure > 0
    first = letters[0].hands
    hands = points[:, first:].reshape(len(points), 2, -1, points.shape[2])
    present = found[:, first:].reshape(len(points), 2, -1).mean(2) > 0.5
    return hands, present & _raised(points, hands, found, letters[0]), np.concatenate(places)


def _sign(
    letter: Recording, keep_rise: bool, keep_fall: bool, longest_s: float
) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Points, how sure they are, and the frames that are not of raising or lowering the hand."""
    points, sure = letter.part(letter.first, letter.last)
    most = round(longest_s * letter.fps)
    if len(points) > most and len(points) >= 2:
        points, sure = _faster(points, sure, most)
    rise = letter.part(0, letter.first if keep_rise else 0)
    fall = letter.part(letter.last if keep_fall else len(letter.points), len(letter.points))
    shown = np.zeros(len(rise[0]) + len(points) + len(fall[0]), bool)
    shown[len(rise[0]) : len(rise[0]) + len(points)] = True
    return np.concatenate([rise[0], points, fall[0]]), np.concatenate([rise[1], sure, fall[1]]), shown


def _faster(points: Array, sure: Array, n: int) -> tuple[Array, Array]:
    """In `n` frames, between which is interpolated; a point that is lost between two is found again."""
    points, sure = _filled(points, sure)
    at = np.linspace(0, len(points) - 1, n)
    low = np.minimum(at.astype(int), len(points) - 2)
    share = (at - low)[:, None]
    found = (sure[low] > 0) & (sure[low + 1] > 0) | (share == 0) & (sure[low] > 0) | (share == 1) & (sure[low + 1] > 0)
    mixed = np.where(found, sure[low] * (1 - share) + sure[low + 1] * share, 0.0)
    between = points[low] * (1 - share[..., None]) + points[low + 1] * share[..., None]
    return np.where(found[..., None], between, 0.0), mixed


def _filled(points: Array, sure: Array) -> tuple[Array, Array]:
    """Straight lines where a point was not found between frames in which it was; zeros before and after."""
    points, sure = points.copy(), sure.copy()
    points[sure == 0] = 0
    lost = sure == 0
    patterns, group = np.unique(lost, axis=1, return_inverse=True)
    group = np.ravel(group)
    for k in range(patterns.shape[1]):
        here, found = group == k, np.flatnonzero(~patterns[:, k])
        if len(found) < 2:
            continue
        gaps = np.flatnonzero(patterns[:, k])
        gaps = gaps[(gaps > found[0]) & (gaps < found[-1])]
        after = np.searchsorted(found, gaps)
        a, b = found[after - 1], found[after]
        share = ((gaps - a) / (b - a))[:, None]
        cols = np.flatnonzero(here)
        sure[np.ix_(gaps, cols)] = sure[np.ix_(a, cols)] * (1 - share) + sure[np.ix_(b, cols)] * share
        points[np.ix_(gaps, cols)] = (
            points[np.ix_(a, cols)] * (1 - share[..., None]) + points[np.ix_(b, cols)] * share[..., None]
        )
    return points, sure


def _seam(one: tuple[Array, Array, object], two: tuple[Array, Array, object], fps: float) -> tuple[int, int]:
    """Before which frame of the first to stop, and at which of the second to go on: where they are most alike."""
    n = [int(np.ceil(min(SEAM * fps, len(points) * SEAM))) for points, *_ in (one, two)]
    last, first = one[0][len(one[0]) - n[0] :], two[0][: n[1]]
    weight = one[1][len(one[0]) - n[0] :, None] * two[1][None, : n[1]]
    total = weight.sum(-1)
    apart = (weight * ((last[:, None] - first[None]) ** 2).sum(-1)).sum(-1)
    distance = np.where(total > 0, np.sqrt(apart / np.maximum(total, 1e-8)), np.inf)
    at = np.unravel_index(np.argmin(distance), distance.shape)
    return len(one[0]) - n[0] + int(at[0]), int(at[1])


def _smoothed(points: Array, fps: float) -> Array:
    """Without what is faster than 6 Hz; a short clip by a straight line through each three frames."""
    from scipy import signal  # type: ignore[import-not-found]

    b, a = np.asarray(signal.butter(ORDER, min(max(CUTOFF_HZ / (fps / 2), 1e-3), 0.99), btype="low"))
    if len(points) <= 3 * max(len(a), len(b)):
        return np.asarray(signal.savgol_filter(points, window_length=3, polyorder=1, axis=0))
    return np.asarray(signal.filtfilt(b, a, points, axis=0))


def _raised(points: Array, hands: Array, found: NDArray[np.bool_], letter: Recording) -> NDArray[np.bool_]:
    """`(T, 2)` whether the wrist of each hand is not at rest. The body's wrist is the hand's where that was found."""
    out = []
    for side, name in enumerate(("LEFT", "RIGHT")):
        at = {part: letter.body[f"{name}_{part}"] for part in BODY}
        hip, shoulder = points[:, at["HIP"], 1], points[:, at["SHOULDER"], 1]
        of_hand = found[:, letter.hands + side * hands.shape[2]]
        wrist = np.where(of_hand, hands[:, side, 0, 1], points[:, at["WRIST"], 1])
        torso = abs(float(np.median(hip - shoulder)))
        high = (hip - wrist) / (torso or 1.0) >= REST
        edges = np.flatnonzero(np.diff(np.concatenate([[0], high.astype(int), [0]])))
        for start, stop in edges.reshape(-1, 2):
            if stop - start < round(SHOWN_S * letter.fps):
                high[start:stop] = False
        out.append(high if torso else np.ones_like(high))
    return np.stack(out, 1)
