"""Generated speech as a file or as a stream of bytes: wav, flac, mp3, opus, aac and headerless pcm.

FFmpeg's libraries (inside PyAV) encode it block by block as it is made. Formats that hold text say in their metadata
that the speech is synthetic.

Letters: N samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self, cast

import numpy as np
from numpy.typing import NDArray

from mmx._version import __version__
from mmx.errors import InputError, nearest
from mmx.files import replacing

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.packet import Packet

SYNTHETIC = f"synthetic speech, mmx {__version__}"
"""The comment in the metadata of what is written."""
BLOCK = 4_800
"""Samples that are encoded at a time."""


@dataclass(frozen=True)
class Format:
    """How a format is written.

    Attributes:
        container: FFmpeg's name of it.
        codec: FFmpeg's name of it.
        mime: media type, for HTTP.
        rates: samples per second that the codec takes, ascending; any when empty.
        bit_rate: of a lossy codec, bits per second; enough that speech loses nothing that is heard.
        endings: of files in this format; none for what is streamed only.
        options: of the container.
    """

    container: str
    codec: str
    mime: str
    rates: tuple[int, ...] = ()
    bit_rate: int | None = None
    endings: tuple[str, ...] = ()
    options: tuple[tuple[str, str], ...] = ()

    def rate(self, rate: float) -> int:
        """The rate at which sound of `rate` is written: its own, else the next higher, else the highest."""
        return next((r for r in self.rates if r >= round(rate)), max(self.rates, default=round(rate)))


_MPEG = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
_OPUS = (8_000, 12_000, 16_000, 24_000, 48_000)
FORMATS = {
    "wav": Format("wav", "pcm_s16le", "audio/wav", endings=(".wav",)),
    "flac": Format("flac", "flac", "audio/flac", endings=(".flac",)),
    "mp3": Format("mp3", "libmp3lame", "audio/mpeg", _MPEG, 96_000, (".mp3",)),
    # A page of its own for every packet: a listener has it at once, and not a second later.
    "opus": Format("ogg", "libopus", "audio/ogg", _OPUS, 48_000, (".opus", ".ogg"), (("page_duration", "20000"),)),
    "aac": Format("adts", "aac", "audio/aac", _MPEG, 96_000, (".aac",)),
    "pcm": Format("s16le", "pcm_s16le", "audio/pcm"),
}
"""What is written, by the names of OpenAI's `/v1/audio/speech`; pcm is int16, little-endian, without a header."""
_BY_ENDING = {ending: name for name, f in FORMATS.items() for ending in f.endings}


def format_of(path: Path) -> str:
    """The format that a file's ending names. Raises `InputError` for one that is not written."""
    name = _BY_ENDING.get(path.suffix.lower())
    if name is None:
        *most, last = _BY_ENDING
        raise InputError(f"expected a file for speech that ends in {', '.join(most)} or {last}, got {str(path)!r}")
    return name


def is_audio_file(path: Path) -> bool:
    """Whether a file's ending names a format that `write_audio` writes."""
    return path.suffix.lower() in _BY_ENDING


def find_format(name: str) -> Format:
    """A format by its name. Raises `InputError` for one that is not written."""
    if name not in FORMATS:
        raise InputError(f"expected a format among {', '.join(FORMATS)}, got {name!r}.{nearest(name, list(FORMATS))}")
    return FORMATS[name]


def write_audio(path: Path, blocks: Iterable[NDArray[np.float32]], rate: float, title: str = "") -> Path:
    """Write blocks of samples `(N,)` as a file, in the format that its ending names.

    The file appears when its last block is written; where that fails, the one that was there before is intact. Blocks
    are encoded as they come, so that memory does not grow with the length.

    Args:
        path: a file with an ending of `FORMATS`.
        blocks: mono, in [-1, 1]; what is louder is clipped.
        rate: samples per second.
        title: for the metadata.

    Raises:
        InputError: the ending is none that is written.
        OutputError: the file cannot be written; the message names the cause (a full disk) and a remedy.
    """
    name = format_of(path)
    with replacing(path) as temporary, open(temporary, "wb") as file, Encoder(rate, name, title, file) as encoder:
        for block in blocks:
            encoder.push(block)
        encoder.close()
    return path


