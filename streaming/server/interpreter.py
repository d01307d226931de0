"""What a live session hears with: a stream that writes what is said, one that translates, a text model behind them."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from mmx.clip import Clip
from mmx.media.audio import SAMPLE_RATE as RATE
from mmx.streaming.server.engine import Engine
from mmx.streaming.stream import Stream
from mmx.tasks.cascade import Translator
from mmx.tasks.events import Event, Track


@dataclass(frozen=True)
class SessionConfig:
    """What a live session is asked for.

    Attributes:
        language: that is spoken; None detects it.
        to: language to translate into; None does not.
        source: whether what is said is written, too.
        rate: of the sound that the client sends, in Hz; of frames, where the model reads those.
        format: of that sound, a key of `mmx.streaming.server.protocol.FORMATS`; the `name` of `frames.FrameFormat`
            or `audio_visual.AudioVisualFormat`.
        manual: whether an item ends only where the client commits, not with a sentence or a pause.
        echoed: what else the client set, which is sent back to it and has no effect.
    """

    language: str | None = None
    to: str | None = None
    source: bool = True
    rate: float = RATE
    format: str = "audio/pcm"
    manual: bool = False
    echoed: dict[str, Any] = field(default_factory=dict)

    def hears_as(self, other: "SessionConfig") -> bool:
        """Whether the same streams serve both."""
        return (self.language, self.to, self.source) == (other.language, other.to, other.source)


class Interpreter:
    """The ears of one session, for one thread at a time.

    Args:
        engine: the models.
        config: what is asked for.
        begin_s: time of the session at which it begins to hear.

    Raises:
        InputError: the models cannot do it.
    """

    def __init__(self, engine: Engine, config: SessionConfig, begin_s: float = 0.0):
        engine.check(config.language, config.to)
        self.engine, self.config, self.begin_s = engine, config, begin_s
        self.streams: dict[str, Stream] = {}
        self.translator: Translator | None = None
        self.translated = ""  # the stream that it reads
        if config.source or config.to is None:
            self.streams["source"] = engine.stream(config.language)
        if config.to is not None:
            self._translate(config.language, config.to)

    def _translate(self, language: str | None, to: str) -> None:
        """The streams and the text model that a translation takes."""
        route = self.engine.route(language, to)
        if route.text_model is None:
            self.streams["translation"] = self.engine.stream(language, to)
            return
        self.translator = self.engine.translator(to)
        self.translated = "source" if route.first.task == "transcribe" else "english"
        if self.translated not in self.streams:
            self.streams[self.translated] = self.engine.stream(language, None if self.translated == "source" else "en")

    def push(self, samples: NDArray[np.float32] | Clip, final: bool = False) -> list[Event]:
        """Listen on, at 16 kHz, or see more; what may be written now, by the clock of the session."""
        out: list[Event] = []
        for name, stream in self.streams.items():
            events = stream.push(samples, final)
            stream.forget()
            if self._shown(name):
                out += [self._timed(e, name) for e in events]
            if self.translator is not None and name == self.translated:
                out += [self._timed(e, "translation") for e in self.translator.take(events, final)]
                self.translator.forget()
        return out

    def notes(self) -> list[str]:
        """What could not be translated since the last call, and stays as it was said."""
        return [] if self.translator is None else self.translator.notes()

    @property
    def tentative(self) -> dict[str, str]:
        """What may be written next in each track; it may change."""
        return {name: stream.tentative for name, stream in self.streams.items() if self._shown(name)}

    def _shown(self, stream: str) -> TypeGuard[Track]:
        """Whether the client is shown what a stream writes: that may serve the text model alone."""
        return stream == "translation" or (stream == "source" and (self.config.source or self.config.to is None))

    def _timed(self, e: Event, track: Track) -> Event:
        return replace(e, track=track, start_s=e.start_s + self.begin_s, end_s=e.end_s + self.begin_s)

    # -------------------- saved and restored

    def save(self, stem: Path) -> dict[str, Any]:
        """Write the streams beside each other; the rest is returned, to go into JSON."""
        pending = [] if self.translator is None else self.translator.words
        for track, stream in self.streams.items():
            stream.save(stem.with_suffix(f".{track}.safetensors"))
        return {
            "begin_s": self.begin_s,
            "tracks": list(self.streams),
            "sentence": [asdict(e) for e in pending],
        }

    @classmethod
    def restore(cls, engine: Engine, config: SessionConfig, stem: Path, saved: dict[str, Any]) -> "Interpreter":
        """Go on with what `save` wrote."""
        self = cls(engine, replace(config), saved["begin_s"])
        self.streams = {t: engine.restore(stem.with_suffix(f".{t}.safetensors")) for t in saved["tracks"]}
        if self.translator is not None:
            self.translator.words = [Event(**e) for e in saved["sentence"]]
        return self
