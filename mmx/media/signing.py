"""Where somebody signs in a recording of points: hands that are raised and move, apart from hands at rest.

Written for points of MediaPipe (33 of a body, 21 of each hand), as pixels or any unit in which y grows downwards.

Letters: T frames, J points, C coordinates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

BODY = "POSE_LANDMARKS"
HANDS = ("LEFT_HAND_LANDMARKS", "RIGHT_HAND_LANDMARKS")
SIZES: Mapping[str, int] = {BODY: 33, HANDS[0]: 21, HANDS[1]: 21}
SHOULDERS, WRISTS, HIPS = (11, 12), (15, 16), (23, 24)
FINGERTIPS = (0, 4, 8, 12, 16, 20)
"""Points of a hand whose movement counts, the wrist first."""
PALM_TO_SHOULDERS = 4.0
"""Palms in the width of the shoulders, where only hands are known."""


@dataclass(frozen=True)
class SigningOptions:
    """What is signing. Lengths in widths of the shoulders.

    Attributes:
        moves: that a hand goes within `moves_s`, to count as moving.
        moves_s: see there.
        hold_s: how long a raised hand may stand still within signing.
        waist: below the shoulders, where a hand is at rest, when hips were not found.
        pause_s: rest up to this long stays within signing.
        least_s: signing shorter than this is none.
        pad_s: kept on either side.
    """

    moves: float = 0.08
    moves_s: float = 0.4
    hold_s: float = 1.0
    waist: float = 1.5
    pause_s: float = 0.6
    least_s: float = 0.3
    pad_s: float = 0.2


def signing_spans(
    x_TJC: np.ndarray, rate: float, groups: Sequence[str], options: SigningOptions | None = None
) -> list[tuple[float, float]]:
    """Seconds from and to of signing, in order, no two overlapping.

    Args:
        x_TJC: points; those that were not found are 0.
        rate: frames a second.
        groups: of the points, in their order, of `SIZES`; without a hand everything is signing.
        options: what is signing.
    """
    o = SigningOptions() if options is None else options
    parts = _parts(x_TJC, groups)
    if not any(h in parts for h in HANDS):
        return [(0.0, len(x_TJC) / rate)] if len(x_TJC) else []
    active_T = np.zeros(len(x_TJC), bool)
    for side, name in enumerate(HANDS):
        if name in parts:
            active_T |= _active(parts[name], side, parts.get(BODY), _width(parts), rate, o)
    spans = _joined(_runs(active_T), o.pause_s * rate)
    spans = [(a, b) for a, b in spans if b - a >= o.least_s * rate]
    pad, end = o.pad_s * rate, len(x_TJC)
    padded = [(max(0, int(a - pad)), min(end, int(np.ceil(b + pad)))) for a, b in spans]
    return [(a / rate, b / rate) for a, b in _joined(padded, 0)]


def _parts(x_TJC: np.ndarray, groups: Sequence[str]) -> dict[str, np.ndarray]:
    found, at = {}, 0
    for name in groups:
        if name not in SIZES:
            return {}  # of points that are not known, nothing is said
        found[name], at = x_TJC[:, at : at + SIZES[name]], at + SIZES[name]
    return found


def _width(parts: Mapping[str, np.ndarray]) -> float:
    """Of the shoulders; guessed from palms where they were not found."""
    if BODY in parts:
        left_TC, right_TC = (parts[BODY][:, i, :2] for i in SHOULDERS)
        seen_T = left_TC.any(1) & right_TC.any(1)
        if seen_T.any() and (wide := float(np.median(np.linalg.norm((left_TC - right_TC)[seen_T], axis=1)))) > 0:
            return wide
    palms = [np.linalg.norm(h[:, 9, :2] - h[:, 0, :2], axis=1) for n, h in parts.items() if n in HANDS]
    seen = np.concatenate([p[p > 0] for p in palms])
    return PALM_TO_SHOULDERS * float(np.median(seen)) if len(seen) else 1.0


def _active(
    hand_TJC: np.ndarray, side: int, body_TJC: np.ndarray | None, width: float, rate: float, o: SigningOptions
) -> np.ndarray:
    """`(T,)` bool, whether one hand signs."""
    found_T: np.ndarray = np.any(hand_TJC, axis=(1, 2))
    tips_TJC = hand_TJC[:, list(FINGERTIPS), :2].copy()
    if body_TJC is not None:  # the arm may be seen where the hand is blurred
        wrist_TC = body_TJC[:, WRISTS[side], :2]
        only_T = ~found_T & wrist_TC.any(1)
        tips_TJC[only_T] = wrist_TC[only_T, None]
        found_T = found_T | only_T
    raised_T = found_T
    if body_TJC is not None:
        raised_T = found_T & _raised(tips_TJC[:, 0, 1], body_TJC, width, o)
    lag = max(1, round(o.moves_s * rate))
    moves_T = np.zeros(len(hand_TJC), bool)
    gone = np.linalg.norm(tips_TJC[lag:] - tips_TJC[:-lag], axis=-1).max(1) > o.moves * width
    moves_T[lag:] = gone & raised_T[lag:] & raised_T[:-lag]  # raising and lowering a hand is not signing
    moves_T = _spread(moves_T, lag, 0)
    return raised_T & _spread(moves_T, round(o.hold_s * rate / 2), round(o.hold_s * rate / 2))


def _raised(y_T: np.ndarray, body_TJC: np.ndarray, width: float, o: SigningOptions) -> np.ndarray:
    shoulders_T = body_TJC[:, list(SHOULDERS), 1].mean(1)
    hips_TJ = body_TJC[:, list(HIPS), 1]
    waist_T = np.where((hips_TJ != 0).all(1), hips_TJ.mean(1) - 0.15 * width, shoulders_T + o.waist * width)
    return (y_T < waist_T) | (shoulders_T == 0)


def _spread(true_T: np.ndarray, before: int, after: int) -> np.ndarray:
    """True also for so many frames before and after."""
    out_T = true_T.copy()
    for start, stop in _runs(true_T):
        out_T[max(0, start - before) : stop + after] = True
    return out_T


def _runs(true_T: np.ndarray) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], true_T.astype(np.int8), [0]])))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def _joined(spans: Sequence[tuple[int, int]], gap: float) -> list[tuple[int, int]]:
    """Those that are no further apart than `gap` become one."""
    out: list[tuple[int, int]] = []
    for start, stop in spans:
        if out and start - out[-1][1] <= gap:
            out[-1] = (out[-1][0], max(out[-1][1], stop))
        else:
            out.append((start, stop))
    return out