def encoded(blocks: Iterable[NDArray[np.float32]], rate: float, format: str, title: str = "") -> Iterator[bytes]:
    """The bytes of a stream, each part as soon as its block is there; the arguments are those of `write_audio`.

    Joined, the parts are a file of the format. Its header does not tell the length, which nobody knows yet.
    """
    with Encoder(rate, format, title) as encoder:
        for block in blocks:
            if data := encoder.push(block):
                yield data
        if data := encoder.close():
            yield data


class _Pipe:
    """What FFmpeg writes to that cannot seek: the bytes since they were taken last."""

    def __init__(self) -> None:
        self.held = bytearray()

    def write(self, data: bytes) -> int:
        self.held += data
        return len(data)


class Encoder:
    """Bytes of a format from blocks of samples.

    Args:
        rate: of the samples, per second.
        format: one of `FORMATS`.
        title: for the metadata.
        file: where to write instead, open for binary writing at its start; one that seeks gets a complete header.

    Raises:
        InputError: an unknown format.
    """

    def __init__(self, rate: float, format: str, title: str = "", file: BinaryIO | None = None) -> None:
        import av

        kind = find_format(format)
        self._pipe = _Pipe()
        self._out = av.open(
            cast(Any, file or self._pipe), "w", format=kind.container, container_options=dict(kind.options)
        )
        self._out.metadata.update({"comment": SYNTHETIC, **({"title": title} if title else {})})
        stream = cast("AudioStream", self._out.add_stream(kind.codec, rate=kind.rate(rate), layout="mono"))
        if kind.bit_rate is not None:
            stream.bit_rate = kind.bit_rate
        self._coder = Coder(stream, rate)

    def push(self, block: NDArray[np.float32]) -> bytes:
        """The bytes that samples `(N,)` complete; none where they go to a file."""
        for start in range(0, len(block), BLOCK):
            self._mux(self._coder.push(block[start : start + BLOCK]))
        return self._taken()

    def close(self) -> bytes:
        """The bytes that are left."""
        self._mux(self._coder.finish())
        self._out.close()
        return self._taken()

    def _mux(self, packets: Iterable[Packet]) -> None:
        for packet in packets:
            self._out.mux(packet)

    def _taken(self) -> bytes:
        data, self._pipe.held = bytes(self._pipe.held), bytearray()
        return data

    def __enter__(self) -> Self:
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        import contextlib

        with contextlib.suppress(Exception) if failed else contextlib.nullcontext():
            self._out.close()  # twice does no harm


class Coder:
    """Packets of an audio stream from blocks of samples.

    Args:
        stream: one that is written; its sample format, layout and rate are what the samples become.
        rate: of the samples, per second.
    """

    def __init__(self, stream: AudioStream, rate: float) -> None:
        import av

        self._stream, self._rate, self._count = stream, round(rate), 0
        context = stream.codec_context
        self._to_codec = av.AudioResampler(context.format, context.layout, context.sample_rate)

    def push(self, block: NDArray[np.float32]) -> Iterator[Packet]:
        """What samples `(N,)` in [-1, 1] complete; what is louder is clipped."""
        import av

        if not len(block):
            return
        clipped = np.clip(block, -1, 1).astype(np.float32, copy=False)
        frame = av.AudioFrame.from_ndarray(clipped[None], format="fltp", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = self._rate, Fraction(1, self._rate), self._count
        self._count += len(block)
        for ready in self._to_codec.resample(frame):
            yield from self._stream.encode(ready)

    def finish(self) -> Iterator[Packet]:
        """What is left."""
        if self._count:
            for ready in self._to_codec.resample(None):
                yield from self._stream.encode(ready)
        yield from self._stream.encode(None)
