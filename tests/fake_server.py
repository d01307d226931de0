"""For the tests of `mmx serve`: models that answer at once, and the server on a real port."""

import io
import json
import threading
import time
import wave
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np

from mmx.errors import InputError
from mmx.media.audio import read_audio
from mmx.model import Model
from mmx.streaming.server.run import Server, configured
from mmx.streaming.server.voices import ServedVoice
from mmx.tasks.cascade import Route, Translator
from mmx.tasks.events import Event
from mmx.tasks.options import SpeakOptions
from mmx.tasks.result import Segment, SpokenSegment, Transcript, Word
from mmx.tasks.transcribe import Options, Progress
from mmx.text.sentences import split_sentences

WORDS = ["He", "was", "not", "an", "ill", "disposed", "young", "man."]


class FakeStream:
    """Writes one word for each second that it hears, in sentences of three."""

    def __init__(self, language: str | None, to: str | None):
        self.told = [language, to]
        self.heard, self.said, self.lag_s = 0, 0, 0.0

    @property
    def tentative(self) -> str:
        return f" {WORDS[self.said % len(WORDS)]}"

    def push(self, samples: np.ndarray, final: bool = False) -> list[Event]:
        self.heard += len(samples)
        out = []
        while self.said < self.heard // 16_000 or (final and self.said % 3):
            word = f" {WORDS[self.said % len(WORDS)]}" if self.said < self.heard // 16_000 else ""
            ends, at_s = self.said % 3 == 2 or not word, float(self.said)
            out.append(Event(self.said, word, at_s, at_s + 1, at_s + 1, ends, self.told[1] or self.told[0] or "en"))
            if not word:
                break
            self.said += 1
        return out

    def forget(self) -> None:
        pass

    def save(self, path: Path) -> None:
        path.write_text(json.dumps([self.told, self.heard, self.said]))


class FakeSpeaker:
    """Speaks a tone of a tenth of a second for each letter, a sentence a block; waits for `go` before each but the
    first, and breaks off at a sentence that says "broken"."""

    voices = (
        ServedVoice("heart", ("en-US",), "hibari"), ServedVoice("am_echo", ("en-US",), "kokoro"),
        ServedVoice("ef_dora", ("es",), "kokoro"),
    )  # fmt: skip

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.asked: list[tuple[str, str, SpeakOptions]] = []
        self.rate, self.made = 24_000, 0

    def speak(self, voice: ServedVoice, text: str, options: SpeakOptions) -> Iterator[SpokenSegment]:
        self.asked.append((voice.name, text, options))
        at_s = 0.0
        for sentence in (s.text for s in split_sentences(text) if s.text):
            if at_s:
                self.go.wait(20)
            if "broken" in sentence:
                raise InputError("expected letters that this voice speaks, got others")
            if not any(c.isalpha() for c in sentence):
                raise InputError("expected a text with words to speak, got none")
            words, begun_s = [], 0.0
            for word in sentence.split():
                words.append(Word(f" {word}", begun_s, begun_s + len(word) / 10))
                begun_s += len(word) / 10
            samples = 0.3 * np.sin(np.arange(round(begun_s * self.rate)) * 0.1)
            self.made += 1
            yield SpokenSegment(at_s, samples.astype(np.float32), self.rate, tuple(words), sentence)
            at_s += begun_s


class FakeEngine:
    """Stands for the models: a recording says `WORDS`, one a second."""

    names = ["tiny", "text"]  # noqa: RUF012
    languages = {"en": "English", "de": "German"}  # noqa: RUF012
    targets = {"en": "English", "es": "Spanish"}  # noqa: RUF012
    step_s = 1.0
    frames = both = None

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.asked: list[Options] = []
        self.speaker: Any = FakeSpeaker()

    def check(self, language: str | None, to: str | None) -> None:
        if language not in (None, "en", "de") or to not in (None, "en", "es"):
            raise InputError(f"expected a language among en, de, got {language or to!r}")

    def route(self, language: str | None, to: str) -> Route:
        if to == "en":
            return Route(Options(language=language, task="translate", to=to))
        return Route(Options(language=language), cast(Model, "text"))

    def transcribe(self, source: Any, options: Options, on_progress: Callable[[Progress], None]) -> Transcript:
        self.asked.append(options)
        self.go.wait(20)
        sound = read_audio(source)
        segments: tuple[Segment, ...] = ()
        for i in range(len(sound) // 16_000):
            word = Word(f" {WORDS[i % len(WORDS)]}", float(i), i + 1.0, 0.9)
            segments += (Segment(i, i + 1.0, word.text, "en", words=(word,)),)
            on_progress(Progress("x", i + 1.0, len(sound) / 16_000, segments=segments))
        return Transcript("x", segments, options.language or "en", 1.0, len(sound) / 16_000, options.task, "tiny")

    def stream(self, language: str | None, to: str | None = None) -> FakeStream:
        return FakeStream(language, to)

    def restore(self, path: Path) -> FakeStream:
        told, heard, said = json.loads(path.read_text())
        stream = FakeStream(*told)
        stream.heard, stream.said = heard, said
        return stream

    def translator(self, to: str) -> Translator:
        return Translator(lambda text, language: (self.translated(text, language, to), 0.0), to)

    def translated(self, text: str, language: str, to: str) -> str:
        return f"{to}({text})"


def wav(seconds: float) -> bytes:
    """Silence as a file."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(bytes(2 * round(seconds * 16_000)))
    return out.getvalue()


SERVERS: dict[str, tuple[Server, threading.Thread]] = {}


@contextmanager
def running(app: Any) -> Iterator[str]:
    """The server in a thread, on a free port."""
    server = Server(configured(app, port=0))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.05)
        address = f"127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        SERVERS[address] = server, thread
        yield address
    finally:
        server.should_exit = True
        thread.join(30)


def stop(address: str) -> None:
    """Tell a server of `running` to stop, as a signal does, and wait until it has."""
    server, thread = SERVERS[address]
    server.should_exit = True
    thread.join(30)
    assert not thread.is_alive()


if __name__ == "__main__":  # a server of its own process, to be killed: says where it listens, until its input ends
    import signal
    import sys

    from mmx.streaming.server.app import create_app
    from mmx.streaming.server.settings import Settings

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # which ends in order
    settings = Settings(state_dir=Path(sys.argv[1]), max_sessions=1000)
    with running(create_app(FakeEngine(), settings)) as address:  # type: ignore[arg-type]
        print(address, flush=True)
        sys.stdin.read()
