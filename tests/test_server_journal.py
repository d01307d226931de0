"""What live sessions keep when their server is stopped, killed or out of disk."""

import asyncio
import errno
import io
import json
import os
import random
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason='needs the extra serve: pip install "mmx[serve]"')
pytest.importorskip("httpx", reason="needs httpx: pip install httpx")

from fake_server import WORDS, FakeEngine, FakeStream
from starlette.websockets import WebSocketDisconnect
from test_server import COMPLETED, DELTA, live, pcm, serve

from mmx.errors import InputError, OutputError
from mmx.streaming.server import journal as server_journal
from mmx.streaming.server.app import create_app
from mmx.streaming.server.journal import Journal
from mmx.streaming.server.sessions import Session
from mmx.streaming.server.settings import Settings
from mmx.streaming.server.state import LOCK


def test_a_restart_loses_nothing(tmp_path: Path):
    engine = FakeEngine()
    with serve(engine, state_dir=tmp_path) as client, live(client, "rate=24000&to=es") as me:
        id = me.until("session.created")["session"]["id"]
        me.socket.send_bytes(pcm(2.2, 24_000))
        while me.samples < 52_800:
            me.until("input_audio_buffer.acknowledged")
        me.until(DELTA)
        me.socket.send_bytes(pcm(0.9, 24_000))  # waits in the inbox when the server stops
        while me.samples < 74_400:
            me.until("input_audio_buffer.acknowledged")
    assert list(tmp_path.glob("*.session.json"))
    with serve(engine, state_dir=tmp_path) as client, live(client, f"session={id}&after={me.last}") as back:
        assert back.until("session.resumed")["acknowledged"]["samples"] == 74_400
        back.last = me.last
        back.socket.send_bytes(pcm(0.9, 24_000))
        back.close()
    said = [m["delta"] for m in [*me.told, *back.told] if m["type"] == "session.output_transcript.delta"]
    assert me.text + back.text == " He was not an" and said == [" es(He was not)", " es(an)"]


def test_what_was_refused_is_not_kept(tmp_path: Path):
    engine = FakeEngine()
    with serve(engine, state_dir=tmp_path) as client, live(client) as me:
        id = me.until("session.created")["session"]["id"]
        me.socket.send_json({"type": "session.update", "session": {"audio": {"input": {"format": {"rate": 5}}}}})
        me.fails("invalid_value")
        me.push(0.1)  # a session that heard nothing is not kept
    with serve(engine, state_dir=tmp_path) as client, live(client, f"session={id}") as back:
        assert back.until("session.resumed")["session"]["audio"]["input"]["format"]["rate"] == 16_000


def test_a_server_without_a_sessions_language_starts_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with serve(FakeEngine(), state_dir=tmp_path) as client, live(client, "rate=16000&language=de") as me:
        id = me.until("session.created")["session"]["id"]
        me.push(0.1)

    def check(self: FakeEngine, language: str | None, to: str | None) -> None:
        if language == "de":
            raise InputError("expected English, got 'de'")

    monkeypatch.setattr(FakeEngine, "check", check)
    with serve(FakeEngine(), state_dir=tmp_path) as client:
        with live(client, f"session={id}") as back:
            back.fails("session_not_found")
        assert list(tmp_path.glob(f"{id}.session.json"))


def test_a_line_is_kept_before_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen: list[tuple[int, int, int]] = []
    real = Session._keep

    async def keep(self: Session) -> None:
        before = self.published
        await real(self)
        assert self.journal is not None
        seen.append((before, self.published, self.journal.lines))

    monkeypatch.setattr(Session, "_keep", keep)
    with serve(FakeEngine(), state_dir=tmp_path) as client, live(client) as me:
        me.until("session.created")
        for _ in range(4):
            me.push(1.0)
            me.until(DELTA)
        me.close()
    assert [before for before, _, _ in seen] == [told for _, told, _ in seen]
    assert [told for _, told, _ in seen] == [0, *(lines for _, _, lines in seen)][:-1]
    assert seen[-1][-1] == me.last + 1


