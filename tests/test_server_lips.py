"""Live sessions of `mmx serve` that send a camera's pictures beside the sound, for a model of lips and sound.

Letters: T moments, N samples, H height, W width.
"""

import base64
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason='needs the extra serve: pip install "mmx[serve]"')
pytest.importorskip("httpx", reason="needs httpx: pip install httpx")

import av
import torch
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect
from test_fingerspelling import spelling_model
from test_lips_and_sound import tiny
from test_server import Live, live

import mmx
from mmx.clip import SPEECH
from mmx.errors import InputError
from mmx.media.clips import open_clip
from mmx.media.live_mouth import LiveMouth
from mmx.media.mouth import MEAN_FACE
from mmx.model import Model
from mmx.streaming.server.app import create_app
from mmx.streaming.server.audio_visual import AudioVisualFormat
from mmx.streaming.server.engine import Engine
from mmx.streaming.server.settings import ApiError, Settings
from mmx.streaming.stream import Stream

DEMO = Path(__file__).parents[1] / "demos" / "talking_mouth.mkv"
SIDE = 240
FACE = np.array([*MEAN_FACE, [-14, 158], [14, 158], [0, 154], [0, 162]], np.float32) + np.array([120, -38], np.float32)
"""A face whose mouth is in the middle of a picture; bright pictures have one."""


def found(picture_HW3: np.ndarray) -> list[Any]:
    return [FACE] if picture_HW3.any() else []


@pytest.fixture(autouse=True)
def _finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmx.streaming.server.sight.LiveMouth", lambda shape: LiveMouth(shape, found))


