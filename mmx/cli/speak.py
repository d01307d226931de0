"""`mmx speak` and `mmx voices`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from mmx.cli.flags import Without, with_flags
from mmx.tasks.options import SpeakOptions
from mmx.weights.options import LoadOptions

TEXT = typer.Argument(metavar="TEXT|FILE|-", help="A text, a file with one, or - for standard input.")


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command(epilog='mmx speak "Good morning." -o out.wav')(with_flags(speak))


def speak(
    *,
    text: Annotated[str, TEXT],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to: a wav, flac, mp3 or opus file.")],
    options: SpeakOptions,
    load: Annotated[LoadOptions, Without("text_model")],
) -> None:
    """Speak a text."""
    from mmx.api import open_voice
    from mmx.tasks import dub
    from mmx.tasks.synthesize import join, synthesize

    dub.check_target(out)
    words = sys.stdin.read() if text == "-" else text
    model, asked = open_voice(options, load)
    dub.write(out, join(synthesize(model, words, asked)))
