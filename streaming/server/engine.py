"""What a server needs of its models, in one place: recordings to text, live streams, languages, translation of text."""

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mmx.clip import SPEECH
from mmx.errors import InputError
from mmx.interfaces import TaskTokenizer
from mmx.media.audio import Source
from mmx.model import Model
from mmx.streaming.server.audio_visual import audio_visual_format
from mmx.streaming.server.frames import FrameFormat
from mmx.streaming.server.settings import blaming
from mmx.streaming.server.voices import NOBODY, Speaker
from mmx.streaming.stream import Stream
from mmx.tasks.cascade import Route, Translator, cascade
from mmx.tasks.result import Transcript
from mmx.tasks.transcribe import Options, Progress, fit, transcribe, vad
from mmx.text.languages import find_language

BATCH = 2
"""Windows of a recording that are decoded together: few, so that the others get their turns, and so that one whose
client left ends soon."""


class Engine:
    """One speech model, and a text model where languages past the speech model's own are wanted.

    It keeps nothing of what is said, so that any number of threads may use it at once.

    Args:
        model: hears speech and writes text.
        text_model: translates text.
        policy: of live streams, see `mmx.streaming.policies.find_policy`.
        step_s: of live streams, see `Stream`.
        beam_size: of recordings; live streams are greedy.
        speaker: speaks texts; without one the server has no voices.

    Attributes:
        frames: what live clients send in the place of sound; None where they send that.
        both: what those send who give pictures beside the sound; None where the model reads sound alone.
    """

    def __init__(
        self,
        model: Model,
        text_model: Model | None = None,
        *,
        policy: str = "alignatt",
        step_s: float = 1.0,
        beam_size: int = 5,
        speaker: Speaker = NOBODY,
    ):
        sound = SPEECH in model.recorded
        fit(model, Options(language="en" if sound else next(iter(model.require_tokenizer().language_ids), "en")))
        if text_model is not None:
            text_model.require_source_tokenizer()
        self.model, self.text_model = model, text_model
        self.frames, self.both = _frame_format(model), audio_visual_format(model)
        self.policy, self.step_s, self.beam_size, self.speaker = policy, step_s, beam_size, speaker

    @cached_property
    def vad(self) -> Any:
        """The voice activity model, shared by all streams."""
        return vad()

    @property
    def names(self) -> list[str]:
        """Names of the models, the speech model first."""
        return [m.name for m in (self.model, self.text_model) if m is not None]

    @cached_property
    def languages(self) -> dict[str, str]:
        """What may be spoken: code and English name."""
        return _spellings(self.model)

    @cached_property
    def detects(self) -> bool:
        """Whether the language may be left open."""
        try:
            self.check(None, None)
        except InputError:
            return False
        return True

    @cached_property
    def targets(self) -> dict[str, str]:
        """What may be translated into: code and English name."""
        own = {c: n for c, n in {"en": "English", **self.languages}.items() if self._own(None, c)}
        beyond = {} if self.text_model is None else _spellings(self.text_model)
        return dict(sorted({**beyond, **own}.items(), key=lambda kv: kv[1]))

    def check(self, language: str | None, to: str | None) -> None:
        """Raise `InputError` where speech in `language` (None: detected) cannot be heard, or not written in `to`."""
        fit(self.model, Options(language=language))
        if to is None or self._own(language, to):
            return
        if self.text_model is None:
            fit(self.model, Options(language=language, task="translate", to=to))
            return
        if (target := find_language(to)).tag not in self.targets:
            known = ", ".join(self.targets)
            raise InputError(f"expected a language that this server writes, got {target.name}: it has {known}")
        self.route(language, to)

    def route(self, language: str | None, to: str) -> Route:
        """How a translation is made; by the text model only where the speech model cannot."""
        return self._route(Options(language=language, task="translate", to=to))

    def _route(self, options: Options) -> Route:
        if self.text_model is None or options.task == "transcribe" or self._own(options.language, options.to):
            return Route(options)
        return Route.through(self.text_model, options)

    def _own(self, language: str | None, to: str) -> bool:
        try:
            fit(self.model, Options(language=language, task="translate", to=to))
        except InputError:
            return False
        return True

    # -------------------- recordings

    def transcribe(
        self, source: Source, options: Options, on_progress: Callable[[Progress], None] | None = None
    ) -> Transcript:
        """The text of a recording; a translation that the speech model cannot write goes on through the text model."""
        options = replace(options, beam_size=self.beam_size, batch_size=BATCH)
        route = self._route(options)
        done = transcribe(self.model, [source], route.first, on_progress)
        if route.text_model is not None:
            done = cascade(done, route.text_model, options.to, self.beam_size)
        return next(iter(done))

    # -------------------- live

    def stream(self, language: str | None, to: str | None = None) -> Stream:
        """A live stream that writes what is said, or, with `to`, its translation."""
        task = "transcribe" if to is None else "translate"
        return Stream(
            self.model, policy=self.policy, language=language, task=task, to=to, step_s=self.step_s, vad=self.vad,
            catch_up=True,
        )  # fmt: skip

    def restore(self, path: Path) -> Stream:
        """A stream that `Stream.save` wrote."""
        return Stream.restore(self.model, path, vad=self.vad)

    def translator(self, to: str) -> Translator:
        """The second step of a live translation."""
        if self.text_model is None:
            raise InputError("expected a server with a text model: start it with --text-model")
        return Translator.of(self.text_model, to, self.beam_size)


def _frame_format(model: Model) -> FrameFormat | None:
    """What clients send in the place of sound; None for a model that reads sound."""
    recorded = model.recorded
    if SPEECH in recorded:
        return None
    if len(recorded) > 1 or not all(what.shape for what in recorded.values()):
        raise InputError(f"expected a model that reads sound or one other modality, got {', '.join(recorded)}")
    return FrameFormat(*next(iter(recorded.items())))


def check_languages(engine: Engine, language: str | None, to: str | None) -> None:
    """As `Engine.check`, but raises `ApiError`, which names the field at fault."""
    with blaming("language"):
        engine.check(language, None)
    with blaming("to"):
        engine.check(language, to)


def _spellings(model: Model) -> dict[str, str]:
    """The languages of a tokenizer, by their shortest codes."""
    tok = model.require_tokenizer()
    if isinstance(tok, TaskTokenizer) and not tok.multilingual:
        return {"en": "English"}
    known: dict[str, str] = {}
    for spelling in tok.language_ids:
        try:
            language = find_language(spelling)
        except InputError:
            continue
        known.setdefault(language.tag, language.name)
    return dict(sorted(known.items(), key=lambda kv: kv[1]))
