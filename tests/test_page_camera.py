"""The page's camera, of a server whose model reads points of hands: pictures go there, points come back, text grows.

The browser's camera is a fake that shows moving shapes; what finds points is a stand-in, as there are no hands in them.
"""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_server import running
from page_browser import Open, browse, browser, needs_browser, serving, state, text_of, wait
from test_fingerspelling import poses, spelling_model
from test_lips_and_sound import tiny

from mmx.media.live_mouth import LiveMouth
from mmx.media.mouth import MEAN_FACE
from mmx.streaming.server.engine import Engine

__all__ = ["browse", "browser"]  # fixtures
pytestmark = needs_browser
HANDS = poses([600], 3).x[0].numpy()


class HandsInPictures:
    """Finds the hands of a random spelling, a frame of it in each picture that comes."""

    seen: list[tuple[int, ...]]

    def __init__(self, groups: Sequence[str], extractor: str):
        assert list(groups) == ["LEFT_HAND_LANDMARKS", "RIGHT_HAND_LANDMARKS"] and extractor
        type(self).seen = []

    def points(self, frames: np.ndarray) -> np.ndarray:
        at = len(self.seen)
        self.seen.append(frames.shape)
        return HANDS[at % len(HANDS)][None]

    def close(self) -> None:
        self.seen.append(())


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setattr("mmx.streaming.server.sight.Landmarks", HandsInPictures)
    engine: Any = Engine(spelling_model(), step_s=0.2)
    return serving(engine, state_dir=tmp_path)


@pytest.fixture
def address(app: Any) -> Iterator[str]:
    with running(app) as url:
        yield url


def drawn(page: Any) -> int:
    """Pixels of the points over the picture."""
    return page.evaluate(
        """() => { const c = document.querySelector("#points");
             const { data } = c.getContext("2d").getImageData(0, 0, c.width, c.height);
             return data.filter((x, i) => i % 4 === 3 && x).length; }"""
    )


def test_a_camera_is_read_and_shown_with_its_points_and_no_picture_is_kept(
    browse: Open, address: str, tmp_path: Path
) -> None:
    page = browse(address, permissions=["camera"])
    state(page, "idle")
    assert page.inner_text("#mic") == "Start camera"
    assert page.inner_text("#source-title span").startswith("Signed")
    assert "" not in page.locator("#from option").evaluate_all("all => all.map(o => o.value)")  # it detects no language
    page.select_option("#from", "ase")
    page.click("#mic")
    state(page, "live")
    wait(page, lambda: drawn(page) > 100)
    assert page.is_visible("#picture") and page.evaluate("() => document.querySelector('#picture').videoWidth") > 100
    wait(page, lambda: "pictures a second" in page.inner_text("#seen"))
    wait(page, lambda: len(text_of(page)) > 5, lambda: text_of(page))
    kept = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert kept and b"\xff\xd8\xff" not in kept and b"JFIF" not in kept  # the journal has points only
    page.click("#mic")
    state(page, "done")
    assert page.is_hidden("#sight")
    assert {len(s) for s in HandsInPictures.seen[:-1]} == {4} and HandsInPictures.seen[0][2] == 480
    page.click("#save")
    assert page.locator('[data-save="sound.wav"]').count() == 0
    assert not page.faults


def test_a_lost_connection_goes_on_where_it_was(browse: Open, app: Any, address: str) -> None:
    page = browse(address, permissions=["camera"])
    state(page, "idle")
    page.select_option("#from", "ase")
    page.click("#mic")
    wait(page, lambda: len(text_of(page)) > 2, lambda: text_of(page))
    (session,) = app.state.registry.sessions.values()
    before, seen = text_of(page), session.received
    session.connection.replaced.set()  # the server cuts the connection
    wait(page, lambda: session.received > seen + 25)
    wait(page, lambda: len(text_of(page)) > len(before))
    page.click("#mic")
    state(page, "done")
    assert text_of(page).startswith(before) and len(app.state.registry.sessions) == 1
    assert not [fault for fault in page.faults if "WebSocket" not in fault]


