"""Damage is told once and where, what follows it stays in its place, and nothing is told of a file that is whole."""

import io
import struct
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from test_media import onsets_s, wav, write

from mmx.media.audio import open_audio
from mmx.media.source import File, incomplete_ogg, trailing_wav_bytes

RATE = 48_000
CLICKS_S = [1.0, 3.0, 5.0, 9.0, 11.0]


def clicks(seconds: float = 12.0) -> np.ndarray:
    """Noise at 0.05 with 20 ms bursts (0.8) at `CLICKS_S`."""
    time_s = np.arange(round(seconds * RATE)) / RATE
    out = np.random.default_rng(0).uniform(-0.05, 0.05, len(time_s)).astype(np.float32)
    for click_s in CLICKS_S:
        at = (time_s >= click_s) & (time_s < click_s + 0.02)
        out[at] = 0.8 * np.cos(2 * np.pi * 1000 * (time_s[at] - click_s))
    return out


def encoded(codec: str, container: str, **more: Any) -> bytes:
    buffer = io.BytesIO()
    write(buffer, codec, clicks()[None], RATE, container=container, **more)
    return buffer.getvalue()


def read(data: bytes, **more: Any) -> tuple[np.ndarray, list[str]]:
    with open_audio(data, **more) as reader:
        samples = np.concatenate(list(reader))
    return samples, reader.warnings


def spoilt(data: bytes, at: int, count: int) -> bytes:
    return data[:at] + bytes((k * 37 + 11) % 256 for k in range(count)) + data[at + count :]


