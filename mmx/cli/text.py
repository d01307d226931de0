"""`mmx translate --text`: a text to standard output, and said aloud where that is asked for."""

from pathlib import Path
from typing import TYPE_CHECKING

from mmx.cli.console import say, write_out
from mmx.cli.spoken import SpeechOut
from mmx.errors import InputError
from mmx.files import drop_output
from mmx.tasks.options import Options
from mmx.weights.options import LoadOptions

if TYPE_CHECKING:
    from mmx.model import Model
    from mmx.tasks.words import Translation


def _text_model(name: str, to: str) -> str:
    """The model asked for, or, where it reads no text, the one that ships for the language, which is told."""
    from mmx.tasks.cascade import text_model_for
    from mmx.weights.card import cards

    card = cards().get(name)
    if card is None or "translate-text" in card.tasks:
        return name
    found = text_model_for(to)
    if found is None:
        return name
    say(f"{found} translates it, as {name} reads no text")
    return found


def run_text(text: str, options: Options, load: LoadOptions, speech: SpeechOut | None = None) -> int:
    """Translate a text to standard output, and speak it if that is asked for; returns the exit code."""
    if not text.strip():
        raise InputError("expected a text to translate, got an empty one: give it to --text, or - to read it")
    if options.language is None:
        raise InputError("expected the language of the text, got none: add --from, as in --from en")
    if speech is not None:
        from mmx.tasks.dub import check_target

        check_target(speech.path)
    from mmx.api import open_model

    model = open_model(load, _text_model(load.model, options.to))
    if speech is not None and speech.by_itself(model):
        done = _spoken(model, text, options, speech.path)
    else:
        done = _translated(model, text, options)
        if speech is not None:
            speech.speak(done.text, options.to)
    for number, s in enumerate(done.segments, 1):
        if s.repetition or s.cut:
            say(f"  note: sentence {number} warning: the text model repeated itself or was cut at its limit")
        elif s.source.strip() and not s.text.strip():
            say(f"  note: sentence {number} warning: the text model wrote nothing")
    try:
        write_out(done.text + "\n")
    except BrokenPipeError:
        drop_output()
    return 0


def _translated(model: "Model", text: str, o: Options) -> "Translation":
    return model.translate_text([text], src=o.language or "", to=o.to, beam_size=o.beam_size, shortlist=o.shortlist)[0]


def _spoken(model: "Model", text: str, o: Options, path: Path) -> "Translation":
    from mmx.tasks import dub
    from mmx.tasks.speak import speak_text

    done, track = speak_text(
        model, text, src=o.language or "", to=o.to, speaker=o.speaker, beam_size=o.beam_size, shortlist=o.shortlist
    )
    dub.write(path, track)
    say(f"spoken -> {path}")
    return done
