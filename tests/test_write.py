"""Speech as a file and as a stream of bytes: all of it, in every format, or an error and nothing half-written."""

import errno
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmx.errors import InputError, OutputError
from mmx.media.audio import read_audio
from mmx.media.write import FORMATS, Encoder, encoded, format_of, is_audio_file, write_audio
from mmx.tasks import dub
from mmx.tasks.result import SpokenSegment

av: Any = pytest.importorskip("av")
RATES = (8_000, 16_000, 22_050, 24_000, 44_100, 48_000)
ENDINGS = (".wav", ".flac", ".mp3", ".opus", ".ogg", ".aac")


def tone(rate: int, long_s: float = 1.5) -> np.ndarray:
    """A rising tone, so that what is missing or misplaced shows."""
    t = np.arange(round(long_s * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * (300 * t + 200 * t**2))).astype(np.float32)


def blocks(x: np.ndarray, size: int) -> list[np.ndarray]:
    return [x[i : i + size] for i in range(0, len(x), size)]


def likeness(a: np.ndarray, b: np.ndarray) -> float:
    """Largest correlation of two signals over small shifts: what codecs add at the start is not judged."""
    n = len(a) + len(b)
    over = np.fft.irfft(np.fft.rfft(b, n) * np.fft.rfft(a, n).conj(), n)[:3_000]
    return float(over.max() / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_holds_all_of_it_and_says_that_it_is_synthetic(tmp_path: Path, ending: str) -> None:
    for rate in RATES if ending == ".wav" else (22_050, 24_000):
        x = tone(rate)
        path = write_audio(tmp_path / f"a{ending}", blocks(x, 777), rate, "a rising tone")
        got = read_audio(path, rate=rate)
        assert abs(len(got) - len(x)) <= 0.1 * rate, "no longer than the frames of a codec"
        if ending in (".wav", ".flac"):
            assert len(got) == len(x) and np.abs(got - x).max() <= 1 / 32768, "nothing but the rounding to 16 bits"
        else:
            assert likeness(x, got) > 0.99
        with av.open(str(path)) as opened:
            told = {**opened.metadata, **opened.streams.audio[0].metadata}
        if ending != ".aac":  # ADTS has no place for text
            assert told["comment"].startswith("synthetic speech, mmx") and told["title"] == "a rising tone"
    assert [p.name for p in tmp_path.iterdir()] == [f"a{ending}"]


@pytest.mark.parametrize("name", FORMATS)
def test_a_stream_gives_its_bytes_as_they_are_made(name: str) -> None:
    x = tone(24_000, 3.0)
    made: list[int] = []

    def source() -> Any:
        for block in blocks(x, 4_800):
            made.append(len(block))
            yield block

    parts = []
    for part in encoded(source(), 24_000, name):
        parts.append((sum(made), part))
    assert parts[1][0] <= 0.8 * 24_000, "the first bytes past the header do not wait for the end"
    data = b"".join(part for _, part in parts)
    if name == "pcm":
        assert np.abs(np.frombuffer(data, "<i2") / 32768 - x).max() <= 1 / 32768
    else:
        got = read_audio(data, rate=24_000)
        assert abs(len(got) - len(x)) <= 2_400 and likeness(x, got) > 0.99


def test_the_size_of_blocks_changes_nothing() -> None:
    x = tone(24_000)
    whole = b"".join(encoded([x], 24_000, "pcm"))
    assert b"".join(encoded(blocks(x, 1_001), 24_000, "pcm")) == whole
    assert b"".join(encoded([], 24_000, "pcm")) == b"", "nothing said"
    assert len(read_audio(b"".join(encoded([x[:1]], 24_000, "wav")), rate=24_000)) == 1


def test_what_is_too_loud_is_clipped() -> None:
    data = b"".join(encoded([np.array([2.0, -3.0, 0.5], np.float32)], 24_000, "pcm"))
    assert np.frombuffer(data, "<i2").tolist() == [32767, -32768, 16384]


def test_an_unknown_ending_or_format_is_told(tmp_path: Path) -> None:
    for name in ("a.mp4", "a", "a.wave"):
        assert not is_audio_file(Path(name))
        with pytest.raises(InputError, match=r"ends in \.wav, \.flac"):
            write_audio(tmp_path / name, [tone(8_000)], 8_000)
    with pytest.raises(InputError, match=r"among wav, .*got 'mp4'"):
        next(encoded([], 24_000, "mp4"))
    assert format_of(Path("A.OGG")) == "opus" and not list(tmp_path.iterdir())


def full_after(count: int) -> Callable[..., Any]:
    class Full(io.FileIO):
        def write(self, data: Any) -> int:
            if self.tell() + len(data) > count:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    return lambda path, mode: Full(path, mode)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    path = tmp_path / f"a{ending}"
    path.write_text("old")
    monkeypatch.setattr("mmx.media.write.open", full_after(3_000), raising=False)
    with pytest.raises(OutputError, match="disk is full"):
        write_audio(path, blocks(tone(24_000), 4_800), 24_000)
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == [path.name]


def test_speech_that_fails_midway_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Any:
        yield tone(24_000)
        raise InputError("the synth failed")

    with pytest.raises(InputError, match="the synth failed"):
        write_audio(tmp_path / "a.mp3", broken(), 24_000)
    assert not list(tmp_path.iterdir())
    with Encoder(24_000, "mp3") as left_open:
        left_open.push(tone(24_000))


def test_a_track_is_written_as_its_ending_says(tmp_path: Path) -> None:
    track = dub.lay([SpokenSegment(0.5, tone(24_000), 24_000.0)], 3.0)
    assert len(read_audio(dub.write(tmp_path / "a.flac", track), rate=24_000)) == 72_000
