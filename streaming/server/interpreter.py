"""What a live session hears with: a stream that writes what is said, one that translates, a text model behind them."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmx.clip import Clip
from mmx.media.audio import SAMPLE_RATE as RATE
from mmx.streaming.server.engine import Engine
from mmx.streaming.stream import Stream
from mmx.tasks.cascade import Translator
from mmx.tasks.events import Event

TRACKS = ("source", "translation")


@dataclass(frozen=True)
class SessionConfig:
    """What a live session is asked for.

    Attributes:
        language: that is spoken; None detects it.
        to: language to translate into; None does not.
        source: whether what is said is written, too.
        rate: of the sound that the client sends, in Hz; of frames, where the model reads those.
        format: of that sound, a key of `mmx.streaming.server.protocol.FORMATS`; `FrameFormat.name` of frames.
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


@dataclass(frozen=True)
class Piece:
    """What a session says to its client: a piece of a track of text that is only appended to.

    Attributes:
        track: "source" or "translation"; "error" and "end" tell what happened to the session.
        text: to append; of an error, its message.
        start_s: when it was said, in seconds of the session.
        end_s: as above.
        final: whether it ends a sentence.
        language: that it is written in; of an error, its code.
    """

    track: str
    text: str
    start_s: float = 0.0
    end_s: float = 0.0
    final: bool = False
    language: str = ""


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
        self.route = None if config.to is None else engine.route(config.language, config.to)
        self.streams: dict[str, Stream] = {}
        if config.source or config.to is None or self.route == "text":
            self.streams["source"] = engine.stream(config.language)
        if self.route == "own":
            self.streams["translation"] = engine.stream(config.language, config.to)
        if self.route == "english":
            self.streams["english"] = engine.stream(config.language, "en")
        self.translator: Translator | None = None
        if config.to is not None and self.route in ("text", "english"):
            self.translator = Translator(self._translate, config.to)

    def push(self, samples: NDArray[np.float32] | Clip, final: bool = False) -> list[Piece]:
        """Listen on, at 16 kHz, or see more; what may be written now."""
        out: list[Piece] = []
        for track, stream in self.streams.items():
            events = stream.push(samples, final)
            stream.forget()
            if track in TRACKS and (track != "source" or self._shows_source):
                out += [self._piece(track, e) for e in events]
            if self.translator is not None and track == ("source" if self.route == "text" else "english"):
                out += self._onward(self.translator, events, final)
        return out

    @property
    def tentative(self) -> dict[str, str]:
        """What may be written next in each track; it may change."""
        shown = [t for t in self.streams if t in TRACKS and (t != "source" or self._shows_source)]
        return {t: self.streams[t].tentative for t in shown}

    @property
    def _shows_source(self) -> bool:
        return self.config.source or self.config.to is None

    def _piece(self, track: str, e: Event) -> Piece:
        return Piece(track, e.text, e.start_s + self.begin_s, e.end_s + self.begin_s, e.final, e.language)

    def _translate(self, text: str, language: str) -> tuple[str, float]:
        assert self.config.to is not None
        return self.engine.translate(text, language, self.config.to), 0.0

    def _onward(self, translator: Translator, events: list[Event], final: bool) -> list[Piece]:
        """Sentences that are complete, through the text model; what it does not read stays as it was said."""
        out = [self._piece("translation", e) for e in translator.take(events, final)]
        translator.forget()
        return out + [Piece("error", note, language="language_not_translated") for note in translator.notes()]

    # -------------------- saved and restored

    def save(self, stem: Path) -> dict[str, Any]:
        """Write the streams beside each other; the rest is returned, to go into JSON."""
        pending = [] if self.translator is None else self.translator.words
        for track, stream in self.streams.items():
            stream.save(stem.with_suffix(f".{track}.safetensors"))
        return {
            "begin_s": self.begin_s,
            "tracks": list(self.streams),
            "sentence": [[e.seq, e.text, e.start_s, e.end_s, e.at_s, e.final, e.language] for e in pending],
        }

    @classmethod
    def restore(cls, engine: Engine, config: SessionConfig, stem: Path, saved: dict[str, Any]) -> "Interpreter":
        """Go on with what `save` wrote."""
        self = cls(engine, replace(config), saved["begin_s"])
        self.streams = {t: engine.restore(stem.with_suffix(f".{t}.safetensors")) for t in saved["tracks"]}
        if self.translator is not None:
            self.translator.words = [Event(*row) for row in saved["sentence"]]
        return self
