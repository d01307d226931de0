"""Recordings on the page: several, how far each is, what goes wrong with one, and that no text is lost by it."""

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from fake_server import FakeEngine, running
from page_browser import (
    ROOT,
    TALK,
    Open,
    address,
    app,
    banner,
    browse,
    browser,
    history,
    needs_browser,
    saved,
    serving,
    state,
    text_of,
    wait,
    words,
)
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from mmx.streaming.server.guard import closing

__all__ = ["address", "app", "browse", "browser"]  # fixtures
pytestmark = needs_browser

README = ROOT / "README.md"
WHOLE = "He was not an ill disposed young man."


def recording(name: str) -> dict[str, Any]:
    return {"name": name, "mimeType": "audio/flac", "buffer": TALK.read_bytes()}


def test_a_recording_becomes_text_with_times(browse: Open, address: str):
    page = browse(address)
    state(page, "idle")
    page.set_input_files("#file", TALK)
    state(page, "done")
    words(page, "source", WHOLE)
    assert saved(page, "source.vtt").startswith(b"WEBVTT")
    starts = page.locator("#source .new").evaluate_all("all => all.map(e => Number(e.dataset.at))")
    assert starts == [1000 * i for i in range(len(starts))]
    assert page.inner_text("#clock") == "0:28"
    assert not page.faults


def test_a_file_that_is_no_recording_leaves_the_text(browse: Open, address: str):
    page = browse(address)
    state(page, "idle")
    page.set_input_files("#file", TALK)
    state(page, "done")
    before = text_of(page)
    page.set_input_files("#file", README)
    state(page, "error")
    assert "README.md" in banner(page) and "could not be read as sound or video" in banner(page)
    assert "expected" not in page.inner_text("#banner-text")
    assert text_of(page) == before
    assert saved(page, "source.srt").startswith(b"1\n")
    page.locator("#jobs .close").click()
    assert page.locator("#jobs").is_hidden()


def test_a_file_that_is_too_large_says_how_large_it_may_be(browse: Open):
    with running(serving(max_upload_mb=0.1)) as address:
        page = browse(address)
        state(page, "idle")
        page.set_input_files("#file", TALK)
        state(page, "error")
        assert "larger than this server takes (0.1 MB)" in banner(page)


def test_a_recording_without_speech_is_told(browse: Open):
    class Deaf(FakeEngine):
        def transcribe(self, *args: Any, **more: Any) -> Any:
            return replace(super().transcribe(*args, **more), segments=())

    with running(serving(Deaf())) as address:
        page = browse(address)
        state(page, "idle")
        page.set_input_files("#file", TALK)
        state(page, "error")
        assert "No speech was recognised" in banner(page)


def test_several_are_queued_and_each_can_be_cancelled(browse: Open):
    engine = FakeEngine()
    engine.go.clear()
    with running(serving(engine)) as address:
        page = browse(address)
        state(page, "idle")
        page.set_input_files("#file", [recording(f"{n}.flac") for n in ("one", "two", "three")])
        state(page, "busy")
        wait(page, lambda: page.locator("#jobs li").count() == 3)
        page.click('[aria-label="Cancel two.flac"]')
        wait(page, lambda: page.locator("#jobs li").count() == 2)
        wait(page, lambda: page.locator("#jobs progress:visible").count() == 1)
        engine.go.set()
        state(page, "done")
        assert page.inner_text("#status") == "Done: three.flac"
        history(page)
        assert sorted(page.locator("#history-list strong").all_inner_texts()) == ["one.flac", "three.flac"]
        assert len(engine.asked) == 2


def test_a_bad_one_among_several_stops_none(browse: Open, address: str):
    page = browse(address)
    state(page, "idle")
    page.set_input_files("#file", [README, TALK])
    words(page, "source", WHOLE)
    assert "README.md" in banner(page)
    assert page.locator("#jobs li.failed").count() == 1
    assert page.locator("#jobs li").count() == 1