def test_a_disk_that_is_full_takes_no_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    engine = FakeEngine()
    full = False

    class File(io.FileIO):
        def write(self, data: Any) -> int:
            if full:
                super().write(data[:3])  # as much as fits
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    def opened(path: Path, mode: str, **how: Any) -> Any:
        return File(path, mode) if path.suffix == ".journal" else open(path, mode, **how)

    monkeypatch.setattr(server_journal, "open", opened, raising=False)
    with serve(engine, state_dir=tmp_path) as client, live(client) as me:
        id = me.until("session.created")["session"]["id"]
        me.push(1.0)
        full = True
        me.socket.send_bytes(pcm(1.0))
        me.fails("storage_full")
        full = False
        me.push(2.0)
        assert me.samples == 48_000
        me.until(COMPLETED)
    with serve(engine, state_dir=tmp_path) as client, live(client, f"session={id}&after={me.last}") as back:
        assert back.until("session.resumed")["acknowledged"]["samples"] == 48_000


@pytest.mark.parametrize("ending", [".journal", ".jsonl", ".json"])
def test_a_disk_that_is_full_takes_no_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str):
    full = True
    real = server_journal.atomic_write

    def opened(path: Path, mode: str, **how: Any) -> Any:
        if full and path.suffix == ending:
            raise OSError(errno.ENOSPC, "No space left on device")
        return open(path, mode, **how)

    def written(path: Path, content: str) -> Path:
        if full and path.suffix == ending:
            raise OutputError("Cannot write: the disk is full")
        return real(path, content)

    monkeypatch.setattr(server_journal, "open", opened, raising=False)
    monkeypatch.setattr(server_journal, "atomic_write", written)
    with serve(FakeEngine(), state_dir=tmp_path, max_sessions=1) as client:
        with live(client) as me:
            me.fails("storage_full")
            with pytest.raises(WebSocketDisconnect) as closed:
                me.until("never")
        assert closed.value.code == 1013 and [p.name for p in tmp_path.iterdir()] == [LOCK]
        full = False
        with live(client) as me:
            me.until("session.created")  # the other took nobody's place
            me.close()


def test_a_journal_whose_next_file_cannot_be_opened_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(server_journal, "SEGMENT", 10)
    journal = Journal(tmp_path, "a")
    journal.keep({}, [], None, 0)
    journal.add("sound", b"0123456789")

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(server_journal, "open", full, raising=False)
        with pytest.raises(OSError, match="No space"):
            journal.add("sound", b"refused")
    journal.add("sound", b"sent again")
    journal.close()
    kept = server_journal.read(tmp_path / "a.session.json")
    assert [r.data for r in kept.records] == [b"0123456789", b"sent again"]


def test_a_session_that_fails_says_so_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real_save, real_drop = FakeStream.save, Journal.drop
    broken: list[str] = []

    def save(self: FakeStream, path: Path) -> None:
        if path.name.startswith(tuple(broken)):
            raise RuntimeError("not foreseen")
        real_save(self, path)

    def drop(self: Journal) -> None:
        if self.id in broken:
            raise RuntimeError("not foreseen")
        real_drop(self)

    monkeypatch.setattr(FakeStream, "save", save)
    monkeypatch.setattr(Journal, "drop", drop)
    with serve(FakeEngine(), state_dir=tmp_path, keep_s=0.2) as client:
        with live(client) as me:
            broken.append(me.until("session.created")["session"]["id"])
            me.socket.send_bytes(pcm(1.0))
            me.fails("server_error")
            me.until("session.closed")
        with live(client) as other:
            id = other.until("session.created")["session"]["id"]
            other.push(1.0)
            other.until(DELTA)
        deadline = time.monotonic() + 20
        while list(tmp_path.glob(f"{id}.*")) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not list(tmp_path.glob(f"{id}.*")), "one session that cannot be put away keeps the others"


