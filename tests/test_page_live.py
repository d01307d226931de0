"""Listening on the page: breaks of the connection, of the server, and of the page itself lose nothing."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from fake_server import WORDS, running
from page_browser import (
    Network,
    Open,
    ToneEngine,
    address,
    banner,
    browse,
    browser,
    needs_browser,
    saved,
    serving,
    state,
    text_of,
    tones,
    wait,
    words,
)

__all__ = ["address", "browse", "browser"]  # fixtures
pytestmark = needs_browser

SAID = " ".join(WORDS * 8)


@pytest.fixture
def app() -> Any:
    """A server whose words depend on what it hears."""
    return serving(ToneEngine())


def speaking(*more: Any) -> Any:
    """What is done with a page before it is opened: the microphone of tones, and more."""
    return lambda page: [act(page) for act in (tones, *more)]


def listening(page: Any) -> None:
    state(page, "idle")
    page.click("#mic")
    words(page, "source", "He was")


def whole(text: str) -> None:
    """Fail where a word is missing or said twice; the last may be cut short by the end."""
    text = re.sub(r"\s+", " ", text).strip()
    assert SAID.startswith(text), f"expected a beginning of {SAID!r}, got {text!r}"


def test_a_lost_connection_is_taken_up_again(browse: Open, app: Any, address: str):
    page = browse(address, before=speaking())
    listening(page)
    page.evaluate(
        """() => { window.seen = []; new MutationObserver(() => window.seen.push(document.body.dataset.state))
             .observe(document.body, { attributes: true }) }"""
    )
    (session,) = app.state.registry.sessions.values()
    session.connection.replaced.set()  # the server cuts the connection in the middle of speech
    wait(page, lambda: page.evaluate("() => window.seen.includes('waiting') && window.seen.at(-1) === 'live'"))
    words(page, "source", "He was not an ill disposed")
    page.click("#mic")
    state(page, "done")
    assert len(app.state.registry.sessions) == 1
    whole(text_of(page))


def test_stop_while_disconnected_keeps_the_rest(browse: Open, address: str):
    network = Network()
    page = browse(address, before=speaking(network))
    listening(page)
    network.cut()
    state(page, "waiting")
    assert "kept" in page.inner_text("#status")
    page.wait_for_timeout(3000)  # of speech that nobody hears
    page.click("#mic")
    state(page, "done")
    assert "not written yet" in banner(page)
    before = text_of(page)
    assert "He was" in before
    network.mend()
    page.click("#banner-act")
    wait(page, lambda: len(text_of(page).split()) >= len(before.split()) + 3, lambda: text_of(page))
    state(page, "done")
    whole(text_of(page))
    assert page.locator("#banner").is_hidden()


def test_a_server_that_forgets_the_session_loses_no_word(browse: Open, app: Any, address: str):
    """As after a restart without --state-dir: the text, its times and what Save gives go on in one."""
    page = browse(address, before=speaking())
    state(page, "idle")
    page.select_option("#to", "es")
    page.click("#mic")
    words(page, "source", "He was not an")
    (session,) = app.state.registry.sessions.values()
    app.state.registry.sessions.clear()
    session.connection.replaced.set()
    words(page, "source", " ".join(WORDS))
    assert len(app.state.registry.sessions) == 1
    page.click("#mic")
    state(page, "done")
    shown = text_of(page)
    whole(shown)
    srt = saved(page, "source.srt").decode()
    assert (
        re.sub(r"\s+", " ", " ".join(block.split("\n", 2)[2] for block in srt.strip().split("\n\n"))) == shown.strip()
    )
    times = [
        float(a) * 3600 + float(b) * 60 + float(c.replace(",", "."))
        for a, b, c in re.findall(r"(\d+):(\d+):([\d,]+)", srt)
    ]
    assert times == sorted(times) and times[-1] >= 0.5 * len(shown.split()) - 1  # a word may end early
    assert text_of(page, "translation").count("es(He was not)") == 1  # the sentence that was not finished is whole


def test_sound_that_was_acknowledged_and_not_written_is_heard_again(browse: Open):
    """Three seconds stay unheard with the server, which has acknowledged them, when it forgets the session."""
    application = serving(ToneEngine())
    with running(application) as address:
        page = browse(address, before=speaking())
        listening(page)
        (session,) = application.state.registry.sessions.values()
        told = session.received
        application.state.registry.context.engine.step_s = 100.0  # hears no more
        wait(page, lambda: session.received > told + 3 * 16_000)
        application.state.registry.context.engine.step_s = 0.5
        application.state.registry.sessions.clear()
        session.connection.replaced.set()
        words(page, "source", "He was not an ill disposed")
        page.click("#mic")
        state(page, "done")
        whole(text_of(page))


def test_a_reload_keeps_all_and_goes_on(browse: Open, app: Any, address: str):
    page = browse(address, before=speaking())
    listening(page)
    words(page, "source", "He was not an")
    before = text_of(page)
    page.reload()
    words(page, "source", before)
    assert "reloaded" in banner(page)
    state(page, "done")
    assert all(s.ended for s in app.state.registry.sessions.values()), "a place of the server is held"
    count = len(text_of(page).split())
    page.click("#continue")
    state(page, "live")
    wait(page, lambda: len(text_of(page).split()) >= count + 2)
    page.click("#mic")
    state(page, "done")
    assert text_of(page).startswith(before)
    starts = page.locator("#source .new").evaluate_all("all => all.map(e => Number(e.dataset.at))")
    assert starts == sorted(starts)


def test_leaving_frees_the_place_at_the_server(browse: Open, app: Any, address: str):
    page = browse(address, before=speaking())
    listening(page)
    page.goto("about:blank")
    wait(page, lambda: all(s.ended for s in app.state.registry.sessions.values()))


def test_a_reload_without_connection_keeps_the_sound(browse: Open, address: str):
    network = Network()
    page = browse(address, before=speaking(network))
    listening(page)
    network.cut()
    state(page, "waiting")
    heard = page.inner_text("#clock")
    wait(page, lambda: page.inner_text("#clock") >= "0:06" and page.inner_text("#clock") > heard)
    network.mend()
    page.reload()
    wait(page, lambda: len(text_of(page).split()) >= 5, lambda: text_of(page))
    state(page, "done")
    whole(text_of(page))


def test_leaving_is_asked_about_only_while_something_would_stop(browse: Open, address: str):
    page = browse(address, before=speaking())
    state(page, "idle")
    asked: list[str] = []
    page.on("dialog", lambda d: (asked.append(d.type), d.accept()))
    page.reload()
    assert not asked
    listening(page)
    page.reload()
    assert asked == ["beforeunload"]


def test_a_language_chosen_while_away_reaches_the_session(browse: Open, address: str):
    network = Network()
    page = browse(address, before=speaking(network))
    listening(page)
    network.cut()
    state(page, "waiting")
    page.select_option("#to", "es")
    page.select_option("#from", "de")
    network.mend()
    words(page, "translation", "es(")
    updates = [m for m in map(json.loads, network.sent) if m["type"] == "session.update"]
    assert updates[-1]["session"]["audio"]["input"]["transcription"]["language"] == "de"


def test_where_no_websocket_comes_through_the_page_says_so_and_stops(browse: Open, address: str):
    network = Network(up=False)
    page = browse(address, before=speaking(network))
    state(page, "idle")
    page.click("#mic")
    state(page, "error")
    assert "WebSocket" in banner(page) and "proxy" in banner(page)
    assert "lost" not in page.inner_text("body").lower()
    assert page.inner_text("#mic").strip() == "Start listening"
    network.mend()
    page.click("#banner-act")  # what was said meanwhile is not lost
    state(page, "done")
    assert text_of(page).strip().startswith("He") or "No speech" in page.inner_text("#banner-text")


def test_a_server_that_is_away_is_told_from_a_blocked_websocket(browse: Open, address: str):
    page = browse(address, before=speaking(Network(up=False)))
    state(page, "idle")
    page.route("**/health", lambda route: route.abort())
    page.click("#mic")
    state(page, "error")
    assert "does not answer" in banner(page)


def test_no_free_place_is_told(browse: Open):
    with running(serving(ToneEngine(), max_sessions=1)) as address:
        first, second = browse(address, before=tones), browse(address, before=tones)
        listening(first)
        state(second, "idle")
        second.click("#mic")
        state(second, "error")
        assert "taken" in banner(second) and "Try again" in banner(second)
        second.click("#banner-close")
        assert second.locator("#banner").is_hidden()


def test_the_longest_session_is_told_and_can_be_continued(browse: Open):
    with running(serving(ToneEngine(), max_audio_s=4.0)) as address:
        page = browse(address, before=speaking())
        listening(page)
        state(page, "done")
        assert "Continue" in banner(page)
        count = len(text_of(page).split())
        assert count >= 3
        page.click("#continue")
        wait(page, lambda: len(text_of(page).split()) > count)


def test_a_microphone_that_is_refused_is_explained_and_asked_again(browse: Open, address: str):
    def refuse(page: Any) -> None:
        page.add_init_script(
            """const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices); window.refuse = true;
               navigator.mediaDevices.getUserMedia = (c) =>
                 window.refuse ? Promise.reject(new DOMException("", "NotAllowedError")) : ask(c);"""
        )

    page = browse(address, before=speaking(refuse))
    state(page, "idle")
    page.click("#mic")
    state(page, "error")
    assert "Allow" in banner(page)
    page.evaluate("window.refuse = false")
    page.click("#banner-act")
    words(page, "source", "He was")


def test_stop_while_the_browser_asks_for_the_microphone(browse: Open, address: str):
    page = browse(
        address,
        before=lambda p: p.add_init_script("navigator.mediaDevices.getUserMedia = () => new Promise(() => {})"),
    )
    state(page, "idle")
    page.click("#mic")
    state(page, "busy")
    page.click("#mic")
    state(page, "done")


def test_a_microphone_that_is_taken_away_is_told(browse: Open, address: str):
    page = browse(
        address,
        before=speaking(
            lambda p: p.add_init_script(
                """const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
               navigator.mediaDevices.getUserMedia = async (c) => (window.stream = await ask(c));"""
            )
        ),
    )
    listening(page)
    page.evaluate("window.stream.getTracks()[0].dispatchEvent(new Event('ended'))")
    assert "taken away" in banner(page)
    state(page, "done")
    assert "He was" in text_of(page)


def test_kept_sound_has_a_bound(browse: Open, address: str):
    """`Live` against a socket that never answers again: what it keeps ends at its bound, which it tells."""
    page = browse(address, before=speaking())
    state(page, "idle")
    kept, told, bound = page.evaluate(
        """async () => {
             const { Live, MOST_KEPT } = await import("./page/live.js");
             window.WebSocket = class { constructor() { this.bufferedAmount = 0; } send() {} close() {} };
             const live = new Live({ rate: 16000, wish: {} });
             let told = 0;
             live.addEventListener("full", () => { told += 1; live.end(); });
             await null;
             for (let i = 0; i < 200; i += 1) live.hear(new Int16Array(320000));
             return [live.pieces.reduce((n, p) => n + p.samples.byteLength, 0), told, MOST_KEPT];
           }"""
    )
    assert told == 1
    assert kept <= bound + 640_000


def test_acknowledged_sound_is_let_go(browse: Open, address: str):
    """A long session keeps no more than a minute of what the server has."""
    page = browse(address, before=speaking())
    state(page, "idle")
    seconds = page.evaluate(
        """async () => {
             const { Live } = await import("./page/live.js");
             window.WebSocket = class { constructor() { this.bufferedAmount = 0; } send() {} close() {} };
             const live = new Live({ rate: 16000, wish: {} });
             await null;
             live.take({ type: "session.created", session: { id: "x" }, acknowledged: { samples: 0 } });
             for (let i = 1; i <= 600; i += 1) {
               live.hear(new Int16Array(16000));
               live.take({ type: "input_audio_buffer.acknowledged", samples: i * 16000 });
             }
             return live.pieces.reduce((n, p) => n + p.samples.length, 0) / 16000;
           }"""
    )
    assert 59 <= seconds <= 61


def test_no_message_is_larger_than_the_server_takes(browse: Open, address: str):
    """Silence that stands for sound which the store has lost may be long."""
    page = browse(address, before=speaking())
    state(page, "idle")
    sent = page.evaluate(
        """async () => {
             const { Live } = await import("./page/live.js");
             const sent = [];
             window.WebSocket = class {
               constructor() { this.bufferedAmount = 0; }
               send(x) { sent.push(x.length); }
               close() {}
             };
             const live = new Live({ rate: 16000, wish: {}, most: 4000, pieces: [new Int16Array(9000)] });
             await null;
             live.take({ type: "session.created", session: { id: "x" }, acknowledged: { samples: 2000 } });
             live.hear(new Int16Array(4001));
             return sent;
           }"""
    )
    assert sent == [2000, 4000, 1000, 4000, 1]


def test_the_protocols_own_messages_are_asked_for(browse: Open, address: str):
    page = browse(address, before=speaking())
    urls: list[str] = []
    page.on("websocket", lambda socket: urls.append(socket.url))
    listening(page)
    assert "extras=1" in urls[0]
    assert not page.faults


def test_tentative_text_never_ends_in_four_dots(browse: Open, address: str):
    page = browse(address, before=speaking())
    state(page, "idle")
    shown = page.evaluate(
        """async () => {
             const { View } = await import("./page/view.js");
             const view = new View(() => null);
             view.add({ track: "source", text: " So", start_ms: 0, end_ms: 500, language: "en" });
             const out = [];
             for (const text of [" times...", " times…", " times?", " times", ""]) {
               view.maybe({ source: text });
               out.push(document.querySelector("#source .maybe").textContent);
             }
             return out;
           }"""
    )
    assert shown == [" times...", " times…", " times?", " times…", ""]


@pytest.mark.parametrize("to", ["", "es"])
def test_no_translation_chosen_late_hides_nothing(browse: Open, address: str, to: str, tmp_path: Path):
    page = browse(address, before=speaking())
    state(page, "idle")
    page.select_option("#to", "es")
    page.click("#mic")
    words(page, "translation", "es(He was not)")
    page.click("#mic")
    state(page, "done")
    page.select_option("#to", to)
    assert page.locator("#translation-title").is_visible()
    assert "es(He was not)" in saved(page, "translation.srt").decode()
