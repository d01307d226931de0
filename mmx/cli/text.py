"""`mmx translate --text`: a text to standard output, and said aloud where that is asked for."""

from pathlib import Path

from mmx.cli.console import say, write_out
from mmx.errors import InputError
from mmx.files import drop_output


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


def run_text(
    text: str,
    *,
    src: str | None,
    to: str,
    model: str,
    beam_size: int = 5,
    shortlist: str | None = None,
    speak: Path | None = None,
    speaker: int = 0,
    device: str = "auto",
    dtype: str = "auto",
    threads: int = 0,
) -> int:
    """Translate a text to standard output, and say it in `speak` if that is given; returns the exit code."""
    if not text.strip():
        raise InputError("expected a text to translate, got an empty one: give it to --text, or - to read it")
    if src is None:
        raise InputError("expected the language of the text, got none: add --from, as in --from en")
    if speak is not None:
        from mmx.tasks.dub import kind_of

        kind_of(speak)
    import torch

    from mmx.api import load

    if threads:
        torch.set_num_threads(threads)
    loaded = load(_text_model(model, to), device=device, dtype=dtype)  # type: ignore[arg-type]
    if speak is not None:
        from mmx.tasks import dub
        from mmx.tasks.speak import speak_text

        done, track = speak_text(
            loaded, text, src=src, to=to, speaker=speaker, beam_size=beam_size, shortlist=shortlist
        )
        dub.write(speak, track)
        say(f"spoken -> {speak}")
    else:
        done = loaded.translate_text([text], src=src, to=to, beam_size=beam_size, shortlist=shortlist)[0]
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
