"""Live sessions as OpenAI's clients know them: items and commits, message types, formats; and places that are freed."""

import asyncio
import base64
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import pytest

pytest.importorskip("fastapi", reason='needs the extra serve: pip install "mmx[serve]"')
pytest.importorskip("httpx", reason="needs httpx: pip install httpx")

from fake_server import FakeEngine, FakeStream, running
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect
from test_server import COMPLETED, DELTA, Live, live, pcm, serve

from mmx.streaming.server import sessions as server_sessions
from mmx.streaming.server.app import create_app
from mmx.streaming.server.g711 import table
from mmx.streaming.server.settings import Settings

MANUAL = {"type": "session.update", "session": {"audio": {"input": {"turn_detection": None}}}}
COMMIT, CLEAR = {"type": "input_audio_buffer.commit"}, {"type": "input_audio_buffer.clear"}
OPENAIS = {
    "session.created", "session.updated", "error", DELTA, COMPLETED,
    *(f"input_audio_buffer.{x}" for x in ("committed", "cleared", "speech_started", "speech_stopped")),
    *(f"conversation.item.{x}" for x in ("added", "created", "done")),
}  # fmt: skip
"""Types of OpenAI's that a transcription session sends."""
CLIENTS = int(os.environ.get("MMX_LIVE_CLIENTS", "12"))
"""That vanish; 100 for the full figure."""


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


def update(**audio: Any) -> dict[str, Any]:
    return {"type": "session.update", "session": {"audio": {"input": audio}}}


def manual(me: Live) -> None:
    """A session in which only commits end an item."""
    me.until("session.created")
    me.socket.send_json(MANUAL)
    me.until("session.updated")


def of(me: Live, kind: str) -> list[dict[str, Any]]:
    return [m for m in me.told if m["type"] == kind]


def eventually(true: Callable[[], bool], what: str) -> None:
    """Wait for what takes a moment; the limit is for a machine that is very busy."""
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


# -------------------- items


def test_one_commit_gives_one_item_with_all_its_sentences(engine: FakeEngine):
    with serve(engine) as client, live(client) as me:
        manual(me)
        me.push(4.0)
        me.socket.send_bytes(pcm(4.0))
        me.socket.send_json(COMMIT)
        me.socket.send_bytes(pcm(2.0))
        me.socket.send_json(COMMIT)  # at once: the first may not be heard yet
        me.until(COMPLETED)
        me.until(COMPLETED)
        me.close()
    done, committed = of(me, COMPLETED), of(me, "input_audio_buffer.committed")
    assert [(m["item_id"], m["transcript"]) for m in done] == [
        ("item_source_0", "He was not an ill disposed young man."), ("item_source_1", "He was"),
    ]  # fmt: skip
    assert [(m["item_id"], m["previous_item_id"]) for m in committed] == [
        ("item_source_0", None), ("item_source_1", "item_source_0"),
    ]  # fmt: skip
    assert [m["usage"] for m in done] == [{"type": "duration", "seconds": 8.0}, {"type": "duration", "seconds": 2.0}]
    assert [m["item_id"] for m in of(me, DELTA)] == ["item_source_0"] * 8 + ["item_source_1"] * 2
    kinds = [m["type"] for m in me.told if m["type"].startswith(("input_audio_buffer.committed", "conversation"))]
    item = [
        "input_audio_buffer.committed",
        *(f"conversation.item.{x}" for x in ("added", "created", "done")),
        COMPLETED,
    ]
    assert kinds == [*[DELTA] * 8, *item, *[DELTA] * 2, *item]
    whole = of(me, "conversation.item.done")[0]["item"]
    assert (whole["id"], whole["role"], whole["status"]) == ("item_source_0", "user", "completed")
    assert whole["content"] == [{"type": "input_audio", "transcript": done[0]["transcript"]}]


