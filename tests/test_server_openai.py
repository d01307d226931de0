"""What OpenAI's clients, browsers and monitors expect of the server past the recordings themselves."""

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason='needs the extra serve: pip install "mmx[serve]"')
pytest.importorskip("httpx", reason="needs httpx: pip install httpx")

from fake_server import FakeEngine, wav
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from mmx.errors import InputError
from mmx.streaming.server.app import create_app
from mmx.streaming.server.settings import MOST_MESSAGE, ServeOptions, Settings
from mmx.tasks.result import Transcript

PAGE_ORIGIN = {"origin": "https://app.example"}


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


def serve(engine: FakeEngine, **settings: Any) -> TestClient:
    app = create_app(engine, Settings(**settings))  # type: ignore[arg-type]
    return TestClient(app, raise_server_exceptions=False)


@pytest.fixture
def client(engine: FakeEngine) -> Iterator[TestClient]:
    with serve(engine) as c:
        yield c


def post(client: TestClient, task: str = "transcriptions", seconds: float = 2.0, **fields: Any) -> Any:
    data = {name.replace("__", "[]"): value for name, value in fields.items()}
    return client.post(f"/v1/audio/{task}", files={"file": ("a.wav", wav(seconds))}, data=data)


def error(response: Any, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    return response.json()["error"]


# -------------------- models and fields


@pytest.mark.parametrize(
    "name", ["tiny", "openai/tiny", "whisper-1", "gpt-4o-transcribe", "gpt-4o-mini-transcribe-2025-12-15"]
)
def test_openais_names_mean_the_model_that_is_here(client: TestClient, name: str):
    assert client.get(f"/v1/models/{name}").json() == {"id": name, "object": "model", "created": 0, "owned_by": "mmx"}
    assert post(client, model=name).json()["text"] == "He was"


@pytest.mark.parametrize("name", ["text", "openai/large", "gpt-4o", "tiny/tiny", "gpt-4o-transcribe-new"])
def test_a_model_that_is_not_here_is_not_found(client: TestClient, name: str):
    assert error(client.get(f"/v1/models/{name}"), 404)["code"] == "model_not_found"
    assert error(post(client, model=name), 404)["param"] == "model"


@pytest.mark.parametrize("spelling", ["auto", "AUTO", ""])
def test_a_language_to_be_detected_may_be_called_auto(client: TestClient, engine: FakeEngine, spelling: str):
    assert post(client, language=spelling).status_code == 200
    assert engine.asked[-1].language is None


def test_a_misspelt_field_is_told_and_a_strange_one_is_not(client: TestClient):
    no = error(post(client, langauge="de"), 400)
    assert (no["code"], no["param"]) == ("unknown_parameter", "langauge") and "'language'" in no["message"]
    assert error(post(client, timestamp_granularity__="word"), 400)["param"] == "timestamp_granularity[]"
    assert post(client, vad_filter="true", user="me", chunking_strategy="auto").status_code == 200


def test_granularities_need_verbose_json(client: TestClient):
    assert error(post(client, timestamp_granularities__="word"), 400)["param"] == "timestamp_granularities"
    assert post(client, timestamp_granularities__="word", response_format="verbose_json").status_code == 200
    both = {"response_format": ["srt", "verbose_json"], "stream": "true"}
    assert post(client, timestamp_granularities__="word", **both).status_code == 200


def test_numbers_have_no_noise_and_seek_is_the_window(client: TestClient, monkeypatch: pytest.MonkeyPatch):
    real = FakeEngine.transcribe

    def noisy(self: FakeEngine, *asked: Any) -> Transcript:
        done = real(self, *asked)
        segments = tuple(
            replace(s, start_s=s.start_s + 0.1 + 0.2, end_s=s.end_s + 0.7 + 0.1, avg_logprob=-0.1 - 0.2)
            for s in done.segments
        )
        return replace(done, segments=segments)

    monkeypatch.setattr(FakeEngine, "transcribe", noisy)
    whole = post(client, seconds=62.0, response_format="verbose_json").json()
    assert [s["seek"] for s in whole["segments"]] == [0] * 30 + [3000] * 30 + [6000] * 2
    first = whole["segments"][0]
    assert (first["start"], first["end"], first["avg_logprob"]) == (0.3, 1.8, -0.3)
    assert not re.search(r"\d\.\d{7}", json.dumps(whole))


def test_track_and_channels_are_those_of_the_command_line(client: TestClient, monkeypatch: pytest.MonkeyPatch):
    asked: list[Any] = []
    real = FakeEngine.transcribe

    def two(self: FakeEngine, source: Any, options: Any, on_progress: Any) -> Transcript:
        asked.append((options.track, options.channels))
        done = real(self, source, options, on_progress)
        return replace(done, segments=tuple(replace(s, channel="left") for s in done.segments))

    monkeypatch.setattr(FakeEngine, "transcribe", two)
    whole = post(client, response_format="verbose_json", track="2", channels="each").json()
    assert [s["channel"] for s in whole["segments"]] == ["left", "left"]
    assert post(client).status_code == 200 and asked == [(2, "each"), (None, "mix")]
    words = post(client, response_format="verbose_json", channels="each", timestamp_granularities__="word").json()
    assert words["words"] and {w["channel"] for w in words["words"]} == {"left"}
    for field, value in (("track", "0"), ("track", "first"), ("channels", "both")):
        asks: dict[str, Any] = {field: value}
        assert error(post(client, **asks), 400)["param"] == field


def test_what_was_sent_is_not_echoed_without_end(client: TestClient):
    for field in ("response_format", "model", "language", "stream", "temperature"):
        message = error(post(client, seconds=1.0, **{field: "x" * 500_000}), 404 if field == "model" else 400)[
            "message"
        ]
        assert "expected" in message.lower() and "xxx" in message and len(message) < MOST_MESSAGE + 10


def test_languages_are_named_as_the_api_spells_them():
    from types import SimpleNamespace

    from mmx.streaming.server.engine import Engine

    engine = Engine.__new__(Engine)
    engine.__dict__.update(model=None, text_model=SimpleNamespace(), targets={"en": "English", "es": "Spanish"})
    engine._own = lambda language, to: False  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(InputError) as no:
        patch.setattr("mmx.streaming.server.engine.fit", lambda *_: None)
        engine.check("en", "fr")
    assert str(no.value) == "expected a language that this server writes, got French: it has en, es"


# -------------------- monitors


@pytest.mark.parametrize("path", ["/", "/health"])
def test_what_watches_a_server_may_ask_for_the_head(client: TestClient, path: str):
    head = client.head(path)
    assert (head.status_code, head.content) == (200, b"")


def test_refusals_are_counted_by_endpoint_and_status(engine: FakeEngine, capsys: pytest.CaptureFixture[str]):
    with serve(engine, api_key="k", access_log=True) as client:
        for _ in range(3):
            client.get("/v1/models/some-name", headers={"authorization": "Bearer guess"})
        client.get("/v1/realtime/sessions/SECRET/transcript?x=SECRET")
        with pytest.raises(WebSocketDisconnect), client.websocket_connect("/v1/realtime", headers=PAGE_ORIGIN):
            pass
        metrics = client.get("/metrics", headers={"authorization": "Bearer k"}).text
    assert 'mmx_http_requests_total{endpoint="/v1/models/{id}",status="401"} 3' in metrics
    assert 'mmx_live_closes_total{code="403"} 1' in metrics
    assert float(re.findall(r"^process_resident_memory_bytes (\S+)", metrics, re.M)[0]) > 1e6
    told = capsys.readouterr().err
    assert told.count(" GET /v1/models/{id} 401 ") == 3 and "WebSocket /v1/realtime 403" in told
    assert "SECRET" not in told and "guess" not in told


def test_no_line_is_told_unasked(client: TestClient, capsys: pytest.CaptureFixture[str]):
    client.get("/health")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("stream", ["false", "true"])
def test_what_nobody_foresaw_has_openais_shape(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, stream: str
):
    def fails(*_: Any) -> Transcript:
        raise ZeroDivisionError("not foreseen")

    monkeypatch.setattr(FakeEngine, "transcribe", fails)
    assert error(post(client, stream=stream), 500)["code"] == "server_error"
    assert "not foreseen" in caplog.text and 'status="500"' in client.get("/metrics").text


# -------------------- browsers and keys


def test_openais_javascript_client_may_ask_from_an_allowed_page(engine: FakeEngine):
    with serve(engine, allow_origin=("https://app.example",), api_key="k") as client:
        asked = "authorization, x-stainless-lang, x-stainless-retry-count"
        wish = {"access-control-request-method": "POST", "access-control-request-headers": asked}
        allowed = client.options("/v1/audio/transcriptions", headers={**PAGE_ORIGIN, **wish})
        assert allowed.status_code == 204
        assert allowed.headers["access-control-allow-headers"] == asked
        assert "POST" in allowed.headers["access-control-allow-methods"]
        assert int(allowed.headers["access-control-max-age"]) > 0
        no = client.get("/v1/models", headers=PAGE_ORIGIN)
        assert no.status_code == 401 and no.headers["access-control-allow-origin"] == PAGE_ORIGIN["origin"]
        assert "retry-after" in no.headers["access-control-expose-headers"] and no.headers["x-request-id"]
        other = client.options("/v1/models", headers={"origin": "https://evil.example", **wish})
        assert other.status_code == 403 and "access-control-allow-headers" not in other.headers


@pytest.mark.parametrize("key", ["sésame", "clé à", "ключ"])
def test_a_key_past_ascii_opens_over_http(engine: FakeEngine, key: str):
    with serve(engine, api_key=key) as client:

        def status(sent: bytes) -> int:
            return client.get("/v1/models", headers=[(b"authorization", b"Bearer " + sent)]).status_code  # type: ignore[arg-type]

        assert status(key.encode()) == 200
        assert status(key.encode()[:-1] + b"?") == 401
        if key != "ключ":
            assert status(key.encode("latin-1")) == 200
        with client.websocket_connect("/v1/realtime") as socket:  # as its first message
            socket.send_text(json.dumps({"type": "session.authenticate", "api_key": key}))
            assert socket.receive_json()["type"] == "session.created"


def test_a_key_that_is_no_text_is_refused(engine: FakeEngine, caplog: pytest.LogCaptureFixture):
    with serve(engine, api_key="k") as client, client.websocket_connect("/v1/realtime") as socket:
        socket.send_text('{"type": "session.authenticate", "api_key": "\\ud800"}')
        assert socket.receive_json()["error"]["code"] == "invalid_json"
    assert not caplog.records


# -------------------- what can never work


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_audio_s": float("nan")}, {"idle_timeout_s": float("nan")}, {"keep_s": float("nan")}, {"grace_s": -1.0},
        {"grace_s": float("inf")}, {"header_timeout_s": 0.0}, {"max_uploads": 0}, {"api_key": " k"},
        {"api_key": "a\nb"}, {"api_key": "\udcff"}, {"allow_origin": ("app.example",)}, {"allow_origin": ("https://app.example/",)},
        {"root_path": "mmx"}, {"root_path": "/a b"},
    ],
)  # fmt: skip
def test_settings_that_can_never_work_are_refused(wrong: dict[str, Any]):
    with pytest.raises(InputError, match=r"expected (an )?" + next(iter(wrong)).replace("api_key", "API key")):
        Settings(**wrong)


