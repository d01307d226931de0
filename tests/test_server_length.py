"""A header may say anything: recordings are as long as their packets."""

import io
import struct
from typing import Any

import av
import numpy as np
import pytest

pytest.importorskip("fastapi", reason='needs the extra serve: pip install "mmx[serve]"')
pytest.importorskip("httpx", reason="needs httpx: pip install httpx")

import soundfile
from fake_server import FakeEngine
from starlette.testclient import TestClient

from mmx.streaming.server.app import create_app
from mmx.streaming.server.length import measured_s
from mmx.streaming.server.settings import Settings
from mmx.tasks.transcribe import Progress


def flac(seconds: int, declared_s: int) -> bytes:
    out = io.BytesIO()
    noise = np.random.default_rng(0).normal(0, 0.1, 16_000 * seconds)
    soundfile.write(out, noise, 16_000, format="FLAC")
    file = bytearray(out.getvalue())
    at, n = file.index(b"fLaC") + 8, declared_s * 16_000
    file[at + 13] = (file[at + 13] & 0xF0) | (n >> 32 & 0xF)
    file[at + 14 : at + 18] = struct.pack(">I", n & 0xFFFFFFFF)
    return bytes(file)


def test_packets_tell_the_length_and_the_file_stands_where_it_stood():
    file = io.BytesIO(flac(5, 9 * 3600))
    file.seek(7)
    assert measured_s(file) == pytest.approx(5.0) and file.tell() == 7
    assert measured_s(io.BytesIO(b"no sound")) == 0.0


def film(*seconds: int) -> bytes:
    """Sound tracks beside each other."""
    out = io.BytesIO()
    with av.open(out, "w", format="matroska") as container:
        streams = [container.add_stream("pcm_s16le", rate=16_000, layout="mono") for _ in seconds]
        for stream, length in zip(streams, seconds, strict=True):
            for second in range(length):
                frame = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), np.int16), format="s16", layout="mono")
                frame.sample_rate, frame.pts = 16_000, second * 16_000
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return out.getvalue()


@pytest.mark.filterwarnings("ignore:.*only track 1 is read")  # by the fake engine
def test_the_track_that_is_heard_is_measured(monkeypatch: pytest.MonkeyPatch):
    file = film(2, 6)
    assert [measured_s(io.BytesIO(file), track) for track in (None, 1, 2)] == pytest.approx([2.0, 2.0, 6.0], abs=0.3)
    assert measured_s(io.BytesIO(file), 3) == 0.0
    declare(monkeypatch)
    with TestClient(create_app(FakeEngine(), Settings(max_audio_s=4.0))) as client:  # type: ignore[arg-type]
        for track, status in (("1", 200), ("2", 413)):
            form = {"files": {"file": ("a.mkv", file)}, "data": {"track": track}}
            assert client.post("/v1/audio/transcriptions", **form).status_code == status


def declare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let headers say nine hours."""
    real = FakeEngine.transcribe

    def declared(self: FakeEngine, source: Any, options: Any, on_progress: Any) -> Any:
        on_progress(Progress("x", 0.0, 9 * 3600.0))  # as the reader of media has it of the header
        return real(self, source, options, on_progress)

    monkeypatch.setattr(FakeEngine, "transcribe", declared)


@pytest.mark.filterwarnings("ignore:.*its header declares")
@pytest.mark.parametrize(("seconds", "status"), [(3, 200), (6, 413)])
def test_only_what_is_long_is_too_long(monkeypatch: pytest.MonkeyPatch, seconds: int, status: int):
    declare(monkeypatch)
    with TestClient(create_app(FakeEngine(), Settings(max_audio_s=4.0))) as client:  # type: ignore[arg-type]
        files = {"file": ("a.flac", flac(seconds, 9 * 3600))}
        assert client.post("/v1/audio/transcriptions", files=files).status_code == status