def test_commits_of_silence_and_of_nothing(engine: FakeEngine):
    with serve(engine) as client, live(client) as me:
        manual(me)
        me.socket.send_json({**COMMIT, "event_id": "mine"})
        assert me.fails("input_audio_buffer_commit_empty")["event_id"] == "mine"
        me.push(0.5)  # not a word
        me.socket.send_json(COMMIT)
        assert me.until(COMPLETED)["transcript"] == ""
        me.socket.send_json(COMMIT)
        assert me.fails("input_audio_buffer_commit_empty")["event_id"] is None
        me.push(0.5)
        me.socket.send_json(CLEAR)
        me.until("input_audio_buffer.cleared")
        me.socket.send_json(COMMIT)
        me.fails("input_audio_buffer_commit_empty")
        me.close()
    assert len(of(me, COMPLETED)) == len(of(me, "input_audio_buffer.committed")) == 1


def test_what_was_cleared_is_in_no_item(engine: FakeEngine):
    with serve(engine) as client, live(client) as me:
        manual(me)
        me.push(2.0)
        me.until(DELTA)
        me.until(DELTA)
        me.socket.send_json(CLEAR)
        me.push(1.0)
        me.socket.send_json(COMMIT)
        done = me.until(COMPLETED)
        me.close()
    assert done["transcript"] == "He" and done["item_id"] not in {m["item_id"] for m in of(me, DELTA)[:2]}
    assert of(me, "input_audio_buffer.committed")[0]["previous_item_id"] is None


def test_an_update_completes_no_item_that_a_commit_will(engine: FakeEngine):
    with serve(engine) as client, live(client) as me:
        manual(me)
        me.push(2.0)
        me.socket.send_json(update(transcription={"language": "de"}))
        me.until("session.updated")
        me.push(2.0)
        me.socket.send_json(COMMIT)
        me.until(COMPLETED)
        me.close()
    assert [m["transcript"] for m in of(me, COMPLETED)] == ["He was He was"]
    assert [m["language"] for m in of(me, DELTA)] == ["en", "en", "de", "de"]


def test_a_setting_without_effect_breaks_no_sentence(engine: FakeEngine):
    with serve(engine) as client, live(client) as me:
        me.until("session.created")
        me.push(1.0)
        me.until(DELTA)
        me.socket.send_json(update(noise_reduction={"type": "near_field"}))
        me.until("session.updated")
        me.push(2.0)
        me.close()
    assert [m["transcript"] for m in of(me, COMPLETED)] == ["He was not"]


def test_turns_are_told_as_openai_does(engine: FakeEngine):
    with serve(engine) as client, live(client) as me:
        assert me.until("session.created")["session"]["audio"]["input"]["turn_detection"] == {"type": "server_vad"}
        me.push(5.0)
        me.close()
    kinds = [m["type"] for m in me.told if "item_id" in m or "item" in m]
    started, stopped, committed = (f"input_audio_buffer.{x}" for x in ("speech_started", "speech_stopped", "committed"))
    ends = [stopped, committed, *(f"conversation.item.{x}" for x in ("added", "created", "done")), COMPLETED]
    assert kinds == [started, *[DELTA] * 3, *ends, started, *[DELTA] * 2, *ends]
    assert {m["item_id"] for m in me.told[: 1 + [m["type"] for m in me.told].index(COMPLETED)] if "item_id" in m} == {
        "item_source_0"
    }
    assert [m["audio_start_ms"] for m in of(me, started)] == [0, 3000]
    assert next(m["audio_end_ms"] for m in of(me, stopped)) == 3000
    assert [m["previous_item_id"] for m in of(me, committed)] == [None, "item_source_0"]
    assert sum(m["usage"]["seconds"] for m in of(me, COMPLETED)) == pytest.approx(5.0)


def test_a_commit_within_a_turn_completes_it_once(engine: FakeEngine):
    with serve(engine) as client, live(client) as me:
        me.until("session.created")
        me.push(4.0)
        me.until(COMPLETED)
        me.socket.send_json(COMMIT)
        me.until(COMPLETED)
        me.close()
    assert [m["transcript"] for m in of(me, COMPLETED)] == ["He was not", "an"]
    assert len(of(me, "input_audio_buffer.speech_stopped")) == 1, "the commit ended the second, not a pause"


