"""Behind a proxy: below a path, under another name; nginx is started with the guide's own lines."""

import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason='needs the extra serve: pip install "mmx[serve]"')
pytest.importorskip("httpx", reason="needs httpx: pip install httpx")

import httpx
from fake_server import FakeEngine, running, wav
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from mmx.streaming.server.app import create_app
from mmx.streaming.server.settings import Settings

GUIDE = Path(__file__).parents[1] / "docs" / "guides" / "serve.md"
SITE = "https://speech.example.org"
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/opt/homebrew/bin:/usr/bin:/usr/local/bin")


def serve(**settings: Any) -> TestClient:
    return TestClient(create_app(FakeEngine(), Settings(**settings)))  # type: ignore[arg-type]


@pytest.mark.parametrize("before", ["/mmx", ""])  # the proxy leaves the path, or takes it away
def test_below_a_path_all_is_found(before: str):
    with serve(root_path="/mmx/", api_key="k") as client:
        key = {"authorization": "Bearer k"}
        for path in ("/health", "/", "/page/app.js"):
            assert client.get(before + path).status_code == 200  # open, there too
        assert client.get(before + "/v1/models").status_code == 401
        assert client.get(before + "/v1/models/tiny", headers=key).json()["id"] == "tiny"
        post = client.post(before + "/v1/audio/transcriptions", files={"file": wav(1.0)}, headers=key)
        assert post.json()["text"] == "He"
        with client.websocket_connect(before + "/v1/realtime", headers=key) as live:
            assert live.receive_json()["type"] == "session.created"
        missing = client.get(before + "/v1/none", headers=key).json()["error"]["message"]
        assert missing.startswith("expected a path of this server, got /v1/none")
        counted = client.get("/metrics", headers=key).text
        assert 'endpoint="/v1/audio/transcriptions",status="200"} 1' in counted


def test_the_path_without_its_slash_leads_to_the_page():
    with serve(root_path="/mmx") as client:
        got = client.get("/mmx", follow_redirects=False)
        assert got.is_redirect and got.headers["location"].endswith("/mmx/")
        assert client.get("/mmxen").status_code == 404


def test_a_page_whose_host_a_proxy_changed_is_known_as_the_servers_own():
    origin = {"host": "127.0.0.1:8000", "origin": SITE}
    own = {"sec-fetch-site": "same-origin"}
    with serve(local=True) as client:
        assert client.get("/page/app.js", headers=origin).status_code == 200  # a module script, which names its page
        assert client.get("/v1/models", headers=origin).status_code == 403
        for proof in (own, {"x-forwarded-host": "speech.example.org"}):
            assert client.get("/v1/models", headers={**origin, **proof}).status_code == 200
            with client.websocket_connect("/v1/realtime", headers={**origin, **proof}) as live:
                assert live.receive_json()["type"] == "session.created"
        for other in ("same-site", "cross-site"):
            assert client.get("/v1/models", headers={**origin, "sec-fetch-site": other}).status_code == 403
            with pytest.raises(WebSocketDisconnect), client.websocket_connect(
                "/v1/realtime", headers={**origin, "sec-fetch-site": other}
            ):  # fmt: skip
                pass


def test_a_local_server_answers_to_the_name_of_its_site():
    with serve(local=True, allow_origin=(SITE,)) as client:
        assert client.get("/v1/models", headers={"host": "speech.example.org", "origin": SITE}).status_code == 200
        assert client.get("/v1/models", headers={"host": "other.example.org"}).status_code == 403
    with serve(local=True) as client:  # also what says to be same-origin: another site's name for this machine
        rebound = {"host": "evil.example", "origin": "http://evil.example", "sec-fetch-site": "same-origin"}
        assert client.get("/v1/models", headers=rebound).status_code == 403


# -------------------- nginx


def block() -> str:
    """The lines of the guide."""
    (lines,) = re.findall(r"```nginx\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    return lines


def plain() -> str:
    """As nginx comes, and no more than must be for WebSockets."""
    return """location /mmx/ { proxy_pass http://127.0.0.1:8000/; proxy_http_version 1.1;
        proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $http_connection; }"""


@contextmanager
def nginx(folder: Path, upstream: str, lines: str) -> Iterator[str]:
    """nginx as a process of its own, before the server at `upstream`; gives its address."""
    if NGINX is None:
        pytest.skip("needs nginx: apt-get install nginx-light")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    temp = "".join(
        f"{kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = folder / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""  # else its worker may not write into our folder
    config.write_text(
        f"{user} daemon off; pid {folder}/pid; error_log {folder}/error.log; worker_processes 1; events {{}}\n"
        f"http {{ access_log off; {temp} server {{ listen 127.0.0.1:{port};\n"
        f"{lines.replace('127.0.0.1:8000', upstream)}\n}} }}\n"
    )
    command = [NGINX, "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(config)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        end = time.monotonic() + 20
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert process.poll() is None, f"nginx ended: {process.stderr and process.stderr.read()}"
            assert time.monotonic() < end
            time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.parametrize("how", [block, plain])
def test_nginx_with_the_lines_of_the_guide(tmp_path: Path, how: Any):
    from websockets.sync.client import connect

    engine = FakeEngine()
    rules = Settings(local=True, root_path="/mmx" if how is block else "", max_upload_mb=3.0)
    page = {"origin": SITE, "sec-fetch-site": "same-origin"}
    with running(create_app(engine, rules)) as upstream, nginx(tmp_path, upstream, how()) as address:  # type: ignore[arg-type]
        url = f"http://{address}/mmx"
        page["origin"] = f"http://{address}"
        for path in ("/", "/page/app.js", "/v1/models"):
            assert httpx.get(url + path, headers=page).status_code == 200
        fields: dict[str, Any] = {"files": {"file": wav(3.0)}, "headers": page, "timeout": 20}
        assert httpx.post(f"{url}/v1/audio/transcriptions", **fields).json()["text"] == "He was not"
        with connect(f"ws://{address}/mmx/v1/realtime?rate=16000", additional_headers=page) as live:
            live.send(bytes(2 * 16_000))
            live.send('{"type": "session.close"}')
            kinds = [json.loads(m)["type"] for m in live]
        assert kinds[-1] == "session.closed"
        if how is plain:
            return
        large = {**fields, "files": {"file": bytes(5 * 2**20)}}
        assert httpx.post(f"{url}/v1/audio/transcriptions", **large).json()["error"]["code"] == "file_too_large"
        engine.go.clear()  # its events come through while it works
        with httpx.stream("POST", f"{url}/v1/audio/transcriptions", data={"stream": "true"}, **fields) as r:
            lines = (line for line in r.iter_lines() if line)
            assert next(lines).startswith(': {"state"')
            engine.go.set()
            assert "transcript.text.done" in list(lines)[-1]
