"""A bad day of a server: uploads that break off, clients that vanish or are slow, SIGTERM in the middle, a restart.

`MMX_LOAD=full pytest tests/test_server_load.py` takes the full numbers.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason='needs the extra serve: pip install "mmx[serve]"')
pytest.importorskip("httpx", reason="needs httpx: pip install httpx")

import httpx
from fake_server import wav
from test_server_limits import HEAD, PART, PATH, connected, metric, until

FULL = os.environ.get("MMX_LOAD") == "full"
DROPPED, VANISHED, SLOW = (200, 100, 60) if FULL else (20, 10, 8)
CONNECTED = r'mmx_sessions\{.*connected="yes".*\}'
SERVER = """
import sys
from pathlib import Path
from fake_server import FakeEngine
from mmx.streaming.server.app import create_app
from mmx.streaming.server.run import Server, configured
from mmx.streaming.server.settings import Settings
rules = Settings(state_dir=Path(sys.argv[1]), header_timeout_s=2.0, upload_timeout_s=2.0, max_uploads=400, grace_s=2.0)
Server(configured(create_app(FakeEngine(), rules), port=0)).run()
"""


@contextmanager
def process(folder: Path) -> Iterator[tuple[str, subprocess.Popen[str], list[str]]]:
    """A server that a signal can reach; with its address and what it says."""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    p = subprocess.Popen([sys.executable, "-c", SERVER, str(folder)], stderr=subprocess.PIPE, text=True, env=env)
    said: list[str] = []
    reader = threading.Thread(target=lambda: said.extend(p.stderr or ()), daemon=True)
    reader.start()
    try:
        until(lambda: any("listening" in line for line in said), 60)
        yield re.findall(r"http://([\d.:]+)/", "".join(said))[0], p, said
    finally:
        p.kill()
        p.wait()
        reader.join(10)


def vanish(address: str) -> None:
    """A live client that is acknowledged, and then gone without a word."""
    from websockets.sync.client import connect

    with suppress(Exception), connect(f"ws://{address}/v1/realtime?rate=16000&extras=1") as live:
        live.send(bytes(8000))
        live.socket.close()


@pytest.mark.slow
def test_nothing_is_lost_and_nothing_stays(tmp_path: Path):
    from websockets.sync.client import connect

    with process(tmp_path) as (address, p, said):
        with connect(f"ws://{address}/v1/realtime?rate=16000&extras=1") as live:
            id = json.loads(live.recv())["session"]["id"]
            live.send(bytes(2 * 40_000))
            while json.loads(live.recv()).get("samples") != 40_000:  # acknowledged
                pass
            memory = metric(address, "process_resident_memory_bytes")
            for _ in range(DROPPED):
                connected(address, f"{HEAD}Content-Length: 100000\r\n\r\n{PART}0123").close()
            slow = [connected(address, ("", HEAD, f"{HEAD}Content-Length: 9999\r\n\r\n")[i % 3]) for i in range(SLOW)]
            for _ in range(VANISHED):
                vanish(address)
            begin = time.monotonic()
            until(lambda: metric(address, CONNECTED) == 1)  # who speaks still
            until(lambda: metric(address, "mmx_uploads") == metric(address, "mmx_jobs") == 0)
            took_s = time.monotonic() - begin
            print(f"\n{DROPPED} dropped, {VANISHED} vanished, {SLOW} slow: all is free after {took_s:.1f} s")
            files: dict[str, Any] = {"files": {"file": wav(1.0)}, "timeout": 30}
            assert httpx.post(f"http://{address}{PATH}", **files).json()["text"] == "He"
            told = Counter(s.recv(100).split()[1] for s in slow)
            assert told == {b"408": SLOW}
            assert metric(address, r'mmx_http_requests_total\{.*status="499"\}') == DROPPED
            assert metric(address, r'mmx_http_requests_total\{.*status="500"\}') == 0
            assert metric(address, "process_resident_memory_bytes") < memory + 60e6
            p.send_signal(signal.SIGTERM)
            p.wait(30)
        assert "Traceback" not in "".join(said)
    with process(tmp_path) as (address, _, said):
        with connect(f"ws://{address}/v1/realtime?session={id}&after=-1") as live:
            assert json.loads(live.recv())["acknowledged"]["samples"] == 40_000
            live.send('{"type": "session.close"}')
            told = [json.loads(m) for m in live]
        assert "".join(m["delta"] for m in told if m["type"].endswith("transcription.delta")) == " He was"
        assert "Traceback" not in "".join(said)