def test_nothing_is_taken_after_the_end(engine: FakeEngine):
    with serve(engine) as client, live(client) as me:
        manual(me)
        me.push(1.0)
        for message in ({"type": "session.close"}, COMMIT, MANUAL, {"type": "session.close"}):
            me.socket.send_json(message)
        me.until("session.closed")
    assert [m["transcript"] for m in of(me, COMPLETED)] == ["He"]
    errors = [m["error"]["code"] for m in of(me, "error")]
    assert errors == ["session_closed"] * len(errors)


def test_items_go_on_after_a_restart(tmp_path: Path, engine: FakeEngine):
    with serve(engine, state_dir=tmp_path) as client, live(client) as me:
        manual(me)
        id = me.told[0]["session"]["id"]
        me.push(2.0)
        me.socket.send_json(COMMIT)
        me.until(COMPLETED)
        me.push(4.0)
        for _ in range(4):
            me.until(DELTA)
    with serve(engine, state_dir=tmp_path) as client, live(client, f"session={id}&after={me.last}") as back:
        back.last, back.samples = me.last, me.samples
        assert back.until("session.resumed")["session"]["audio"]["input"]["turn_detection"] is None
        back.push(1.0)
        back.socket.send_json(COMMIT)
        done = back.until(COMPLETED)
        back.socket.send_json(COMMIT)
        back.fails("input_audio_buffer_commit_empty")
        back.close()
    assert (done["item_id"], done["transcript"]) == ("item_source_1", "He was not an ill")
    assert done["usage"]["seconds"] == pytest.approx(5.0)
    assert of(back, "input_audio_buffer.committed")[0]["previous_item_id"] == "item_source_0"


def test_a_session_that_fails_names_the_item(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch):
    real = FakeStream.push

    def push(self: FakeStream, samples: np.ndarray, final: bool = False) -> Any:
        if self.said:
            raise RuntimeError("not foreseen")
        return real(self, samples, final)

    monkeypatch.setattr(FakeStream, "push", push)
    with serve(engine) as client, live(client) as me:
        manual(me)
        me.push(1.0)
        me.until(DELTA)
        me.socket.send_bytes(pcm(1.0))
        failed = me.until("conversation.item.input_audio_transcription.failed")
        me.fails("server_error")
        me.until("session.closed")
    assert (failed["item_id"], failed["error"]["code"]) == ("item_source_0", "server_error")
    assert not of(me, COMPLETED)


# -------------------- messages


def test_settings_are_told_back(engine: FakeEngine):
    turns = {"type": "server_vad", "threshold": 0.4, "silence_duration_ms": 700}
    sent = {
        "transcription": {"model": "gpt-4o-transcribe", "language": "de", "prompt": "Namen: Anna"},
        "turn_detection": turns,
        "noise_reduction": {"type": "far_field"},
    }
    include = ["item.input_audio_transcription.logprobs"]
    before = time.time()
    with serve(engine, max_audio_s=600.0) as client, live(client) as me:
        created = me.until("session.created")["session"]
        assert created["id"].startswith("sess_") and created["object"] == "realtime.transcription_session"
        assert before + 599 <= created["expires_at"] <= time.time() + 601
        message = update(**sent)
        message["session"]["include"] = include
        me.socket.send_json(message)
        now = me.until("session.updated")["session"]
        assert now["audio"]["input"] == {
            "format": {"type": "audio/pcm", "rate": 16_000},
            **sent,
            "transcription": {"model": "tiny", "language": "de", "prompt": "Namen: Anna"},
        }
        assert now["include"] == include
        for wrong in ({"type": "magic"}, {"type": "server_vad", "threshold": [1]}, {"type": "x" * 99}):
            me.socket.send_json(update(turn_detection=wrong))
            me.fails("invalid_value")
        me.socket.send_json(update(transcription={"model": "nova"}))
        assert me.fails("model_not_found")["param"] == "model"
        me.socket.send_json(update(transcription={"prompt": "a" * 5000}))
        me.fails("invalid_value")
        me.socket.send_json(update(transcription={"language": "auto"}, noise_reduction=None))
        now = me.until("session.updated")["session"]["audio"]["input"]
        assert (now["transcription"]["language"], now["noise_reduction"], now["turn_detection"]) == (None, None, turns)
        me.close()