def test_a_journal_gives_back_what_it_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(server_journal, "SEGMENT", 100)
    journal = Journal(tmp_path, "a")
    sent = [("sound" if i % 5 else "command", bytes([i]) * (7 * i)) for i in range(20)]
    ends = [journal.add(*record) for record in sent]
    journal.keep({"x": 1}, ["first", "second"], None, ends[11])
    journal.close()
    last = sorted(tmp_path.glob("a.*.journal"))[-1]
    last.write_bytes(last.read_bytes() + b"s\xff\0\0\0cut off")  # the server was killed as it wrote
    with (tmp_path / "a.log.jsonl").open("ab") as log:
        log.write(b"not yet kept")
    for more in (b"", b"after"):  # read, gone on with, read again
        kept = server_journal.read(tmp_path / "a.session.json")
        assert [(r.kind, r.data) for r in kept.records] == sent[12:]
        assert (kept.facts["x"], kept.lines) == (1, ["first", "second"])
        kept.journal.add("sound", more)
        sent.append(("sound", more))
    assert int(min(p.name for p in tmp_path.glob("a.*.journal")).split(".")[1]) > 0, "what was heard is deleted"
    kept.journal.keep({"x": 2}, ["third"], None, kept.journal.end)
    kept = server_journal.read(tmp_path / "a.session.json")
    assert (kept.facts["x"], kept.lines, kept.records) == (2, ["first", "second", "third"], [])
    kept.journal.drop()
    assert not list(tmp_path.iterdir())


def test_a_folder_serves_one_server_at_a_time(tmp_path: Path):
    settings = Settings(state_dir=tmp_path)
    with serve(FakeEngine(), state_dir=tmp_path) as client:
        with pytest.raises(InputError, match="that no other server uses"):
            create_app(FakeEngine(), settings)  # type: ignore[arg-type]
        with live(client) as me:  # nothing happened to the first
            me.until("session.created")
            me.push(1.0)
            me.close()
    with serve(FakeEngine(), state_dir=tmp_path):
        pass
    with killable(tmp_path) as (server, _):
        with pytest.raises(InputError, match="choose another --state-dir"):
            create_app(FakeEngine(), settings)  # type: ignore[arg-type]
        server.kill()
        server.wait()
    with serve(FakeEngine(), state_dir=tmp_path):  # the lock of one that was killed is gone
        pass


@pytest.mark.skipif(os.name == "nt", reason="needs the permissions of POSIX: run it on Linux or macOS")
def test_nobody_else_reads_what_was_said(tmp_path: Path):
    folder = tmp_path / "sessions"
    folder.mkdir(mode=0o755)
    old = os.umask(0)
    try:
        folder.chmod(0o755)
        (folder / "earlier.00.journal").write_bytes(b"")
        with serve(FakeEngine(), state_dir=folder) as client, live(client) as me:
            me.until("session.created")
            me.push(1.0)
            me.until(DELTA)
            modes = {p.name.rpartition(".")[2]: stat.S_IMODE(p.stat().st_mode) for p in folder.iterdir()}
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            assert set(modes) >= {"journal", "jsonl", "json", "safetensors", "lock"}
            assert {oct(mode) for mode in modes.values()} == {"0o600"}
    finally:
        os.umask(old)


@pytest.mark.skipif(os.name == "nt", reason="needs the permissions of POSIX: run it on Linux or macOS")
def test_a_folder_of_other_things_is_not_closed_to_others(tmp_path: Path):
    tmp_path.chmod(0o755)
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(InputError, match="that only its owner may read"):
        create_app(FakeEngine(), Settings(state_dir=tmp_path))  # type: ignore[arg-type]
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755 and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(InputError, match="expected a state folder to write into"):
        create_app(FakeEngine(), Settings(state_dir=tmp_path / "letter.txt"))  # type: ignore[arg-type]


