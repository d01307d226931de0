"""Sound from anything: every container and codec that FFmpeg's libraries (inside PyAV) read, stdin, arrays.

One pipeline of generators, each step a function: source -> pieces (mono float32 at the source's rate, on the
file's presentation clock) -> resampled -> blocks of equal length. Nothing holds more than a block at a time.

The file is opened in Python and FFmpeg is handed the open object with every protocol forbidden: a name like
``concat:a|b`` is only a name, and a playlist inside a file opens nothing.

Letters: n samples, c channels. Rates are in Hz, times in seconds.
"""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np

from mmx.errors import InputError, MediaError, MmxWarning
from mmx.media_file import File, open_file, unreadable

if TYPE_CHECKING:
    import torch
    from av.audio.frame import AudioFrame
    from av.audio.stream import AudioStream
    from av.container.input import InputContainer

    Source = str | os.PathLike[str] | BinaryIO | bytes | np.ndarray | torch.Tensor
else:  # torch takes a second to import, and naming a type is no reason to
    Source = str | os.PathLike[str] | BinaryIO | bytes | np.ndarray

SAMPLE_RATE = 16_000
"""Rate of the blocks (Hz) unless asked otherwise: what speech models hear."""

GAP_S = 0.1
"""Timestamps this far ahead of the samples are a hole, filled with silence; less is rounding or jitter."""

MAX_GAP_S = 3600.0
"""A jump longer than this is a broken or restarted clock, not an hour of missing sound."""

NOT_FINITE = "NaN or infinite"  # in the warning of such samples; what is trained on must have none

# FFmpeg may open nothing by itself: "none" names no protocol.
SEALED = {"protocol_whitelist": "none"}

# How files begin that only name other files or addresses, which are never followed.
PLAYLISTS = (b"#EXTM3U", b"ffconcat version", b"<MPD", b"v=0\r\no=", b"v=0\no=", b"[playlist]")

Piece = tuple[np.ndarray, int]
"""Mono float32 samples (n,) and their rate in Hz."""