def test_a_hole_in_an_ogg_stream_is_told_where_it_is():
    data = encoded("libopus", "ogg")
    samples, told = read(spoilt(data, len(data) // 2, 3000))
    assert len(told) == 1 and told[0].startswith("the file is damaged: it has no audio from ")
    start_s, end_s = (float(s) for s in told[0].partition("from ")[2].partition(" s,")[0].split(" to "))
    assert 4.0 < start_s < 7.0 < end_s + 1.5 and end_s - start_s > 0.3
    assert len(samples) / 16_000 == pytest.approx(12.0, abs=0.1)
    assert onsets_s(samples)[-2:] == pytest.approx(CLICKS_S[-2:], abs=0.01)
    hole = samples[round((start_s + 0.2) * 16_000) : round((end_s - 0.2) * 16_000)]
    assert np.abs(hole).max(initial=0) < 1e-3


def test_a_hole_in_matroska_may_be_a_pause_that_was_left_out():
    samples, told = read(encoded("libopus", "webm", lost_s=(6.0, 8.0)))
    assert told == [] and onsets_s(samples) == pytest.approx(CLICKS_S, abs=0.03)


@pytest.mark.parametrize("share", [0.31, 0.6, 0.93])
def test_an_ogg_file_that_ends_within_a_page_is_cut_off(share: float):
    data = encoded("libopus", "ogg")
    samples, told = read(data[: round(share * len(data))])
    assert told == [f"the file is cut off after {len(samples) / 16_000:.1f} s: its last page is incomplete"]


def test_an_ogg_file_without_a_mark_at_its_end_is_whole():
    """As many that telephones send are."""
    data = bytearray(encoded("libopus", "ogg"))
    last = data.rfind(b"OggS\0")
    assert data[last + 5] & 4
    whole = bytes(data)
    assert not incomplete_ogg(File(io.BytesIO(whole), "a"))
    assert not incomplete_ogg(File(io.BytesIO(whole[:last]), "a"))
    assert not incomplete_ogg(File(io.BytesIO(whole + bytes(300)), "a")), "nor is what is appended a page"
    for cut in (1, 30, len(whole) - last - 27, len(whole) - last - 5):
        assert incomplete_ogg(File(io.BytesIO(whole[:-cut]), "a"))
    assert read(whole)[1] == []


def test_what_follows_a_damaged_stretch_of_mp3_is_not_early():
    data = encoded("libmp3lame", "mp3")
    samples, told = read(spoilt(data, round(6.2 / 12 * len(data)), 12_000))
    assert len(told) == 1 and "the file is damaged at 6." in told[0], "and nothing is cut off"
    assert onsets_s(samples)[-2:] == pytest.approx(CLICKS_S[-2:], abs=0.06)
    assert len(samples) / 16_000 == pytest.approx(12.0, abs=0.1)


def test_mp3_files_that_were_joined_are_whole():
    one = encoded("libmp3lame", "mp3")
    assert one.startswith(b"ID3")
    samples, told = read(one + one + b"TAG" + bytes(125))
    assert told == [] and len(samples) / 16_000 == pytest.approx(24.0, abs=0.2)


def test_a_filling_at_the_end_is_no_damage():
    """A byte too many after the last block of GSM, as sox writes; the decoder refuses it."""
    blocks, size = 150, 65  # of 320 samples each
    form = struct.pack("<HHIIHHHH", 0x31, 1, 8000, 1625, size, 0, 2, 320)
    chunks = b"fmt " + struct.pack("<I", len(form)) + form + b"fact" + struct.pack("<II", 4, blocks * 320)
    chunks += b"data" + struct.pack("<I", blocks * size + 1) + bytes(blocks * size + 2)
    samples, told = read(b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks)
    assert told == [] and len(samples) / 16_000 == pytest.approx(6.0, abs=0.05)


@pytest.mark.parametrize("container", ["matroska", "mp4", "mpegts"])
def test_sound_alone_that_starts_late_is_whole_and_a_cut_one_is_not(container: str):
    codec = "aac" if container != "matroska" else "flac"
    data = encoded(codec, container, start_s=5.0)
    with open_audio(data) as reader:
        samples = np.concatenate(list(reader))
    assert reader.warnings == []
    assert reader.duration_s == pytest.approx(len(samples) / 16_000, abs=0.2)
    if container == "matroska":
        assert len(read(data[: round(0.6 * len(data))])[1]) == 1


@pytest.mark.parametrize("declared", [1000, 2, 400_000])
def test_a_wav_that_declares_less_than_it_has_is_read_whole(declared: int):
    data = bytearray(wav(clicks(), RATE))
    at = data.index(b"data") + 4
    data[at : at + 4] = struct.pack("<I", declared)
    with open_audio(bytes(data)) as reader:
        samples = np.concatenate(list(reader))
        assert reader.duration_s is None
    assert onsets_s(samples) == pytest.approx(CLICKS_S, abs=0.004)
    rest = len(data) - at - 4 - declared
    assert reader.warnings == [f"its header declares {rest} bytes of audio fewer than follow: all of them are read"]


@pytest.mark.parametrize("tail", [b"LIST" + struct.pack("<I", 200_000) + bytes(200_000), b"id3 " + bytes(99_999), b""])
def test_what_follows_the_sound_of_a_wav_is_not_read_as_sound(tail: bytes):
    data = wav(clicks(), RATE) + tail
    assert trailing_wav_bytes(File(io.BytesIO(data), "a.wav")) == 0
    samples, _ = read(data)
    assert len(samples) == 12 * 16_000


# ------------------------------------------------------------------------------------------ the scale of floats


@pytest.mark.parametrize(("peak", "scale"), [(9000.0, 2**15), (33_000.0, 2**15), (4e6, 2**23), (2e9, 2**31)])
def test_float_samples_on_the_scale_of_an_integer_are_divided(tmp_path: Path, peak: float, scale: int):
    sound = clicks() * (peak / 0.8)
    sound[: 2 * RATE] *= 1e-5  # a beginning that tells nothing
    path = tmp_path / "numpy.wav"
    write(path, "pcm_f32le", sound[None], RATE)
    cases: list[tuple[Any, dict[str, Any]]] = [(path, {}), (sound, {"source_rate": RATE})]
    for source, more in cases:
        with open_audio(source, **more) as reader:
            samples = np.concatenate(list(reader))
        assert np.abs(samples).max() == pytest.approx(peak / scale, rel=0.05)
        assert reader.warnings == [] and len(reader.remarks) == 1
        assert f"they are divided by {scale:g}, the full scale" in reader.remarks[0]


@pytest.mark.parametrize("gain", [1.0, 1.25, 35.0])
def test_float_samples_that_are_only_loud_stay(tmp_path: Path, gain: float):
    path = tmp_path / "loud.wav"
    write(path, "pcm_f32le", (clicks() * gain)[None], RATE)
    with open_audio(path) as reader:
        peak = max(float(np.abs(b).max()) for b in reader)
    assert reader.remarks == [] and peak == pytest.approx(0.8 * gain, rel=0.05)


# ----------------------------------------------------------------------------------------------------- tracks


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tracks: silence, a tone at 440 Hz (fra), one at 880 Hz (eng, "Commentary")."""
    path = tmp_path_factory.mktemp("film") / "film.mkv"
    time_s = np.arange(2 * 16_000) / 16_000
    with av.open(str(path), "w") as out:
        streams: list[Any] = [out.add_stream("pcm_s16le", rate=16_000, layout="mono") for _ in range(3)]
        streams[1].metadata["language"] = "fra"
        streams[2].metadata.update({"language": "eng", "title": "Commentary"})
        for stream, hz in zip(streams, (0, 440, 880), strict=True):
            samples = (9000 * np.sin(2 * np.pi * hz * time_s)).astype(np.int16)[None]
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.sample_rate, frame.pts = 16_000, 0
            out.mux(stream.encode(frame))
    return path


def test_a_track_is_chosen_by_its_number(film: Path):
    for track, hz in ((None, 0), (1, 0), (2, 440), (3, 880)):
        with open_audio(film, track=track) as reader:
            samples = np.concatenate(list(reader))
        assert np.argmax(np.abs(np.fft.rfft(samples))) / 2 == hz
        assert len(reader.warnings) == (track is None)
    with open_audio(film) as reader:
        assert 'unnamed), 2 (fra), 3 (eng, "Commentary"): only track 1' in reader.warnings[0]
        assert "--track" in reader.warnings[0]


def test_a_track_that_is_not_there_lists_those_that_are(film: Path):
    from mmx.errors import MediaError

    with pytest.raises(MediaError, match=r'film.mkv: .*got 4: it has 1 .*, 2 \(fra\), 3 \(eng, "Commentary"\)'):
        open_audio(film, track=4)
