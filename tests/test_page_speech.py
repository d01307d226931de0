"""The page speaks: a text that is typed, or what it has written, with each word marked while it is heard."""

import io
import wave
from typing import Any

from fake_server import FakeEngine, FakeSpeaker, wav
from page_browser import Open, address, app, browse, browser, needs_browser, running, saved, serving, state, wait

__all__ = ["address", "app", "browse", "browser", "saved"]
pytestmark = needs_browser
TEXT = "He came home. It was late."


def speech(page: Any, *states: str) -> None:
    page.wait_for_selector(", ".join(f"#speech[data-state={s}]" for s in states))


def open_dialog(page: Any, text: str = TEXT) -> None:
    state(page, "idle", "done")
    page.click("#open-speech")
    page.wait_for_selector("#speech[open]")
    page.fill("#speech-text", text)


def test_a_text_is_spoken_and_its_words_are_marked_in_turn(browse: Open, address: str):
    page = browse(address)
    open_dialog(page)
    page.evaluate(
        """() => { window.marked = [];
          new MutationObserver((all) => all.forEach((m) => {
            if (m.target.classList.contains("heard")) window.marked.push(m.target.textContent);
          })).observe(document.getElementById("speech-words"), { subtree: true, attributeFilter: ["class"] }); }"""
    )
    page.click("#speech-go")
    speech(page, "play")
    assert page.inner_text("#speech-words") == TEXT and page.is_hidden("#speech-text")
    speech(page, "done")
    marked = page.evaluate("window.marked")
    assert marked == TEXT.split(), "each word once, in order"
    assert page.locator("#speech-words .heard").count() == 0 and page.inner_text("#speech-go") == "Speak again"
    with page.expect_download() as download:
        page.click("#speech-save")
    with wave.open(str(download.value.path())) as file:
        assert file.getframerate() == 24_000 and file.getnframes() == round(2.1 * 24_000)
    page.click("#speech-edit")
    assert page.input_value("#speech-text") == TEXT and page.inner_text("#speech-go") == "Speak"
    assert not page.faults


def test_it_pauses_and_is_left(browse: Open):
    engine = FakeEngine()
    with running(serving(engine)) as url:
        page = browse(url)
        open_dialog(page, TEXT * 10)
        page.click("#speech-go")
        speech(page, "play")
        page.click("#speech-go")
        speech(page, "pause")
        word = page.inner_text("#speech-words .heard") if page.locator("#speech-words .heard").count() else ""
        page.wait_for_timeout(400)
        after = page.inner_text("#speech-words .heard") if page.locator("#speech-words .heard").count() else ""
        assert word == after and page.inner_text("#speech-go") == "Go on"
        page.click("#speech-go")
        speech(page, "play")
        page.click("#speech-close")
        page.wait_for_selector("#speech:not([open])", state="attached")
        assert page.get_attribute("#speech", "data-state") == "idle" and not page.faults


def test_what_was_written_is_heard_in_its_language(browse: Open):
    engine = FakeEngine()
    with running(serving(engine)) as url:
        page = browse(url)
        state(page, "idle")
        assert page.is_visible("#open-speech") and page.is_hidden(".listen[data-listen=source]")
        page.set_input_files("#file", [{"name": "a.wav", "mimeType": "audio/wav", "buffer": wav(3)}])
        page.wait_for_selector(".listen[data-listen=source]:not([hidden])")
        state(page, "done", "idle")
        page.click(".listen[data-listen=source]")
        speech(page, "done")
        assert page.inner_text("#speech-words") == "He was not"
        name, text, options = engine.speaker.asked[-1]
        assert (name, text, options.language) == ("heart", "He was not", "en-US")


def test_the_voice_and_the_speed_are_chosen(browse: Open):
    engine = FakeEngine()
    with running(serving(engine)) as url:
        page = browse(url)
        open_dialog(page, "Hola.")
        groups = page.locator("#speech-voice optgroup").evaluate_all("all => all.map((g) => g.label)")
        assert groups == ["English (US)", "Spanish"]
        page.select_option("#speech-voice", "ef_dora")
        page.select_option("#speech-speed", "1.25")
        page.click("#speech-go")
        speech(page, "done")
        name, _, options = engine.speaker.asked[-1]
        assert (name, options.language, options.speed) == ("ef_dora", "es", 1.25)


def test_what_cannot_be_spoken_is_told(browse: Open, address: str):
    page = browse(address)
    open_dialog(page, "🙂 ...")
    page.click("#speech-go")
    page.wait_for_selector("#speech-told:not([hidden])")
    wait(page, lambda: "words to speak" in page.inner_text("#speech-told"))
    page.click("#speech-edit")
    page.fill("#speech-text", "He came home. This is broken.")
    page.click("#speech-go")
    wait(page, lambda: "letters that this voice speaks" in page.inner_text("#speech-told"))
    assert page.get_attribute("#speech", "data-state") == "done"


def test_a_server_without_voices_offers_none(browse: Open):
    engine = FakeEngine()
    engine.speaker = type("Silent", (FakeSpeaker,), {"voices": ()})()
    with running(serving(engine)) as url:
        page = browse(url)
        state(page, "idle")
        assert page.is_hidden("#open-speech")


def test_on_a_phone_all_is_in_reach(browse: Open, address: str):
    page = browse(address, width=360, height=740)
    open_dialog(page)
    page.click("#speech-go")
    speech(page, "play", "done")
    page.wait_for_selector("#speech-go")
    for selector in ("#speech", "#speech-words", "#speech-voice", "#speech-speed", "#speech-go", "#speech-close"):
        box = page.locator(selector).bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 360 and box["y"] + box["height"] <= 740, selector
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert io.BytesIO(page.screenshot()).getbuffer().nbytes > 1000
