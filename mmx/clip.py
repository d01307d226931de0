"""`Clip`: the modalities of one recording on one clock, each a `Seq` with a rate of its own.

Time 0 is where the clip begins, in every modality: frame `i` of one with `rate` frames a second lasts from `i / rate`
to `(i + 1) / rate` seconds. A modality that ends earlier than the others is shorter.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, TypeAlias, get_args

import torch

from mmx.seq import Seq
from mmx.seq import pad as pad_rows

Clip: TypeAlias = Mapping[str, Seq]
"""Rows of each modality (`{"speech": Seq (B, N), "lips": Seq (B, T, H, W, 3)}`), all of them with a rate."""

Medium = Literal["audio", "video", "pose", "features", "text"]
"""What files and the columns of a manifest hold."""

SPEECH = "speech"
"""The modality that voice activity is found in."""
EXTRACTOR = "MediaPipe Holistic 0.10"
"""Name and version of what `mmx.media.landmarks` finds points with. A model of poses keeps what it learned from."""


@dataclass(frozen=True, slots=True)
class Input:
    """What a model reads in one of its modalities.

    Attributes:
        medium: the kind of file that it comes from.
        rate: samples or frames a second; None in text, which has no clock.
        shape: of a sample or frame: `()` for sound, `(H, W)` for grey and `(H, W, 3)` for RGB pictures of bytes (`()`
            in the size that they come in), `(J, C)` for points of a body, `(F,)` for features.
        points: of a body, names of the J points, or of groups of them, as .pose files have them.
        extractor: what finds these in pictures (`mmx.media.landmarks`); empty where films are not read.
        shows: of pictures, what they are cut to: "mouth"; empty where they show all that a camera sees.
    """

    medium: Medium
    rate: float | None
    shape: tuple[int, ...] = ()
    points: tuple[str, ...] = ()
    extractor: str = ""
    shows: str = ""

    def __post_init__(self) -> None:
        if self.medium not in get_args(Medium):
            raise ValueError(f"expected a medium among {', '.join(get_args(Medium))}, got {self.medium!r}")
        if self.medium != "text" and not (self.rate and self.rate > 0):
            raise ValueError(f"expected frames a second of {self.medium}, got rate={self.rate!r}")


def frame_at(time_s: float, rate: float) -> int:
    """The frame whose beginning is nearest to a time: the one place where seconds become frames."""
    return round(time_s * rate)


def duration_s(clip: Clip) -> float:
    """Seconds until the last modality of the longest row ends; 0 of an empty clip."""
    return max((float(seq.durations_s.max()) for seq in clip.values()), default=0.0)


def cut(clip: Clip, start_s: float, end_s: float) -> dict[str, Seq]:
    """The part of every row between two times, which must not be negative; its clock begins at the first.

    Parts that meet share no frame and leave none out, in any rate: `join` makes the clip of them again.
    """
    if not 0 <= start_s <= end_s:
        raise ValueError(f"expected 0 <= start_s <= end_s, got {start_s} and {end_s}")
    out: dict[str, Seq] = {}
    for name, seq in clip.items():
        first, last = (min(frame_at(t, rate_of(name, seq)), seq.x.shape[1]) for t in (start_s, end_s))
        lengths = (seq.lengths - first).clamp(min=0, max=last - first)
        out[name] = seq._replace(x=seq.x[:, first:last], lengths=lengths)
    return out


def join(clips: Sequence[Clip]) -> dict[str, Seq]:
    """Clips of one row each, one after the other on one clock: the parts of a clip that `cut` made are it again.

    A modality that ends before the others, or that a clip lacks, is filled with zeros up to where it goes on.
    """
    names = dict.fromkeys(name for clip in clips for name in clip)
    return {name: _joined(name, clips) for name in names}


def _joined(name: str, clips: Sequence[Clip]) -> Seq:
    like = next(clip[name] for clip in clips if name in clip)
    parts: list[torch.Tensor] = []
    at_s, length = 0.0, 0
    for clip in clips:
        if name in clip and int(clip[name].lengths[0]):
            seq = clip[name]
            _check_joint(name, like, seq)
            if length < at_s * rate_of(name, seq) - 1:
                parts.append(seq.x.new_zeros(frame_at(at_s, rate_of(name, seq)) - length, *seq.x.shape[2:]))
            parts.append(seq.x[0, : int(seq.lengths[0])])
            length = sum(map(len, parts))
        # A part that was cut out may have a frame more than it lasts: its length is known to a frame.
        at_s += max(((int(s.lengths[0]) - 1) / rate_of(n, s) for n, s in clip.items()), default=0.0)
    return like._replace(
        x=torch.cat([like.x[0, :0], *parts])[None], lengths=torch.tensor([length], device=like.x.device)
    )


def _check_joint(name: str, first: Seq, seq: Seq) -> None:
    if len(seq.x) != 1:
        raise ValueError(f"expected clips of one row to join, got {len(seq.x)} rows of {name}: join them before `pad`")
    if (seq.rate, seq.x.shape[2:]) != (first.rate, first.x.shape[2:]):
        raise ValueError(
            f"expected {name} at {first.rate} Hz with frames {tuple(first.x.shape[2:])} in every clip, "
            f"got {seq.rate} Hz with {tuple(seq.x.shape[2:])}"
        )


def pad(clips: Sequence[Clip]) -> dict[str, Seq]:
    """Clips of one row each as the rows of one clip; a modality that one of them lacks has length 0 there."""
    if not clips:
        raise ValueError("expected at least one clip to pad, got none")
    return {
        name: pad_rows([seq.x[0, : int(seq.lengths[0])] for seq in seqs], seqs[0].rate, seqs[0].final)
        for name, seqs in _by_modality(clips)
    }


def _by_modality(clips: Sequence[Clip]) -> Iterator[tuple[str, list[Seq]]]:
    for name in dict.fromkeys(name for clip in clips for name in clip):
        first = next(clip[name] for clip in clips if name in clip)
        none = first._replace(x=first.x[:1, :0], lengths=torch.zeros_like(first.lengths[:1]))
        seqs = [clip.get(name, none) for clip in clips]
        for seq in seqs:
            _check_joint(name, first, seq)
        yield name, seqs


def rate_of(name: str, seq: Seq) -> float:
    """Frames a second of a modality. Raises `ValueError` for one without: it has no place on a clock."""
    if seq.rate is None:
        raise ValueError(f"expected {name} with a rate, got rate=None: what has no clock (text) is no part of a clip")
    return seq.rate


class Rolling:
    """The last part of a clip of one row that grows at its end and is forgotten at its beginning.

    Times are those of the whole clip. What was appended is not copied.
    """

    def __init__(self) -> None:
        self._rows: dict[str, _Row] = {}

    def append(self, clip: Clip) -> None:
        """Add what follows."""
        for name, seq in clip.items():
            if name not in self._rows:
                self._rows[name] = _Row(seq._replace(x=seq.x[:, :0], lengths=seq.lengths * 0))
            self._rows[name].append(seq)

    def drop(self, before_s: float) -> None:
        """Let go of what was appended at once and ends at or before a time; the rest can still be had."""
        for name, row in self._rows.items():
            row.drop(frame_at(before_s, rate_of(name, row.like)))

    def fill(self, name: str, until_s: float) -> None:
        """Have zeros stand for a modality, which was appended before, up to a time, as `join` does."""
        row = self._rows[name]
        row.fill(frame_at(until_s, rate_of(name, row.like)))

    def saved(self) -> tuple[dict[str, torch.Tensor], dict[str, list[float]]]:
        """The frames that are there, by modality; the rate, the first frame and the end of each."""
        frames = {name: torch.cat([row.like.x[0], *row.parts]) for name, row in self._rows.items()}
        places = {name: [rate_of(name, row.like), row.start, row.end] for name, row in self._rows.items()}
        return frames, places

    def restore(self, frames: Mapping[str, torch.Tensor], places: Mapping[str, Sequence[float]]) -> None:
        """Go on from what `saved` gave."""
        for name, (rate, start, end) in places.items():
            none = Seq(frames[name][None, :0], torch.zeros(1, dtype=torch.int64), float(rate), final=False)
            row = self._rows[name] = _Row(none)
            row.start, row.end = int(start), int(end)
            if len(frames[name]):
                row.parts.append(frames[name])

    def end_of(self, name: str) -> float:
        """Seconds until a modality ends."""
        row = self._rows[name]
        return row.end / rate_of(name, row.like)

    @property
    def names(self) -> tuple[str, ...]:
        """The modalities."""
        return tuple(self._rows)

    @property
    def ends_s(self) -> list[float]:
        """Seconds until each modality ends."""
        return [self.end_of(name) for name in self._rows]

    @property
    def end_s(self) -> float:
        """Seconds until the longest modality ends."""
        return max(self.ends_s, default=0.0)

    def part(self, start_s: float, end_s: float, at_s: float = 0.0) -> dict[str, Seq]:
        """A stretch as the part of another clip that begins at `at_s` of it (see `lay`): `x` has as many frames as that
        place takes, up to half a frame beyond the stretch, and zeros where a modality has none; `lengths` tells up to
        where it has some."""
        out = {}
        for name, row in self._rows.items():
            rate = rate_of(name, row.like)
            count = frame_at(at_s + end_s - start_s, rate) - frame_at(at_s, rate)
            out[name] = row.get(frame_at(start_s, rate), count)
        return out


class _Row:
    """One modality of a `Rolling`: frames `start` to `end` of it are there."""

    def __init__(self, like: Seq) -> None:
        self.like, self.start, self.end = like, 0, 0
        self.parts: deque[torch.Tensor] = deque()

    def append(self, seq: Seq) -> None:
        x = seq.x[0, : int(seq.lengths[0])]
        if len(x):
            self.parts.append(x)
            self.end += len(x)

    def fill(self, until: int) -> None:
        if until > self.end:
            self.parts.append(self.like.x.new_zeros(until - self.end, *self.like.x.shape[2:]))
            self.end = until

    def drop(self, before: int) -> None:
        while self.parts and self.start + len(self.parts[0]) <= before:
            self.start += len(self.parts.popleft())

    def get(self, first: int, count: int) -> Seq:
        assert self.start <= first or not count, (self.start, first)
        found, at = [], self.start
        for part in self.parts:
            a, b = max(first, at), min(first + count, at + len(part))
            if a < b:
                found.append(part[a - at : b - at])
            at += len(part)
        n = sum(map(len, found))
        if n < count:
            found.append(self.like.x.new_zeros(count - n, *self.like.x.shape[2:]))
        x = found[0] if len(found) == 1 else torch.cat([self.like.x[0], *found])
        return self.like._replace(x=x[None], lengths=torch.full_like(self.like.lengths, n))


def lay(parts: Sequence[Clip]) -> dict[str, Seq]:
    """Parts that `Rolling.part` made for places that meet as one clip, without modalities of which there is nothing."""
    out: dict[str, Seq] = {}
    for name in dict.fromkeys(name for part in parts for name in part):
        seqs = [part[name] for part in parts]
        begins = accumulate((seq.x.shape[1] for seq in seqs), initial=0)
        ends = [at + int(seq.lengths[0]) for at, seq in zip(begins, seqs, strict=False) if seq.lengths[0]]
        if ends:
            x = seqs[0].x if len(seqs) == 1 else torch.cat([seq.x for seq in seqs], 1)
            out[name] = seqs[0]._replace(x=x[:, : ends[-1]], lengths=torch.full_like(seqs[0].lengths, ends[-1]))
    return out
