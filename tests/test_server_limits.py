"""Over a real network: clients that leave, are slow, or are too many, and a server that is told to stop."""

import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

pytest.importorskip("fastapi", reason='needs the extra serve: pip install "mmx[serve]"')
pytest.importorskip("httpx", reason="needs httpx: pip install httpx")

import httpx
from fake_server import FakeEngine, running, stop, wav

from mmx.streaming.server.app import create_app
from mmx.streaming.server.settings import Settings

PATH = "/v1/audio/transcriptions"
HEAD = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
PART = '--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'


@contextmanager
def serving(engine: FakeEngine | None = None, **settings: Any) -> Iterator[str]:
    with running(create_app(engine or FakeEngine(), Settings(**settings))) as address:  # type: ignore[arg-type]
        yield address


def connected(address: str, said: str = "") -> socket.socket:
    host, port = address.split(":")
    s = socket.create_connection((host, int(port)))
    s.sendall(said.encode())
    s.settimeout(20)
    return s


def answer(s: socket.socket) -> tuple[int, dict[str, Any], http.client.HTTPResponse]:
    got = http.client.HTTPResponse(s)
    got.begin()
    return got.status, json.loads(got.read()), got


def post(address: str, seconds: float = 1.0, **fields: Any) -> Any:
    return httpx.post(f"http://{address}{PATH}", files={"file": ("a.wav", wav(seconds))}, data=fields, timeout=30)


def metric(address: str, pattern: str) -> float:
    found = re.findall(rf"^{pattern} (\S+)$", httpx.get(f"http://{address}/metrics").text, re.M)
    return sum(map(float, found))


def until(what: Callable[[], bool], most_s: float = 20.0) -> None:
    end = time.monotonic() + most_s
    while not what():
        assert time.monotonic() < end, "what was waited for did not come"
        time.sleep(0.02)


def test_uploads_that_break_off_are_no_errors_of_the_server(caplog: pytest.LogCaptureFixture):
    with serving() as address:
        for _ in range(5):
            connected(address, f"{HEAD}Content-Length: 100000\r\n\r\n{PART}0123").close()
        until(lambda: metric(address, r'mmx_http_requests_total\{.*status="499"\}') == 5)
        assert metric(address, r'mmx_http_requests_total\{.*status="5\d\d"\}') == metric(address, "mmx_uploads") == 0
    assert not caplog.records


@pytest.mark.parametrize("stream", ["false", "true"])
def test_clients_that_leave_give_their_places_back_at_once(stream: str):
    engine = FakeEngine()
    with serving(engine, max_queue=2) as address:
        engine.go.clear()  # whatever the model does, it goes on
        for _ in range(3):
            with pytest.raises(httpx.TimeoutException):
                timeout = httpx.Timeout(0.7, connect=10)
                with httpx.stream(
                    "POST",
                    f"http://{address}{PATH}",
                    files={"file": wav(1.0)},
                    data={"stream": stream},
                    timeout=timeout,
                ) as r:
                    assert r.status_code == 200
                    time.sleep(1.5)  # its events have begun
                    raise httpx.ReadTimeout("had enough")
        until(lambda: metric(address, "mmx_jobs") == 0)
        got: list[int] = []
        waiting = threading.Thread(target=lambda: got.append(post(address).status_code))
        waiting.start()
        until(lambda: metric(address, "mmx_jobs") == 1)
        engine.go.set()
        waiting.join(20)
        assert got == [200] and len(engine.asked) == 2  # of the three, the one that was at work


def test_a_stream_that_waits_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("mmx.streaming.server.files.HEARTBEAT_S", 0.1)
    monkeypatch.setattr("mmx.streaming.server.files.PULSE_S", 0.1)
    engine = FakeEngine()
    with serving(engine) as address:
        engine.go.clear()
        first = threading.Thread(target=post, args=(address,))
        first.start()
        until(lambda: bool(engine.asked))
        fields = {"files": {"file": wav(3.0)}, "data": {"stream": "true"}, "timeout": 20}
        with httpx.stream("POST", f"http://{address}{PATH}", **fields) as r:
            lines = r.iter_lines()
            beats = [line for _, line in zip(range(6), lines, strict=False) if line]
            assert beats == [': {"state": "waiting", "place": 1}'] * 3
            engine.go.set()
            rest = [line for line in lines if line]
        assert '"transcript.text.done"' in rest[-1]
        first.join(20)
        assert metric(address, "mmx_recording_work_seconds_count") == 2