@pytest.mark.parametrize(
    "query, kind", [("gpt-realtime", "session.created"), ("openai/tiny", "session.created"), ("nova", "error")]
)
def test_a_model_of_others_is_refused(engine: FakeEngine, query: str, kind: str):
    with serve(engine) as client, live(client, f"intent=transcription&model={query}") as me:
        assert me.until("session.created", "error")["type"] == kind


@pytest.mark.parametrize("extras", ["", "&extras=0", "&extras=1"])
def test_ours_are_sent_to_who_asks_for_them(engine: FakeEngine, extras: str):
    ours = {"tentative", "input_audio_buffer.acknowledged", "session.output_transcript.done"}
    with serve(engine) as client, client.websocket_connect(f"/v1/realtime?to=es&rate=16000{extras}") as socket:
        socket.send_bytes(pcm(3.5))
        kinds = {"session.created"}
        while COMPLETED not in kinds:
            kinds.add(socket.receive_json()["type"])
        socket.send_json({"type": "session.close"})
        while "session.closed" not in kinds:  # asked for, thus answered
            kinds.add(socket.receive_json()["type"])
    assert kinds & ours == (ours if extras == "&extras=1" else set())
    assert "session.output_transcript.delta" in kinds


def test_every_message_is_of_a_type_that_openais_client_knows(engine: FakeEngine):
    with serve(engine) as client, client.websocket_connect("/v1/realtime") as s:
        me = Live(s)
        s.send_json({"type": "nothing", "event_id": "e1"})
        s.send_json(MANUAL)
        s.send_bytes(pcm(2.0, 24_000))
        s.send_json(COMMIT)
        me.until(COMPLETED)
        s.send_json(update(turn_detection={"type": "server_vad"}))
        s.send_bytes(pcm(4.0, 24_000))
        me.until(COMPLETED)
        s.send_json(CLEAR)
        me.until("input_audio_buffer.cleared")
    assert {m["type"] for m in me.told} == OPENAIS
    realtime = pytest.importorskip(
        "openai.types.realtime", reason="the fields need OpenAI's client: pip install openai"
    )
    union = get_args(get_args(realtime.RealtimeServerEvent)[0])
    known = {get_args(c.model_fields["type"].annotation)[0]: c for c in union if "type" in c.model_fields}
    for message in me.told:
        known[message["type"]].model_validate(message)


@pytest.mark.parametrize("text", ['"\\ud800"', '"\\udfff tail"', '"a\\ud83d"'])
def test_half_a_surrogate_pair_is_refused_wherever_it_stands(engine: FakeEngine, text: str, caplog: Any):
    with serve(engine, api_key="k") as client, live(client) as me:
        me.socket.send_text(f'{{"type": "session.authenticate", "api_key": {text}}}')
        me.fails("invalid_json")
        with pytest.raises(WebSocketDisconnect) as closed:
            me.until("never")
        assert closed.value.code == 1008
    with serve(engine) as client, live(client) as me:
        me.until("session.created")
        for message in (
            '{"type": %s}', '{"type": "input_audio_buffer.commit", "event_id": %s}', '{"type": "x", %s: 1}',
            '{"type": "session.update", "session": {"audio": {"input": {"transcription": {"prompt": %s}}}}}',
        ):  # fmt: skip
            me.socket.send_text(message % text)
            me.fails("invalid_json")
        me.socket.send_text('{"type": "x", "event_id": "\\ud83d\\ude00"}')  # a whole pair is text
        assert me.fails("unknown_type")["event_id"] == "\N{GRINNING FACE}"
        me.close()
    assert not caplog.records


