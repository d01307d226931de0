"""The verbs of live work; see `mmx.cli.app`."""

import time
from pathlib import Path
from typing import Annotated

import typer

from mmx.cli.options import Device, DType, Language, ModelName, Threads, Vad
from mmx.errors import InputError


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command(
        epilog="mmx live   |   mmx live --file talk.wav --realtime   |   mmx live --to en --save talk.srt   |   "
        "mmx live --to de --text-model nllb-200-distilled-600m   |   mmx live --list-devices"
    )(live)
    app.command(epilog="mmx serve   |   mmx serve --host 0.0.0.0 --api-key KEY --state-dir sessions")(serve)


def live(
    file: Annotated[str | None, typer.Option(help="Listen to this recording instead of the microphone.")] = None,
    realtime: Annotated[
        bool, typer.Option("--realtime", help="Play the file at the speed of life; else as fast as it is heard.")
    ] = False,
    microphone: Annotated[str | None, typer.Option(help="Name, part of one, or number; the default one else.")] = None,
    list_devices: Annotated[bool, typer.Option("--list-devices", help="List the microphones and stop.")] = False,
    model: ModelName = "whisper-base",
    language: Language = None,
    to: Annotated[str | None, typer.Option(help="Language to translate into: de, deu or German.")] = None,
    text_model: Annotated[
        str | None, typer.Option(help="A model that translates what --model writes: two steps, for more languages.")
    ] = None,
    policy: Annotated[
        str,
        typer.Option(
            help="alignatt, emma, local-agreement, hold-n, wait-k; a threshold after a colon. The last two count "
            "tokens, whether or not the sound suffices: they write guesses, above all of numbers."
        ),
    ] = "alignatt",
    step_s: Annotated[float, typer.Option(help="Seconds of sound from look to look.")] = 1.0,
    vad: Vad = True,
    beam_size: Annotated[int, typer.Option(min=1, help="Hypotheses that the text model's search keeps.")] = 5,
    speak: Annotated[
        str | None, typer.Option(help="Also say the translation: play, or the .wav or .flac file that keeps it.")
    ] = None,
    speaker: Annotated[int, typer.Option(min=0, help="Voice that says it, by number.")] = 0,
    record: Annotated[Path | None, typer.Option(help="Keep the sound in this .wav or .flac file.")] = None,
    save: Annotated[
        list[Path] | None,
        typer.Option(
            help="Keep the text: talk.srt, .vtt, .txt, .tsv or .json; again for more. live-DATE.srt "
            "if none is given for a microphone."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print every event as a line of JSON.")] = False,
    device: Device = "auto",
    dtype: DType = "auto",
    threads: Threads = 0,
) -> None:
    """Listen to a microphone and write, or translate, while people speak. Ctrl-C ends and saves."""
    if list_devices:
        _print_devices()
        return
    from mmx.streaming.client.session import Job, run

    if not save and file is None:
        save = [Path(time.strftime("live-%Y-%m-%d-%H%M%S.srt"))]
    run(
        Job(
            file=file, realtime=realtime, microphone=microphone, model=model, language=language, to=to,
            text_model=text_model, policy=policy, step_s=step_s, vad=vad, beam_size=beam_size, speak=speak,
            speaker=speaker, record=record, save=save or [], json=json, device=device, dtype=dtype, threads=threads,
        )
    )  # fmt: skip
    for path in [*(save or []), *([record] if record else [])]:
        typer.echo(f"saved {path}", err=True)


def _print_devices() -> None:
    from mmx.errors import MediaError
    from mmx.streaming.client.microphone import list_devices

    devices = list_devices()
    if not devices:
        raise MediaError("found no microphone: plug one in, or allow this program to use it in the system's settings")
    for d in devices:
        print(f"{'*' if d.default else ' '} {d.index:2d}  {d.name}  ({d.channels} ch, {d.rate_hz / 1000:g} kHz)")


def serve(
    model: ModelName = "whisper-base",
    text_model: Annotated[
        str | None, typer.Option(help="A model that translates what --model writes: two steps, for more languages.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 serves other machines, too.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    api_key: Annotated[
        str | None, typer.Option(envvar="MMX_API_KEY", show_envvar=True, help="Key that clients must show.")
    ] = None,
    allow_origin: Annotated[
        list[str] | None, typer.Option(help="Origin whose pages may use the server (https://example.org), or *.")
    ] = None,
    state_dir: Annotated[
        Path | None, typer.Option(help="Keep live sessions here, so that they outlive the server.")
    ] = None,
    root_path: Annotated[
        str, typer.Option(help="Path below which a proxy shows the server (/mmx), whether it takes it away or not.")
    ] = "",
    max_upload_mb: Annotated[float, typer.Option(help="Largest upload, in MB.")] = 200.0,
    max_audio_s: Annotated[float, typer.Option(help="Longest recording or live session, in seconds.")] = 14400.0,
    max_queue: Annotated[int, typer.Option(min=0, help="Recordings that may wait.")] = 16,
    max_uploads: Annotated[int, typer.Option(min=1, help="Recordings on their way here at once.")] = 32,
    max_connections: Annotated[int, typer.Option(min=1, help="Connections at once, live ones too.")] = 512,
    header_timeout_s: Annotated[float, typer.Option(help="Close a connection that asks nothing for so long.")] = 20.0,
    upload_timeout_s: Annotated[float, typer.Option(help="Refuse an upload that brings nothing for so long.")] = 30.0,
    max_sessions: Annotated[int, typer.Option(min=1, help="Live sessions at once.")] = 32,
    idle_timeout_s: Annotated[float, typer.Option(help="Close a live connection that is silent for so long.")] = 60.0,
    keep_s: Annotated[float, typer.Option(help="Keep a live session so long for a client that went away.")] = 120.0,
    grace_s: Annotated[float, typer.Option(help="When told to stop, give recordings at work so long to end.")] = 5.0,
    access_log: Annotated[bool, typer.Option("--access-log", help="Tell each request on the standard error.")] = False,
    policy: Annotated[
        str, typer.Option(help="When a word may be written live: alignatt, emma, local-agreement.")
    ] = "alignatt",
    step_s: Annotated[float, typer.Option(help="Look at live speech each time so much is new.")] = 1.0,
    beam_size: Annotated[int, typer.Option(min=1, help="Hypotheses of the search in recordings.")] = 5,
    workers: Annotated[int, typer.Option(min=1, help="Live sessions heard at the same moment.")] = 1,
    file_workers: Annotated[int, typer.Option(min=1, help="Recordings transcribed at the same moment.")] = 1,
    ssl_certfile: Annotated[
        Path | None, typer.Option(help="Certificate: browsers give a microphone to https pages and localhost only.")
    ] = None,
    ssl_keyfile: Annotated[Path | None, typer.Option(help="Key of the certificate.")] = None,
    device: Device = "auto",
    dtype: DType = "auto",
    threads: Threads = 0,
) -> None:
    """Serve recordings and live speech over OpenAI's audio API, and a page to speak into."""
    try:
        from mmx.streaming.server.run import run
    except ModuleNotFoundError as e:
        raise InputError(f'expected the packages of the server, got no {e.name}: pip install "mmx[serve]"') from e
    if api_key == "":  # an empty variable of the environment sets no key
        api_key = None
    run(
        model=model, text_model=text_model, host=host, port=port, policy=policy, step_s=step_s, beam_size=beam_size,
        device=device, dtype=dtype, threads=threads, ssl_certfile=ssl_certfile, ssl_keyfile=ssl_keyfile,
        api_key=api_key, allow_origin=tuple(allow_origin or ()), state_dir=state_dir, root_path=root_path,
        max_upload_mb=max_upload_mb, max_audio_s=max_audio_s, max_queue=max_queue, max_uploads=max_uploads,
        max_connections=max_connections, header_timeout_s=header_timeout_s, upload_timeout_s=upload_timeout_s,
        max_sessions=max_sessions, idle_timeout_s=idle_timeout_s, keep_s=keep_s, grace_s=grace_s,
        access_log=access_log, workers=workers, file_workers=file_workers,
    )  # fmt: skip
