"""The server: OpenAI's shapes, limits with honest errors, live sessions that survive their connection."""

import base64
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason='needs the extra serve: pip install "mmx[serve]"')
pytest.importorskip("httpx", reason="needs httpx: pip install httpx")

from fake_server import FakeEngine, FakeStream, running, wav
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from mmx.streaming.server.app import create_app
from mmx.streaming.server.models import ALIASES
from mmx.streaming.server.settings import Settings
from mmx.tasks.result import Note, Transcript

ROOT = Path(__file__).parents[1]
TALK = ROOT / "demos" / "dashwood.flac"


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def client(engine: FakeEngine) -> Iterator[TestClient]:
    with TestClient(create_app(engine)) as c:  # type: ignore[arg-type]
        yield c


def serve(engine: FakeEngine, **settings: Any) -> TestClient:
    return TestClient(create_app(engine, Settings(**settings)))  # type: ignore[arg-type]


def post(client: TestClient, task: str = "transcriptions", seconds: float = 2.0, **fields: Any) -> Any:
    return client.post(f"/v1/audio/{task}", files={"file": ("a.wav", wav(seconds))}, data=fields)


def only(name: str, value: str) -> dict[str, Any]:
    """One field whose name is no identifier."""
    return {name: value}


def refused(response: Any, status: int, code: str) -> dict[str, Any]:
    """The error of an answer, in OpenAI's shape."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error["code"] == code
    assert set(error) == {"message", "type", "param", "code"} and "expected" in error["message"].lower()
    return error


# -------------------- recordings


def test_the_formats_are_openais(client: TestClient):
    assert post(client).json() == {"text": "He was", "usage": {"type": "duration", "seconds": 2}}
    text = post(client, response_format="text")
    assert (text.text, text.headers["content-type"]) == ("He was\n", "text/plain; charset=utf-8")
    assert post(client, response_format="srt").text.startswith("1\n00:00:00,000 --> 00:00:02,000\nHe was\n")
    assert post(client, response_format="vtt").text.startswith("WEBVTT\n\n00:00:00.000 --> 00:00:02.000\nHe was\n")
    whole = post(client, response_format="verbose_json").json()
    assert (whole["task"], whole["language"], whole["duration"], whole["text"]) == (
        "transcribe",
        "english",
        2.0,
        "He was",
    )
    assert set(whole["segments"][1]) == {
        "id", "seek", "start", "end", "text", "tokens", "temperature", "avg_logprob", "compression_ratio",
        "no_speech_prob",
    }  # fmt: skip
    assert "words" not in whole


def test_what_was_skipped_is_noted(client: TestClient, monkeypatch: pytest.MonkeyPatch):
    real = FakeEngine.transcribe

    def transcribe(self: FakeEngine, *asked: Any) -> Transcript:
        return replace(real(self, *asked), notes=(Note(0.5, 1.5, "skipped", "the file is damaged here"),))

    assert post(client, response_format="verbose_json").json()["notes"] == []
    monkeypatch.setattr(FakeEngine, "transcribe", transcribe)
    notes = [{"start": 0.5, "end": 1.5, "action": "skipped", "reason": "the file is damaged here"}]
    assert post(client, response_format="verbose_json").json()["notes"] == notes
    assert events(post(client, response_format="verbose_json", stream="true"))[-1]["verbose_json"]["notes"] == notes
    assert set(post(client).json()) == {"text", "usage"}


def test_word_times_are_given_where_asked(client: TestClient, engine: FakeEngine):
    data = {"response_format": "verbose_json", "timestamp_granularities[]": ["word"]}
    whole = post(client, **data).json()
    assert whole["words"] == [{"word": "He", "start": 0.0, "end": 1.0}, {"word": "was", "start": 1.0, "end": 2.0}]
    assert "segments" not in whole and engine.asked[-1].word_timestamps


def test_options_reach_the_model(client: TestClient, engine: FakeEngine):
    post(client, language="de", prompt="Hallo", temperature="0.4", model="whisper-1")
    asked = engine.asked[-1]
    assert (asked.language, asked.initial_prompt, asked.temperature, asked.task) == (
        "de",
        "Hallo",
        (0.4,),
        "transcribe",
    )
    assert post(client, "translations", to="es").json()["text"] == "He was"
    assert (engine.asked[-1].task, engine.asked[-1].to) == ("translate", "es")


def events(response: Any) -> list[dict[str, Any]]:
    assert response.headers["content-type"].startswith("text/event-stream")
    return [json.loads(line[6:]) for line in response.text.split("\n\n") if line.startswith("data:")]


def test_a_stream_of_events_only_appends(client: TestClient):
    got = events(post(client, seconds=5, stream="true", response_format=["srt", "vtt"]))
    assert [e["type"] for e in got] == ["transcript.text.delta"] * (len(got) - 1) + ["transcript.text.done"]
    assert "".join(e["delta"] for e in got[:-1]) == got[-1]["text"] == "He was not an ill"
    assert len(got) > 2 and got[-1]["srt"].startswith("1\n00:00:00") and got[-1]["vtt"].startswith("WEBVTT")


@pytest.mark.parametrize(("to", "name"), [("es", "spanish"), ("en", "english")])
def test_a_translation_names_the_language_that_it_is_written_in(client: TestClient, to: str, name: str):
    fields: dict[str, Any] = {"language": "de", "to": to, "response_format": "verbose_json"}
    assert post(client, "translations", **fields).json()["language"] == name
    done = events(post(client, "translations", **fields, stream="true"))[-1]
    assert (done["language"], done["verbose_json"]["language"]) == (to, name)
    assert post(client, **{**fields, "to": ""}).json()["language"] == "german"  # of what is said


def test_what_cannot_be_done_is_said(client: TestClient):
    refused(post(client, response_format="diarized_json"), 400, "unsupported_format")
    refused(post(client, response_format=["srt", "vtt"]), 400, "invalid_value")
    refused(post(client, model="gpt-9"), 404, "model_not_found")
    refused(post(client, language="fr"), 400, "invalid_value")
    refused(post(client, temperature="warm"), 400, "invalid_value")
    refused(post(client, **only("include[]", "logprobs")), 400, "unsupported_parameter")
    refused(post(client, **only("timestamp_granularities[]", "page")), 400, "invalid_value")
    url = "/v1/audio/transcriptions"
    refused(client.post(url, data={"model": "tiny"}, files={"image": b"x"}), 400, "missing_file")
    refused(client.post(url, files={"file": ("a.wav", b"")}), 400, "invalid_audio")
    refused(client.post(url, files={"file": ("a.wav", b"this is no sound")}), 400, "invalid_audio")
    stream = client.post(url, files={"file": ("a.wav", b"this is no sound")}, data={"stream": "true"})
    refused(stream, 400, "invalid_audio")
    refused(client.post(url, json={"file": "x"}), 400, "invalid_content_type")
    broken = {"content-type": "multipart/form-data; boundary=x"}
    refused(client.post(url, content=b"no boundary", headers=broken), 400, "invalid_form")
    refused(client.get("/v1/nothing"), 404, "not_found")
    wrong = client.get(url)
    assert refused(wrong, 405, "method_not_allowed")["message"] == f"expected POST for {url}, got GET"
    assert wrong.headers["allow"] == "POST"
    refused(client.delete("/page/app.js"), 405, "method_not_allowed")
    assert post(client).status_code == 200  # and it goes on


def test_every_model_that_is_listed_may_be_asked_for(client: TestClient):
    listed = [m["id"] for m in client.get("/v1/models").json()["data"]]
    facts = client.get("/v1/capabilities").json()
    assert listed[:4] == facts["models"] == ["tiny", *ALIASES] and facts["text_model"] == "text"
    assert [post(client, model=name).status_code for name in listed[:4]] == [200] * 4
    speech = [client.post("/v1/audio/speech", json={"model": m, "input": "He came."}) for m in listed[4:]]
    assert [s.status_code for s in speech] == [200] * 5
    message = refused(post(client, model="text"), 404, "model_not_found")["message"]
    assert message.startswith("expected a model among 'tiny', 'whisper-1'") and message.endswith("got 'text'")


def test_a_refusal_names_the_field_at_fault(client: TestClient):
    assert refused(post(client, language="fr"), 400, "invalid_value")["param"] == "language"
    assert refused(post(client, "translations", language="fr"), 400, "invalid_value")["param"] == "language"
    assert refused(post(client, "translations", language="de", to="xx"), 400, "invalid_value")["param"] == "to"
    error = refused(post(client, stream="perhaps"), 400, "invalid_value")
    assert (error["param"], error["message"]) == ("stream", "expected stream to be true or false, got 'perhaps'")
    assert post(client, stream="False").headers["content-type"] == "application/json"
    for query, param in (("language=fr", "language"), ("to=xx", "to"), ("rate=5", "rate"), ("rate=x", "rate")):
        with live(client, query) as me:
            assert me.fails("invalid_value")["param"] == param
    with live(client) as me:
        me.until("session.created")
        for wish, param in (({"input": {"format": {"rate": 5}}}, "rate"), ({"output": {"language": "xx"}}, "to")):
            me.socket.send_json({"type": "session.update", "session": {"audio": wish}})
            assert me.fails("invalid_value")["param"] == param


@pytest.mark.parametrize("size", [16, 2 * 2**20])  # in memory, in a temporary file
def test_a_file_that_is_no_sound_is_called_by_its_name(client: TestClient, size: int):
    files = {"file": ("talk of today.wav", b"no sound" * (size // 8))}
    error = refused(client.post("/v1/audio/transcriptions", files=files), 400, "invalid_audio")
    assert error["message"].startswith("talk of today.wav: expected")


def test_a_form_that_is_too_much_says_of_what(client: TestClient):
    url, sound = "/v1/audio/transcriptions", ("a.wav", wav(1.0))
    two = refused(client.post(url, files=[("file", sound), ("file", sound)]), 400, "invalid_form")
    assert (two["message"], two["param"]) == ("expected one file, got several: send them one by one", "file")
    message = refused(post(client, prompt="a" * (2**20 + 1)), 400, "invalid_form")["message"]
    assert message.startswith("expected text fields of at most 1024 kB, got a larger one")
    message = refused(post(client, prompt=["a"] * 65), 400, "invalid_form")["message"]
    assert message == "expected at most 64 fields, got more"


def test_an_upload_is_refused_as_soon_as_it_is_too_large(engine: FakeEngine):
    with serve(engine, max_upload_mb=0.1) as client:
        refused(post(client, seconds=10), 413, "file_too_large")
        taken = 0

        def body() -> Iterator[bytes]:  # no length declared, no end
            nonlocal taken
            yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
            while taken < 50 * 2**20:
                taken += 2**16
                yield bytes(2**16)

        headers = {"content-type": "multipart/form-data; boundary=x"}
        refused(client.post("/v1/audio/transcriptions", content=body(), headers=headers), 413, "file_too_large")
        assert not engine.asked


def test_a_recording_that_is_too_long_is_given_up(engine: FakeEngine):
    with serve(engine, max_audio_s=3.0) as client:
        refused(post(client, seconds=9), 413, "audio_too_long")
        assert post(client).status_code == 200


def test_a_full_queue_says_when_to_come_back(engine: FakeEngine):
    engine.go.clear()
    with serve(engine, max_queue=0) as client:
        answers: list[Any] = []
        waiting = threading.Thread(target=lambda: answers.append(post(client)))
        waiting.start()
        while not engine.asked:
            pass
        full = post(client)
        assert refused(full, 503, "server_busy")["type"] == "server_error" and int(full.headers["retry-after"]) > 0
        engine.go.set()
        waiting.join()
        assert answers[0].status_code == 200
        assert 'status="503"' in client.get("/metrics").text


# -------------------- who may ask


def test_the_key_is_asked_of_all_but_health(engine: FakeEngine):
    with serve(engine, api_key="s3cret") as client:
        assert client.get("/health").json() == {"status": "ok"}
        assert client.get("/").status_code == 200
        no = client.get("/v1/models")
        assert refused(no, 401, "invalid_api_key")["type"] == "authentication_error"
        assert no.headers["www-authenticate"] == "Bearer"
        for wrong in ("Bearer s3cre", "Bearer s3crett", "Basic s3cret", "s3cret"):
            refused(client.get("/v1/models", headers={"authorization": wrong}), 401, "invalid_api_key")
        refused(post(client), 401, "invalid_api_key")
        names = [m["id"] for m in client.get("/v1/models", headers={"authorization": "Bearer s3cret"}).json()["data"]]
        assert names[0] == "tiny"


def test_pages_of_other_sites_are_kept_out(engine: FakeEngine):
    other, own = {"origin": "https://evil.example"}, {"origin": "http://testserver"}
    with serve(engine) as client:
        refused(client.get("/v1/models", headers=other), 403, "origin_not_allowed")
        refused(client.get("/v1/models", headers={"origin": "null"}), 403, "origin_not_allowed")
        answer = client.get("/v1/models", headers=own)
        assert answer.status_code == 200 and "access-control-allow-origin" not in answer.headers
    with serve(engine, allow_origin=("https://evil.example",), api_key="k") as client:
        answer = client.options("/v1/models", headers={**other, "access-control-request-headers": "authorization"})
        assert answer.status_code == 204 and answer.headers["access-control-allow-origin"] == other["origin"]
        assert client.get("/v1/models", headers={**other, "authorization": "Bearer k"}).status_code == 200


def test_a_local_server_answers_to_its_own_name_only(engine: FakeEngine):
    with serve(engine, local=True) as client:
        refused(client.get("/v1/models"), 403, "host_not_allowed")
        assert client.get("/v1/models", headers={"host": "localhost:8000"}).status_code == 200
        assert client.get("/v1/models", headers={"host": "[::1]:8000"}).status_code == 200


# -------------------- live


def pcm(seconds: float, rate: int = 16_000) -> bytes:
    return bytes(2 * round(seconds * rate))


class Live:
    """A client of a live session that remembers what it was told."""

    def __init__(self, socket: Any):
        self.socket, self.told, self.last, self.text, self.samples = socket, [], -1, "", 0

    def until(self, *kinds: str) -> dict[str, Any]:
        """Read on to the first message of one of these kinds."""
        while True:
            message = self.socket.receive_json()
            self.told.append(message)
            if "seq" in message:
                assert message["seq"] == self.last + 1, "a line of the log is missing or came twice"
                self.last = message["seq"]
            if message["type"].endswith("transcription.delta"):
                self.text += message["delta"]
            self.samples = message.get("samples", self.samples)
            if message["type"] in kinds:
                return message

    def push(self, seconds: float) -> None:
        """Send sound and wait until it is acknowledged."""
        want = self.samples + round(seconds * 16_000)
        self.socket.send_bytes(pcm(seconds))
        while self.samples < want:
            self.until("input_audio_buffer.acknowledged")

    def fails(self, code: str) -> dict[str, Any]:
        error = self.until("error")["error"]
        assert error["code"] == code, error
        return error

    def close(self) -> None:
        self.socket.send_json({"type": "session.close"})
        self.until("session.closed")


@contextmanager
def live(client: TestClient, query: str = "rate=16000", path: str = "/v1/realtime", **options: Any) -> Iterator[Live]:
    # A client that goes leaves the server's task to be cancelled by the test client, which may tell of it.
    with suppress(CancelledError), client.websocket_connect(f"{path}?{query}&extras=1", **options) as socket:
        yield Live(socket)


DELTA = "conversation.item.input_audio_transcription.delta"
COMPLETED = "conversation.item.input_audio_transcription.completed"


def test_a_live_session_writes_as_it_hears(client: TestClient):
    with live(client, "rate=16000&language=de") as me:
        created = me.until("session.created")
        assert created["session"]["type"] == "transcription"
        assert created["session"]["audio"]["input"]["transcription"] == {"model": "tiny", "language": "de"}
        for _ in range(40):
            me.push(0.1)
        me.until("tentative")
        me.close()
    assert me.text == " He was not an"
    done = [m for m in me.told if m["type"] == COMPLETED]
    assert [m["transcript"] for m in done] == ["He was not", "an"]
    first = next(m for m in me.told if m["type"] == DELTA)
    assert (first["item_id"], first["start_ms"], first["end_ms"], first["language"]) == ("item_source_0", 0, 1000, "de")
    assert done[1]["item_id"] == "item_source_1"


def test_base64_at_openais_rate_is_the_same(client: TestClient):
    with live(client, "") as me:
        assert me.until("session.created")["session"]["audio"]["input"]["format"]["rate"] == 24_000
        for _ in range(30):
            sound = base64.b64encode(pcm(0.1, 24_000)).decode()
            me.socket.send_json({"type": "input_audio_buffer.append", "audio": sound})
        me.close()
    assert (me.text, me.samples) == (" He was not", 72_000)


def test_a_dropped_connection_loses_nothing(client: TestClient):
    with live(client) as me:
        id = me.until("session.created")["session"]["id"]
        me.push(2.5)
        me.until(DELTA)
    again = f"session={id}&after={me.last}"
    with live(client, again) as back:
        known = back.until("session.resumed")["acknowledged"]
        assert known["samples"] == 40_000 == me.samples
        back.last, back.samples = me.last, me.samples
        back.push(2.5)
        back.close()
    assert me.text + back.text == " He was not an ill"
    with live(client, f"session={id}&after={back.last - 1}") as late:  # even the end can be asked for again
        late.last = back.last - 1
        late.until("session.closed")
    assert client.get(f"/v1/realtime/sessions/{id}/transcript?response_format=text").text == "He was not an ill\n"
    srt = client.get(f"/v1/realtime/sessions/{id}/transcript")
    assert srt.text.startswith("1\n00:00:00,000 --> 00:00:05,000\nHe was not an ill\n")


def test_who_comes_back_cannot_ask_for_another_session(client: TestClient):
    with live(client, "rate=16000&language=de") as me:
        id = me.until("session.created")["session"]["id"]
        me.push(1.0)
    for other, param in (("rate=8000", "rate"), ("language=en", "language"), ("to=es", "to"), ("source=0", "source")):
        with live(client, f"session={id}&{other}") as back:
            assert back.fails("invalid_value")["param"] == param
    with live(client, f"session={id}&rate=16000&language=de") as back:  # it says the same, and nothing was lost
        assert back.until("session.resumed")["acknowledged"]["samples"] == 16_000


def test_a_new_connection_takes_over_from_one_that_hangs(client: TestClient):
    with live(client) as old:
        id = old.until("session.created")["session"]["id"]
        old.push(1.5)
        with live(client, f"session={id}&after=-1") as new:
            new.until("session.resumed")
            with pytest.raises(WebSocketDisconnect) as closed:
                while True:
                    old.until("never")
            assert closed.value.code == 4001
            new.samples = 24_000
            new.push(1.5)
            new.close()
    assert new.text == " He was not"


def test_nonsense_is_answered_and_survived(client: TestClient):
    with live(client) as me:
        me.until("session.created")
        send = me.socket.send_text
        for nonsense, code in {
            "{": "invalid_json",
            "[1]": "invalid_json",
            '{"type": 3}': "invalid_json",
            '{"type": "response.create"}': "unknown_type",
            '{"type": "input_audio_buffer.append"}': "invalid_value",
            '{"type": "input_audio_buffer.append", "audio": "&&"}': "invalid_value",
            '{"type": "input_audio_buffer.append", "audio": "AAAA"}': "invalid_audio",
            '{"type": "session.update", "session": 7}': "invalid_value",
            '{"type": "session.update", "session": {"audio": 5}}': "invalid_value",
            '{"type": "session.update", "session": {"audio": {"input": 5}}}': "invalid_value",
            '{"type": "session.update", "session": {"audio": {"input": "transcription"}}}': "invalid_value",
            '{"type": "session.update", "session": {"audio": {"input": {"transcription": 5}}}}': "invalid_value",
            '{"type": "session.update", "session": {"audio": {"input": {"format": [5]}}}}': "invalid_value",
            '{"type": "session.update", "session": {"audio": {"input": {"format": {"rate": true}}}}}': "invalid_value",
            '{"type": "session.update", "session": {"audio": {"output": "en"}}}': "invalid_value",
            '{"type": "session.update", "session": {"input_audio_transcription": "on"}}': "invalid_value",
            '{"type": "session.update", "session": {"audio": {"output": {"language": "xx"}}}}': "invalid_value",
            '{"type": "session.update", "session": {"audio": {"input": {"format": {"rate": 5}}}}}': "invalid_value",
        }.items():
            send(nonsense)
            assert me.fails(code)["message"].lower().startswith("expected")
        me.socket.send_bytes(b"odd")
        me.fails("invalid_audio")
        me.socket.send_bytes(bytes(1025 * 1024))
        me.fails("frame_too_large")
        me.push(1.0)
        me.close()
    assert me.text == " He" and me.samples == 16_000


def test_a_connection_that_fails_is_closed_as_such(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def handle_message(*_: Any) -> None:
        raise RuntimeError("not foreseen")

    monkeypatch.setattr("mmx.streaming.server.socket.handle_message", handle_message)
    with live(client) as me:
        me.until("session.created")
        me.socket.send_json({"type": "input_audio_buffer.commit"})
        with pytest.raises(WebSocketDisconnect) as closed:
            me.until("never")
    assert (closed.value.code, closed.value.reason) == (1011, "server_error")
    assert "not foreseen" in caplog.text


def test_a_client_that_goes_is_no_failure(client: TestClient, caplog: pytest.LogCaptureFixture):
    with live(client) as me:
        me.until("session.created")
        me.push(1.0)
    assert not caplog.records


@pytest.mark.parametrize("after", ["--5", "-", "-2", "²", "", "1.0", "9" * 5000])
def test_a_place_in_the_log_is_a_number(client: TestClient, after: str):
    with live(client, f"rate=16000&after={after}") as me:
        assert me.fails("invalid_value")["param"] == "after"


@pytest.mark.parametrize("local", [True, False])
def test_addresses_that_are_none_are_refused(engine: FakeEngine, local: bool):
    own = {"host": "localhost"}
    with serve(engine, local=local) as client:
        refused(client.get("/v1/models", headers={"host": "[::1"}), 400, "invalid_host")
        refused(client.get("/v1/models", headers={**own, "origin": "http://[x"}), 403, "origin_not_allowed")
        with pytest.raises(WebSocketDisconnect), live(client, headers={**own, "origin": "http://[x"}):
            pass
        assert client.get("/v1/models", headers=own).status_code == 200


def test_a_client_that_only_errs_is_left(client: TestClient):
    with live(client) as me, pytest.raises(WebSocketDisconnect) as closed:
        for _ in range(60):
            me.socket.send_text("?")
        while True:
            me.until("never")
    assert closed.value.code == 1008


def test_a_client_that_waits_for_its_last_text_is_not_idle(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch):
    real = FakeStream.push

    def slow(self: FakeStream, samples: Any, final: bool = False) -> Any:
        if final:
            threading.Event().wait(2.0)
        return real(self, samples, final)

    monkeypatch.setattr(FakeStream, "push", slow)
    with serve(engine, idle_timeout_s=1.0) as client:
        with live(client) as me:
            me.until("session.created")
            me.push(2.0)
            me.close()
        assert me.text == " He was"
        assert "idle_timeout" not in client.get("/metrics").text


def test_a_session_that_the_server_stops_says_so_as_requests_do(engine: FakeEngine):
    with serve(engine) as client, live(client) as me:
        me.until("session.created")
        session = next(iter(client.app.state.registry.sessions.values()))  # type: ignore[attr-defined]
        session._stopping = True  # as of `stop`, whose connection lives on for a moment
        me.socket.send_bytes(pcm(0.5))
        assert me.fails("server_closing")["type"] == "server_error"


def test_limits_of_live_sessions_are_named(engine: FakeEngine):
    with serve(engine, max_sessions=1, max_audio_s=3.0, idle_timeout_s=0.5, keep_s=0.2) as client:
        with live(client) as me:
            id = me.until("session.created")["session"]["id"]
            with live(client) as second:
                assert "max_sessions 1" in second.fails("too_many_sessions")["message"]
            me.push(2.0)
            me.socket.send_bytes(pcm(2.0))
            me.fails("session_too_long")
            me.until("session.closed")
        assert me.text == " He was"
        with live(client) as silent:  # the first has ended
            silent.until("session.created")
            silent.fails("idle_timeout")
        time.sleep(1.0)
        with live(client, f"session={id}") as gone:
            gone.fails("session_not_found")
        assert 'mmx_errors_total{code="too_many_sessions"} 1' in client.get("/metrics").text
    with serve(engine) as client, live(client, "rate=16000&after=5") as me:
        me.fails("invalid_value")


@pytest.mark.parametrize("how", ["header", "subprotocol", "message"])
def test_a_socket_shows_the_key(engine: FakeEngine, how: str):
    def options(key: str) -> dict[str, Any]:
        return {
            "header": {"headers": {"authorization": f"Bearer {key}"}},
            "subprotocol": {"subprotocols": ["realtime", f"openai-insecure-api-key.{key}"]},
            "message": {},
        }[how]

    with serve(engine, api_key="k") as client:
        for key, kind in (("k", "session.created"), ("no", "error")):
            with live(client, **options(key)) as me:
                if how == "message":
                    me.socket.send_json({"type": "session.authenticate", "api_key": key})
                assert me.until("session.created", "error")["type"] == kind
        with pytest.raises(WebSocketDisconnect), live(client, headers={"origin": "https://evil.example"}):
            pass


def test_translations_have_openais_shape(client: TestClient):
    with live(client, "rate=16000", "/v1/realtime/translations") as me:
        assert me.until("session.created")["session"]["type"] == "translation"
        me.socket.send_json({"type": "session.update", "session": {"audio": {"output": {"language": "es"}}}})
        updated = me.until("session.updated")["session"]
        assert (updated["type"], updated["audio"]["output"]) == ("translation", {"language": "es"})
        me.socket.send_json({"type": "session.input_audio_buffer.append", "audio": base64.b64encode(pcm(4.0)).decode()})
        me.close()
    said = "".join(m["delta"] for m in me.told if m["type"] == "session.input_transcript.delta")
    translated = "".join(m["delta"] for m in me.told if m["type"] == "session.output_transcript.delta")
    assert (said, translated) == (" He was not an", " es(He was not) es(an)")
    with live(client, "to=fr", "/v1/realtime/translations") as me:
        me.fails("invalid_value")


def test_a_commit_and_an_update_write_what_is_left(client: TestClient):
    with live(client) as me:
        me.until("session.created")
        me.push(1.5)
        me.socket.send_json({"type": "input_audio_buffer.commit"})
        me.until(COMPLETED)
        me.push(1.5)
        me.socket.send_json({"type": "session.update", "session": {"input_audio_transcription": {"language": "de"}}})
        me.until(COMPLETED)
        me.push(1.0)
        me.close()
    deltas = [m for m in me.told if m["type"] == DELTA]
    assert [(m["delta"], m["start_ms"], m["language"]) for m in deltas] == [
        (" He", 0, "en"), (" He", 1500, "en"), (" He", 3000, "de"),
    ]  # fmt: skip


# -------------------- over a real network


@pytest.fixture
def address(engine: FakeEngine) -> Iterator[str]:
    with running(create_app(engine)) as url:  # type: ignore[arg-type]
        yield url


def test_a_client_that_does_not_read_holds_up_nobody(address: str):
    from websockets.sync.client import connect

    with connect(f"ws://{address}/v1/realtime?rate=16000&extras=1", max_queue=1) as slow:
        for _ in range(300):  # its answers fill whatever lies between us, since it never reads
            slow.send(pcm(1.0))
        with connect(f"ws://{address}/v1/realtime?rate=16000") as quick:
            quick.send(pcm(3.0))
            quick.send('{"type": "session.close"}')
            kinds = [json.loads(m)["type"] for m in quick]
        assert kinds.count(DELTA) == 3 and kinds[-1] == "session.closed", kinds
        slow.send('{"type": "session.close"}')
        seqs = [m["seq"] for m in map(json.loads, slow) if "seq" in m]
        assert seqs == list(range(401))  # 300 words, 100 sentences, the end


# -------------------- the real model


@pytest.mark.slow
def test_the_real_model_answers_over_http(whisper_base: Any):
    from mmx.streaming.server.engine import Engine

    with TestClient(create_app(Engine(whisper_base, beam_size=1))) as client, TALK.open("rb") as talk:
        got = events(client.post("/v1/audio/transcriptions", files={"file": talk}, data={"stream": "true"}))
        assert "ill-disposed young man" in got[-1]["text"]
        assert "".join(e["delta"] for e in got[:-1]) == got[-1]["text"]
        assert client.get("/v1/capabilities").json()["targets"] == {"en": "English"}