def test_stop_cancels_what_is_at_work(browse: Open):
    engine = FakeEngine()
    engine.go.clear()
    try:
        with running(serving(engine)) as address:
            page = browse(address)
            state(page, "idle")
            page.set_input_files("#file", [recording("one.flac"), recording("two.flac")])
            state(page, "busy")
            page.click("#mic")
            state(page, "done")
            assert page.locator("#jobs").is_hidden()
            engine.go.set()
            page.set_input_files("#file", recording("three.flac"))
            wait(page, lambda: page.inner_text("#status") == "Done: three.flac")
    finally:
        engine.go.set()


def test_a_file_dropped_while_listening_waits_and_is_told(browse: Open, address: str):
    page = browse(address)
    state(page, "idle")
    page.click("#mic")
    words(page, "source", "He was")
    data = page.evaluate_handle(
        """() => { const data = new DataTransfer();
             for (const name of ["one.wav", "two.wav"]) data.items.add(new File(["x"], name));
           return data; }"""
    )
    page.dispatch_event("#card", "drop", {"dataTransfer": data})
    assert "when you stop listening" in banner(page)
    assert page.locator("#jobs li").count() == 2
    assert page.evaluate("document.body.dataset.state") == "live"
    page.click("#mic")
    wait(page, lambda: page.locator("#jobs li.failed").count() == 2)  # both were tried, and are no recordings
    assert "He was" in text_of(page)


@pytest.mark.long
def test_a_busy_server_is_asked_again(browse: Open):
    engine = FakeEngine()
    engine.go.clear()
    with running(serving(engine, max_queue=0)) as address:
        first, second = browse(address), browse(address)
        state(first, "idle")
        first.set_input_files("#file", recording("one.flac"))
        wait(first, lambda: len(engine.asked) == 1)
        state(second, "idle")
        second.set_input_files("#file", recording("two.flac"))
        wait(second, lambda: "busy; tried again in" in second.inner_text("#jobs"))
        engine.go.set()
        state(first, "done")
        state(second, "done")
        assert WHOLE in text_of(second)


def test_a_server_that_is_away_for_a_moment_loses_no_recording(browse: Open, address: str):
    page = browse(address)
    state(page, "idle")
    page.route("**/v1/audio/transcriptions", lambda route: route.abort(), times=1)
    page.set_input_files("#file", TALK)
    wait(page, lambda: "does not answer; tried again" in page.inner_text("#jobs"))
    state(page, "done")
    assert WHOLE in text_of(page)


@pytest.mark.long
def test_a_server_that_stays_away_is_told_and_can_be_asked_again(browse: Open, address: str):
    page = browse(address)
    state(page, "idle")
    page.route("**/v1/audio/transcriptions", lambda route: route.abort())
    page.set_input_files("#file", TALK)
    state(page, "error")
    assert "does not answer" in banner(page)
    page.unroute("**/v1/audio/transcriptions")
    page.locator("#jobs button", has_text="Try again").click()
    state(page, "done")
    assert WHOLE in text_of(page)


def test_a_reload_takes_up_the_recordings(browse: Open):
    engine = FakeEngine()
    engine.go.clear()
    with running(serving(engine)) as address:
        page = browse(address)
        state(page, "idle")
        page.set_input_files("#file", [recording("one.flac"), recording("two.flac")])
        wait(page, lambda: len(engine.asked) == 1)
        page.reload()
        state(page, "busy")
        assert page.locator("#jobs li").count() >= 1
        engine.go.set()
        wait(page, lambda: page.inner_text("#status") == "Done: two.flac")
        history(page)
        assert sorted(page.locator("#history-list strong").all_inner_texts()) == ["one.flac", "two.flac"]


def test_both_languages_of_a_recording(browse: Open, address: str):
    page = browse(address)
    state(page, "idle")
    page.select_option("#to", "es")
    page.set_input_files("#file", TALK)
    state(page, "done")
    assert WHOLE in text_of(page) and WHOLE in text_of(page, "translation")
    tops = "all => all.map(e => e.getBoundingClientRect().top)"
    assert page.locator("#source p").evaluate_all(tops) == page.locator("#translation p").evaluate_all(tops)
    page.select_option("#to", "")
    assert page.locator("#translation-title").is_visible()
    assert b"He\nHe\n" in saved(page, "both.srt")


# -------------------- how far it is


