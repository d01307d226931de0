"""`Window`: a stretch of a recording for one call of a recogniser, which knows its place in the file."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch

from mmx import clip as clips
from mmx.clip import SPEECH, Clip
from mmx.media.audio import SAMPLE_RATE
from mmx.seq import Seq


@dataclass(frozen=True, slots=True)
class Piece:
    """`duration_s` seconds of a window from `window_s` are those of the file from `file_s`."""

    window_s: float
    file_s: float
    duration_s: float


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """What one call of a recogniser reads.

    Attributes:
        clip: one row of each modality, speech at 16 kHz; never longer than the longest window allowed.
        pieces: at least one, in time order, which together fill the clip.
        index: 0, 1, 2 ... in time order.
        speech: where the detector heard speech, seconds from and to on the window's clock, in time order; None when
            nobody listened.
    """

    clip: Clip
    pieces: tuple[Piece, ...]
    index: int
    speech: tuple[tuple[float, float], ...] | None = None

    @classmethod
    def of_sound(
        cls,
        samples: np.ndarray,
        pieces: tuple[Piece, ...],
        index: int,
        speech: tuple[tuple[float, float], ...] | None = None,
    ) -> "Window":
        """A window of nothing but sound, `(N,)` float32 at 16 kHz."""
        return cls(sound(samples), pieces, index, speech)

    @property
    def samples(self) -> np.ndarray:
        """The sound, `(N,)` float32 at 16 kHz, which must be there."""
        return self.clip[SPEECH].x[0].numpy()

    @property
    def start_s(self) -> float:
        """Where the window starts in the file."""
        return self.pieces[0].file_s

    @property
    def end_s(self) -> float:
        """Where the window ends in the file."""
        return self.pieces[-1].file_s + self.pieces[-1].duration_s

    @property
    def duration_s(self) -> float:
        """Seconds of the clip; less than `end_s - start_s` when a long silence was cut out."""
        if SPEECH in self.clip:
            return self.clip[SPEECH].x.shape[1] / SAMPLE_RATE
        return self.pieces[-1].window_s + self.pieces[-1].duration_s

    @property
    def speech_s(self) -> float:
        """Seconds of the file that the window holds: speech, and the short silences within and around it."""
        return sum(p.duration_s for p in self.pieces)

    def speech_within(self, start_s: float, end_s: float) -> float:
        """Seconds of speech between two times of the window; all of it counts where nobody listened."""
        heard = ((0.0, self.duration_s),) if self.speech is None else self.speech
        return sum(max(0.0, min(end_s, b) - max(start_s, a)) for a, b in heard)

    def within_speech(self, start_s: float, end_s: float, slack_s: float) -> tuple[float, float]:
        """A span of the window's clock without the silence at its ends.

        Args:
            start_s: seconds since the start of the window.
            end_s: the same.
            slack_s: silence that may stay on each side of speech, for detectors are late at soft sounds.

        Returns:
            The part that lies in the stretch of speech which holds most of the span, by its energy: a breath before
            a pause may last longer than the word after it. The span itself where no stretch holds any of it.
        """
        held = [(self._energy(max(start_s, a), min(end_s, b)), a, b) for a, b in self.speech or ()]
        most, a, b = max(held, default=(0.0, 0.0, 0.0))
        return (max(start_s, a - slack_s), min(end_s, b + slack_s)) if most > 0 else (start_s, end_s)

    def _energy(self, start_s: float, end_s: float) -> float:
        part = self.samples[round(start_s * SAMPLE_RATE) : round(max(start_s, end_s) * SAMPLE_RATE)]
        return float(np.square(part, dtype=np.float64).sum())

    def file_time(self, window_s: float, side: Literal["start", "end"] = "start") -> float:
        """The file's clock at a time of this window.

        Args:
            window_s: seconds since the start of the window; clamped to the window.
            side: which edge of a word or segment this is. At a joint of two pieces an end belongs to the
                earlier one and a start to the later one.

        Returns:
            Seconds since the start of the file. A time between two pieces goes to the nearer edge.
        """
        half = 0.5 / SAMPLE_RATE  # times are sums of floats: within half a sample is at the joint
        for piece, following in pairwise(self.pieces):
            joint_s = (piece.window_s + piece.duration_s + following.window_s) / 2
            if window_s < joint_s - half or (side == "end" and window_s <= joint_s + half):
                return _within(piece, window_s)
        return _within(self.pieces[-1], window_s)

    def file_span(self, start_s: float, end_s: float, slack_s: float) -> tuple[float, float]:
        """The file's clock at both edges of something said in the window.

        Recognisers place edges loosely, and at a joint that would stretch a word over the silence that was cut out.
        So a piece that holds less than `slack_s` of the span does not count, if another one holds more.

        Args:
            start_s: seconds since the start of the window.
            end_s: the same, not before `start_s`.
            slack_s: infinity keeps only the piece that holds most of the span, which is right for a word.
        """
        kept = [self.pieces[i] for i in self.held_by(start_s, end_s, slack_s)]
        return _within(kept[0], start_s), max(_within(kept[0], start_s), _within(kept[-1], end_s))

    def held_by(self, start_s: float, end_s: float, slack_s: float) -> list[int]:
        """Which pieces hold something said in the window, see `file_span`: at least one, several over a seam."""
        held = [min(end_s, p.window_s + p.duration_s) - max(start_s, p.window_s) for p in self.pieces]
        most = held.index(max(held))
        return [i for i in range(len(held)) if i == most or held[i] > slack_s]


@dataclass(frozen=True, slots=True)
class Gap:
    """A stretch of the file that is in no window, and why."""

    start_s: float
    end_s: float
    reason: str


def _within(piece: Piece, window_s: float) -> float:
    return piece.file_s + min(max(window_s - piece.window_s, 0.0), piece.duration_s)


def halves(window: Window) -> tuple[Window, Window]:
    """The window cut in two where it hurts least: at a joint near the middle, else at its quietest point there."""
    low, high = window.duration_s / 4, window.duration_s * 3 / 4
    joints = [p.window_s for p in window.pieces[1:] if low <= p.window_s <= high]
    if not joints and SPEECH not in window.clip:
        at_s = window.duration_s / 2
    elif joints:
        at_s = min(joints, key=lambda t: abs(t - window.duration_s / 2))
    else:
        first = to_samples(low)
        at_s = (first + quietest(window.samples[first : to_samples(high)])) / SAMPLE_RATE
    return cut(window, 0.0, at_s), cut(window, at_s, window.duration_s)


def cut(window: Window, start_s: float, end_s: float) -> Window:
    """The part of a window between two times on the window's clock, as a window that knows its place in the file."""
    a = max(0, round(start_s * SAMPLE_RATE))
    b = min(round(window.duration_s * SAMPLE_RATE), round(end_s * SAMPLE_RATE))
    pieces = []
    for p in window.pieces:
        first = max(a, round(p.window_s * SAMPLE_RATE))
        last = min(b, round((p.window_s + p.duration_s) * SAMPLE_RATE))
        if last > first:
            shift = first / SAMPLE_RATE - p.window_s
            pieces.append(Piece((first - a) / SAMPLE_RATE, p.file_s + shift, (last - first) / SAMPLE_RATE))
    if not pieces:
        raise ValueError(f"expected a stretch of audio inside the window, got {start_s:.2f} to {end_s:.2f} s")
    speech, start_s, end_s = window.speech, a / SAMPLE_RATE, b / SAMPLE_RATE
    if speech is not None:
        inside = ((max(from_s, start_s), min(to_s, end_s)) for from_s, to_s in speech)
        speech = tuple((from_s - start_s, to_s - start_s) for from_s, to_s in inside if from_s < to_s)
    return Window(clips.cut(window.clip, start_s, end_s), tuple(pieces), window.index, speech)


def sound(samples: np.ndarray) -> dict[str, Seq]:
    """A clip of nothing but sound, `(N,)` at 16 kHz, which is not copied where it is float32."""
    x = torch.from_numpy(samples.astype(np.float32, copy=False))
    return {SPEECH: Seq(x[None], torch.tensor([len(x)]), float(SAMPLE_RATE))}


def quietest(x: np.ndarray) -> int:
    """The middle of the 0.1 s of least energy in `x`, the latest of equals; `x` is longer than 0.1 s."""
    cell, cells = 160, 10  # 10 ms, 0.1 s
    x = x[: len(x) // cell * cell].astype(np.float64)
    energy = np.square(x - x.mean()).reshape(-1, cell).sum(1)
    smoothed = np.convolve(energy, np.ones(cells), mode="valid")
    return (last_least(smoothed) + cells // 2) * cell


def last_least(x: np.ndarray) -> int:
    """Index of the smallest value, the last of equals: the longer window for the same risk."""
    return len(x) - 1 - int(np.argmin(x[::-1]))


def to_samples(seconds: float) -> int:
    """Whole samples that fit in `seconds`."""
    return int(seconds * SAMPLE_RATE + 1e-6)
