"""Sound from anything: every container and codec that FFmpeg's libraries (inside PyAV) read, stdin, arrays.

One pipeline of generators, each step a function: source -> channels float32 at the source's rate, on the file's
presentation clock (`decode.py`) -> one channel (`downmix.py`) -> resampled -> blocks of equal length. Nothing
holds more than a block at a time.

Letters: n samples, c channels. Rates are in Hz, times in seconds.
"""

from __future__ import annotations

import math
import os
from collections.abc import Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from mmx.errors import InputError, MmxWarning
from mmx.media import downmix
from mmx.media.blocks import BlockReader
from mmx.media.container import open_container, opened
from mmx.media.decode import NOT_FINITE, Peak, decoded, unit
from mmx.media.downmix import SIDES, ChannelAudio
from mmx.media.source import as_array

__all__ = ["NOT_FINITE", "SAMPLE_RATE", "AudioReader", "Source", "open_audio", "read_audio"]

if TYPE_CHECKING:
    import torch

    Source = str | os.PathLike[str] | BinaryIO | bytes | np.ndarray | torch.Tensor
else:  # torch takes a second to import, and naming a type is no reason to
    Source = str | os.PathLike[str] | BinaryIO | bytes | np.ndarray

SAMPLE_RATE = 16_000
"""Rate of the blocks (Hz) unless asked otherwise: what speech models hear."""

Piece = tuple[np.ndarray, int]
"""Mono float32 samples (n,) and their rate in Hz."""


class AudioReader(BlockReader):
    """Mono blocks (n,) float32, about -1 to 1, each `block_s` long except the last.

    Attributes:
        rate: samples per second of the blocks.
        channels: how many the source has.
    """

    def __init__(
        self, name: str, pieces: Generator[Piece, None, None], *, rate: int, block_s: float, channels: int, **rest: Any
    ) -> None:
        super().__init__(name, _cut(pieces, rate, max(1, round(block_s * rate))), rate=rate, **rest)
        self.channels = channels


def _cut(pieces: Generator[Piece, None, None], rate: int, size: int) -> Generator[np.ndarray, None, None]:
    try:
        yield from _blocks(_resampled(pieces, rate), size)
    finally:
        pieces.close()


