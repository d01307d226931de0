"""For the tests of the page: a real browser, whose microphone plays a real recording, what they do with its page."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason='needs the extra serve: pip install "mmx[serve]"')
pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")

import numpy as np
import soundfile
from fake_server import WORDS, FakeEngine, running
from playwright import sync_api

from mmx.streaming.server.app import create_app
from mmx.streaming.server.settings import Settings
from mmx.tasks.events import Event

ROOT = Path(__file__).parents[1]
TALK = ROOT / "demos" / "dashwood.flac"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = os.environ.get("MMX_CHROMIUM") or next((p for n in NAMES if (p := shutil.which(n))), None)
needs_browser = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="needs Chromium: apt install chromium, or set MMX_CHROMIUM to its path"),
]
WAIT_MS = 60_000
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One browser for a file of tests; each test has pages of its own, which share nothing."""
    talk = tmp_path_factory.mktemp("microphone") / "talk.wav"
    samples, rate = soundfile.read(TALK, dtype="int16")
    soundfile.write(talk, samples, rate, subtype="PCM_16")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=BROWSER,
            args=[
                "--no-sandbox",
                "--use-fake-device-for-media-stream",
                "--use-fake-ui-for-media-stream",
                "--autoplay-policy=no-user-gesture-required",
                f"--use-file-for-fake-audio-capture={talk}%noloop",
            ],
        )
        yield browser
        browser.close()


@pytest.fixture
def browse(browser: Any) -> Iterator[Open]:
    """Open a page of a server, as a visitor who has never been there, or in the `context` of one who has."""
    contexts: list[Any] = []

    def open(
        address: str, width: int = 1280, height: int = 800, context: Any = None, before: Any = None, **options: Any
    ) -> Any:
        if context is None:
            context = browser.new_context(viewport={"width": width, "height": height}, **options)
            contexts.append(context)
        page: Any = context.new_page()
        page.set_default_timeout(WAIT_MS)
        page.faults = []
        page.on("pageerror", lambda e: page.faults.append(str(e)))
        page.on("console", lambda m: page.faults.append(m.text) if m.type == "error" else None)
        if before is not None:
            before(page)
        page.goto(address if address.startswith("http") else f"http://{address}/")
        return page

    yield open
    for context in contexts:
        context.close()


@pytest.fixture
def app() -> Any:
    """A server's application on a fake engine."""
    return serving()


@pytest.fixture
def address(app: Any) -> Iterator[str]:
    """Where `app` listens."""
    with running(app) as url:
        yield url


def serving(engine: FakeEngine | None = None, **settings: Any) -> Any:
    """An application with settings of its own, for `running`."""
    return create_app(engine or FakeEngine(), Settings(**settings))  # type: ignore[arg-type]


def state(page: Any, *names: str) -> None:
    """Wait for one of the page's states."""
    page.wait_for_selector(", ".join(f"body[data-state={name}]" for name in names))


def banner(page: Any) -> str:
    """What the message across the page says, once there is one."""
    page.wait_for_selector("#banner:not([hidden])")
    return page.inner_text("#banner-text")


def history(page: Any) -> None:
    """Open the history."""
    page.click("#open-history")
    page.wait_for_selector("#history[open]")


def text_of(page: Any, track: str = "source") -> str:
    """The text of a track, without what may still change."""
    return "".join(page.locator(f"#{track} .new").all_text_contents())


def words(page: Any, track: str, text: str) -> None:
    """Wait for the text of a track, without what may still change."""
    wait(page, lambda: text in text_of(page, track), lambda: f"expected {text!r} in {text_of(page, track)!r}")