def test_the_server_refuses_before_it_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import socket

    from mmx.errors import MmxError
    from mmx.streaming.server.run import run
    from mmx.streaming.server.state import StateFolder
    from mmx.weights.options import LoadOptions

    def load(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("mmx.api.load", load)
    no_key = tmp_path / "key.pem"
    no_key.write_text("no key")
    busy = StateFolder(tmp_path / "busy")  # as a server that runs has it
    with socket.socket() as taken, ExitStack() as after:
        after.callback(busy.unlock)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        for wrong, told in (
            ({"step_s": float("nan")}, "step_s"),
            ({"step_s": 11.0}, "step_s"),
            ({"policy": "no-such"}, "policy"),
            ({"ssl_certfile": tmp_path / "none", "ssl_keyfile": no_key}, "--ssl-certfile"),
            ({"ssl_certfile": no_key, "ssl_keyfile": no_key}, "PEM"),
            ({"ssl_certfile": no_key}, "together"),
            ({"host": "192.0.2.1"}, "choose an address"),
            ({"host": "no such host"}, "--host"),
            ({"port": taken.getsockname()[1]}, "another --port"),
            ({"state_dir": no_key}, "--state-dir"),
            ({"state_dir": busy.path}, "no other server"),
        ):
            with pytest.raises(MmxError) as no:
                rules = Settings(**{n: wrong.pop(n) for n in ("state_dir",) if n in wrong})  # type: ignore[arg-type]
                run(ServeOptions(**{"port": 0, **wrong}), LoadOptions(model="tiny"), rules)  # type: ignore[arg-type]
            assert str(no.value).startswith("expected") and told in str(no.value), no.value


@pytest.mark.filterwarnings("error")
def test_the_schema_has_the_fields_that_a_form_may_have():
    from mmx.streaming.server.form import FIELDS

    schema = create_app(FakeEngine(), Settings()).openapi()  # type: ignore[arg-type]
    known = set(FIELDS) - {"include", "chunking_strategy"}  # taken from OpenAI's clients, and of no effect here
    for task, without in (("transcriptions", {"to"}), ("translations", set[str]())):
        form = schema["paths"][f"/v1/audio/{task}"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
        assert {name.removesuffix("[]") for name in form["properties"]} == known - without