@pytest.mark.parametrize(("law", "kind", "old"), [("mu", "audio/pcmu", "g711_ulaw"), ("a", "audio/pcma", "g711_alaw")])
def test_telephones_are_heard(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, law: str, kind: str, old: str):
    rng = np.random.default_rng(3)
    codes = rng.integers(0, 256, 16_000).astype(np.uint8)
    heard: list[np.ndarray] = []
    real = FakeStream.push

    def push(self: FakeStream, samples: np.ndarray, final: bool = False) -> Any:
        heard.append(samples)
        return real(self, samples, final)

    monkeypatch.setattr(FakeStream, "push", push)
    wishes = [update(format={"type": kind}), {"type": "session.update", "session": {"input_audio_format": old}}]
    for wish in wishes:
        heard.clear()
        with serve(engine) as client, live(client) as me:
            me.until("session.created")
            me.socket.send_json(update(format={"type": kind, "rate": 24_000}))
            me.fails("invalid_value")
            me.socket.send_json(wish)
            got = me.until("session.updated")["session"]["audio"]["input"]["format"]
            assert got == {"type": kind, "rate": 8_000}
            sound = base64.b64encode(codes[:8001].tobytes()).decode()
            me.socket.send_json({"type": "input_audio_buffer.append", "audio": sound})
            me.socket.send_bytes(codes[8001:].tobytes())
            me.close()
        assert me.text == " He was" and me.samples == 16_000
        there = np.concatenate(heard)[::2]  # at 16 kHz each second sample is one of the telephone's
        assert np.abs(there - table(law)[codes] / 32768).max() < 1e-3


def test_the_laws_of_telephony_are_the_standards():
    mu, a = table("mu"), table("a")
    # ITU-T G.711, tables 1 and 2, at 16 bits: the loudest, the softest, the ends of the first segment.
    assert (mu[0x80], mu[0x00], mu[0xFF], mu[0x7F], mu[0xFE], mu[0xF0]) == (32124, -32124, 0, 0, 8, 120)
    assert (a[0xAA], a[0x2A], a[0xD5], a[0x55], a[0xD4]) == (32256, -32256, 8, -8, 24)
    assert len(set(mu.tolist())) == 255 and len(set(a.tolist())) == 256


# -------------------- one owner for each thing


def test_an_update_beside_an_order_at_work_is_not_undone(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch):
    entered, go, real = threading.Event(), threading.Event(), server_sessions.Resampler

    def slow(rate: int) -> Any:
        if rate == 44_100 and threading.current_thread().name.startswith("mmx-live"):
            entered.set()
            go.wait(20)
        return real(rate)

    monkeypatch.setattr(server_sessions, "Resampler", slow)
    with serve(engine) as client, live(client, "rate=44100") as me:
        me.until("session.created")
        me.socket.send_json(CLEAR)
        assert entered.wait(20)
        me.socket.send_json(update(format={"type": "audio/pcm", "rate": 16_000}))
        assert me.until("session.updated")["session"]["audio"]["input"]["format"]["rate"] == 16_000
        go.set()
        me.push(3.0)
        me.close()
    assert me.text == " He was not"


def test_filters_are_made_off_the_event_loop(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch):
    threads: list[str] = []
    real = server_sessions.Resampler

    def noted(rate: int) -> Any:
        threads.append(threading.current_thread().name)
        return real(rate)

    monkeypatch.setattr(server_sessions, "Resampler", noted)
    with serve(engine) as client, live(client, "rate=48000") as me:
        me.until("session.created")
        for rate in range(95_980, 96_000):
            me.socket.send_json(update(format={"type": "audio/pcm", "rate": rate}))
            me.until("session.updated")
        me.socket.send_bytes(pcm(1.0, 95_999))
        me.close()
    assert me.text == " He" and all(name.startswith("mmx-live") for name in threads)


def test_tiny_frames_lie_together(engine: FakeEngine):
    with serve(engine) as client, live(client, "rate=96000") as me:
        me.until("session.created")
        session = next(iter(client.app.state.registry.sessions.values()))  # type: ignore[attr-defined]
        for _ in range(2000):
            me.socket.send_bytes(b"\1\0")
        while me.samples < 2000:
            me.until("input_audio_buffer.acknowledged")
        assert len(session.inbox) == 1 and session.waiting_s == pytest.approx(2000 / 96_000)
        me.socket.send_bytes(bytes(2 * 96_000))  # what it takes, and what the filter looks ahead
        me.until(DELTA)
        assert session.waiting_s == 0 and not session.inbox
        me.close()