def test_sound_is_flushed_before_it_is_acknowledged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    name = "fdatasync" if hasattr(os, "fdatasync") else "fsync"
    real, go, threads, waiting = getattr(os, name), threading.Event(), set[str](), threading.Event()
    go.set()

    def flush(descriptor: int) -> None:
        threads.add(threading.current_thread().name.rpartition("_")[0])
        if not go.is_set():
            waiting.set()
            go.wait(20)
        real(descriptor)

    monkeypatch.setattr(os, name, flush)
    with serve(FakeEngine(), state_dir=tmp_path) as client, live(client) as me:
        me.until("session.created")
        me.push(0.1)
        session = next(iter(client.app.state.registry.sessions.values()))  # type: ignore[attr-defined]
        go.clear()
        for _ in range(20):
            me.socket.send_bytes(pcm(0.01))
        me.socket.send_json({"type": "input_audio_buffer.clear"})
        assert waiting.wait(20), "nothing was flushed"
        assert client.get("/health").status_code == 200, "a slow disk holds up the others"
        assert session.received == 1600
        go.set()
        while me.samples < 4800:
            me.until("input_audio_buffer.acknowledged")
        me.until("input_audio_buffer.cleared")
        me.close()
    assert threads == {"mmx-disk"}


def test_what_comes_after_a_hole_is_not_taken_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real, go, inside = Journal.add_all, threading.Event(), threading.Event()
    fails: list[bool] = []

    def add_all(self: Journal, sent: Any) -> list[int]:
        if fails:
            inside.set()
            go.wait(20)
            if fails.pop():
                raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, sent)

    monkeypatch.setattr(Journal, "add_all", add_all)
    with serve(FakeEngine(), state_dir=tmp_path) as client, live(client) as me:
        id = me.until("session.created")["session"]["id"]
        me.push(1.0)
        fails.append(True)
        me.socket.send_bytes(pcm(1.0))
        assert inside.wait(20)
        me.socket.send_bytes(pcm(1.0))  # of what follows, too
        me.socket.send_json({"type": "session.close"})
        session = client.app.state.registry.sessions[id]  # type: ignore[attr-defined]
        deadline = time.monotonic() + 30
        while not session.intake.closing and time.monotonic() < deadline:
            time.sleep(0.01)
        assert session.intake.closing
        go.set()
        me.fails("storage_full")
        assert (session.intake.samples, session.intake.closing) == (16_000, False)
        me.push(2.0)  # sent again
        me.close()
    assert me.text == " He was not" and me.samples == 48_000


