"""What is asked of a transcription, of a translation of recordings, and of speech."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from mmx.errors import InputError
from mmx.options import Option, check
from mmx.text.languages import find_language

Task = Literal["transcribe", "translate"]
Channels = Literal["mix", "left", "right", "each"]
"""What is heard of a recording: all channels together, one of them, or two speakers on two channels one by one."""

VideoReader = Literal["pyav", "decord"]
Modality = Literal["av", "audio", "video"]
"""What is read of a recording: all that the model fuses, or its sound or its pictures alone."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a transcription is asked for; in Python, on the command line and in the server."""

    language: Annotated[
        str | None, Option("Language spoken: de, deu or German. Detected if not given.", flags=("--from",))
    ] = None
    task: Annotated[Task, Option("transcribe, or translate (to English).")] = "transcribe"
    to: Annotated[str, Option("Language to translate into: de, deu or German.")] = "en"
    word_timestamps: Annotated[bool, Option("Give every word its times.")] = False
    beam_size: Annotated[int, Option("Hypotheses the search keeps; 1 is greedy and fastest.", least=1)] = 5
    ctc_weight: Annotated[
        float,
        Option("Share of the CTC head in the beam search, of models with one beside their decoder.", least=0, most=1),
    ] = 0.3
    temperature: Annotated[
        tuple[float, ...], Option("Tried in turn while decoding fails.", least=0)
    ] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # fmt: skip
    initial_prompt: Annotated[
        str | None, Option("Text the speech might continue: style, spelling, names. Every window sees it.")
    ] = None
    hotwords: Annotated[str | None, Option("Words that are likely to occur.")] = None
    batch_size: Annotated[int, Option("Windows of 30 s decoded together, across files.", least=1)] = 8
    vad: Annotated[bool, Option("Skip what is not speech.")] = True
    track: Annotated[
        int | None, Option("Audio track of a video to read, by number; its default one if not given.", least=1)
    ] = None
    channels: Annotated[
        Channels,
        Option("mix, left or right; each: two speakers on two channels, transcribed one by one and labelled."),
    ] = "mix"
    video_reader: Annotated[
        VideoReader,
        Option("Decodes pictures; decord (extra video) reads fewer films, and is refused those it reads wrongly."),
    ] = "pyav"
    modality: Annotated[
        Modality | None,
        Option(
            "Lips and sound (av), or one of the two; of all that the model reads if not given. "
            "av goes on with what there is, and says so."
        ),
    ] = None
    vocabulary: Annotated[
        str | None,
        Option("Write only words of this text file; of a model that writes letter by letter, without a decoder."),
    ] = None
    bilingual: Annotated[bool, Option("Subtitles with the words spoken above.")] = False
    speak: Annotated[bool, Option("Also speak the translation.", shell=False)] = False
    speaker: Annotated[int, Option("Speaker that it is spoken by, by number.", least=0)] = 0
    shortlist: Annotated[
        str | None,
        Option("Write only pieces that occur in this text of the target language; `script`: of its script."),
    ] = None
    best_of: Annotated[int, Option("Samples drawn at a temperature above 0.", least=1, shell=False)] = 5
    patience: Annotated[
        float, Option("Finished hypotheses that end the search, in beam sizes.", above=0, shell=False)
    ] = 1.0
    length_penalty: Annotated[
        float | None,
        Option(
            "Alpha of ((5 + length) / 6) ** alpha, which divides a text's score; else their mean ranks.", shell=False
        ),
    ] = None
    compression_ratio_threshold: Annotated[
        float, Option("Text that compresses better than this is a repetition loop.", most=math.inf, shell=False)
    ] = 2.4
    logprob_threshold: Annotated[
        float, Option("A mean log-probability below this is a failure.", least=-math.inf, shell=False)
    ] = -1.0
    no_speech_threshold: Annotated[
        float, Option("Above this, a failed window is silence and its text is dropped.", most=math.inf, shell=False)
    ] = 0.6
    max_tokens: Annotated[int, Option("Longest text of one window.", least=1, shell=False)] = 224

    def __post_init__(self) -> None:
        check(self)
        if not self.temperature:
            raise InputError("expected at least one temperature, got none")
        for language in filter(None, (self.language, self.to)):
            find_language(language)  # a typing slip is told before a model is loaded


@dataclass(frozen=True, kw_only=True)
class SpeakOptions:
    """How a text is spoken; in Python, on the command line and in the server."""

    voice: Annotated[str, Option("A voice by name (`mmx voices` lists them); that of the language if not given.")] = ""
    language: Annotated[
        str | None, Option("Language of the text: es, spa or Spanish, pt-BR. That of the voice if not given.")
    ] = None  # fmt: skip
    speed: Annotated[float, Option("Speaking rate; above 1 is faster.", least=0.5, most=2.0)] = 1.0
    pitch: Annotated[float, Option("Semitones above the voice's own pitch.", least=-12, most=12)] = 0.0
    range: Annotated[
        float, Option("How far the pitch moves, relative to the voice's own; above 1 is livelier.", least=0.5, most=2.0)
    ] = 1.0
    steps: Annotated[int, Option("Steps of a voice that samples; 0 leaves it to the voice.", least=0, most=256)] = 0
    seed: Annotated[int, Option("Of what is drawn at random: the same seed gives the same sound.", least=0)] = 0
    verify: Annotated[
        bool, Option("Read each sentence again by the recognizer, make it anew where words are missing, tell the rest.")
    ] = False

    def __post_init__(self) -> None:
        check(self)
        if self.language:
            find_language(self.language)  # a typing slip is told before a model is loaded


@dataclass(frozen=True, kw_only=True)
class DubOptions:
    """How a translation is spoken over its recording."""

    voice_model: Annotated[
        str | None,
        Option("A model that speaks the translation; otherwise that of --voice, or of the speech model itself."),
    ] = None
    isochrony: Annotated[
        bool,
        Option("Keep the timing of the recording: pauses, and phrases as long as their originals, if a voice can."),
    ] = True

    def __post_init__(self) -> None:
        check(self)