# -------------------- places


def places(client: TestClient) -> dict[str, float]:
    """Sessions that are not over, by whether somebody is connected."""
    rows = [x for x in client.get("/metrics").text.splitlines() if x.startswith("mmx_sessions{")]
    return {x.split('"')[1]: float(x.split()[-1]) for x in rows}


def test_reloads_lock_nobody_out(engine: FakeEngine):
    with serve(engine, max_sessions=2) as client:
        for _ in range(8):
            with live(client) as me:
                me.until("session.created")
        for query in ("rate=16000&after=5", "rate=5", "language=xx", "rate=16000&after=x"):
            for _ in range(3):
                with live(client, query) as me:
                    me.fails("invalid_value")
        eventually(lambda: places(client) == {"yes": 0, "no": 0}, "sessions that heard nothing are kept")
        with live(client) as one, live(client) as two, live(client) as three:
            assert "max_sessions 2" in three.fails("too_many_sessions")["message"]
            for me in (one, two):
                me.until("session.created")
                me.close()


def test_who_waits_for_a_client_takes_no_place(engine: FakeEngine):
    ids: list[str] = []
    with serve(engine, max_sessions=2) as client:
        for _ in range(5):
            with live(client) as me:
                ids.append(me.until("session.created")["session"]["id"])
                me.push(1.0)
                me.until(DELTA)
        eventually(lambda: places(client) == {"yes": 0, "no": 3}, "more wait than there are places")
        for id in ids[:2]:  # those that had waited longest made way when the last began
            with live(client, f"session={id}") as gone:
                gone.fails("session_not_found")
        with live(client) as one, live(client) as two:
            for me in (one, two):
                me.until("session.created")
            with live(client, f"session={ids[-1]}") as back:  # it was let in once: it need not wait for a place
                assert back.until("session.resumed")["acknowledged"]["samples"] == 16_000
                back.close()
            for me in (one, two):
                me.close()


def test_one_that_hangs_keeps_nobody_else(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch):
    go, inside, real = threading.Event(), threading.Event(), FakeStream.push

    def push(self: FakeStream, samples: np.ndarray, final: bool = False) -> Any:
        if len(samples) == 16_160:  # one client's only
            inside.set()
            go.wait(60)
        return real(self, samples, final)

    monkeypatch.setattr(FakeStream, "push", push)
    with serve(engine, keep_s=0.2, workers=2) as client:
        with live(client) as hangs:
            hangs.until("session.created")
            hangs.socket.send_bytes(pcm(1.01))
            assert inside.wait(20)
        with live(client) as other:
            id = other.until("session.created")["session"]["id"]
            other.push(1.0)
        registry = client.app.state.registry  # type: ignore[attr-defined]
        try:
            eventually(lambda: id not in registry.sessions, "one session that hangs keeps the others")
            assert not registry.sessions
        finally:
            go.set()


def test_who_vanishes_frees_a_place(engine: FakeEngine):
    from websockets.asyncio.client import connect

    async def vanish(url: str) -> None:
        sockets = [await connect(url, open_timeout=60) for _ in range(CLIENTS)]
        for i, socket in enumerate(sockets):
            await socket.recv()
            if i % 3:
                await socket.send(pcm(1.5))
        await asyncio.sleep(0.2)
        for socket in sockets:
            socket.transport.abort()

    async def come(url: str) -> list[str]:
        sockets = [await connect(url, open_timeout=60) for _ in range(CLIENTS)]
        kinds = [json.loads(await s.recv())["type"] for s in sockets]
        for socket in sockets:
            await socket.close()
        return kinds

    app = create_app(engine, Settings(max_sessions=CLIENTS))  # type: ignore[arg-type]
    taken = app.state.registry.sessions
    with running(app) as address:
        url = f"ws://{address}/v1/realtime?rate=16000"
        for _ in range(2):
            asyncio.run(vanish(url))
            begun = time.monotonic()
            eventually(lambda: not any(s.connection for s in taken.values()), "places of clients that are gone")
            print(
                f"\n{CLIENTS} clients vanished: places free after {time.monotonic() - begun:.2f} s, {len(taken)} wait"
            )
            assert asyncio.run(come(url)) == ["session.created"] * CLIENTS
            assert len(taken) <= 2 * CLIENTS


