"""`open_clip`: all that a model reads of one recording, in clips that follow each other.

    talk.mp4 -> sound (`audio.py`)    -> "speech"
             -> pictures (`video.py`) -> "lips"     on the file's one clock, as long a stretch of each at a time

Each medium is read by a reader of its own, which is never further ahead than a block: the length of a recording is not
in memory. Sound and pictures begin where their container says and end where they end.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any, cast

import numpy as np
import torch

from mmx.clip import Input, frame_at
from mmx.errors import InputError, MediaError
from mmx.media.audio import AudioReader, open_audio
from mmx.media.blocks import BlockReader
from mmx.media.landmarks import open_landmarks
from mmx.media.pose import ENDINGS, Numbers, open_numbers
from mmx.media.source import FILMS, MEDIA, as_array, names_a_film, reopened
from mmx.media.video import open_video
from mmx.seq import Seq

BLOCK_S = 10.0
"""Seconds of sound at a time."""
FILM_BLOCK_S = 2.0
"""... where there are pictures beside it, which are large."""


def endings(inputs: Mapping[str, Input]) -> frozenset[str]:
    """Endings of the files that a folder is searched for, by what a model reads."""
    by_medium = {"audio": MEDIA, "video": FILMS, **ENDINGS}
    found = [by_medium.get(i.medium, frozenset()) | (FILMS if i.extractor else frozenset()) for i in inputs.values()]
    return frozenset[str]().union(*found)


class ClipReader:
    """Clips of one row that follow each other, read lazily; closes at the end, by `close()`, or as a context manager.

    Attributes:
        name: for messages and output file names.
        duration_s: the longest that a medium declares; None when none does. It may be wrong.
        modalities: those that are read.
        channels: how many the sound has; 0 without sound.
        block_s: seconds of a clip; may be set before the first one.
    """

    def __init__(self, streams: Mapping[str, _Stream], stack: ExitStack, partial: bool, left_out: list[str]) -> None:
        self._streams, self._stack, self._partial, self._left_out = dict(streams), stack, partial, left_out
        readers = [s.reader for s in streams.values()]
        self.name = readers[0].name
        self.duration_s = max((r.duration_s for r in readers if r.duration_s is not None), default=None)
        self.channels = next((r.channels for r in readers if isinstance(r, AudioReader)), 0)
        self.block_s = FILM_BLOCK_S if any(s.what.medium == "video" for s in streams.values()) else BLOCK_S

    @property
    def modalities(self) -> tuple[str, ...]:
        """Those that are read."""
        return tuple(self._streams)

    @property
    def warnings(self) -> list[str]:
        """What was wrong yet did not stop the reading; complete after the last clip."""
        return list(dict.fromkeys(w for s in self._streams.values() for w in s.reader.warnings))

    @property
    def left_out(self) -> list[str]:
        """Modalities that are not read, and why."""
        return list(self._left_out)

    @property
    def remarks(self) -> list[str]:
        """What was done to read it, and what was left out; complete after the last clip."""
        return self._left_out + list(dict.fromkeys(w for s in self._streams.values() for w in s.reader.remarks))

    def __iter__(self) -> Iterator[dict[str, Seq]]:
        """Clips of equal length, the last one shorter; a modality that has ended has length 0 in those that follow.

        Raises:
            MediaError: when nothing at all of a medium can be decoded, unless it is left out.
        """
        try:
            self._prime()
            for count in itertools.count():
                clip = {name: s.until((count + 1) * self.block_s) for name, s in self._streams.items()}
                if not any(int(seq.lengths[0]) for seq in clip.values()):
                    return
                yield clip
        finally:
            self.close()

    def _prime(self) -> None:
        """Decode the first of each medium, and leave out those of which there is nothing."""
        for name, stream in list(self._streams.items()):
            try:
                stream.prime()
            except MediaError as e:
                if not self._partial or len(self._streams) == 1:
                    raise
                del self._streams[name]
                self._left_out.append(f"{name} is left out: {e}")

    def close(self) -> None:
        """Close all that was opened here. May be called twice."""
        self._stack.close()

    def __enter__(self) -> ClipReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Stream:
    """The frames of one modality, given out up to times of the clock."""

    def __init__(self, what: Input, reader: BlockReader) -> None:
        self.what, self.reader = what, reader
        self.blocks = iter(reader)
        self.held: list[np.ndarray] = []
        self.done = 0

    def prime(self) -> None:
        """Read the first block."""
        first = next(self.blocks, None)
        self.held = [] if first is None else [first]

    def until(self, time_s: float) -> Seq:
        """All frames up to a time that were not given out."""
        wanted, count = frame_at(time_s, self.reader.rate) - self.done, sum(map(len, self.held))
        while count < wanted and (block := next(self.blocks, None)) is not None:
            self.held.append(block)
            count += len(block)
        if not count:
            dtype = torch.uint8 if self.what.medium == "video" else torch.float32
            x = torch.zeros(0, *self.what.shape, dtype=dtype)
        else:
            joined = self.held[0] if len(self.held) == 1 else np.concatenate(self.held)
            joined = joined if joined.flags.writeable else joined.copy()  # as a user's array or a mapped file is
            x, rest = torch.from_numpy(joined[:wanted]), joined[wanted:]
            self.held = [rest] if len(rest) else []
        self.done += len(x)
        return Seq(x[None], torch.tensor([len(x)]), float(self.reader.rate))


def open_clip(
    source: Any,
    inputs: Mapping[str, Input],
    *,
    partial: bool = False,
    track: int | None = None,
    channels: str = "mix",
    video_reader: str = "pyav",
) -> ClipReader:
    """Open all that a model reads of one recording.

    Args:
        source: a path, ``"-"`` (stdin), an open binary file or the bytes of a file, of which every medium is read; an
            array or tensor, for a single modality; or a mapping with one of these for each medium or modality:
            `{"video": "face.mp4", "audio": "microphone.wav"}`.
        inputs: what the model reads, see `Model.recorded`.
        partial: whether the model does without some of its modalities: a medium that is not there is left out, which
            is remarked, unless it is the last one. Else it is an error.
        track: see `open_audio`.
        channels: the same.
        video_reader: see `open_video`.

    Raises:
        InputError: an argument that cannot be used.
        MediaError: a file that is missing or unreadable, or lacks what is needed.
    """
    if not inputs:
        raise InputError("expected a model that reads audio, pictures, poses or features, got one that reads none")
    stack, left_out = ExitStack(), []
    streams: dict[str, _Stream] = {}
    first: MediaError | None = None
    try:
        sources = _sources(source, inputs, stack)
        for name, what in inputs.items():
            try:
                reader = stack.enter_context(_open(sources.get(name), name, what, track, channels, video_reader))
                streams[name] = _Stream(what, reader)
            except MediaError as e:
                if not partial or len(inputs) == 1:
                    raise
                first = first or e
                left_out.append(f"{name} is left out: {e}")
        if not streams:
            assert first is not None
            raise first
    except BaseException:
        stack.close()
        raise
    return ClipReader(streams, stack, partial, left_out)


def _sources(source: Any, inputs: Mapping[str, Input], stack: ExitStack) -> dict[str, Callable[[], Any]]:
    """What gives the source of each modality; one that is not there has none."""
    if isinstance(source, Mapping):
        known = {*inputs, *(i.medium for i in inputs.values())}
        if unknown := source.keys() - known:
            raise InputError(f"expected media or modalities among {', '.join(sorted(known))}, got {sorted(unknown)}")
        given = {n: source.get(n, source.get(i.medium)) for n, i in inputs.items()}
        return {n: (lambda s=s: s) for n, s in given.items() if s is not None}
    if len(inputs) > 1 and as_array(source) is not None:
        raise InputError(
            f"expected arrays by modality for a model of {len(inputs)}, such as "
            f"{{{', '.join(f'{n!r}: ...' for n in inputs)}}}, got one array"
        )
    again = stack.enter_context(reopened(source))
    return dict.fromkeys(inputs, again)


def _open(
    again: Callable[[], Any] | None, name: str, what: Input, track: int | None, channels: str, video_reader: str
) -> BlockReader:
    if again is None:
        raise MediaError(f"expected {what.medium} for {name}, got none: give its file, too")
    source, rate = again(), what.rate
    assert rate is not None, "text is no recording"
    if what.medium == "audio":
        return open_audio(source, rate=int(rate), track=track, channels=channels, block_s=BLOCK_S)
    if what.medium == "video":
        return open_video(source, rate=rate, shape=what.shape or None, reader=video_reader)
    if what.extractor and names_a_film(source):
        return open_landmarks(
            source, rate=rate, groups=what.points, extractor=what.extractor, video_reader=video_reader
        )
    return open_numbers(source, medium=cast(Numbers, what.medium), rate=rate, shape=what.shape, points=what.points)
