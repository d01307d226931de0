"""The page of `mmx serve` in a real browser: its controls, its shape on all screens, its keys and dialogs."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from fake_server import running
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
    wait,
    words,
)

__all__ = ["address", "app", "browse", "browser"]  # fixtures
pytestmark = needs_browser
LIVE_TEXT = "He was not an ill disposed"


def test_speech_grows_into_text_and_translation_by_keyboard(browse: Open, address: str):
    page = browse(address)
    state(page, "idle")
    page.select_option("#to", "es")
    page.keyboard.press("Tab")
    page.locator("h1").click()  # the space bar is for the microphone where no control has the focus
    page.keyboard.press("Space")
    state(page, "live")
    words(page, "source", "He was not")
    words(page, "translation", "es(He was not)")
    assert page.locator("#lag").inner_text() != "–"
    assert float(page.locator("#meter").get_attribute("aria-valuenow")) >= 0
    page.keyboard.press("Space")
    state(page, "done")
    assert saved(page, "source.srt").decode().startswith("1\n00:00:00,000 --> 00:00:03,000\nHe was not\n")
    assert not page.faults


def test_space_in_the_text_scrolls_and_does_not_stop(browse: Open, address: str):
    page = browse(address)
    state(page, "idle")
    page.click("#mic")
    words(page, "source", "He was")
    page.focus("#text")
    page.keyboard.press("Space")
    page.wait_for_timeout(500)
    assert page.evaluate("document.body.dataset.state") == "live"


def test_the_save_menu_goes_by_arrow_keys(browse: Open, address: str):
    page = browse(address)
    state(page, "idle")
    page.set_input_files("#file", TALK)
    state(page, "done")
    page.focus("#save")
    page.keyboard.press("ArrowDown")
    assert page.get_attribute("#saves", "role") == "menu"
    names = page.locator("#saves [role=menuitem]").evaluate_all("all => all.map(e => e.dataset.save)")
    focus = "document.activeElement.dataset.save"
    assert page.evaluate(focus) == names[0]
    page.keyboard.press("ArrowDown")
    assert page.evaluate(focus) == names[1]
    page.keyboard.press("Home")
    page.keyboard.press("ArrowUp")
    assert page.evaluate(focus) == names[-1]
    page.keyboard.press("Escape")
    assert page.locator("#saves").is_hidden() and page.evaluate("document.activeElement.id") == "save"


def test_every_control_has_one_name_and_texts_are_announced(browse: Open, address: str):
    page = browse(address)
    state(page, "idle")
    unnamed = page.evaluate(
        """[...document.querySelectorAll("button, select, input")]
           .filter(e => !e.labels?.length && !e.closest("[hidden]") && !e.textContent.trim() && !e.ariaLabel)
           .map(e => e.id)"""
    )
    assert not unnamed
    assert page.get_attribute("#mic", "aria-pressed") is None  # its name says what it does
    for id in ("source", "translation"):
        assert page.get_attribute(f"#{id}", "aria-live") == "polite"
    assert page.get_attribute("#banner", "role") == "alert"
    assert page.get_attribute("#status", "role") == "status"


def test_the_hint_stands_where_one_looks_and_draws_the_drop_target(browse: Open, address: str):
    page = browse(address)
    state(page, "idle")
    card, hint = page.locator("#card").bounding_box(), page.locator("#hint").bounding_box()
    assert card["y"] < hint["y"] and hint["y"] + hint["height"] <= card["y"] + card["height"]
    assert hint["height"] > card["height"] / 2
    assert page.locator("#hint").evaluate("e => getComputedStyle(e).borderStyle") == "dashed"
    page.set_input_files("#file", TALK)
    state(page, "done")
    assert page.locator("#hint").is_hidden()


def test_text_fades_out_under_the_headings(browse: Open, address: str):
    page = browse(address, 390, 600)
    state(page, "idle")
    page.evaluate(
        """async () => {
             const { View } = await import("./page/view.js");
             const line = { track: "source", text: " Something that is said.".repeat(40), start_ms: 0, end_ms: 9000 };
             new View(() => null).add(line);
             document.querySelector("#text").scrollTop = 0;
           }"""
    )
    shade = "getComputedStyle(document.querySelector('#source-title'), '::after').opacity"
    wait(page, lambda: float(page.evaluate(shade)) == 0)
    page.evaluate("document.querySelector('#text').scrollTop = 60")
    wait(page, lambda: float(page.evaluate(shade)) == 1)
    title = page.locator("#source-title").bounding_box()
    assert page.evaluate(
        "([x, y]) => document.elementFromPoint(x, y).closest('h2')?.id", [title["x"] + 5, title["y"] + 5]
    )


@pytest.mark.parametrize("width, height", [(390, 844), (320, 568), (844, 390)])
def test_it_fits_a_phone(browse: Open, address: str, width: int, height: int):
    page = browse(address, width, height, is_mobile=True, has_touch=True)
    state(page, "idle")
    page.select_option("#to", "es")
    page.set_input_files("#file", TALK)
    state(page, "done")
    page.set_input_files("#file", ROOT / "README.md")
    banner(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.documentElement.scrollHeight") <= height
    for control in page.locator("button:visible:not(.time):not(#text *), select:visible, .button:visible").all():
        box = control.bounding_box()
        assert box["height"] >= 44 and box["x"] >= 0 and box["x"] + box["width"] <= width, control.inner_text()
    page.click("#banner-close")
    page.locator("#jobs .close").click()
    assert page.locator("#text").bounding_box()["height"] > 0.3 * height


@pytest.mark.parametrize("width", [390, 1280])
def test_source_and_translation_stand_beside_each_other(browse: Open, address: str, width: int):
    """Paragraph by paragraph: beside each other on a desk, below each other on a phone; one thing scrolls."""
    page = browse(address, width, 844)
    state(page, "idle")
    boxes = page.evaluate(
        """async () => {
             const { View } = await import("./page/view.js");
             const view = new View(() => null);
             view.columns(true);
             for (let i = 0; i < 4; i += 1) {
               const at = { start_ms: i * 10000, end_ms: i * 10000 + 5000, language: "en" };
               view.add({ ...at, track: "source", text: " Said at some length, more than one line.".repeat(i + 1) });
               view.add({ ...at, track: "translation", text: " Algo." });
             }
             const box = (e) => { const b = e.getBoundingClientRect(); return [b.x, b.y, b.bottom]; };
             const all = (id) => [...document.querySelectorAll(`#${id} p`)].map(box);
             return { source: all("source"), translation: all("translation"),
                      times: [...document.querySelectorAll(".time")].map(box),
                      scrolling: [...document.querySelectorAll("#card *")]
                        .filter(e => getComputedStyle(e).overflowY === "auto").length };
           }"""
    )
    assert len(boxes["source"]) == len(boxes["translation"]) == len(boxes["times"]) == 4
    assert boxes["scrolling"] == 1
    for said, meant in zip(boxes["source"], boxes["translation"], strict=True):
        if width > 700:
            assert said[1] == meant[1] and said[0] < meant[0]
        else:
            assert meant[1] >= said[2] and said[2] + 20 > meant[1]


# -------------------- keys


def test_the_key_is_asked_for_once(browse: Open):
    with running(serving(api_key="s3cret")) as address:
        page = browse(address)
        page.fill("#key-value", "s3cret")
        page.keyboard.press("Enter")
        state(page, "idle")
        page.click("#mic")
        words(page, "source", "He was")
        page.reload()
        state(page, "busy", "done")


def test_a_wrong_key_is_told_and_the_dialog_can_be_left(browse: Open):
    with running(serving(api_key="s3cret")) as address:
        page = browse(address)
        page.wait_for_selector("#key[open]")
        assert page.locator("#key-wrong").is_hidden()
        page.fill("#key-value", "wr0ng")
        page.keyboard.press("Enter")
        page.wait_for_selector("#key-wrong:not([hidden])")
        page.keyboard.press("Escape")
        assert "key" in banner(page)
        assert page.locator("#key").is_hidden()
        page.click("#banner-act")
        page.wait_for_selector("#key[open]")
        page.click("#key-later")
        assert "key" in banner(page)
        page.click("#banner-act")
        page.fill("#key-value", "s3cret")
        page.keyboard.press("Enter")
        state(page, "idle")


def test_a_key_that_is_no_longer_right_is_asked_for(browse: Open):
    """The server was started again with another key while the page was open."""
    with running(serving(api_key="s3cret")) as address:
        page = browse(address)
        page.fill("#key-value", "s3cret")
        page.keyboard.press("Enter")
        state(page, "idle")

        def other_key(socket: Any) -> None:
            server = socket.connect_to_server()
            socket.on_message(
                lambda data: server.send(data.replace("s3cret", "old") if isinstance(data, str) else data)
            )

        page.route_web_socket("**/v1/realtime*", other_key)
        page.click("#mic")
        state(page, "error")
        assert "did not accept the key" in banner(page)
        page.click("#banner-act")
        page.wait_for_selector("#key[open]")


# -------------------- paths, proxies, servers that are away


@contextmanager
def below(address: str, prefix: str, drop: str = "?never?") -> Iterator[str]:
    """A proxy that shows the server below a path, and does not let through what has `drop` in its path."""
    port = int(address.rsplit(":", 1)[1])
    listener = socket.create_server(("127.0.0.1", 0))
    mine = listener.getsockname()[1]

    def pipe(a: socket.socket, b: socket.socket) -> None:
        with suppress(OSError):
            while data := a.recv(65536):
                b.sendall(data)
        for s in (a, b):
            with suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)

    def serve(client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            if not (data := client.recv(65536)):
                client.close()
                return
            head += data
        first, rest = head.split(b"\r\n", 1)
        verb, path, version = first.split(b" ")
        if not path.startswith(prefix.encode()) or drop.encode() in path:
            client.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            client.close()
            return
        rest = rest.replace(b"Connection: keep-alive", b"Connection: close")
        server = socket.create_connection(("127.0.0.1", port))
        server.sendall(b" ".join([verb, path[len(prefix) - 1 :], version]) + b"\r\n" + rest)
        threading.Thread(target=pipe, args=(client, server), daemon=True).start()
        pipe(server, client)

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{mine}{prefix}"
    finally:
        listener.close()


def test_it_works_below_a_path(browse: Open, address: str):
    with below(address, "/speech/here/") as url:
        page = browse(url)
        state(page, "idle")
        assert page.locator("#mic").evaluate("e => getComputedStyle(e).borderRadius") != "0px"
        page.set_input_files("#file", TALK)
        state(page, "done")
        page.click("#mic")
        words(page, "source", "He was")
        page.click("#mic")
        state(page, "done")
        assert not page.faults


def test_a_program_that_is_not_let_through_is_told(browse: Open, address: str):
    """As behind a proxy whose host name the server does not take for its own: module scripts are refused."""
    with below(address, "/", drop="app.js") as url:
        page = browse(url)
        assert "could not be loaded" in banner(page)
        page.click("#banner-close")
        assert page.locator("#banner").is_hidden()


def test_a_server_that_is_away_is_told_and_tried_again(browse: Open, address: str):
    page = browse(address, before=lambda p: p.route("**/v1/capabilities", lambda route: route.abort()))
    state(page, "error")
    assert "does not answer" in banner(page)
    page.unroute("**/v1/capabilities")
    page.click("#banner-act")
    state(page, "idle")
    assert page.locator("#from option").count() == 3


def test_the_policy_lets_nothing_in_from_elsewhere(browse: Open, address: str):
    page = browse(address)
    state(page, "idle")
    policy = page.request.get(f"http://{address}/").headers["content-security-policy"]
    module = page.request.get(f"http://{address}/page/live.js").headers
    assert module["cache-control"] == "no-cache"  # else a page may mix modules of two versions
    rules = {r.split()[0]: r.split()[1:] for r in policy.split(";")}
    assert rules["default-src"] == ["'self'"] and "script-src" not in rules
    assert not {"'unsafe-inline'", "'unsafe-eval'", "*", "https:", "http:"} & {x for r in rules.values() for x in r}


def test_names_and_texts_of_others_stay_text(browse: Open, address: str):
    """What a recording, a server or a file's name says never becomes part of the page's program."""
    page = browse(address)
    state(page, "idle")
    name = "<img src=x onerror=alert(1)>.flac"
    page.set_input_files("#file", {"name": name, "mimeType": "audio/flac", "buffer": TALK.read_bytes()})
    state(page, "done")
    history(page)
    assert page.locator("#history-list strong").first.inner_text() == name
    assert page.locator("main img, dialog img").count() == 0


@pytest.mark.long
def test_a_whole_talk_into_the_real_model(browse: Open, whisper_base: Any):
    """Speech from the browser's microphone, through whisper-base, back on the page; `MMX_SHOT` keeps a picture."""
    from mmx.streaming.server.engine import Engine

    with running(serving(Engine(whisper_base))) as address:  # type: ignore[arg-type]
        page = browse(address)
        page.set_default_timeout(240_000)
        state(page, "idle")
        page.select_option("#from", "en")
        page.click("#mic")
        state(page, "live")
        page.wait_for_function(
            """() => [...document.querySelectorAll("#source .new")].map(e => e.textContent).join("")
               .includes("young man")"""
        )
        if shot := os.environ.get("MMX_SHOT"):
            page.screenshot(path=shot)
        page.click("#mic")
        state(page, "done")
        assert not page.faults
