"""What the page keeps in the browser: a history, the sound to hear again, files to save, with or without the server."""

import io
import itertools
from typing import Any

import pytest
import soundfile
from fake_server import running
from page_browser import (
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

__all__ = ["address", "app", "browse", "browser"]  # fixtures
pytestmark = needs_browser


def spoken(page: Any, text: str = "He was not") -> str:
    """Listen until `text` is there; what was said."""
    state(page, "idle", "done")
    page.click("#mic")
    words(page, "source", text)
    page.click("#mic")
    state(page, "done")
    return text_of(page)


def test_a_session_is_opened_renamed_saved_and_deleted(browse: Open, address: str):
    page = browse(address)
    said = spoken(page)
    page.reload()
    state(page, "idle")
    assert text_of(page) == ""
    history(page)
    assert page.locator("#history-list strong").all_inner_texts() == [said.strip()]
    page.click('#history-list button:text("Rename")')
    page.keyboard.type("Dashwood")
    page.keyboard.press("Enter")
    page.click('#history-list button:has-text("Dashwood")')
    state(page, "done")
    assert text_of(page).strip() == said.strip()
    assert saved(page, "source.srt").decode().startswith("1\n00:00:00,000 --> ")
    assert saved(page, "source.text").decode().strip() == said.strip()
    page.reload()
    state(page, "idle")
    history(page)
    assert page.locator("#history-list strong").all_inner_texts() == ["Dashwood"]
    page.click('#history-list button:text-is("Delete")')
    assert page.locator("#history-list li").count() == 1  # it is asked for twice
    page.click('#history-list button:text-is("Delete?")')
    page.wait_for_selector("#history-none:not([hidden])")
    page.reload()
    state(page, "idle")
    history(page)
    page.wait_for_selector("#history-none:not([hidden])")


@pytest.mark.long
def test_a_new_session_keeps_the_one_before(browse: Open, address: str):
    page = browse(address)
    spoken(page)
    spoken(page, "He was not an")
    history(page)
    assert page.locator("#history-list li").count() == 2
    page.click("#history-delete")
    page.click("#history-delete")
    page.wait_for_selector("#history-none:not([hidden])")
    assert text_of(page) == ""


def test_a_word_is_clicked_to_be_heard(browse: Open, address: str):
    page = browse(address)
    said = spoken(page, "He was not an").split()
    page.locator("#source .new").nth(2).click()
    page.wait_for_selector("#player:not([hidden])")
    audio = "document.querySelector('#audio')"
    wait(page, lambda: page.evaluate(f"{audio}.currentTime") > 2.05)
    assert page.locator("#source .heard").count() == 1
    assert page.evaluate(f"{audio}.duration") >= len(said) - 1
    page.click("#play")
    wait(page, lambda: page.evaluate(f"{audio}.paused"))
    page.locator(".time").first.click()
    wait(page, lambda: page.evaluate(f"!{audio}.paused && {audio}.currentTime < 2"))
    page.click("#player-close")
    assert page.locator(".heard").count() == 0
    sound, rate = soundfile.read(io.BytesIO(saved(page, "sound.wav")))
    assert len(sound) / rate >= len(said) - 1 and abs(sound).max() > 0.01


def test_a_recording_is_heard_after_a_reload(browse: Open, address: str):
    page = browse(address)
    state(page, "idle")
    page.set_input_files("#file", TALK)
    state(page, "done")
    page.reload()
    state(page, "idle")
    history(page)
    page.click("#history-list .open")
    page.locator("#source .new").nth(10).click()
    wait(page, lambda: page.evaluate("document.querySelector('#audio').currentTime") > 10)
    assert page.evaluate("document.querySelector('#audio').duration") > 27


def test_the_oldest_sound_goes_first_and_its_text_stays(browse: Open, address: str):
    page = browse(address)
    state(page, "idle")
    out = page.evaluate(
        """async () => {
             const { Store, MOST_SOUND } = await import("./page/store.js");
             const { newRecord } = await import("./page/text.js");
             const store = await new Store(() => null).open();
             const made = [];
             for (let i = 0; i < 3; i += 1) {
               const record = newRecord("live", { title: `t${i}` });
               record.created += i;
               record.bytes = MOST_SOUND * 0.4;
               await store.put(record, [{ track: "source", text: " a", start_ms: 0, end_ms: 1 }]);
               await store.addSound(record, 0, new Int16Array(10));
               await store.put(record);
               made.push(record);
             }
             const kept = [];
             for (const r of made) kept.push([(await store.sound(r)).length, (await store.lines(r.id)).length]);
             return [kept, (await store.all()).reduce((n, r) => n + r.bytes, 0) <= MOST_SOUND];
           }"""
    )
    assert out == [[[0, 1], [1, 1], [1, 1]], True]


def test_a_browser_that_keeps_nothing_is_told_once_and_works(browse: Open, address: str):
    page = browse(
        address,
        before=lambda p: p.add_init_script(
            "Object.defineProperty(window, 'indexedDB', { get() { throw new DOMException('no', 'SecurityError'); } })"
        ),
    )
    assert "keeps nothing" in banner(page)
    page.click("#banner-close")
    spoken(page)
    assert page.locator("#banner").is_hidden()
    assert b"He was not" in saved(page, "source.srt")


def test_two_tabs_do_not_take_each_others_sessions(browse: Open, app: Any, address: str):
    page = browse(address)
    state(page, "idle")
    page.click("#mic")
    words(page, "source", "He was not")
    other = browse(address, context=page.context)
    state(other, "idle")
    other.wait_for_timeout(2500)  # longer than it waits for the other to let go
    assert text_of(other) == "" and other.evaluate("document.body.dataset.state") == "idle"
    assert page.evaluate("document.body.dataset.state") == "live"
    assert len(app.state.registry.sessions) == 1
    history(other)
    assert other.locator("#history-list li").count() == 1


def test_save_and_copy_need_no_server(browse: Open):
    with running(serving()) as address:
        page = browse(address)
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        state(page, "idle")
        page.select_option("#to", "es")
        spoken(page)
    said = text_of(page)
    assert b"He was not" in saved(page, "source.srt")
    assert b"es(He was not)" in saved(page, "translation.text")
    page.click('[data-copy="source"]')
    wait(page, lambda: page.inner_text('[data-copy="source"]') == "Copied")
    assert page.evaluate("navigator.clipboard.readText()") == said.strip()


def formats(page: Any, lines: list[Any], call: str) -> Any:
    """What `formats.js` makes of lines (track, text, start, end, whether the sentence ends)."""
    return page.evaluate(
        """async ([lines, call]) => {
             const { Text, newRecord } = await import("./page/text.js");
             const formats = await import("./page/formats.js");
             const text = new Text(newRecord("live"));
             for (const [track, words, start_ms, end_ms, ends] of lines) {
               text.add({ track, text: words, start_ms, end_ms, language: "en" });
               if (ends) text.add({ track, done: true });
             }
             const [name, ...args] = call.split(" ");
             return formats[name](text, ...args);
           }""",
        [lines, call],
    )


def test_cues_fit_a_screen_and_stay_long_enough(browse: Open, address: str):
    page = browse(address)
    state(page, "idle")
    long = [["source", f" word{i},", 300 * i, 300 * i + 280, False] for i in range(60)]
    short = [["source", " Yes.", 30_000, 30_100, True], ["source", " No.", 30_400, 30_450, True]]
    cues = formats(page, [*long, ["source", " end.", 18_000, 18_500, True], *short], "cuesOf source")
    assert all(len(c["lines"]) <= 2 and all(len(line) <= 42 for line in c["lines"]) for c in cues)
    assert all(c["end_ms"] - c["start_ms"] <= 7000 for c in cues)
    assert [(c["start_ms"], c["end_ms"]) for c in cues[-2:]] == [(30_000, 30_400), (30_400, 31_100)]
    said = [*(f"word{i}," for i in range(60)), "end.", "Yes.", "No."]
    assert " ".join(line for c in cues for line in c["lines"]).split() == said
    assert all(a["end_ms"] <= b["start_ms"] for a, b in itertools.pairwise(cues))


def test_letters_without_spaces_are_cut_by_their_width(browse: Open, address: str):
    page = browse(address)
    state(page, "idle")
    text = "彼は性格の悪い若者ではなかった、もっとも冷たく利己的であることが"
    text += "性格の悪さでなければの話だが、それでも人々は彼を敬った。"
    cues = formats(page, [["translation", f" {text}", 0, 12_000, True]], "cuesOf translation")
    assert "".join(line for c in cues for line in c["lines"]) == text
    assert all(len(line) <= 21 for c in cues for line in c["lines"]) and len(cues) >= 2


def test_both_languages_in_one_file(browse: Open, address: str):
    page = browse(address)
    state(page, "idle")
    said = [
        ["source", " He was", 0, 1000, False], ["source", " <b>not</b>.", 1000, 2000, True],
        ["source", " Unless to be", 4000, 5000, False], ["source", " cold.", 5000, 6000, True],
        ["translation", " No lo era.", 0, 2000, True], ["translation", " Salvo ser frío.", 4000, 6000, True],
        ["source", " Untranslated.", 8000, 9000, True],
    ]  # fmt: skip
    assert formats(page, said, "written both srt") == (
        "1\n00:00:00,000 --> 00:00:02,000\nHe was <b>not</b>.\nNo lo era.\n\n"
        "2\n00:00:04,000 --> 00:00:06,000\nUnless to be cold.\nSalvo ser frío.\n\n"
        "3\n00:00:08,000 --> 00:00:09,000\nUntranslated.\n"
    )
    vtt = formats(page, said, "written source vtt")
    assert vtt.startswith("WEBVTT\n\n00:00:00.000 --> 00:00:02.000\nHe was &lt;b&gt;not&lt;/b&gt;.\n\n")
    assert formats(page, said, "written source text") == "He was <b>not</b>. Unless to be cold. Untranslated.\n"


def test_a_paragraph_ends_with_a_pause_or_when_it_is_long(browse: Open, address: str):
    page = browse(address)
    state(page, "idle")
    lines = [["source", " Twenty letters here.", 500 * i, 500 * i + 480, True] for i in range(30)]
    text = formats(page, [*lines, ["source", " After a pause.", 30_000, 31_000, True]], "written source text")
    parts = text.strip().split("\n\n")
    assert parts[-1] == "After a pause." and len(parts) == 3 and all(len(p) < 450 for p in parts)