class AudioReader:
    """Mono float32 blocks at `rate`, read lazily: memory does not grow with the length of the file.

    Can be iterated once, like an open file. Closes at the end, by `close()`, or as a context manager.

    Attributes:
        name: for messages and output file names ("talk.mp4", "stdin", "array").
        duration_s: what the container declares; None when it declares nothing. It may be wrong.
        rate: samples per second of the blocks.
        warnings: what was wrong with the sound yet did not stop the reading; complete after the last block.
    """

    def __init__(
        self,
        name: str,
        pieces: Iterator[Piece],
        *,
        rate: int,
        block_s: float,
        duration_s: float | None,
        warnings: list[str],
        on_close: Callable[[], None] | None = None,
    ) -> None:
        self.name = name
        self.rate = rate
        self.duration_s = duration_s
        self.warnings = warnings
        self._pieces = pieces
        self._on_close = on_close
        self._closed = False
        self._blocks = self._run(block_s)

    def _run(self, block_s: float) -> Iterator[np.ndarray]:
        try:
            yield from _blocks(_resampled(self._pieces, self.rate), max(1, round(block_s * self.rate)))
        finally:
            self._release()

    def __iter__(self) -> Iterator[np.ndarray]:
        """Blocks (n,) float32, about -1 to 1: each `block_s` long except the last, which is shorter.

        Raises:
            MediaError: when nothing at all can be decoded. A file that breaks later ends with a warning.
        """
        if self._closed:
            raise InputError(f"{self.name}: this reader is closed; call open_audio() again to read it once more.")
        return self._blocks

    def _release(self) -> None:
        cast(Any, self._pieces).close()  # first: it may be in the middle of the file that closes next
        if self._on_close is not None:
            self._on_close()
            self._on_close = None

    def close(self) -> None:
        """Close the file if it was opened here, and delete its temporary copy. May be called twice."""
        self._closed = True
        cast(Any, self._blocks).close()
        self._release()

    def __enter__(self) -> AudioReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_audio(
    source: Source, *, rate: int = SAMPLE_RATE, source_rate: int | None = None, block_s: float = 10.0
) -> AudioReader:
    """Open the sound of `source` for reading block by block.

    Args:
        source: a path, ``"-"`` (stdin), an open binary file, the bytes of a file, or samples: a numpy array
            or torch tensor (n,), (n, c) or (c, n), the smaller dimension being the channels; integers are
            scaled by their type.
        rate: wanted samples per second.
        source_rate: samples per second of an array; `rate` when not given. Files declare their own.
        block_s: length of a block in seconds. It changes nothing in the samples.

    Returns:
        An `AudioReader`: mono, the mean of all channels of the default audio stream. Time 0 is where the
        container's presentation starts: silence stands before sound that starts later and for lost packets.

    Raises:
        InputError: an argument that cannot be used (an address, a text-mode file, NaN in an array).
        MediaError: a file that is missing, unreadable, empty, cut off, not media, or without sound.
    """
    for label, value in (("rate", rate), ("source_rate", source_rate), ("block_s", block_s)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise InputError(f"{label} must be a positive number, got {value!r}.")
    samples = _as_array(source)
    if samples is not None:
        return _open_array(samples, rate=rate, source_rate=source_rate or rate, block_s=block_s)
    if source_rate is not None:
        raise InputError(
            f"source_rate={source_rate} is for arrays: a file declares its own rate. For headerless samples "
            "pass an array, such as numpy.frombuffer(data, numpy.int16)."
        )
    file, label, name, ours = open_file(source)
    try:
        media = File(file, label)
        container, stream = _open_container(media, label)
    except BaseException:
        if ours:
            file.close()
        raise

    def on_close() -> None:
        container.close()
        if ours:
            file.close()

    warnings = _tracks_left_out(container, stream)
    return AudioReader(
        name,
        _decoded(container, stream, label, _expected_s(container, stream, media), warnings),
        rate=rate,
        block_s=block_s,
        duration_s=_declared_s(container, stream),
        warnings=warnings,
        on_close=on_close,
    )


def read_audio(source: Source, *, rate: int = SAMPLE_RATE, source_rate: int | None = None) -> np.ndarray:
    """Read all the sound of `source` at once; the arguments and errors are those of `open_audio`.

    Returns:
        Samples (n,) float32 at `rate`. What `AudioReader.warnings` would hold is issued as `MmxWarning`.
    """
    import warnings

    with open_audio(source, rate=rate, source_rate=source_rate) as reader:
        blocks = list(reader)
    for message in reader.warnings:
        warnings.warn(f"{reader.name}: {message}", MmxWarning, stacklevel=2)
    return np.concatenate([np.zeros(0, np.float32), *blocks])


# ---------------------------------------------------------------------------------------- samples and blocks


def _unit(samples: np.ndarray) -> np.ndarray:
    """Samples of any integer or float type, same shape, as float32 in about -1 to 1."""
    if samples.dtype.kind == "f":
        return samples.astype(np.float32)
    half = float(2 ** (8 * samples.dtype.itemsize - 1))
    if samples.dtype.kind == "u":  # unsigned sound rests at the middle of its range
        return ((samples.astype(np.float64) - half) / half).astype(np.float32)
    return samples.astype(np.float32) / np.float32(half)


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


def _as_array(source: object) -> np.ndarray | None:
    """`source` as a numpy array if it is one or is a tensor, else None."""
    if isinstance(source, np.ndarray):
        return source
    loaded: Any = sys.modules.get("torch")  # a tensor can only exist where torch is loaded already
    if loaded is not None and isinstance(source, loaded.Tensor):
        tensor = cast("torch.Tensor", source).detach().cpu()
        return (tensor.float() if tensor.is_floating_point() else tensor).numpy()  # numpy has no bfloat16
    return None


def _open_array(samples: np.ndarray, *, rate: int, source_rate: int, block_s: float) -> AudioReader:
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
    bad, peak = 0, 0.0
    for piece in _slices(samples, source_rate):
        finite = np.isfinite(piece)
        bad += piece.size - int(np.count_nonzero(finite))
        peak = max(peak, float(np.abs(_unit(piece[finite])).max(initial=0.0)))
    if bad:
        raise InputError(
            f"the array holds {bad} NaN or infinite values among {samples.size}: expected finite samples. "
            "numpy.nan_to_num(samples) makes them zeros."
        )
    warnings = []
    if peak > 100:
        warnings.append(f"float samples reach {peak:g}, expected about -1 to 1: divide by full scale (32768?)")

    def pieces() -> Iterator[Piece]:
        for piece in _slices(samples, source_rate):
            mono = _unit(piece)
            yield (mono if mono.ndim == 1 else mono.mean(axis=1)), source_rate

    duration_s = len(samples) / source_rate
    return AudioReader("array", pieces(), rate=rate, block_s=block_s, duration_s=duration_s, warnings=warnings)


def _slices(samples: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Consecutive rows of `samples`, `size` at a time."""
    return (samples[start : start + size] for start in range(0, len(samples), size))


# --------------------------------------------------------------------------------------- opening with FFmpeg


def _open_container(media: File, label: str) -> tuple[InputContainer, AudioStream]:
    """The container and the audio stream to read, or a MediaError that says what the file is instead."""
    import av

    if media.size <= 0:
        hint = "rewind it with seek(0)" if media.tell() + media._start > 0 else "copy or record it again"
        raise MediaError(f"{label}: expected sound, got an empty file (0 bytes): {hint}.")
    if media.head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(PLAYLISTS) or b"<MPD" in media.head[:1024]:
        raise MediaError(
            f"{label}: expected sound, got a playlist, which only names other files; those are not followed. "
            "Give the media files themselves."
        )
    try:
        opened = av.open(cast(Any, media), "r", options=SEALED, metadata_errors="replace")
        container = cast("InputContainer", opened)
    except (InputError, MediaError):
        raise
    except (av.FFmpegError, ValueError) as error:
        raise MediaError(f"{label}: {unreadable(media)} ({_reason(error)})") from error
    except OSError as error:
        raise MediaError(f"{label}: cannot be read ({error}): check the disk or the network drive.") from error
    try:
        if container.format.name == "tty":  # FFmpeg draws any .txt as a film of a terminal
            raise MediaError(f"{label}: {unreadable(media)}")
        return container, _pick_stream(container, label)
    except BaseException:
        container.close()
        raise


def _reason(error: BaseException) -> str:
    """FFmpeg's words for an error, without its numbers."""
    return str(getattr(error, "strerror", None) or error)


def _timed(container: InputContainer) -> list[Any]:
    """The streams that have a clock: sound and moving pictures, not a cover picture."""
    from av.stream import Disposition

    streams = [s for s in container.streams if s.type in ("audio", "video")]
    return [s for s in streams if not Disposition(s.disposition) & Disposition.attached_pic]


def _pick_stream(container: InputContainer, label: str) -> AudioStream:
    """The audio stream marked as default, else the first one; refuses what cannot be decoded."""
    from av.stream import Disposition

    streams = list(container.streams.audio)
    if not streams:
        kinds = ", ".join(sorted({s.type for s in container.streams})) or "nothing"
        raise MediaError(
            f"{label}: expected an audio stream, got {container.format.name} with {kinds} only: it has no "
            "sound. Export it again with its sound, or give the sound as a file of its own."
        )
    stream = next((s for s in streams if Disposition(s.disposition) & Disposition.default), streams[0])
    context = stream.codec_context
    if context is None:
        raise MediaError(
            f"{label}: expected a codec that FFmpeg decodes, got an unknown one in {container.format.name}. "
            "Convert the file, for example to flac, with the program that made it."
        )
    if context.codec_tag in ("enca", "drms"):
        raise MediaError(
            f"{label}: its sound is encrypted (DRM, {context.codec_tag}): only its shop's player opens it. "
            "Give a file without protection."
        )
    return stream


def _tracks_left_out(container: InputContainer, stream: AudioStream) -> list[str]:
    """The warning of a file with more sound than `stream`, such as a film in two languages."""
    tracks = list(container.streams.audio)
    if len(tracks) == 1:
        return []
    named = ", ".join(t.metadata.get("language", "unnamed") for t in tracks)
    return [f"{len(tracks)} sound tracks ({named}): only track {tracks.index(stream) + 1} is read"]


def _declared_s(container: InputContainer, stream: AudioStream) -> float | None:
    """Length in seconds that the header declares, of the container, else of the audio stream."""
    if container.duration is not None and container.duration > 0:
        return container.duration / 1_000_000
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return None


# -------------------------------------------------------------------------------------------------- decoding


class _Clock:
    """Places decoded sound on the presentation clock by counting the samples given out so far."""

    def __init__(self, origin_s: Fraction) -> None:
        self.origin_s = origin_s
        self.done = 0
        self.rate = 1

    @property
    def now_s(self) -> float:
        """Time in seconds up to which sound has been given out."""
        return self.done / self.rate

    def place(
        self, at_s: Fraction | None, mono: np.ndarray, rate: int, *, after_loss: bool = False
    ) -> tuple[int, np.ndarray]:
        """Where a piece of sound belongs.

        Args:
            at_s: timestamp of its first sample, None when unknown: then it follows what came before.
            mono: samples (n,).
            rate: their rate in Hz.
            after_loss: packets are known to be missing before it, so that even a short hole is one.

        Returns:
            How many samples of silence come before it, and its samples less any before time 0.
        """
        if rate != self.rate:
            self.done, self.rate = round(Fraction(self.done * rate, self.rate)), rate
        ahead = 0 if at_s is None else round((at_s - self.origin_s) * rate) - self.done
        gap = 0
        if self.done == 0 and -GAP_S * rate <= ahead < 0:  # a codec's warm-up, before the presentation starts
            mono = mono[-ahead:]
        elif (0 if after_loss or self.done == 0 else GAP_S * rate) < ahead <= MAX_GAP_S * rate:
            gap = ahead
        elif abs(ahead) > GAP_S * rate:  # timestamps restart (joined recordings) or are broken: go on
            self.origin_s += Fraction(ahead, rate)
        self.done += gap + len(mono)
        return gap, mono


def _origin_s(container: InputContainer) -> Fraction:
    """Timestamp of time 0, seconds. A slightly negative start is a codec's warm-up and stays outside."""
    starts = [s.start_time * s.time_base for s in _timed(container) if s.start_time is not None and s.time_base]
    start_s = min(starts, default=Fraction(0))
    return Fraction(start_s) if start_s > 0 or start_s < -GAP_S else Fraction(0)


def _mono(frame: AudioFrame) -> np.ndarray:
    """Mean of a frame's channels, (n,) float32."""
    samples = np.asarray(frame.to_ndarray())
    if not frame.format.is_planar:
        samples = samples.reshape(frame.samples, -1).T
    return _unit(samples).mean(axis=0)


class _Damage:
    """What went wrong while decoding, and the sentences that tell it."""

    def __init__(self) -> None:
        self.packets = 0
        """Packets that failed."""
        self.at_s = 0.0
        self.first: BaseException | None = None
        """The first packet that failed: where and why."""
        self.lost = False
        """Whether packets failed since the last frame."""
        self.resumed = False
        """Whether a packet decoded after it."""
        self.end: BaseException | None = None
        """Why the container could not be read to its end."""
        self.not_finite = 0
        """Samples that were no finite number."""
        self.not_finite_s = 0.0
        """Time of the first of them."""

    def skip(self, error: BaseException, at_s: float) -> None:
        """Note one packet that failed at `at_s`."""
        if self.first is None:
            self.first, self.at_s = error, at_s
        self.lost = True
        self.packets += 1

    def spoil(self, count: int, at_s: float) -> None:
        """Note `count` samples that are no finite number, the first of them at `at_s`."""
        if not self.not_finite:
            self.not_finite_s = max(0.0, at_s)
        self.not_finite += count

    def sentences(self, ended: bool, now_s: float, expected_s: float | None) -> list[str]:
        """The warnings for the reader; `ended` says that it read on until `now_s` was all there was."""
        said = []
        if self.first is not None and self.resumed:
            said.append(
                f"the file is damaged at {self.at_s:.1f} s: {self.packets} packet(s) from there on could not "
                f"be decoded and are silence ({_reason(self.first)})"
            )
        error = self.end or (None if self.resumed else self.first)
        if error is not None:
            said.append(f"the file is damaged after {now_s:.1f} s: decoded up to there ({_reason(error)})")
        elif ended and expected_s is not None and now_s < expected_s - 0.5:
            said.append(
                f"the file is cut off after {now_s:.1f} s: its header declares {expected_s:.1f} s "
                "(or declares it wrongly)"
            )
        if self.not_finite:
            several = self.not_finite > 1
            which = (
                f"samples from {self.not_finite_s:.1f} s on are"
                if several
                else f"sample at {self.not_finite_s:.1f} s is"
            )
            said.append(f"{self.not_finite} {which} {NOT_FINITE} and read as silence")
        return said


def _frames(container: InputContainer, stream: AudioStream, damage: _Damage, clock: _Clock) -> Iterator[AudioFrame]:
    """Decoded frames; a packet that fails is skipped, a container that fails ends them. Both are noted."""
    import av

    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except (av.FFmpegError, OSError) as error:
            damage.end = error
            return
        if packet is None:
            return
        try:
            frames = packet.decode()
        except av.FFmpegError as error:
            damage.skip(error, clock.now_s)
            continue
        for frame in frames:
            damage.resumed = damage.first is not None
            yield cast("AudioFrame", frame)


def _decoded(
    container: InputContainer, stream: AudioStream, label: str, expected_s: float | None, warnings: list[str]
) -> Iterator[Piece]:
    """The stream's sound on the presentation clock, mono, one codec frame (or 1 s of silence) at a time."""
    damage, clock = _Damage(), _Clock(_origin_s(container))
    heard, ended = 0, False
    try:
        for frame in _frames(container, stream, damage, clock):
            heard += frame.samples
            mono = _mono(frame)
            bad = np.flatnonzero(~np.isfinite(mono))
            before_end_s = (mono.size - bad[0]) / frame.sample_rate if bad.size else 0.0
            mono[bad] = 0.0
            at_s = None if frame.pts is None or frame.time_base is None else frame.pts * frame.time_base
            gap, mono = clock.place(at_s, mono, frame.sample_rate, after_loss=damage.lost)
            damage.lost = False
            if bad.size:
                damage.spoil(bad.size, clock.now_s - before_end_s)
            for start in range(0, gap, frame.sample_rate):
                yield np.zeros(min(frame.sample_rate, gap - start), np.float32), frame.sample_rate
            if len(mono):
                yield mono, frame.sample_rate
        ended = True
    finally:
        if heard:
            warnings.extend(damage.sentences(ended, clock.now_s, expected_s))
    error = damage.first or damage.end
    if not heard and error is not None:
        raise MediaError(
            f"{label}: nothing of its sound could be decoded ({stream.codec_context.name}): it is damaged, "
            f"encrypted or of an unsupported variety ({_reason(error)}). Copy it again, or convert it."
        )
    if not heard:
        raise MediaError(
            f"{label}: expected sound, got an audio stream without any samples: the recording is empty. "
            "Record it again."
        )


def _expected_s(container: InputContainer, stream: AudioStream, media: File) -> float | None:
    """How long the sound should be, where the header knows: to tell a file that was cut off."""
    declared_s = _declared_s(container, stream)
    if container.format.name == "aac":  # no header at all: FFmpeg guesses from the first packets' bit rate
        return None
    if media.head[:4] == b"RIFF" and declared_s is not None:  # FFmpeg corrects a length beyond the file's end
        size = int.from_bytes(media.head[4:8], "little") + 8
        streamed = size >= 0x7FFF_0000  # written to a pipe: the length was not known
        return declared_s if streamed else declared_s * max(1.0, size / media.size)
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    tag = re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", stream.metadata.get("DURATION", ""))  # of Matroska
    if tag:
        return int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3])
    # Beside a film, the container's length may be the film's.
    return declared_s if len(_timed(container)) == 1 else None
