"""The page of `mmx serve` in a real browser, whose microphone plays a real recording."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason='needs the extra serve: pip install "mmx[serve]"')
pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")

import soundfile
from fake_server import FakeEngine, running
from playwright import sync_api

from mmx.streaming.server import create_app
from mmx.streaming.server_settings import Settings

ROOT = Path(__file__).parents[1]
TALK = ROOT / "demos" / "dashwood.flac"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = os.environ.get("MMX_CHROMIUM") or next((p for n in NAMES if (p := shutil.which(n))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="needs Chromium: apt install chromium, or set MMX_CHROMIUM to its path"),
]
WAIT_MS = 60_000
Open = Callable[..., Any]


@pytest.fixture
def browse(tmp_path: Path) -> Iterator[Open]:
    """Open a page of a server, with a microphone that hears the recording once."""
    samples, rate = soundfile.read(TALK, dtype="int16")
    soundfile.write(tmp_path / "talk.wav", samples, rate, subtype="PCM_16")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=BROWSER,
            args=[
                "--no-sandbox",
                "--use-fake-device-for-media-stream",
                "--use-fake-ui-for-media-stream",
                f"--use-file-for-fake-audio-capture={tmp_path / 'talk.wav'}%noloop",
            ],
        )

        def open(address: str, width: int = 1280, height: int = 800, **options: Any) -> Any:
            page: Any = browser.new_context(viewport={"width": width, "height": height}, **options).new_page()
            page.set_default_timeout(WAIT_MS)
            page.faults = []
            page.on("pageerror", lambda e: page.faults.append(str(e)))
            page.on("console", lambda m: page.faults.append(m.text) if m.type == "error" else None)
            page.goto(f"http://{address}/")
            return page

        yield open
        browser.close()


@pytest.fixture
def address() -> Iterator[str]:
    with running(create_app(FakeEngine())) as url:  # type: ignore[arg-type]
        yield url


def state(page: Any, name: str) -> None:
    page.wait_for_selector(f"body[data-state={name}]")


def words(page: Any, track: str, text: str) -> None:
    """Wait for the text of a track, without what may still change."""
    page.wait_for_function(
        """([id, text]) => [...document.querySelectorAll(`#${id} .new`)].map(e => e.textContent).join("")
           .includes(text)""",
        arg=[track, text],
    )


def test_speech_grows_into_text_and_translation_by_keyboard(browse: Open, address: str, tmp_path: Path):
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
    page.click("#save")
    with page.expect_download() as download:
        page.click('[data-save="source.srt"]')
    download.value.save_as(tmp_path / "said.srt")
    assert (tmp_path / "said.srt").read_text().startswith("1\n00:00:00,000 --> 00:00:03,000\nHe was not\n")
    assert not page.faults


def test_a_lost_connection_is_taken_up_again(browse: Open):
    app = create_app(FakeEngine())  # type: ignore[arg-type]
    with running(app) as address:
        page = browse(address)
        state(page, "idle")
        page.click("#mic")
        words(page, "source", "He was")
        page.evaluate(
            """() => { window.seen = []; new MutationObserver(() => window.seen.push(document.body.dataset.state))
                 .observe(document.body, { attributes: true }) }"""
        )
        (session,) = app.state.registry.sessions.values()
        session.connection.replaced.set()  # the server cuts the connection in the middle of speech
        for _ in range(WAIT_MS // 100):  # the page allows no evaluated code, which waiting for a function would be
            if page.evaluate("() => window.seen.includes('waiting') && window.seen.at(-1) === 'live'"):
                break
            page.wait_for_timeout(100)
        assert page.evaluate("() => window.seen.at(-1)") == "live"
        assert page.evaluate("() => window.seen.includes('waiting')")
        words(page, "source", "He was not an ill disposed")
        page.click("#mic")
        state(page, "done")
        assert len(app.state.registry.sessions) == 1


def test_a_dropped_recording_becomes_text(browse: Open, address: str):
    page = browse(address)
    state(page, "idle")
    page.set_input_files("#file", TALK)
    state(page, "done")
    words(page, "source", "He was not an ill disposed young man.")
    page.click("#save")
    with page.expect_download() as download:
        page.click('[data-save="source.vtt"]')
    assert Path(download.value.path()).read_text().startswith("WEBVTT")
    page.set_input_files("#file", ROOT / "README.md")
    state(page, "error")
    assert "expected sound or video" in page.locator("#status").inner_text()


def test_the_key_is_asked_for_once(browse: Open):
    with running(create_app(FakeEngine(), Settings(api_key="s3cret"))) as address:  # type: ignore[arg-type]
        page = browse(address)
        page.fill("#key-value", "s3cret")
        page.keyboard.press("Enter")
        state(page, "idle")
        page.click("#mic")
        words(page, "source", "He was")


def test_it_fits_a_phone(browse: Open, address: str):
    page = browse(address, 390, 844, is_mobile=True, has_touch=True)
    state(page, "idle")
    page.select_option("#to", "es")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate("document.documentElement.scrollHeight") <= 844
    for control in page.locator("button:visible, select:visible, .button:visible").all():
        box = control.bounding_box()
        assert box["height"] >= 44 and box["x"] >= 0 and box["x"] + box["width"] <= 390
    unnamed = page.evaluate(
        """[...document.querySelectorAll("button, select, input:not([hidden])")].filter(e => !e.labels?.length
           && !e.textContent.trim() && !e.ariaLabel).map(e => e.id)"""
    )
    assert not unnamed


def test_a_whole_talk_into_the_real_model(browse: Open):
    """Speech from the browser's microphone, through whisper-base, back on the page; `MMX_SHOT` keeps a picture."""
    import mmx
    from mmx.streaming.server_engine import Engine

    with running(create_app(Engine(mmx.load()))) as address:  # type: ignore[arg-type]
        page = browse(address)
        page.set_default_timeout(240_000)
        state(page, "idle")
        page.select_option("#from", "en")
        page.click("#mic")
        state(page, "live")
        words(page, "source", "young man")
        if shot := os.environ.get("MMX_SHOT"):
            page.screenshot(path=shot)
        page.click("#mic")
        state(page, "done")
        assert not page.faults
