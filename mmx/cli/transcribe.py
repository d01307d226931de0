"""`mmx transcribe` and `mmx translate`."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from mmx.cli.choice import fitting, is_signed
from mmx.cli.flags import Defaults, Only, Without, flag, with_flags
from mmx.cli.options import OutputOptions
from mmx.cli.spoken import SpeechOut
from mmx.errors import InputError
from mmx.options import given
from mmx.tasks.options import DubOptions, Options, SpeakOptions
from mmx.weights.options import LoadOptions

FILES = typer.Argument(metavar="FILES", help="Files, folders, globs, or - for standard input.")
OF_TEXTS = ("language", "to", "beam_size", "shortlist", "speaker")
"""Options that a text is translated by; the others are about recordings."""


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command(
        epilog="mmx transcribe talk.mp4   |   mmx transcribe talks/ --output-dir out --output-format srt,json   |   "
        "mmx transcribe demos/talking_mouth.mkv --modality av --vocabulary demos/talking_mouth_words.txt"
    )(with_flags(transcribe))
    app.command(
        epilog="mmx translate rede.mp3 --to en   |   mmx translate talk.mp4 --to de --model seamless-m4t-v2-large "
        '--speak out.wav   |   mmx translate --text "Good morning." --from en --to fr --model nllb-200-distilled-600m'
        "   |   mmx translate spelling.pose --from ase"
    )(with_flags(translate))


def transcribe(
    *,
    files: Annotated[list[str], FILES],
    load: Annotated[LoadOptions, Without("text_model")],
    options: Annotated[Options, Without("to", "bilingual", "speaker", "shortlist")],
    output: OutputOptions,
) -> None:
    """Transcribe recordings."""
    from mmx.cli.recordings import Job, run

    load = fitting(load, files, options.language, options.modality)
    raise typer.Exit(run(Job(files=tuple(files), load=load, options=options, output=output)))


def translate(
    *,
    files: Annotated[list[str] | None, FILES] = None,
    text: Annotated[str | None, typer.Option(help="Translate this text instead of recordings; - reads it.")] = None,
    load: LoadOptions,
    options: Annotated[Options, Without("task"), Defaults(to="")],
    speak: Annotated[
        Path | None,
        typer.Option(
            help="Also speak it: a wav, flac, mp3 or opus file, a film (mp4, mkv) with the recording's pictures, "
            "or a folder for several recordings."
        ),
    ] = None,
    speaking: Annotated[SpeakOptions, Only("voice", "speed", "pitch")],
    dub: DubOptions,
    output: OutputOptions,
) -> None:
    """Translate recordings, or a text, and with --speak also speak the translation.

    Signing becomes text without --to, in the language that it spells.
    """
    signed = text is None and is_signed(files or (), options.language)
    if not options.to and not signed:
        raise InputError("expected a language to translate into, got none: add --to, as in --to de")
    if (text is None) == (not files):
        raise InputError("expected either recordings or --text, got " + ("both" if files else "neither"))
    if speak is None and (unused := [*given(speaking), *given(dub)]):
        raise InputError(f"expected --speak with {', '.join(map(flag, unused))}: nothing is spoken without it")
    speech = None if speak is None else SpeechOut(path=speak, speaking=speaking, dub=dub, load=load)
    if text is not None:
        _only_of_texts(load, options, output, dub)
        from mmx.cli.text import run_text

        raise typer.Exit(run_text(sys.stdin.read() if text == "-" else text, options, load, speech))
    from mmx.cli.recordings import Job, run

    asked = replace(options, task="translate", speak=speak is not None)
    if not options.to:
        asked = replace(asked, task="transcribe", to=Options().to)
    load = fitting(load, files or (), options.language, options.modality)
    raise typer.Exit(run(Job(files=tuple(files or ()), load=load, options=asked, output=output, speech=speech)))


def _only_of_texts(load: LoadOptions, options: Options, output: OutputOptions, dub: DubOptions) -> None:
    """Raise `InputError` for options that the translation of a text has no use for."""
    unused = [*(n for n in given(options) if n not in OF_TEXTS), *given(output)]
    unused += ["text_model"] if load.text_model else []
    unused += [n for n in given(dub) if n == "isochrony"]
    if unused:
        raise InputError(
            f"expected recordings with {', '.join(map(flag, unused))}, got --text, whose translation is one text on "
            f"standard output: it takes --from, {', '.join(flag(n) for n in OF_TEXTS[1:])}, --model and --speak"
        )
