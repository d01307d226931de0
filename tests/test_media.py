"""Sound from every kind of source: right length, moment and pitch; an error that helps for the rest."""

import errno
import io
import itertools
import os
import re
import socket
import subprocess
import sys
import tracemalloc
import types
import wave
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, cast

import av
import numpy as np
import pytest
import soxr
import torch
from av.stream import Disposition

from mmx.errors import InputError, MediaError, MmxWarning
from mmx.media import audio as media
from mmx.media import container as media_container
from mmx.media import source as media_file
from mmx.media.audio import open_audio, read_audio
from mmx.media.decode import Clock

CLICKS_S = (1.0, 3.0)
TONE_S = (1.5, 2.5)
LENGTH_S = 3.5


def sound(rate: int, tone_hz: float = 440.0) -> np.ndarray:
    """3.5 s of silence with 20 ms bursts at 1 s and 3 s (amplitude 0.8) and a tone (0.3) at 1.5-2.5 s."""
    time_s = np.arange(round(LENGTH_S * rate)) / rate
    wave_ = np.zeros(len(time_s), np.float32)
    for click_s in CLICKS_S:
        at = (time_s >= click_s) & (time_s < click_s + 0.02)
        wave_[at] = 0.8 * np.cos(2 * np.pi * 1000 * (time_s[at] - click_s))
    at = (time_s >= TONE_S[0]) & (time_s < TONE_S[1])
    wave_[at] = 0.3 * np.sin(2 * np.pi * tone_hz * time_s[at])
    return wave_


def onsets_s(samples: np.ndarray, rate: int = 16_000) -> list[float]:
    """Moments in seconds where the level first exceeds 0.4 after 0.3 s below it."""
    loud = np.flatnonzero(np.abs(samples) > 0.4)
    if not len(loud):
        return []
    first = np.concatenate([[True], np.diff(loud) > 0.3 * rate])
    return [float(index) / rate for index in loud[first]]


def pitch_hz(samples: np.ndarray, rate: int = 16_000, start_s: float = 1.6, stop_s: float = 2.4) -> float:
    """The strongest frequency between two moments."""
    part = samples[round(start_s * rate) : round(stop_s * rate)]
    spectrum = np.abs(np.fft.rfft(part * np.hanning(len(part)), n=8 * len(part)))
    return float(np.argmax(spectrum)) * rate / (8 * len(part))


def check(samples: np.ndarray, *, shift_s: float = 0.0, tail_s: float = 0.06, tone_hz: float = 440.0) -> None:
    """That `samples` at 16 kHz are `sound`, `shift_s` later, and at most `tail_s` longer."""
    assert samples.dtype == np.float32
    assert samples.ndim == 1
    length_s = len(samples) / 16_000 - shift_s
    assert LENGTH_S - 0.002 <= length_s <= LENGTH_S + tail_s
    assert onsets_s(samples) == pytest.approx([shift_s + s for s in CLICKS_S], abs=0.004)
    assert pitch_hz(samples, start_s=1.6 + shift_s, stop_s=2.4 + shift_s) == pytest.approx(tone_hz, abs=1.0)
    tone = samples[round((1.6 + shift_s) * 16_000) : round((2.4 + shift_s) * 16_000)]
    assert np.sqrt(np.mean(tone**2)) == pytest.approx(0.3 / np.sqrt(2), rel=0.06)


