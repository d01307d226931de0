"""A translation said aloud, laid on the recording's clock.

Each stretch starts where its original did, or when the one before it has ended: nothing is cut, nothing overlaps.
"""

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from mmx.errors import InputError
from mmx.files import atomic_write
from mmx.tasks.result import Spoken

RATE = 16_000
PAUSE_S = 0.15
"""Silence between two stretches of which the first ran late."""


def lay(spoken: Iterable[Spoken], duration_s: float = 0.0) -> NDArray[np.float32]:
    """All stretches on one track `(N,)` at 16 kHz, at least `duration_s` long."""
    placed: list[tuple[int, NDArray[np.float32]]] = []
    free = 0
    for s in spoken:
        start = max(round(s.start_s * RATE), free)
        placed.append((start, s.samples))
        free = start + len(s.samples) + round(PAUSE_S * RATE)
    ends = [start + len(samples) for start, samples in placed]
    track = np.zeros(max([round(duration_s * RATE), *ends]), np.float32)
    for start, samples in placed:
        track[start : start + len(samples)] = samples
    return track


def kind_of(path: Path) -> str:
    """The format that a file's ending names. Raises `InputError` for one that is not written."""
    if not is_sound(path):
        raise InputError(f"expected a .wav or .flac file for speech, got {str(path)!r}")
    return path.suffix.upper().lstrip(".")


def is_sound(path: Path) -> bool:
    """Whether a file's ending names a format that `write` writes."""
    return path.suffix.lower() in (".wav", ".flac")


def write(path: Path, track: NDArray[np.float32]) -> Path:
    """Write a track as WAV or FLAC. Raises `InputError` for another ending, `OutputError` for a full disk."""
    kind, buffer = kind_of(path), io.BytesIO()
    soundfile.write(buffer, track, RATE, subtype="PCM_16", format=kind)
    return atomic_write(path, buffer.getvalue())