def test_a_camera_that_is_missing_is_told(browse: Open, address: str) -> None:
    refuse = "navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('none', 'NotFoundError') }"
    page = browse(address, before=lambda page: page.add_init_script(refuse))
    state(page, "idle")
    page.click("#mic")
    page.wait_for_selector("#banner:not([hidden])")
    assert "No camera was found" in page.inner_text("#banner-text")


def test_pictures_are_left_out_while_the_server_is_behind(
    browse: Open, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then a picture stands for the frames since the one before: the clock of the session goes on."""

    ended = threading.Event()

    def slow(self: HandsInPictures, frames: np.ndarray) -> np.ndarray:
        ended.wait(0.2)
        return HANDS[:1]

    monkeypatch.setattr(HandsInPictures, "points", slow)
    page = browse(address, permissions=["camera"])
    state(page, "idle")
    page.select_option("#from", "ase")
    page.click("#mic")
    state(page, "live")
    wait(page, lambda: "left out" in (told := page.inner_text("#seen")) and int(told.split(";")[1].split()[0]) > 10)
    assert page.inner_text("#clock") != "0:00"
    ended.set()
    page.click("#mic")
    state(page, "done")


# -------------------- lips and sound


def babbling() -> Any:
    """Lips and sound with random weights that writes much: its blank is unlikely, and so are all but a few letters."""
    model: Any = tiny()
    with torch.no_grad():
        bias = model.heads["ctc"].out.bias.fill_(-30.0)
        bias[model.require_tokenizer().encode("abcd ")] = 0.0
        bias[-1] = 0.5
    return model


FACE = np.array([*MEAN_FACE, [-14, 158], [14, 158], [0, 154], [0, 162]], np.float32) + np.array([240, 40], np.float32)


def test_lips_and_sound_are_read_together_and_a_lost_face_is_told(
    browse: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    there = threading.Event()
    there.set()
    monkeypatch.setattr(
        "mmx.streaming.server.sight.LiveMouth",
        lambda shape: LiveMouth(shape, lambda _: [FACE] if there.is_set() else []),
    )
    engine: Any = Engine(babbling(), step_s=0.2)
    app = serving(engine, state_dir=tmp_path)
    with running(app) as address:
        page = browse(address, permissions=["camera", "microphone"])
        state(page, "idle")
        assert page.inner_text("#mic") == "Start listening" and "speak to the camera" in page.inner_text("#hint")
        page.click("#mic")
        state(page, "live")
        assert page.inner_text("#status") == "Listening and watching"
        wait(page, lambda: drawn(page) > 100)
        wait(page, lambda: len(text_of(page)) > 5, lambda: text_of(page))
        (session,) = app.state.registry.sessions.values()
        assert session.frames.name == session.asked.format and session.presence is not None
        there.clear()
        wait(page, lambda: "No picture for 1 s: goes on with the sound alone" in page.inner_text("#banner-text"))
        assert "sound alone" in page.inner_text("#seen")
        wait(page, lambda: drawn(page) == 0)
        there.set()
        wait(page, lambda: "The picture is back" in page.inner_text("#banner-text"))
        kept = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
        assert kept and b"JFIF" not in kept
        page.click("#mic")
        state(page, "done")
        assert page.is_hidden("#sight") and not page.faults


def test_without_a_camera_the_sound_goes_on_alone(browse: Open) -> None:
    refuse = """const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
      navigator.mediaDevices.getUserMedia = (what) =>
        what.video ? Promise.reject(new DOMException("none", "NotFoundError")) : ask(what);"""
    engine: Any = Engine(babbling(), step_s=0.2)
    with running(serving(engine)) as address:
        page = browse(address, permissions=["microphone"], before=lambda page: page.add_init_script(refuse))
        state(page, "idle")
        page.click("#mic")
        state(page, "live")
        page.wait_for_selector("#banner:not([hidden])")
        assert "No camera was found" in page.inner_text("#banner-text")
        wait(page, lambda: len(text_of(page)) > 5, lambda: text_of(page))
        assert page.is_hidden("#sight")
        page.click("#mic")
        state(page, "done")