def open_audio(
    source: Source,
    *,
    rate: int = SAMPLE_RATE,
    source_rate: int | None = None,
    block_s: float = 10.0,
    track: int | None = None,
    channels: str = "mix",
) -> AudioReader:
    """Open the sound of `source` for reading block by block.

    Args:
        source: a path, ``"-"`` (stdin), an open binary file, the bytes of a file, or samples: a numpy array
            or torch tensor (n,), (n, c) or (c, n), the smaller dimension being the channels; integers are
            scaled by their type.
        rate: wanted samples per second.
        source_rate: samples per second of an array; `rate` when not given. Files declare their own.
        block_s: length of a block in seconds. It changes nothing in the samples.
        track: which audio track of a file, from 1 on; the default one when None.
        channels: "mix", "left" or "right" (the first and the second channel).

    Returns:
        An `AudioReader`: mono. "mix" is the sum of all channels by the layout of their loudspeakers (see
        `mmx.media.downmix`); of two channels that cancel each other one is taken. Time 0 is where the container's
        presentation starts: silence stands before sound that starts later and for lost packets.

    Raises:
        InputError: an argument that cannot be used (an address, a text-mode file, NaN in an array).
        MediaError: a file that is missing, unreadable, empty, cut off, not media, or without sound or the track.
    """
    for label, value in (("rate", rate), ("source_rate", source_rate), ("block_s", block_s)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise InputError(f"{label} must be a positive number, got {value!r}.")
    if channels not in ("mix", *SIDES):
        raise InputError(f"expected channels mix, left or right, got {channels!r}")
    if track is not None and track < 1:
        raise InputError(f"expected a track from 1 on, got {track}")
    samples = as_array(source)
    if samples is not None:
        if track is not None:
            raise InputError(f"track={track} is for files: an array is one track.")
        return _open_array(samples, rate=rate, source_rate=source_rate or rate, block_s=block_s, channels=channels)
    if source_rate is not None:
        raise InputError(
            f"source_rate={source_rate} is for arrays: a file declares its own rate. For headerless samples "
            "pass an array, such as numpy.frombuffer(data, numpy.int16)."
        )
    container, name, on_close = opened(source, lambda file, label: open_container(file, label, track))
    warnings, remarks = list(container.warnings), []
    return AudioReader(
        name,
        downmix.downmix(decoded(container, warnings, remarks), channels, remarks, container.label),
        rate=rate,
        block_s=block_s,
        duration_s=container.declared_s,
        channels=container.stream.codec_context.channels,
        warnings=warnings,
        remarks=remarks,
        on_close=on_close,
    )


def read_audio(
    source: Source,
    *,
    rate: int = SAMPLE_RATE,
    source_rate: int | None = None,
    track: int | None = None,
    channels: str = "mix",
) -> np.ndarray:
    """Read all the sound of `source` at once; the arguments and errors are those of `open_audio`.

    Returns:
        Samples (n,) float32 at `rate`. What `AudioReader` would hold as warnings and remarks is issued as
        `MmxWarning`.
    """
    import warnings

    with open_audio(source, rate=rate, source_rate=source_rate, track=track, channels=channels) as reader:
        blocks = list(reader)
    for message in reader.warnings + reader.remarks:
        warnings.warn(f"{reader.name}: {message}", MmxWarning, stacklevel=2)
    return np.concatenate([np.zeros(0, np.float32), *blocks])


# ---------------------------------------------------------------------------------------- samples and blocks


def _resampled(pieces: Iterable[Piece], rate: int) -> Iterator[np.ndarray]:
    """The pieces at `rate`, filtered as one signal: no click at an edge, n * rate / source_rate in all."""
    import soxr

    stream, at_hz = None, rate
    for mono, source_hz in pieces:
        if source_hz != at_hz:  # at the start, and where a stream changes its rate midway
            if stream is not None:
                yield stream.resample_chunk(np.zeros(0, np.float32), last=True)
            at_hz = source_hz
            stream = soxr.ResampleStream(at_hz, rate, 1, dtype="float32") if at_hz != rate else None
        yield mono if stream is None else stream.resample_chunk(mono)
    if stream is not None:
        yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


def _blocks(pieces: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """The same samples cut into arrays of exactly `size`, the last one shorter."""
    held: list[np.ndarray] = []
    count = 0
    for piece in pieces:
        held.append(piece)
        count += len(piece)
        if count < size:
            continue
        joined = np.concatenate(held)
        whole = count - count % size
        for start in range(0, whole, size):
            yield joined[start : start + size]
        held, count = [joined[whole:].copy()], count - whole
    if count:
        yield np.concatenate(held)


# ---------------------------------------------------------------------------------------------------- arrays


def _open_array(samples: np.ndarray, *, rate: int, source_rate: int, block_s: float, channels: str) -> AudioReader:
    """A reader over samples in memory, (n,), (n, c) or (c, n)."""
    kind, width = samples.dtype.kind, samples.dtype.itemsize
    if kind not in "iuf" or (kind in "iu" and width > 4) or (kind == "u" and width > 2):
        raise InputError(
            f"expected float, int8, int16, int32, uint8 or uint16 samples, got {samples.dtype}: its full "
            "scale is unknown. Convert it, for example with .astype('int16') or .astype('float32')."
        )
    if samples.ndim not in (1, 2) or samples.size == 0:
        raise InputError(f"expected samples of shape (n,), (n, channels) or (channels, n), got {samples.shape}.")
    if samples.ndim == 2 and samples.shape[0] < samples.shape[1]:
        samples = samples.T
    bad, peak = 0, Peak()
    for piece in _slices(samples, source_rate) if kind == "f" else ():
        bad += piece.size - int(np.count_nonzero(np.isfinite(piece)))
        peak.push(piece)
    if bad:
        raise InputError(
            f"the array holds {bad} NaN or infinite values among {samples.size}: expected finite samples. "
            "numpy.nan_to_num(samples) makes them zeros."
        )
    scale, remarks = np.float32(peak.scale), [] if peak.scale == 1.0 else [peak.remark]
    names = downmix.names_by_count(1 if samples.ndim == 1 else samples.shape[1])

    def sounds() -> Generator[ChannelAudio, None, None]:
        for piece in _slices(samples, source_rate):
            yield ChannelAudio(np.atleast_2d(unit(piece).T) / scale, names, source_rate)

    return AudioReader(
        "array",
        downmix.downmix(sounds(), channels, remarks, "array"),
        rate=rate,
        block_s=block_s,
        duration_s=len(samples) / source_rate,
        channels=len(names),
        warnings=[],
        remarks=remarks,
    )


def _slices(samples: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Consecutive rows of `samples`, `size` at a time."""
    return (samples[start : start + size] for start in range(0, len(samples), size))