@contextmanager
def killable(state: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server in a process of its own."""
    script = str(Path(__file__).with_name("fake_server.py"))
    with subprocess.Popen(
        [sys.executable, script, str(state)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            yield server, f"ws://{server.stdout.readline().strip()}/v1/realtime"
        finally:
            server.kill()


def test_a_server_that_is_killed_loses_nothing(tmp_path: Path):
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect

    rng, sent, last, text, query, id = random.Random(0), 0, -1, "", "rate=16000", ""
    for life in range(3):
        with killable(tmp_path) as (server, url), connect(f"{url}?extras=1&{query}") as socket:
            acknowledged, words = sent, rng.randrange(5, 20)
            with suppress(ConnectionClosed):
                for message in map(json.loads, socket):
                    assert message["type"] != "error", message
                    if message["type"] in ("session.created", "session.resumed"):
                        id, had = message["session"]["id"], message["acknowledged"]["samples"]
                        assert had >= acknowledged, "what was acknowledged is lost"
                        acknowledged = sent = had
                    if "seq" in message:
                        assert message["seq"] == last + 1, "a line of the log is missing or came twice"
                        last = message["seq"]
                    if message["type"] == DELTA:
                        text, words = text + message["delta"], words - 1
                        if life < 2 and not words:
                            server.kill()  # as soon as a client has seen the line
                    acknowledged = message.get("samples", acknowledged)
                    asks = ("session.created", "session.resumed", "input_audio_buffer.acknowledged")
                    if message["type"] in asks and acknowledged == sent:
                        if life == 2 and sent >= 40 * 16_000:
                            socket.send('{"type": "session.close"}')
                        else:
                            socket.send(pcm(0.3))
                            sent += 4800
            sent, query = acknowledged, f"session={id}&after={last}"
    assert sent >= 40 * 16_000
    assert text == "".join(f" {WORDS[i % len(WORDS)]}" for i in range(sent // 16_000))
    assert last == len(text.split()) + -(-len(text.split()) // 3)


class Speaker:
    """A client that speaks on whatever happens to its server, and checks that nothing of it is lost."""

    TOTAL = 10 * 16_000
    PIECE = 4_000

    def __init__(self) -> None:
        self.query, self.last, self.text, self.safe = "rate=16000&extras=1", -1, "", 0
        self.done = False

    async def talk(self, address: list[str]) -> None:
        from websockets.asyncio.client import connect
        from websockets.exceptions import WebSocketException

        while not self.done:
            with suppress(WebSocketException, OSError, TimeoutError):
                async with connect(f"{address[0]}?{self.query}", open_timeout=60) as socket:
                    await self._speak(socket)
            await asyncio.sleep(0.05)

    async def _speak(self, socket: Any) -> None:
        sent, id = self.safe, ""
        async for text in socket:
            message = json.loads(text)
            kind = message["type"]
            assert kind != "error", message
            if kind in ("session.created", "session.resumed"):
                sent = message["acknowledged"]["samples"]
                assert sent >= self.safe, "what was acknowledged is lost"
                self.safe = sent
                id = message["session"]["id"]
            if "seq" in message:
                assert message["seq"] == self.last + 1, "a line of the log is missing or came twice"
                self.last = message["seq"]
            self.text += message.get("delta", "")
            self.safe = message.get("samples", self.safe)
            self.query = f"extras=1&session={id}&after={self.last}"
            if kind == "session.closed":
                self.done = True
            elif self.safe == sent and sent < self.TOTAL:
                await asyncio.sleep(0.02)
                await socket.send(pcm(self.PIECE / 16_000))
                sent += self.PIECE
                if sent == self.TOTAL:
                    await socket.send('{"type": "session.close"}')


@pytest.mark.long
def test_many_clients_lose_nothing_when_servers_end(tmp_path: Path):
    """MMX_LIVE_CLIENTS of them, through a kill, a SIGTERM and the restarts."""

    async def serve_on(speakers: list[Speaker]) -> list[int]:
        address, sizes = ["ws://127.0.0.1:9"], []
        talks = [asyncio.create_task(s.talk(address)) for s in speakers]
        try:
            for part, stop in ((1, signal.SIGKILL), (2, signal.SIGTERM), (3, None)):
                with killable(tmp_path) as (server, url):
                    address[0] = url
                    goal = Speaker.TOTAL * part // 3
                    while not all(t.done() for t in talks) and (stop is None or min(s.safe for s in speakers) < goal):
                        await asyncio.sleep(0.05)
                    sizes.append(resident_mb(server.pid))
                    if stop is not None:
                        server.send_signal(stop)
                        await asyncio.to_thread(server.wait, 60)
            await asyncio.gather(*talks)
        finally:
            for talk in talks:
                talk.cancel()
        return sizes

    speakers = [Speaker() for _ in range(int(os.environ.get("MMX_LIVE_CLIENTS", "6")))]
    sizes = asyncio.run(asyncio.wait_for(serve_on(speakers), 500))
    print(f"\n{len(speakers)} clients: nothing lost; {sizes} MB before each end of the server")
    assert {s.text for s in speakers} == {"".join(f" {WORDS[i % len(WORDS)]}" for i in range(10))}


def resident_mb(pid: int) -> int:
    """Memory of a process; 0 where the system does not say."""
    status = Path(f"/proc/{pid}/status")
    rows = dict(line.split(":", 1) for line in status.read_text().splitlines()) if status.exists() else {}
    return int(rows.get("VmRSS", "0 kB").split()[0]) // 1024
