"""Spoken phrases on one track, and the track as a file.

Each phrase starts where its original did, or when the one before it has ended: nothing is cut, nothing overlaps.

Letters: N samples.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmx.errors import InputError
from mmx.media.film import CODECS, is_film, replace_audio
from mmx.media.write import format_of, is_audio_file, write_audio
from mmx.tasks.result import SpokenSegment
from mmx.tasks.words import Word

PAUSE_S = 0.15
"""Silence between two phrases of which the first ran late."""
EDGE_S, QUIET = 0.03, 10 ** (-45 / 20)
"""What is left of the silence around a phrase; relative to its peak, what counts as silence."""


def lay(spoken: Sequence[SpokenSegment], duration_s: float = 0.0) -> SpokenSegment:
    """All phrases, of one rate, on one track that is at least `duration_s` long; their words are on its clock."""
    if not spoken:
        silence = SpokenSegment(0.0, np.zeros(0, np.float32))
        return replace(silence, samples=np.zeros(round(duration_s * silence.rate), np.float32))
    rate = spoken[0].rate
    placed: list[tuple[int, NDArray[np.float32]]] = []
    words: list[Word] = []
    free = 0
    for s in spoken:
        start = max(round(s.start_s * rate), free)
        placed.append((start, s.samples))
        words += [_moved(w, start / rate) for w in s.words]
        free = start + len(s.samples) + round(PAUSE_S * rate)
    ends = [start + len(samples) for start, samples in placed]
    track = np.zeros(max([round(duration_s * rate), *ends]), np.float32)
    for start, samples in placed:
        track[start : start + len(samples)] = samples
    return SpokenSegment(0.0, track, rate, tuple(words))


def end_of(spoken: SpokenSegment) -> float:
    """When it has been spoken, in seconds of the recording."""
    return spoken.start_s + len(spoken.samples) / spoken.rate


def trimmed(spoken: SpokenSegment) -> SpokenSegment:
    """Without the silence that a synth puts around a phrase, which would shift it."""
    level_N = np.abs(spoken.samples)
    loud = np.flatnonzero(level_N > QUIET * level_N.max(initial=0.0))
    if not len(loud):
        return spoken
    edge = round(EDGE_S * spoken.rate)
    begin, end = max(loud[0] - edge, 0), min(loud[-1] + 1 + edge, len(spoken.samples))
    words = tuple(_moved(w, -begin / spoken.rate) for w in spoken.words)
    return replace(spoken, samples=spoken.samples[begin:end], words=words)


def _moved(word: Word, by_s: float) -> Word:
    return replace(word, start_s=max(0.0, word.start_s + by_s), end_s=max(0.0, word.end_s + by_s))


def check_target(path: Path, source: str | None = None) -> None:
    """Raise `InputError` for a file that speech is not written to.

    Args:
        path: the file.
        source: of the recording that it is laid over; without one, no film can be written.
    """
    if is_audio_file(path) or (source is not None and is_film(path)):
        if source == "-" and is_film(path):
            raise InputError("expected a film's file to take the pictures from, got standard input")
        return
    try:
        format_of(path)
    except InputError as e:
        films = f" (or a film: {', '.join(CODECS)})" if source is not None else ""
        raise InputError(f"{e}{films}") from None


def write(path: Path, track: SpokenSegment, source: str | None = None) -> Path:
    """Write a track by the file's ending: as sound, or as the film of `source` with this sound in place of its own.

    Raises:
        InputError: the ending is of neither.
        MediaError: the source is no film.
        OutputError: it cannot be written; what was there is intact.
    """
    check_target(path, source)
    if source is not None and is_film(path):
        return replace_audio(source, path, track.samples, track.rate)
    return write_audio(path, [track.samples], track.rate)
