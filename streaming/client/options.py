"""What `mmx live` is asked for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from mmx.errors import InputError
from mmx.options import Option, check
from mmx.streaming.lag import STEPS_S
from mmx.streaming.policies import find_policy
from mmx.tasks.options import Modality
from mmx.text.languages import find_language


@dataclass(frozen=True, kw_only=True)
class LiveOptions:
    """A live session: where sound comes from, what is done with it, and where text, sound and speech go."""

    file: Annotated[str | None, Option("A recording instead of the microphone.")] = None
    realtime: Annotated[bool, Option("Play the file in real time; otherwise as fast as possible.")] = False
    microphone: Annotated[str | None, Option("Name, part of one, or number; the default one else.")] = None
    camera: Annotated[
        str | None, Option("See with a camera: its number (0 is the first) or name, for a model that reads it.")
    ] = None
    modality: Annotated[
        Modality | None,
        Option(
            "Lips and sound (av), or one of the two; what is lost meanwhile is told. All that there is, if not given."
        ),
    ] = None
    language: Annotated[
        str | None, Option("Language spoken: de, deu or German. Detected if not given.", flags=("--from",))
    ] = None
    to: Annotated[str | None, Option("Language to translate into: de, deu or German.")] = None
    policy: Annotated[
        str,
        Option(
            "alignatt, emma, local-agreement, hold-n, wait-k; a threshold after a colon. The last two count tokens, "
            "whether or not there is enough audio: they commit guesses, above all of numbers."
        ),
    ] = "alignatt"
    step_s: Annotated[float, Option("Seconds of audio between decoding steps.", least=STEPS_S[0], most=STEPS_S[1])] = (
        1.0
    )
    vad: Annotated[bool, Option("Skip what is not speech.")] = True
    beam_size: Annotated[int, Option("Hypotheses that the text model's search keeps.", least=1)] = 5
    speak: Annotated[
        str | None, Option("Also speak the translation: play, or the file that keeps it (wav, flac, mp3, opus).")
    ] = None  # fmt: skip
    voice: Annotated[
        str, Option("Voice that speaks it (`mmx voices` lists them); that of the language if not given.")
    ] = ""
    voice_model: Annotated[
        str | None, Option("A model that speaks it; otherwise that of --voice, or of the model that translates.")
    ] = None
    headphones: Annotated[
        bool,
        Option(
            "The microphone does not hear what is spoken: listen meanwhile. Otherwise what is said while the "
            "translation plays is not heard, so that it is not translated again."
        ),
    ] = False
    speaker: Annotated[int, Option("Speaker that it is spoken by, by number.", least=0)] = 0
    record: Annotated[Path | None, Option("Save the audio to this .wav or .flac file.")] = None
    save: Annotated[
        tuple[Path, ...],
        Option(
            "Keep the text: talk.srt, .vtt, .txt, .tsv or .json; again for more. live-DATE.srt if none is given for a "
            "microphone."
        ),
    ] = ()
    json: Annotated[bool, Option("Print every event as a line of JSON.")] = False

    def __post_init__(self) -> None:
        check(self)
        find_policy(self.policy)
        for language in filter(None, (self.language, self.to)):
            find_language(language)
        if self.realtime and self.file is None:
            raise InputError("expected --file with --realtime: microphones and cameras always are")
        if self.microphone is not None and self.file is not None:
            raise InputError("expected --file or --microphone, got both")
        if self.camera is not None and self.file is not None:
            raise InputError("expected --file or --camera, got both")
        if (self.voice or self.voice_model) and not self.speak:
            raise InputError("expected --speak with --voice and --voice-model: nothing is spoken without it")
        if self.headphones and self.speak != "play":
            raise InputError("expected --speak play with --headphones: nothing else is heard")
        if self.speak and not self.to:
            raise InputError("expected --to with --speak: the language to speak")