def write(
    target: Path | io.BytesIO,
    codec: str,
    channels: np.ndarray,
    rate: int,
    *,
    layout: str = "mono",
    video: str | None = None,
    container: str | None = None,
    start_s: float = 0.0,
    lost_s: tuple[float, float] = (0.0, 0.0),
    options: dict[str, str] | None = None,
) -> None:
    """Encode `channels` (c, n) into `target`, after a film of that length if `video` names a codec.

    The sound's timestamps begin at `start_s`; packets that begin within `lost_s` are left out.
    """
    file = target if isinstance(target, io.BytesIO) else str(target)
    with av.open(file, "w", format=container, options=options or {}) as out:
        film: Any = out.add_stream(video, rate=25) if video else None
        if film is not None:
            film.width, film.height, film.pix_fmt = 64, 48, "yuv420p"
        stream: Any = out.add_stream(codec, rate=rate, layout=layout)
        if film is not None:
            for index in range(round(25 * channels.shape[1] / rate)):
                pixels = np.full((48, 64, 3), index % 255, np.uint8)
                picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                picture.pts, picture.time_base = index, Fraction(1, 25)
                out.mux(film.encode(picture))
            out.mux(film.encode(None))
        convert = av.AudioResampler(format=stream.codec_context.format, layout=layout, rate=rate)
        frames = []
        for start in range(0, channels.shape[1], 960):
            part = np.ascontiguousarray(channels[:, start : start + 960])
            frame = av.AudioFrame.from_ndarray(part, format="fltp", layout=layout)
            frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
            frame.pts = start + round(start_s * rate)
            frames += convert.resample(frame)
        for frame in [*frames, None]:
            for packet in stream.encode(frame):
                at_s = 0.0 if packet.pts is None else float(packet.pts * packet.time_base)
                if not lost_s[0] <= at_s < lost_s[1]:
                    out.mux(packet)


def encoded(codec: str, container: str, rate: int = 48_000, **more) -> bytes:
    """`sound` in a file, as bytes."""
    buffer = io.BytesIO()
    write(buffer, codec, sound(rate)[None], rate, container=container, **more)
    return buffer.getvalue()


