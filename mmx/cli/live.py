"""`mmx live` and `mmx serve`."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from mmx.cli.choice import fitting
from mmx.cli.flags import with_flags
from mmx.errors import InputError
from mmx.streaming.client.options import LiveOptions
from mmx.streaming.server.settings import ServeOptions, Settings
from mmx.weights.options import LoadOptions


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command(
        epilog="mmx live   |   mmx live --file talk.wav --realtime   |   mmx live --to en --save talk.srt   |   "
        "mmx live --to de --text-model nllb-200-distilled-600m   |   mmx live --list-devices   |   "
        "mmx live --camera 0 --model fingerspelling --language ase   |   mmx live --file talk.mkv --modality av"
    )(with_flags(live))
    app.command(epilog="mmx serve   |   mmx serve --host 0.0.0.0 --api-key KEY --state-dir sessions")(with_flags(serve))


def live(
    *,
    list_devices: Annotated[bool, typer.Option("--list-devices", help="List the microphones and stop.")] = False,
    load: LoadOptions,
    options: LiveOptions,
) -> None:
    """Listen to a microphone, or watch a camera, and write or translate meanwhile. Ctrl-C ends and saves."""
    if list_devices:
        _print_devices()
        return
    from mmx.streaming.client.session import run

    if not options.save and options.file is None:
        options = replace(options, save=(Path(time.strftime("live-%Y-%m-%d-%H%M%S.srt")),))
    files = [options.file] if options.file else []
    run(options, fitting(load, files, options.language, options.modality))
    for path in [*options.save, *([options.record] if options.record else [])]:
        typer.echo(f"saved {path}", err=True)


def _print_devices() -> None:
    from mmx.errors import MediaError
    from mmx.streaming.client.microphone import list_devices

    devices = list_devices()
    if not devices:
        raise MediaError("found no microphone: plug one in, or allow this program to use it in the system's settings")
    for d in devices:
        print(f"{'*' if d.default else ' '} {d.index:2d}  {d.name}  ({d.channels} ch, {d.rate_hz / 1000:g} kHz)")


def serve(*, load: LoadOptions, options: ServeOptions, settings: Settings) -> None:
    """Serve recordings and live speech over OpenAI's audio API, and a page to speak into."""
    try:
        from mmx.streaming.server.run import run
    except ModuleNotFoundError as e:
        raise InputError(f'expected the packages of the server, got no {e.name}: pip install "mmx[serve]"') from e
    run(options, load, settings)
