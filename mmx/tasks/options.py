"""What is asked of a transcription or a translation of recordings."""

from dataclasses import dataclass
from typing import Literal, get_args

from mmx.errors import InputError
from mmx.text.languages import find_language

Task = Literal["transcribe", "translate"]
Channels = Literal["mix", "left", "right", "each"]
"""What is heard of a recording: all channels together, one of them, or two speakers on two channels one by one."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a transcription is asked for; the command line has the same names and defaults.

    Attributes:
        language: of the speech: a code, tag or English name; detected when None, by models that can.
        task: write in the language spoken, or translate.
        to: language to translate into.
        word_timestamps: also give every word its times.
        beam_size: hypotheses kept by the search; 1 is greedy and fastest.
        temperature: tried in turn while the text looks like a failure (see the thresholds).
        best_of: samples drawn at a temperature above 0.
        initial_prompt: text the speech is likely to continue: style, spelling, names. Every window sees it.
        hotwords: words likely to occur.
        batch_size: windows decoded together, across files.
        vad: skip what is not speech.
        track: which sound track of a film, from 1 on; the default one when None.
        channels: "mix" hears all channels together, "left" or "right" one of them, "each" two speakers on two channels
            one by one.
        compression_ratio_threshold: text that compresses better than this is a repetition loop.
        logprob_threshold: a mean log-probability below this is a failure.
        no_speech_threshold: above this, a failed window is silence and its text is dropped.
        max_tokens: longest text of one window.
        bilingual: of a translation, keep the words spoken beside it.
        speak: of a translation, also say it.
        speaker: voice that says it.
        shortlist: of a model for many languages, which of its vocabulary may be written (see
            `mmx.text.shortlist.read`); all when None.
    """

    language: str | None = None
    task: Task = "transcribe"
    to: str = "en"
    word_timestamps: bool = False
    beam_size: int = 5
    temperature: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    best_of: int = 5
    patience: float = 1.0
    length_penalty: float | None = None
    initial_prompt: str | None = None
    hotwords: str | None = None
    batch_size: int = 8
    vad: bool = True
    track: int | None = None
    channels: Channels = "mix"
    compression_ratio_threshold: float = 2.4
    logprob_threshold: float = -1.0
    no_speech_threshold: float = 0.6
    max_tokens: int = 224
    bilingual: bool = False
    speak: bool = False
    speaker: int = 0
    shortlist: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.temperature, int | float):
            object.__setattr__(self, "temperature", (float(self.temperature),))
        if not self.temperature:
            raise InputError("expected at least one temperature, got none")
        for name in ("beam_size", "best_of", "batch_size", "max_tokens"):
            if getattr(self, name) < 1:
                raise InputError(f"expected {name} to be 1 or more, got {getattr(self, name)}")
        if self.task not in ("transcribe", "translate"):
            raise InputError(f"expected task transcribe or translate, got {self.task!r}")
        if self.channels not in get_args(Channels):
            raise InputError(f"expected channels among {', '.join(get_args(Channels))}, got {self.channels!r}")
        if self.track is not None and self.track < 1:
            raise InputError(f"expected a track from 1 on, got {self.track}")
        for language in filter(None, (self.language, self.to)):
            find_language(language)  # a typing slip is told before a model is loaded