def wait(page: Any, true: Callable[[], bool], otherwise: Callable[[], str] = lambda: "") -> None:
    """Wait for something outside the page, or that its policy lets no evaluated code wait for."""
    for _ in range(WAIT_MS // 50):
        if true():
            return
        page.wait_for_timeout(50)
    raise AssertionError(otherwise() or "expected to come true within a minute")


def saved(page: Any, name: str) -> bytes:
    """A file as Save gives it."""
    page.click("#save")
    with page.expect_download() as download:
        page.click(f'[data-save="{name}"]')
    return Path(download.value.path()).read_bytes()


# -------------------- sound that says which word it is

TONE_S, LOWEST_HZ, STEP_HZ, FRAME = 0.5, 400, 100, 800


def tones(page: Any) -> None:
    """Give a page a microphone that hears a tone for each word, half a second each, one higher than the other."""
    page.add_init_script(
        f"""navigator.mediaDevices.getUserMedia = async () => {{
              const context = new AudioContext();
              const tone = new OscillatorNode(context);
              for (let i = 0; i < 64; i += 1) {{
                tone.frequency.setValueAtTime({LOWEST_HZ} + {STEP_HZ} * i, context.currentTime + {TONE_S} * i);
              }}
              const out = context.createMediaStreamDestination();
              tone.connect(out);
              tone.start();
              tone.stop(context.currentTime + 64 * {TONE_S});
              return out.stream;
            }};"""
    )


class ToneStream:
    """Writes the word of each tone that it has heard to its end, in sentences of three."""

    def __init__(self, language: str | None, to: str | None):
        self.language = to or language or "en"
        self.rest = np.zeros(0, np.float32)
        self.frames, self.begun, self.seq, self.lag_s = 0, 0, 0, 0.0
        self.tone: int | None = None
        self.tentative = ""

    def push(self, samples: np.ndarray, final: bool = False) -> list[Event]:
        out: list[Event] = []
        self.rest = np.concatenate([self.rest, samples])
        while len(self.rest) >= FRAME:
            frame, self.rest = self.rest[:FRAME], self.rest[FRAME:]
            spectrum = np.abs(np.fft.rfft(frame))
            heard = round((spectrum.argmax() * 16_000 / FRAME - LOWEST_HZ) / STEP_HZ) if spectrum.max() > 1 else None
            if heard != self.tone:
                out += self._word()
                self.tone, self.begun = heard, self.frames
            self.frames += 1
        if final:
            out += self._word()
            end_s = self.frames * FRAME / 16_000
            out.append(Event(self.seq, "", end_s, end_s, end_s, True, self.language))
        return out

    def _word(self) -> list[Event]:
        if self.tone is None or self.frames - self.begun < 2:
            return []
        start_s, end_s = self.begun * FRAME / 16_000, self.frames * FRAME / 16_000
        word, ends, self.seq = f" {WORDS[self.tone % len(WORDS)]}", self.tone % 3 == 2, self.seq + 1
        return [Event(self.seq - 1, word, start_s, end_s, end_s, ends, self.language)]

    def forget(self) -> None:
        pass


class ToneEngine(FakeEngine):
    """Hears `tones`: what it writes depends on the sound, however it is cut."""

    step_s = 0.5

    def stream(self, language: str | None, to: str | None = None) -> Any:
        return ToneStream(language, to)


# -------------------- the network


class Network:
    """What lies between a page and its server's sockets; `cut` and `mend` take it away and give it back."""

    def __init__(self, up: bool = True):
        self.up = up
        self.sockets: list[tuple[Any, Any]] = []
        self.tries = 0
        self.sent: list[str] = []

    def __call__(self, page: Any) -> None:
        """Lay it, before the page is opened."""
        page.route_web_socket("**/v1/realtime*", self._open)

    def _open(self, socket: Any) -> None:
        self.tries += 1
        if not self.up:
            socket.close()
            return
        server = socket.connect_to_server()
        self.sockets.append((socket, server))
        socket.on_message(lambda data: self._send(server, data))

    def _send(self, server: Any, data: Any) -> None:
        if isinstance(data, str):
            self.sent.append(data)
        if self.up:
            server.send(data)

    def cut(self) -> None:
        self.up = False
        for socket, server in self.sockets:
            server.close()
            socket.close()
        self.sockets = []

    def mend(self) -> None:
        self.up = True
