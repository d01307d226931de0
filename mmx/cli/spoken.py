"""`--speak` of `mmx translate`: where a translation is spoken to, and by which voice."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmx.cli.console import say
from mmx.tasks.options import DubOptions, SpeakOptions
from mmx.weights.options import LoadOptions

if TYPE_CHECKING:
    from mmx.model import Model
    from mmx.tasks.result import Transcript

    Step = Callable[[Iterator[Transcript]], Iterator[Transcript]]


@dataclass(frozen=True, kw_only=True)
class SpeechOut:
    """A translation that is spoken.

    Attributes:
        path: a file for one recording or text, a folder for several.
        speaking: how it is spoken.
        dub: over which timing, and by what.
        load: on what a further model computes.
    """

    path: Path
    speaking: SpeakOptions
    dub: DubOptions
    load: LoadOptions

    def by_itself(self, model: "Model") -> bool:
        """Whether the model that translates also speaks."""
        return model.synth is not None and not self.speaking.voice and self.dub.voice_model is None

    def open(self, to: str) -> "tuple[Model, SpeakOptions]":
        """The voice of a language and how it is asked, which is told."""
        from dataclasses import replace

        from mmx.api import open_voice
        from mmx.weights.options import DEFAULT_MODEL

        where = replace(self.load, model=self.dub.voice_model or DEFAULT_MODEL)
        model, asked = open_voice(replace(self.speaking, language=to), where)
        say(f"spoken by {model.name}" + (f", voice {asked.voice}" if asked.voice else "") + ": synthetic speech")
        return model, asked

    def step(self, to: str) -> "Step":
        """What speaks transcripts."""
        from mmx.tasks.isochrony import dub, sayer

        voice = sayer(*self.open(to))
        return lambda done: (dub(t, voice, self.dub.isochrony) for t in done)

    def speak(self, text: str, to: str) -> None:
        """Write a text, spoken."""
        from mmx.tasks.dub import write
        from mmx.tasks.synthesize import join, synthesize

        model, asked = self.open(to)
        write(self.path, join(synthesize(model, text, asked)))
        say(f"spoken -> {self.path}")
