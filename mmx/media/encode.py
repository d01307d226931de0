"""Sound to the bytes of a file, block by block, as a server sends it: what is given is never sought back into.

Letters: N samples.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmx.errors import InputError, nearest


@dataclass(frozen=True)
class Encoding:
    """How sound is written.

    Attributes:
        media_type: of the bytes (MIME).
        container: FFmpeg's name of the format; empty where the samples are written as they are.
        codec: FFmpeg's name of the encoder.
        bit_rate: bits per second; the encoder's own where 0.
        rate: samples per second that the codec takes; any where 0.
    """

    media_type: str
    container: str = ""
    codec: str = ""
    bit_rate: int = 0
    rate: int = 0


ENCODINGS = {
    "wav": Encoding("audio/wav"),
    "pcm": Encoding("audio/pcm"),
    "flac": Encoding("audio/flac", "flac", "flac"),
    "mp3": Encoding("audio/mpeg", "mp3", "libmp3lame", 96_000),
    "opus": Encoding("audio/ogg", "ogg", "libopus", 48_000, rate=48_000),
    "aac": Encoding("audio/aac", "adts", "aac", 96_000),
}
"""By the names that OpenAI's API has for them; `pcm` is 16-bit little-endian samples without a header."""
UNKNOWN_LENGTH = 0xFFFF_FFFF
PAGE_US = 200_000
"""Longest page of Ogg: what is on it is heard only once it is full."""


class Encoder:
    """Mono sound to one of `ENCODINGS`.

    Args:
        format: its name.
        rate: samples per second of what is given.

    Raises:
        InputError: there is no such format.
    """

    def __init__(self, format: str, rate: int):
        if format not in ENCODINGS:
            raise InputError(
                f"expected a format among {', '.join(ENCODINGS)}, got {format!r}.{nearest(format, ENCODINGS)}"
            )
        self.encoding, self._rate = ENCODINGS[format], rate
        self._sink, self._given, self._over = _Sink(), 0, False
        self._header = _wav_header(rate) if format == "wav" else b""
        if self.encoding.container:
            self._open()

    def _open(self) -> None:
        import av

        how, layout = self.encoding, "mono"
        options = {"ogg": {"page_duration": str(PAGE_US)}, "mp3": {"write_xing": "0"}}.get(how.container, {})
        self._out: Any = av.open(self._sink, "w", format=how.container, options=options)
        self._stream: Any = self._out.add_stream(how.codec, rate=how.rate or self._rate, layout=layout)
        if how.bit_rate:
            self._stream.bit_rate = how.bit_rate
        self._convert: Any = av.AudioResampler(self._stream.codec_context.format, layout, how.rate or self._rate)

    def push(self, samples: NDArray[np.float32]) -> bytes:
        """The bytes that samples `(N,)` in [-1, 1] add; codecs keep some back."""
        samples = np.clip(samples, -1.0, 1.0)
        header, self._header = self._header, b""
        if not self.encoding.container:
            return header + np.round(samples * 32767).astype("<i2").tobytes()
        if len(samples):
            import av

            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None], np.float32), "fltp", "mono")
            frame.sample_rate, frame.time_base, frame.pts = self._rate, Fraction(1, self._rate), self._given
            self._given += len(samples)
            self._mux(frame)
        return self._sink.taken()

    def finish(self) -> bytes:
        """The last bytes. Nothing may be pushed afterwards."""
        if self._over:
            return b""
        self._over = True
        if not self.encoding.container:
            return self.push(np.zeros(0, np.float32))
        self._mux(None)
        self._out.mux(self._stream.encode(None))
        self._out.close()
        return self._sink.taken()

    def _mux(self, frame: Any) -> None:
        for ready in self._convert.resample(frame):
            self._out.mux(self._stream.encode(ready))


class _Sink:
    """A file that is only written on."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def write(self, data: bytes) -> int:
        self._bytes += data
        return len(data)

    def taken(self) -> bytes:
        """What was written since the last call."""
        out, self._bytes = bytes(self._bytes), bytearray()
        return out


def _wav_header(rate: int) -> bytes:
    """Of 16-bit mono samples whose number is not known yet, as programs write it into a pipe."""
    size = UNKNOWN_LENGTH.to_bytes(4, "little")
    form = b"".join(
        n.to_bytes(k, "little") for n, k in ((16, 4), (1, 2), (1, 2), (rate, 4), (2 * rate, 4), (2, 2), (16, 2))
    )
    return b"RIFF" + size + b"WAVEfmt " + form + b"data" + size