class Slow:
    """Answers as the server does while a recording waits and is at work, one step at a time."""

    def __init__(self, app: Any):
        self.steps: list[str] = []
        self.next = threading.Event()
        app.router.routes.insert(0, Route("/v1/audio/transcriptions", self.answer, methods=["POST"]))

    async def answer(self, request: Request) -> StreamingResponse:
        await request.body()
        return StreamingResponse(self.events(), media_type="text/event-stream")

    def events(self) -> Iterator[str]:
        while True:
            self.next.wait(60)
            self.next.clear()
            step = self.steps.pop(0)
            yield step
            if '"done"' in step or "text.done" in step:
                return

    def say(self, *steps: str) -> None:
        self.steps += steps
        self.next.set()


def test_progress_and_place_in_the_queue_are_shown(browse: Open, app: Any, address: str):
    slow = Slow(app)
    page = browse(address)
    state(page, "idle")
    page.set_input_files("#file", TALK)
    said = page.locator("#jobs small")
    slow.say(': {"state": "waiting", "place": 2}\n\n')
    wait(page, lambda: said.inner_text() == "waits: 2 before it", said.inner_text)
    assert page.get_attribute("#jobs progress", "value") is None
    slow.say(': {"state": "working", "done_s": 0.0, "total_s": 28.0}\n\n')
    wait(page, lambda: said.inner_text() == "0 %", said.inner_text)
    slow.say(f"data: {json.dumps({'type': 'transcript.text.delta', 'delta': 'He was'})}\n\n")
    words(page, "source", "He was")
    page.wait_for_timeout(2500)  # of work, after which the rest can be told
    slow.say(': {"state": "working", "done_s": 7.0, "total_s": 28.0}\n\n')
    wait(page, lambda: said.inner_text().startswith("25 %, ") and said.inner_text().endswith("left"), said.inner_text)
    assert float(page.get_attribute("#jobs progress", "value")) == 0.25
    notes = [
        {"start": 4.0, "end": 5.0, "action": "skipped", "reason": "damaged"},
        {"start": 6.0, "end": 7.0, "action": "retried", "reason": "no matter"},
    ]
    verbose = {"segments": [{"start": 0.5, "end": 2.0, "text": "He was"}], "notes": notes}
    done = {"type": "transcript.text.done", "text": "He was", "language": "en", "usage": {"seconds": 28}}
    done |= {"srt": "", "vtt": "", "verbose_json": verbose}
    slow.say(f"data: {json.dumps(done)}\n\n")
    state(page, "done")
    assert page.locator("#source .new").get_attribute("data-at") == "500"
    assert "at 0:04 damaged" in banner(page) and "no matter" not in banner(page)


def test_an_answer_that_breaks_off_is_no_result(browse: Open, app: Any, address: str):
    slow = Slow(app)
    page = browse(address)
    state(page, "idle")
    page.set_input_files("#file", TALK)
    slow.say('data: {"type": "error", "error": {"code": "server_error", "message": "x"}, "x": "text.done"}\n\n')
    state(page, "error")
    assert "The server failed on “dashwood.flac”" in banner(page)


def test_a_server_that_stops_loses_no_recording(browse: Open, app: Any, address: str):
    slow = Slow(app)
    page = browse(address)
    state(page, "idle")
    page.set_input_files("#file", TALK)
    error = {"type": "error", **closing().body, "x": "text.done"}  # as an answer that has begun says it
    slow.say(f"data: {json.dumps(error)}\n\n")
    wait(page, lambda: "does not answer; tried again" in page.inner_text("#jobs"))
    app.router.routes.pop(0)  # it is there again
    state(page, "done")
    assert WHOLE in text_of(page)


def test_how_far_an_upload_is(browse: Open, address: str):
    page = browse(address)
    state(page, "idle")
    shares = page.evaluate(
        """async () => {
             const { send } = await import("./page/server.js");
             const form = new FormData();
             form.set("file", new File([new Uint8Array(20 * 2 ** 20)], "x.wav"));
             const shares = [];
             const { signal } = new AbortController();
             const said = { signal, onSent: (s) => shares.push(s), onEvent: () => null };
             await send("v1/audio/transcriptions", form, said).catch(() => null);
             return shares;
           }"""
    )
    assert shares == sorted(shares) and shares[-1] == 1