def wav(samples: np.ndarray, rate: int) -> bytes:
    """16-bit WAV bytes of (n,) or (n, channels) float samples, without FFmpeg."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as out:
        out.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(np.round(samples * 32767).astype("<i2").tobytes())
    return buffer.getvalue()


def message(kind: type[Exception], source, **options) -> str:
    """What the error says, on one line."""
    with pytest.raises(kind) as caught:
        read_audio(source, **options)
    return str(caught.value)


# ------------------------------------------------------------------------------------- containers and codecs

FILES = [
    ("a.wav", "pcm_s16le", 44_100, None),
    ("u8.wav", "pcm_u8", 22_050, None),
    ("s24.wav", "pcm_s24le", 48_000, None),
    ("f32.wav", "pcm_f32le", 16_000, None),
    ("law.wav", "pcm_mulaw", 8_000, None),
    ("a.flac", "flac", 48_000, None),
    ("a.mp3", "libmp3lame", 44_100, None),
    ("a.m4a", "aac", 44_100, None),
    ("a.ogg", "libopus", 48_000, None),
    ("vp8.webm", "libopus", 48_000, "libvpx"),
    ("vp9.webm", "libopus", 48_000, "libvpx-vp9"),
    ("a.mp4", "aac", 48_000, "libx264"),
    ("a.mkv", "aac", 48_000, "libx264"),
    ("mp3.mkv", "libmp3lame", 32_000, None),
]


@pytest.mark.parametrize(("name", "codec", "rate", "video"), FILES, ids=[f[0] for f in FILES])
def test_file_has_its_length_moments_and_pitch(tmp_path: Path, name: str, codec: str, rate: int, video: str | None):
    path = tmp_path / name
    write(path, codec, sound(rate)[None], rate, video=video)
    with open_audio(path) as reader:
        samples = np.concatenate(list(reader))
        assert (reader.name, reader.rate, reader.warnings) == (name, 16_000, [])
        assert reader.duration_s == pytest.approx(LENGTH_S, abs=0.06)
    check(samples)
    np.testing.assert_array_equal(samples, read_audio(str(path)))


def test_mpeg_ts_starts_at_zero_though_its_clock_does_not(tmp_path: Path):
    path = tmp_path / "a.ts"
    write(path, "aac", sound(48_000)[None], 48_000, video="libx264", start_s=5.0)
    head, path2 = read_audio(path), tmp_path / "only.ts"
    assert onsets_s(head)[0] == pytest.approx(5.0 + CLICKS_S[0], abs=0.1)  # the film began at 0
    write(path2, "aac", sound(48_000)[None], 48_000, start_s=5.0)
    assert onsets_s(read_audio(path2))[0] == pytest.approx(CLICKS_S[0], abs=0.03)  # AAC's warm-up is not declared


def test_stereo_8_khz_is_the_mean_of_both(tmp_path: Path):
    left, right = sound(8_000), 0.5 * sound(8_000)
    (tmp_path / "two.wav").write_bytes(wav(np.stack([left, right], 1), 8_000))
    expected = soxr.resample(0.75 * left, 8_000, 16_000)
    samples = read_audio(tmp_path / "two.wav")
    assert abs(len(samples) - 2 * len(left)) <= 1
    np.testing.assert_allclose(samples, expected, atol=2e-4)


SIX = np.array([[1.0], [0.8], [0.6], [0.4], [0.2], [0.0]], np.float32)  # FL FR FC LFE BL BR
SIX_MIXED = (0.35355 * 1.8 + 0.6 + 0.17678 * 0.2) / (2 * 0.35355 + 1 + 2 * 0.17678)  # half of BS.775 beside the centre


@pytest.mark.parametrize("codec", ["pcm_s16le", "flac"])
def test_six_channels_at_44100_are_mixed_as_loudspeakers(tmp_path: Path, codec: str):
    channels = sound(44_100)[None] * SIX
    path = tmp_path / ("six.wav" if codec == "pcm_s16le" else "six.flac")
    write(path, codec, channels, 44_100, layout="5.1")
    samples = read_audio(path)
    expected = soxr.resample(SIX_MIXED * sound(44_100), 44_100, 16_000)
    assert abs(len(samples) - round(channels.shape[1] * 16_000 / 44_100)) <= 1
    np.testing.assert_allclose(samples, expected[: len(samples)], atol=2e-4)


@pytest.mark.parametrize(("source_hz", "rate"), [(44_100, 16_000), (48_000, 22_050), (8_000, 48_000), (16_000, 16_000)])
def test_length_at_any_rate(source_hz: int, rate: int):
    count = 3 * source_hz + 17
    samples = read_audio(wav(np.zeros(count, np.float32), source_hz), rate=rate)
    assert abs(len(samples) - count * rate / source_hz) <= 1


def test_default_stream_is_preferred(tmp_path: Path):
    path = tmp_path / "two.mkv"
    for default in (0, 1):
        with av.open(str(path), "w") as out:
            streams = [out.add_stream("pcm_s16le", rate=16_000, layout="mono") for _ in range(2)]
            for index, stream in enumerate(streams):
                stream.disposition = Disposition.default if index == default else Disposition(0)
            streams[0].metadata["language"] = "fra"
            for stream, tone_hz in zip(streams, (440, 880), strict=True):
                part = (sound(16_000, tone_hz)[None] * 32767).astype(np.int16)
                frame = av.AudioFrame.from_ndarray(part, format="s16", layout="mono")
                frame.sample_rate, frame.pts = 16_000, 0
                out.mux(stream.encode(frame))
        with open_audio(path) as reader:
            check(np.concatenate(list(reader)), tone_hz=(440, 880)[default])
        assert len(reader.warnings) == 1
        assert f"2 audio tracks, 1 (fra), 2 (unnamed): only track {default + 1} is read" in reader.warnings[0]


# ------------------------------------------------------------------------------------------------- the clock


@pytest.mark.parametrize(
    ("name", "codec", "video"),
    [("a.mkv", "aac", "libx264"), ("a.mp4", "aac", "libx264"), ("a.webm", "libopus", "libvpx")],
)
def test_late_sound_is_preceded_by_silence(tmp_path: Path, name: str, codec: str, video: str):
    path = tmp_path / name
    write(path, codec, sound(48_000)[None], 48_000, video=video, start_s=0.5)
    samples = read_audio(path)
    check(samples, shift_s=0.5)
    assert np.abs(samples[:7000]).max() < 1e-3


@pytest.mark.parametrize(("name", "codec"), [("a.mkv", "pcm_s16le"), ("a.webm", "libopus"), ("a.mp4", "aac")])
def test_lost_packets_are_silence(tmp_path: Path, name: str, codec: str):
    path = tmp_path / name
    write(path, codec, sound(48_000)[None], 48_000, lost_s=(1.7, 2.2))
    samples = read_audio(path)
    assert onsets_s(samples) == pytest.approx(list(CLICKS_S), abs=0.03)  # mp4 rounds the hole to whole packets
    assert np.abs(samples[round(1.8 * 16_000) : round(2.15 * 16_000)]).max() < 1e-3
    assert len(samples) / 16_000 == pytest.approx(LENGTH_S, abs=0.06)


def clock(times_s: list[float | None], **after) -> list[int]:
    """Silence before each of several 1 s pieces at 1 kHz, which claim to start at `times_s`."""
    a_clock = Clock(Fraction(0))
    piece = np.ones(1000, np.float32)
    return [a_clock.place(None if s is None else Fraction(s), piece, 1000, **after)[0] for s in times_s]


def test_clock_fills_holes_and_survives_nonsense():
    assert clock([0, 1, 2.5, 3.5]) == [0, 0, 500, 0]
    assert clock([0, 1.0625, 2]) == [0, 0, 0], "jitter is not a hole"
    assert clock([0, 1.0625, 2], after_loss=True) == [0, 62, 0], "unless packets are known to be lost"
    assert clock([0.0625, 1.0625]) == [62, 0], "the start is exact"
    assert clock([0, 1, 0, 1, 3]) == [0, 0, 0, 0, 1000], "a clock that restarts goes on"
    assert clock([0, 10.0**12, 10.0**12 + 1, 10.0**12 + 4]) == [0, 0, 0, 2000], "no years of silence"
    assert clock([None, None, 3]) == [0, 0, 1000]


def test_clock_cuts_what_precedes_time_zero():
    a_clock = Clock(Fraction(0))
    gap, rest = a_clock.place(Fraction(-1, 16), np.arange(1000, dtype=np.float32), 1000)
    assert (gap, len(rest), rest[0]) == (0, 938, 62)


# ------------------------------------------------------------------------------------------------ streaming


@pytest.mark.parametrize("block_s", [0.00001, 0.013, 1.0, 3.5, 100.0])
def test_blocks_joined_are_the_whole(block_s: float):
    data = encoded("aac", "mp4", 44_100)[:]
    whole = read_audio(data)
    if block_s < 0.001:
        whole, data = whole[:3000], wav(sound(44_100)[:8269], 44_100)
        whole = read_audio(data)
    blocks = list(open_audio(data, block_s=block_s))
    size = max(1, round(block_s * 16_000))
    assert [len(b) for b in blocks[:-1]] == [size] * (len(blocks) - 1)
    assert 0 < len(blocks[-1]) <= size
    np.testing.assert_array_equal(np.concatenate(blocks), whole)


def test_resampling_by_pieces_has_no_edges():
    samples = np.random.default_rng(0).uniform(-1, 1, 50_000).astype(np.float32)
    whole = soxr.resample(samples, 44_100, 16_000)
    np.testing.assert_allclose(read_audio(wav(samples, 44_100)), whole, atol=1e-4)
    np.testing.assert_allclose(read_audio(samples, source_rate=44_100), whole, atol=1e-6)


def test_rate_that_changes_midway_loses_nothing():
    pieces = [
        (sound(8_000), 8_000),
        (sound(48_000), 48_000),
        (sound(16_000), 16_000),
        (sound(44_100), 44_100),
    ]
    samples = np.concatenate(list(media._resampled(pieces, 16_000)))
    assert abs(len(samples) - 4 * LENGTH_S * 16_000) <= 3
    starts_s = [LENGTH_S * index for index in range(4)]
    assert onsets_s(samples) == pytest.approx([a + b for a in starts_s for b in CLICKS_S], abs=0.002)


def test_memory_does_not_grow_with_length(tmp_path: Path):
    path = tmp_path / "long.wav"
    second = np.round(sound(8_000)[:8_000] * 32767).astype("<i2").tobytes()
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(8_000)
        for _ in range(20 * 60):
            out.writeframes(second)
    sizes = []
    tracemalloc.start()
    try:
        with open_audio(path, block_s=5.0) as reader:
            assert reader.duration_s == 1200
            sizes += [len(block) for block in reader]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sizes == [80_000] * 240
    assert peak < 4e6, "20 minutes are 77 MB"


def test_array_is_not_copied_whole():
    samples = np.zeros((2, 16_000 * 600), np.int16)
    tracemalloc.start()
    try:
        count = sum(len(block) for block in open_audio(samples, block_s=1.0))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 16_000 * 600
    assert peak < 2e6


def test_reader_closes_what_it_opened(tmp_path: Path):
    path = tmp_path / "a.wav"
    path.write_bytes(wav(sound(16_000), 16_000))
    descriptors = Path("/proc/self/fd")
    before = len(list(descriptors.iterdir())) if descriptors.exists() else 0
    with open_audio(path, block_s=0.1) as reader:
        assert len(next(iter(reader))) == 1600
        assert len(next(iter(reader))) == 1600, "iteration goes on, it does not start again"
    with pytest.raises(InputError, match="closed"):
        iter(reader)
    reader.close()
    list(open_audio(path))
    if before:
        assert len(list(descriptors.iterdir())) == before


# ---------------------------------------------------------------------------------- streams, bytes and files


class Pipe(io.RawIOBase):
    """Bytes that can be read once, forwards, at most 5000 at a time."""

    def __init__(self, data: bytes):
        self._data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        part = self._data.read(min(len(buffer), 5000))
        buffer[: len(part)] = part
        return len(part)


STREAMS = [
    ("pcm_s16le", "wav", {}),
    ("libmp3lame", "mp3", {}),
    ("libopus", "ogg", {}),
    ("libopus", "webm", {"video": "libvpx"}),
    ("aac", "mp4", {"video": "libx264"}),
    ("aac", "mp4", {"options": {"movflags": "frag_keyframe+delay_moov"}}),
]


@pytest.mark.parametrize(("codec", "container", "more"), STREAMS, ids=[f"{s[1]}{i}" for i, s in enumerate(STREAMS)])
def test_stdin_from_a_pipe(monkeypatch: pytest.MonkeyPatch, codec: str, container: str, more: dict):
    data = encoded(codec, container, **more)
    pipe = types.SimpleNamespace(buffer=Pipe(data), isatty=lambda: False)
    monkeypatch.setattr(sys, "stdin", pipe)
    monkeypatch.setattr(media_file, "SPOOL_BYTES", 10_000)  # so that most of them go through a temporary file
    with open_audio("-") as reader:
        assert reader.name == "stdin"
        samples = np.concatenate(list(reader))
    check(samples)
    np.testing.assert_array_equal(samples, read_audio(data))
    np.testing.assert_array_equal(samples, read_audio(cast(BinaryIO, Pipe(data))))


def test_stdin_of_a_real_process():
    code = "import mmx.media.audio as m, sys; print(len(m.read_audio('-')), sorted({'torch'} & set(sys.modules)))"
    data = wav(sound(8_000), 8_000)
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True)
    assert done.stdout.split() == [b"56000", b"[]"]


def test_import_is_light():
    code = "import mmx.media.audio, sys; print({'av', 'soxr', 'torch', 'soundfile'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout.strip() == b"set()"


def test_open_files_are_read_from_where_they_stand_and_left_open(tmp_path: Path):
    data = encoded("aac", "mp4")
    path = tmp_path / "x.bin"
    path.write_bytes(b"HEADER" + data)
    with path.open("rb") as file:
        file.seek(6)
        reader = open_audio(file)
        check(np.concatenate(list(reader)))
        assert reader.name == "x.bin"
        assert not file.closed
    assert open_audio(io.BytesIO(data)).name == "file object"
    assert open_audio(data).name == "bytes"


def test_greedy_read_does_not_overrun():
    class Greedy(io.BytesIO):
        def read(self, count: int | None = -1, /) -> bytes:
            return super().read(None if count is None else count + 100_000)

    assert "at most" in message(InputError, Greedy(wav(sound(48_000), 48_000)))


# --------------------------------------------------------------------------------------------------- arrays


def test_arrays_of_every_shape_and_type():
    mono = sound(16_000)
    check(read_audio(mono), tail_s=0)
    np.testing.assert_array_equal(read_audio(mono), mono)
    two = np.stack([mono, 0.5 * mono])
    for array in (two, two.T, torch.from_numpy(two), torch.from_numpy(two.T.copy()).double()):
        np.testing.assert_allclose(read_audio(array), 0.75 * mono, atol=1e-6)
    np.testing.assert_allclose(read_audio(torch.from_numpy(mono).bfloat16()), mono, atol=4e-3)
    for kind, half in (("int8", 2**7), ("int16", 2**15), ("int32", 2**31)):
        whole = np.round(mono.astype(np.float64) * (half - 1)).astype(kind)
        np.testing.assert_allclose(read_audio(whole), mono, atol=2 / half + 1e-6)
    for kind, half in (("uint8", 2**7), ("uint16", 2**15)):
        whole = np.round(mono.astype(np.float64) * (half - 1) + half).astype(kind)
        np.testing.assert_allclose(read_audio(whole), mono, atol=2 / half + 1e-6)
    assert read_audio(np.array([-32768, 32767], np.int16)).tolist() == [-1.0, 32767 / 32768]


def test_array_has_a_rate_and_a_length():
    with open_audio(sound(48_000), source_rate=48_000) as reader:
        assert (reader.name, reader.duration_s) == ("array", LENGTH_S)
        check(np.concatenate(list(reader)), tail_s=0.001)


def test_array_errors():
    bad = sound(16_000)
    bad[[5, 70]], bad[33_000] = np.nan, np.inf
    assert "3 NaN or infinite" in message(InputError, bad)
    assert "int64" in message(InputError, np.arange(5))
    assert "(2, 2, 2)" in message(InputError, np.zeros((2, 2, 2), np.float32))
    assert "(0,)" in message(InputError, np.zeros(0, np.float32))
    assert "list" in message(InputError, [0.0, 1.0])
    assert "rate" in message(InputError, bad, rate=0)
    assert "declares its own rate" in message(InputError, wav(sound(8_000), 8_000), source_rate=8_000)
    with pytest.raises(InputError, match="block_s"):
        open_audio(bad, block_s=float("nan"))
    for choice in ("each", "middle"):
        assert "expected channels mix, left or right" in message(InputError, sound(16_000), channels=choice)
    assert "from 1 on" in message(InputError, wav(sound(8_000), 8_000), track=0)
    assert "track=2 is for files" in message(InputError, sound(16_000), track=2)


# --------------------------------------------------------------------------------------------------- errors


def test_missing_file_suggests_the_nearest(tmp_path: Path):
    (tmp_path / "interview.mp4").touch()
    said = message(MediaError, tmp_path / "intervew.mp4")
    assert "intervew.mp4" in said and "no such file" in said and "Did you mean 'interview.mp4'?" in said
    assert "does not exist" in message(MediaError, tmp_path / "nowhere" / "a.wav")


def test_folder_empty_file_and_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    said = message(MediaError, tmp_path)
    assert "folder" in said and str(tmp_path) in said
    empty = tmp_path / "empty.wav"
    empty.touch()
    said = message(MediaError, empty)
    assert "0 bytes" in said and "empty.wav" in said
    assert "seek(0)" in message(MediaError, _at_end(wav(sound(8_000), 8_000)))
    assert "got an empty one" in message(InputError, "")
    assert "cannot be opened" in message(MediaError, "a\0b.wav")

    def refuse(path: object, *_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr("builtins.open", refuse)  # as root, no mode refuses
    said = message(MediaError, empty)
    assert "no permission" in said and "chmod" in said and "empty.wav" in said


def _at_end(data: bytes) -> io.BytesIO:
    file = io.BytesIO(data)
    file.seek(0, os.SEEK_END)
    return file


@pytest.mark.parametrize("ending", ["wav", "mp3", "mp4", "txt"])
def test_text_and_noise_are_not_media(tmp_path: Path, ending: str):
    path = tmp_path / f"notes.{ending}"
    path.write_text("Dear diary, today\n" * 100)
    said = message(MediaError, path)
    assert f"notes.{ending}" in said and "text that begins 'Dear diary" in said and "flac" in said
    path.write_bytes(b"\x89\xff\x00" + np.random.default_rng(1).bytes(5000))
    said = message(MediaError, path)
    assert f"notes.{ending}" in said


def test_truncated_mp4_lacks_its_index(tmp_path: Path):
    data = encoded("aac", "mp4", video="libx264")
    assert b"mdat" in data[: data.index(b"moov")]
    path = tmp_path / "cut.mp4"
    path.write_bytes(data[: data.index(b"moov") - 100])
    said = message(MediaError, path)
    assert "cut.mp4" in said and "cut off" in said and "moov" in said


def test_film_without_sound(tmp_path: Path):
    path = tmp_path / "silent.mp4"
    with av.open(str(path), "w") as out:
        film = out.add_stream("libx264", rate=25)
        film.width, film.height, film.pix_fmt = 64, 48, "yuv420p"
        out.mux(film.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        out.mux(film.encode(None))
    said = message(MediaError, path)
    assert "silent.mp4" in said and "no audio" in said and "video" in said


def test_no_samples(tmp_path: Path):
    path = tmp_path / "none.wav"
    path.write_bytes(wav(np.zeros(0, np.float32), 16_000))
    said = message(MediaError, path)
    assert "none.wav" in said and "without any samples" in said


def test_encrypted_unknown_and_garbage_codecs(tmp_path: Path):
    data = encoded("aac", "mp4")
    path = tmp_path / "shop.m4a"
    path.write_bytes(data.replace(b"mp4a", b"drms"))
    said = message(MediaError, path)
    assert "shop.m4a" in said and "encrypted (DRM" in said
    start, stop = data.index(b"mdat") + 4, data.index(b"moov") - 4
    path.write_bytes(data[:start] + np.random.default_rng(2).bytes(stop - start) + data[stop:])
    said = message(MediaError, path)
    assert "shop.m4a" in said and "none of its audio could be decoded (aac)" in said
    path = tmp_path / "odd.mkv"
    path.write_bytes(encoded("aac", "matroska").replace(b"A_AAC", b"A_XYZ"))
    said = message(MediaError, path)
    assert "odd.mkv" in said and "codec" in said and "matroska" in said


# --------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize(
    ("codec", "container", "words"),
    [
        ("pcm_s16le", "wav", "cut off after"),
        ("flac", "flac", "damaged after"),
        ("libmp3lame", "mp3", "cut off after"),
        ("libopus", "webm", "cut off after"),
    ],
)
def test_cut_file_gives_what_is_there_and_says_so(codec: str, container: str, words: str):
    more: dict[str, Any] = {"video": "libvpx"} if container == "webm" else {}  # the film could be the longer one
    data = encoded(codec, container, **more)
    cut = data[: round(0.6 * len(data))]
    with open_audio(cut) as reader:
        samples = np.concatenate(list(reader))
    assert onsets_s(samples)[0] == pytest.approx(1.0, abs=0.004)
    assert 1.2 < len(samples) / 16_000 < LENGTH_S - 0.5
    assert len(reader.warnings) == 1
    assert words in reader.warnings[0]
    told_s = float(re.findall(r"after (\d+\.\d) s", reader.warnings[0])[0])
    assert told_s == pytest.approx(len(samples) / 16_000, abs=0.06)
    with pytest.warns(MmxWarning, match=f"bytes: .*{words}"):
        read_audio(cut)


def test_damage_in_the_middle_is_silence_and_the_clock_stays_true():
    data = bytearray(encoded("aac", "mp4"))
    start = data.index(b"mdat")
    size = data.index(b"moov") - start
    spot = start + size // 2
    data[spot : spot + 200] = np.random.default_rng(3).bytes(200)
    with open_audio(bytes(data)) as reader:
        samples = np.concatenate(list(reader))
    assert onsets_s(samples)[0] == pytest.approx(1.0, abs=0.004)
    assert onsets_s(samples)[-1] == pytest.approx(3.0, abs=0.004)
    assert len(samples) / 16_000 == pytest.approx(LENGTH_S, abs=0.03)
    assert len(reader.warnings) == 1
    assert "packet(s)" in reader.warnings[0]


def test_device_that_fails_midway():
    class Failing(io.BytesIO):
        def read(self, count: int | None = -1, /) -> bytes:
            if 3_000_000 < self.tell() < 3_900_000:
                raise OSError(errno.EIO, "Input/output error")
            return super().read(count)

    long = np.tile(sound(48_000), 12)  # 42 s, 4 MB: FFmpeg reads ahead a good part of it when it opens
    with open_audio(Failing(wav(long, 48_000))) as reader:
        samples = np.concatenate(list(reader))
    assert 30.5 < len(samples) / 16_000 < 31.8
    assert onsets_s(samples)[:4] == pytest.approx([1.0, 3.0, 4.5, 6.5], abs=0.004)
    assert len(reader.warnings) == 1
    assert "damaged after" in reader.warnings[0] and "Input/output error" in reader.warnings[0]


@pytest.mark.parametrize(
    ("count", "told"),
    [
        (7, "7 samples from 0.3 s on are NaN or infinite and read as silence"),
        (1, "1 sample at 0.3 s is NaN or infinite and read as silence"),
    ],
)
def test_nan_in_a_file_is_silence_and_said(tmp_path: Path, count: int, told: str):
    samples = sound(16_000)
    samples[5000 : 5000 + count] = np.nan
    path = tmp_path / "nan.wav"
    write(path, "pcm_f32le", samples[None], 16_000)
    with open_audio(path) as reader:
        check(np.concatenate(list(reader)))
    assert reader.warnings == [told]


# -------------------------------------------------------------------------------------------- hostile input


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/a.mp3", "https://example.com/x.mp4", "rtsp://cam/1"])
def test_addresses_are_not_opened(url: str):
    said = message(InputError, url)
    assert url in said and "Download it first" in said


def test_a_file_may_be_called_like_a_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("a.wav").write_bytes(wav(sound(16_000), 16_000))
    for name in ("concat:a.wav|a.wav", "file:a.wav", "subfile,,start,0,end,0,,:a.wav", "pipe:0"):
        assert "no such file" in message(MediaError, name)
    Path("concat:a.wav|b.wav").write_bytes(wav(sound(16_000), 16_000))
    check(read_audio("concat:a.wav|b.wav"))


PLAYLISTS = {
    "m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\n{0}\n#EXT-X-ENDLIST\n",
    "ffconcat": "ffconcat version 1.0\nfile '{0}'\n",
    "mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT3S"><Period><AdaptationSet mimeType="audio/mp4">'
    '<Representation id="1" bandwidth="1000"><BaseURL>{0}</BaseURL><SegmentBase/></Representation>'
    "</AdaptationSet></Period></MPD>",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
}


@pytest.mark.parametrize("kind", list(PLAYLISTS))
@pytest.mark.parametrize("sniffed", [True, False])
def test_playlists_open_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, sniffed: bool):
    if not sniffed:  # FFmpeg itself must refuse too, whatever the first bytes look like to us
        monkeypatch.setattr(media_container, "PLAYLISTS", (b"never",))
    secret = tmp_path / "secret.ts"
    write(secret, "aac", sound(48_000)[None], 48_000)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/a.ts"
        for target, ending in itertools.product((str(secret), "secret.ts", address), ("wav", kind)):
            path = tmp_path / f"list.{ending}"
            path.write_text(PLAYLISTS[kind].format(target))
            said = message(MediaError, path)
            assert str(path) in said
            assert ("got a playlist" in said) or not sniffed
            with pytest.raises(BlockingIOError):
                server.accept()


def test_text_mode_and_terminals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a.wav"
    path.write_bytes(wav(sound(8_000), 8_000))
    with path.open(encoding="latin-1") as file:
        assert "'rb'" in message(InputError, file)
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(isatty=lambda: True))
    assert "nothing is piped" in message(InputError, "-")
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=Pipe(b""), isatty=lambda: False))
    said = message(MediaError, "-")
    assert "stdin" in said and "0 bytes" in said