def test_a_connection_that_does_not_say_what_it_wants_is_closed():
    with serving(header_timeout_s=0.4) as address:
        for said in ("", "GET /health HTTP/1.1\r\nHost: loc", "whole"):
            s = connected(address, said if said != "whole" else "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            if said == "whole":  # one request, and half of another
                assert answer(s)[0] == 200
                s.sendall(b"GET /health")
            status, body, got = answer(s)
            assert (status, body["error"]["code"], got.getheader("connection")) == (408, "header_timeout", "close")
            assert s.recv(1) == b""
        assert metric(address, r'mmx_connections_refused_total\{reason="header_timeout"\}') == 3
        assert post(address, 3.0).status_code == 200


def test_only_stalled_uploads_are_refused():
    engine = FakeEngine()
    with serving(engine, upload_timeout_s=0.4, header_timeout_s=0.4) as address:
        for length in ("Content-Length: 100000", "Transfer-Encoding: chunked"):
            s = connected(address, f"{HEAD}{length}\r\n\r\n")
            status, body, _ = answer(s)
            assert (status, body["error"]["code"]) == (408, "upload_timeout") and s.recv(1) == b""
        until(lambda: metric(address, "mmx_uploads") == 0)
        engine.go.clear()
        threading.Timer(1.5, engine.go.set).start()
        assert post(address).status_code == 200  # silent for longer than either limit, as nothing is left to say


def test_an_upload_drop_by_drop_is_refused():
    with serving(upload_timeout_s=0.3) as address:
        s = connected(address, f"{HEAD}Content-Length: 100000\r\n\r\n{PART}")
        s.settimeout(0.1)
        end, got = time.monotonic() + 20, b""
        while not got and time.monotonic() < end:
            s.sendall(b"0")
            try:
                got = s.recv(1000)
            except TimeoutError:
                continue
        while more := s.recv(1000):
            got += more
        assert b"408" in got and b"upload_timeout" in got


def test_uploads_and_connections_have_a_bound():
    with serving(max_uploads=1) as address:
        s = connected(address, f"{HEAD}Content-Length: 100000\r\n\r\n{PART}")
        until(lambda: metric(address, "mmx_uploads") == 1)
        no = post(address)
        assert (no.status_code, no.json()["error"]["code"]) == (503, "server_busy") and no.headers["retry-after"]
        s.close()
        until(lambda: metric(address, "mmx_uploads") == 0)
        assert post(address).status_code == 200
    with serving(max_connections=2) as address:
        two = [connected(address) for _ in range(2)]
        s = connected(address)
        status, body, got = answer(s)
        assert (status, body["error"]["code"]) == (503, "too_many_connections") and got.getheader("retry-after")
        for one in two:
            one.close()
        until(lambda: _answers(address))


def _answers(address: str) -> bool:
    return httpx.get(f"http://{address}/health").status_code == 200


def test_a_stopping_server_finishes_and_takes_nothing_new(caplog: pytest.LogCaptureFixture):
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    engine = FakeEngine()
    got: dict[str, Any] = {}
    with serving(engine, grace_s=30.0) as address:
        engine.go.clear()
        at_work = threading.Thread(target=lambda: got.update(done=post(address)))
        at_work.start()
        until(lambda: bool(engine.asked))
        stopping = threading.Thread(target=stop, args=(address,))
        stopping.start()
        until(lambda: httpx.get(f"http://{address}/health").status_code == 503)
        no = post(address)
        assert (no.status_code, no.json()["error"]["code"]) == (503, "server_closing") and no.headers["retry-after"]
        with pytest.raises(InvalidStatus) as refused, connect(f"ws://{address}/v1/realtime"):
            pass
        assert refused.value.response.status_code == 503
        engine.go.set()
        at_work.join(20)
        stopping.join(20)
    assert got["done"].json()["text"] == "He" and not caplog.records


@pytest.mark.parametrize("stream", ["false", "true"])
def test_what_is_not_done_in_its_time_is_told_to_come_back(stream: str, caplog: pytest.LogCaptureFixture):
    engine = FakeEngine()
    got: list[Any] = []
    with serving(engine, grace_s=0.2) as address:
        engine.go.clear()
        waiting = [threading.Thread(target=lambda: got.append(post(address, stream=stream))) for _ in range(2)]
        for w in waiting:
            w.start()
        until(lambda: metric(address, "mmx_jobs") == 2)
        if stream == "true":
            time.sleep(1.5)  # the events have begun
        stop(address)
        for w in waiting:
            w.join(20)
        engine.go.set()
    for r in got:
        if stream == "false":
            assert (r.status_code, r.headers["retry-after"]) == (503, "5")
        assert "server_closing" in r.text
    assert len(got) == 2 and not caplog.records
