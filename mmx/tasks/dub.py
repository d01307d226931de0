"""A translation said aloud, laid on the recording's clock.

Each stretch starts where its original did, or when the one before it has ended: nothing is cut, nothing overlaps.
"""

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from mmx.errors import InputError
from mmx.files import atomic_write
from mmx.tasks.result import SpokenSegment

PAUSE_S = 0.15
"""Silence between two stretches of which the first ran late."""


def lay(spoken: Sequence[SpokenSegment], duration_s: float = 0.0) -> SpokenSegment:
    """All stretches, of one rate, on one track that is at least `duration_s` long."""
    if not spoken:
        silence = SpokenSegment(0.0, np.zeros(0, np.float32))
        return replace(silence, samples=np.zeros(round(duration_s * silence.rate), np.float32))
    rate = spoken[0].rate
    placed: list[tuple[int, NDArray[np.float32]]] = []
    free = 0
    for s in spoken:
        start = max(round(s.start_s * rate), free)
        placed.append((start, s.samples))
        free = start + len(s.samples) + round(PAUSE_S * rate)
    ends = [start + len(samples) for start, samples in placed]
    track = np.zeros(max([round(duration_s * rate), *ends]), np.float32)
    for start, samples in placed:
        track[start : start + len(samples)] = samples
    return SpokenSegment(0.0, track, rate)


def kind_of(path: Path) -> str:
    """The format that a file's ending names. Raises `InputError` for one that is not written."""
    if not is_audio_file(path):
        raise InputError(f"expected a .wav or .flac file for speech, got {str(path)!r}")
    return path.suffix.upper().lstrip(".")


def is_audio_file(path: Path) -> bool:
    """Whether a file's ending names a format that `write` writes."""
    return path.suffix.lower() in (".wav", ".flac")


def write(path: Path, track: SpokenSegment) -> Path:
    """Write a track as WAV or FLAC. Raises `InputError` for another ending, `OutputError` for a full disk."""
    kind, buffer = kind_of(path), io.BytesIO()
    soundfile.write(buffer, track.samples, round(track.rate), subtype="PCM_16", format=kind)
    return atomic_write(path, buffer.getvalue())
