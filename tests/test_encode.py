"""Sound to bytes block by block: any player reads them, the first come early, and the blocks do not matter."""

import numpy as np
import pytest

from mmx.errors import InputError
from mmx.media.audio import read_audio
from mmx.media.encode import ENCODINGS, Encoder

RATE = 24_000
N = 3 * RATE
X = (0.5 * np.sin(2 * np.pi * 440 * np.arange(N) / RATE) * np.linspace(0, 1, N)).astype(np.float32)


def encoded(format: str, size: int, x: np.ndarray = X) -> list[bytes]:
    encoder = Encoder(format, RATE)
    parts = [encoder.push(x[at : at + size]) for at in range(0, len(x), size)]
    return [*parts, encoder.finish(), encoder.finish()]


def heard(format: str, data: bytes) -> np.ndarray:
    """At 16 kHz."""
    if format != "pcm":
        return read_audio(data)
    import soxr

    return soxr.resample(np.frombuffer(data, "<i2").astype(np.float32) / 32767, RATE, 16_000)


@pytest.mark.parametrize("format", ENCODINGS)
def test_what_is_encoded_in_blocks_is_what_was_given(format: str):
    parts = encoded(format, 1111)
    back = heard(format, b"".join(parts))
    late = 0.15 if format in ("mp3", "aac") else 0.01  # the codec's own delay and padding, which no header tells here
    assert len(back) / 16_000 == pytest.approx(3.0, abs=late)
    spectrum = np.abs(np.fft.rfft(back[-16_000:]))
    assert spectrum.argmax() == pytest.approx(440, abs=2)
    assert np.abs(back[-4000:]).max() == pytest.approx(0.5, abs=0.05)
    assert b"".join(encoded(format, N))[-1000:] and parts[-1] == b""


@pytest.mark.parametrize("format", ENCODINGS)
def test_the_first_bytes_come_within_half_a_second_of_sound(format: str):
    encoder = Encoder(format, RATE)
    given, got = 0, b""
    while given < N and len(got) < 500:
        got += encoder.push(X[given : given + 2400])
        given += 2400
    assert given <= RATE // 2


@pytest.mark.parametrize(("format", "size"), [("wav", 44), ("flac", 42), ("pcm", 0)])
def test_nothing_is_a_file_too(format: str, size: int):
    assert len(b"".join(encoded(format, 1, X[:0]))) >= size


def test_loud_sound_is_clipped_not_wrapped():
    data = Encoder("pcm", RATE).push(np.array([2.0, -2.0, 0.5], np.float32))
    assert np.frombuffer(data, "<i2").tolist() == [32767, -32767, 16384]


def test_a_format_that_there_is_not():
    with pytest.raises(InputError, match=r"expected a format among wav, .*got 'mp4'\. Did you mean 'mp3'"):
        Encoder("mp4", RATE)