# -------------------- OpenAI's own client


def test_openais_client_gets_one_text_for_each_commit(engine: FakeEngine):
    openai = pytest.importorskip("openai", reason="needs OpenAI's client: pip install openai")
    if not hasattr(openai.AsyncOpenAI, "realtime"):
        pytest.skip("needs a client with the realtime API: pip install -U openai")

    async def dictate(address: str) -> tuple[list[str], list[tuple[str, str]], set[str]]:
        client = openai.AsyncOpenAI(api_key="k", base_url=f"http://{address}/v1")
        committed: list[str] = []
        done: list[tuple[str, str]] = []
        kinds: set[str] = set()
        async with client.realtime.connect(extra_query={"intent": "transcription"}) as link:
            turns = {"turn_detection": None, "transcription": {"model": "whisper-1", "language": "en"}}
            await link.session.update(session={"type": "transcription", "audio": {"input": turns}})
            for seconds in (7.0, 2.0):
                for _ in range(round(seconds / 0.1)):
                    sound = base64.b64encode(pcm(0.1, 24_000)).decode()
                    await link.input_audio_buffer.append(audio=sound)
                await link.input_audio_buffer.commit()
            async for event in link:
                kinds.add(event.type)
                if event.type == "input_audio_buffer.committed":
                    committed.append(event.item_id)
                elif event.type == COMPLETED:
                    done.append((event.item_id, event.transcript))
                    assert event.usage.seconds > 0
                    if len(done) == 2:
                        break
        return committed, done, kinds

    with running(create_app(engine)) as address:  # type: ignore[arg-type]
        committed, done, kinds = asyncio.run(dictate(address))
    assert [id for id, _ in done] == committed and len(set(committed)) == 2
    assert [text for _, text in done] == ["He was not an ill disposed young", "He was"]
    assert not kinds & {"tentative", "input_audio_buffer.acknowledged", "error"}


def test_a_sentence_that_cannot_be_translated_stays_as_it_was_said():
    from mmx.errors import InputError
    from mmx.streaming.server.interpreter import Interpreter, SessionConfig

    class Monoglot(FakeEngine):
        def translated(self, text: str, language: str, to: str) -> str:
            raise InputError(f"expected a language that it reads, got {language}")

    def heard(engine: FakeEngine) -> tuple[list[tuple[str, str, str]], list[str]]:
        interpreter = Interpreter(engine, SessionConfig("de", "es", source=False))  # type: ignore[arg-type]
        events = interpreter.push(np.zeros(3 * 16_000, np.float32))
        return [(e.track, e.text, e.language) for e in events], interpreter.notes()

    assert heard(FakeEngine()) == ([("translation", " es(He was not)", "es")], [])
    told = "not translated: expected a language that it reads, got de"
    assert heard(Monoglot()) == ([("translation", " He was not", "de")], [told])


def test_a_language_that_is_to_be_detected_goes_on_from_english_which_is_not_shown():
    from mmx.model import Model
    from mmx.streaming.server.interpreter import Interpreter, SessionConfig
    from mmx.tasks.cascade import Route
    from mmx.tasks.options import Options

    class ByEnglish(FakeEngine):
        def route(self, language: str | None, to: str) -> Route:
            return Route(Options(task="translate", to="en"), cast(Model, "text"))

    interpreter = Interpreter(ByEnglish(), SessionConfig(None, "es"))  # type: ignore[arg-type]
    assert {name: stream.told for name, stream in interpreter.streams.items()} == {  # type: ignore[attr-defined]
        "source": [None, None], "english": [None, "en"],
    }  # fmt: skip
    events = interpreter.push(np.zeros(3 * 16_000, np.float32))
    assert [(e.track, e.text) for e in events] == [
        ("source", " He"), ("source", " was"), ("source", " not"), ("translation", " es(He was not)"),
    ]  # fmt: skip
    assert interpreter.translated == "english" and interpreter.tentative.keys() == {"source"}