def around(mouth_HW: np.ndarray) -> np.ndarray:
    """A person's picture around a mouth; black for a black one."""
    grey_HW = np.full((SIDE, SIDE), 128 if mouth_HW.any() else 0, np.uint8)
    grey_HW[72:168, 72:168] = np.kron(mouth_HW, np.ones((96 // len(mouth_HW),) * 2, np.uint8))
    return grey_HW


def picture(mouth_HW: np.ndarray) -> str:
    """It as PNG in base64."""
    grey_HW = around(mouth_HW)
    codec: Any = av.CodecContext.create("png", "w")
    codec.width, codec.height, codec.pix_fmt, codec.time_base = SIDE, SIDE, "gray", Fraction(1)
    frame = av.VideoFrame.from_ndarray(grey_HW, "gray")
    return base64.b64encode(b"".join(bytes(p) for p in [*codec.encode(frame), *codec.encode(None)])).decode()


@contextmanager
def served(model: Model, **settings: Any) -> Iterator[TestClient]:
    with TestClient(create_app(Engine(model, step_s=0.2), Settings(**settings))) as client:
        yield client


def sent(me: Live, sound_N: np.ndarray, mouths_THW: Sequence[np.ndarray | None] = ()) -> None:
    """Send moments, with a picture for each that has one, and wait until they are acknowledged."""
    count, begun = len(sound_N) // 640, me.samples
    pcm = (sound_N[: count * 640] * 2**15).round().astype("<i2").tobytes()
    seen = {i: mouth for i, mouth in enumerate(mouths_THW) if mouth is not None}
    me.socket.send_json(
        {
            "type": "input_frames.append",
            "audio": base64.b64encode(pcm).decode(),
            "images": [picture(mouth) for mouth in seen.values()],
            "times_ms": [40 * (begun + i) for i in seen],
        }
    )
    while me.samples < begun + count:
        me.until("input_audio_buffer.acknowledged")


def notes(me: Live) -> list[str]:
    return [m["text"] for m in me.told if m["type"] == "session.note"]


def test_a_session_writes_what_a_stream_of_the_mouths_writes_and_outlives_its_server(tmp_path: Path) -> None:
    model = mmx.load("lips-and-sound", dtype="float32")
    with open_clip(DEMO, model.recorded) as reader:
        clips = list(reader)
    sound_N = torch.cat([c[SPEECH].x[0] for c in clips]).numpy()[: 48 * 640]
    mouths = torch.cat([c["lips"].x[0] for c in clips]).numpy()[:48]
    with served(model, state_dir=tmp_path) as client, live(client, "language=en&modality=av") as me:
        session = me.until("session.created")["session"]
        shape = {"type": "moments/int16+uint8", "rate": 25.0, "modality": "lips", "shape": [48, 48]}
        assert session["audio"]["input"]["format"] == shape
        assert client.get("/v1/capabilities").json()["pictures"]["sound"]
        sent(me, sound_N[: 20 * 640], mouths[:20])
        assert me.told[-1]["type"] != "error" and [m for m in me.told if m["type"] == "input_frames.points"]
    with (
        served(model, state_dir=tmp_path) as client,
        live(client, f"session={session['id']}&after={me.last}&modality=av") as back,
    ):
        assert back.until("session.resumed")["acknowledged"]["samples"] == 20
        back.last, back.samples = me.last, 20
        sent(back, sound_N[20 * 640 :], mouths[20:])
        back.close()
    seen = LiveMouth((48, 48), found).crops(np.stack([around(mouth) for mouth in mouths])[..., None].repeat(3, -1))
    stream = Stream(model, language="en", step_s=0.2)
    stream.push({name: seq._replace(final=False) for name, seq in _clip(model, sound_N, seen).items()}, final=True)
    assert (me.text + back.text).strip() == stream.text and len(stream.text) > 8


def _clip(model: Model, sound_N: np.ndarray, mouths_THW: np.ndarray) -> Any:
    form = Engine(model).both
    assert form is not None
    pcm_TB = (sound_N * 2**15).round().astype("<i2").reshape(len(mouths_THW), -1).view("u1")
    return form.clip(np.concatenate([pcm_TB, mouths_THW.reshape(len(mouths_THW), -1)], 1).tobytes())


class Whole:
    """Sees all of a picture as the mouth."""

    last: np.ndarray | None = None
    place, trouble = 0, ""

    def frame(self, picture_HW3: np.ndarray, place: int) -> np.ndarray:
        self.last, self.place = picture_HW3[:12, :12, 0], place
        return self.last


def test_sound_and_pictures_stand_on_one_clock() -> None:
    form = AudioVisualFormat("lips", tiny().recorded["lips"])
    sound = np.arange(4 * 640, dtype="<i2")
    message = {"audio": base64.b64encode(sound.tobytes()).decode()}
    eye: Any = Whole()
    shown = {"images": [picture(np.full((12, 12), v, np.uint8)) for v in (10, 90)], "times_ms": [440, 460]}
    with pytest.raises(ApiError, match="in that of the audio"):
        form.raw({**message, **shown}, 0, eye)
    clip = form.clip(form.raw({**message, **shown}, 10, eye))
    assert torch.equal(clip[SPEECH].x[0], torch.from_numpy(sound / np.float32(2**15)))
    assert clip["lips"].x[0].any(-1).any(-1).tolist() == [False, True, True, True]
    for count, wanted in ((14, [1, 1, 1, 1]), (34, [1, 1, 1, 0])):  # a picture, the last at 12, stands for a second
        later = form.clip(form.raw(message, count, eye))["lips"].x[0].flatten(1).any(1)
        assert later.tolist() == wanted
    assert not form.clip(form.raw({**message, **shown}, 10))["lips"].x.any()
    for bad in ({}, {"audio": "?"}, {"audio": "AAAA"}, {**message, "images": ["AAAA"], "times_ms": [400]}):
        with pytest.raises(ApiError):
            form.raw(bad, 10, eye)


def test_what_is_lost_of_both_is_told_and_the_rest_goes_on() -> None:
    noise_N = np.random.default_rng(0).normal(0, 0.1, 25 * 640).astype(np.float32)
    mouth = np.full((12, 12), 200, np.uint8)
    with served(tiny()) as client, live(client, "modality=av") as me:
        for sound_N, face, words in (
            (noise_N, [mouth] * 25, ""),
            (np.tile(noise_N, 2), [mouth * 0] * 50, "no picture for 1 s: goes on with the sound alone"),
            (noise_N, [mouth] * 25, "the picture is back"),
            (np.zeros(40 * 640, np.float32), [mouth] * 40, "no sound for 1 s: goes on with the picture alone"),
        ):
            sent(me, sound_N, face)
            while words and words not in notes(me):
                me.until("session.note")
        me.close()
        assert len(notes(me)) == 3


def test_without_what_finds_faces_the_sound_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(shape: Any) -> Any:
        raise InputError("expected mediapipe to be installed, got none")

    monkeypatch.setattr("mmx.streaming.server.sight.LiveMouth", missing)
    mouth, noise_N = np.full((12, 12), 200, np.uint8), np.full(640, 0.1, np.float32)
    with served(tiny()) as client, live(client, "modality=av") as me:
        for _ in range(3):
            sent(me, noise_N, [mouth])
        me.close()
        assert ["got none" in words for words in notes(me)] == [True]


def test_a_message_without_pictures_goes_on_with_the_last() -> None:
    with served(tiny()) as client, live(client, "modality=av") as me:
        sent(me, np.zeros(640, np.float32), [np.full((12, 12), 200, np.uint8)])
        me.socket.send_json({"type": "input_frames.append", "audio": base64.b64encode(bytes(3 * 1280)).decode()})
        while me.samples < 4:
            me.until("input_audio_buffer.acknowledged")
        (session,) = client.app.state.registry.sessions.values()  # type: ignore[attr-defined]
        clip = session.frames.clip(b"".join(bytes(x.pcm) for x in session.inbox))
        assert clip["lips"].x[0].flatten(1).any(1).tolist() == [True] * 4


def test_who_sends_sound_alone_is_heard_and_other_models_take_no_pictures() -> None:
    with served(tiny()) as client, live(client) as me:
        assert me.until("session.created")["session"]["audio"]["input"]["format"]["type"] == "audio/pcm"
        me.push(0.5)
    with served(spelling_model()) as client:
        for query, code in (("modality=av", "invalid_value"), ("modality=lips", "invalid_value")):
            with pytest.raises(WebSocketDisconnect), live(client, query) as me:
                me.fails(code)
                me.until("never")
