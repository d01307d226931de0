"""Pseudo-labels: where a classifier of windows is sure, a recording without labels has one (CiCo, section 3.2).

arXiv 2303.12793. Windows of a recording slide over it, each with a probability of every class. Those that are sure are
taken, the surest first: one that begins next to a segment of its class makes that longer, one that begins a little
further off is left out, as it shows the same sign, and any other is a segment of its own. A domain-aware encoder is
trained on these.

Letters: N windows, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmx.errors import InputError


@dataclass(frozen=True)
class PseudoLabel:
    """A segment in which a class was recognized: frames `start` to `stop` (excluded), and how surely."""

    label: int
    start: int
    stop: int
    confidence: float


def pseudo_labels(
    probabilities_NC: NDArray[np.floating],
    *,
    window: int = 16,
    least: float = 0.6,
    near: int = 3,
    apart: int = 24,
    leave_out: Sequence[int] = (),
) -> list[PseudoLabel]:
    """Segments of a recording, by their beginning.

    Args:
        probabilities_NC: of the classes, in the window that begins at each frame.
        window: frames.
        least: probability above which a window is sure.
        near: frames from the first or last window of a segment, within which another makes it longer.
        apart: frames from it, within which another is left out.
        leave_out: classes that say nothing, as the blank of CTC.

    Raises:
        InputError: these are no probabilities.
    """
    p_NC = np.asarray(probabilities_NC)
    if p_NC.ndim != 2 or (p_NC.size and not (p_NC.min() >= 0 and p_NC.max() <= 1 + 1e-4)):
        raise InputError(f"expected probabilities of windows and classes, got an array of shape {p_NC.shape}")
    if not p_NC.size:
        return []
    best_N, sure_N = p_NC.argmax(1), p_NC.max(1)
    found: dict[int, list[PseudoLabel]] = {}
    for at in np.argsort(-sure_N, kind="stable").tolist():
        label, confidence = int(best_N[at]), float(sure_N[at])
        if confidence > least and label not in leave_out:
            _take(found.setdefault(label, []), PseudoLabel(label, at, at + window, confidence), window, near, apart)
    return sorted((x for segments in found.values() for x in segments), key=lambda x: (x.start, x.label))


def _take(segments: list[PseudoLabel], new: PseudoLabel, window: int, near: int, apart: int) -> None:
    """Put a window among the segments of its class."""
    gaps = [max(s.start - new.start, new.start - (s.stop - window), 0) for s in segments]
    if not gaps or min(gaps) > apart:
        segments.append(new)
        return
    i = int(np.argmin(gaps))
    old = segments[i]
    if gaps[i] <= near:
        segments[i] = PseudoLabel(old.label, min(old.start, new.start), max(old.stop, new.stop), old.confidence)
