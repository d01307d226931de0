"""The verbs of live work; see `mmx.cli`."""

from pathlib import Path
from typing import Annotated

import typer

from mmx.errors import InputError


def register(app: typer.Typer, bench: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command(
        "evaluate-streaming",
        epilog="mmx evaluate-streaming talk.wav --policies alignatt:0.3,alignatt:1,local-agreement --output-dir out",
    )(evaluate_streaming)
    app.command(epilog="mmx serve   |   mmx serve --host 0.0.0.0 --api-key KEY --state-dir sessions")(serve)
    bench.command("serve", epilog="mmx bench serve ws://127.0.0.1:8000 --sessions 8 --seconds 60")(bench_serve)


def evaluate_streaming(
    files: Annotated[
        list[Path], typer.Argument(help="Recordings, each with its text beside it (talk.txt or talk.tsv).")
    ],
    model: Annotated[
        str, typer.Option(help="A model's name (see `mmx models`) or the path of a checkpoint.")
    ] = "whisper-base",
    policies: Annotated[
        str, typer.Option(help="Names with thresholds, with commas: alignatt, local-agreement, hold-n, wait-k.")
    ] = "alignatt:0.3,alignatt:0.5,alignatt:1,local-agreement,hold-n:4",
    steps_s: Annotated[str, typer.Option(help="Seconds of sound from look to look, with commas.")] = "1",
    language: Annotated[
        str | None, typer.Option("--language", "--from", help="Language spoken: de, deu or German. Detected else.")
    ] = None,
    task: Annotated[str, typer.Option(help="transcribe (word error rate), or translate (chrF).")] = "transcribe",
    to: Annotated[str | None, typer.Option(help="Language to translate into.")] = None,
    output_dir: Annotated[
        Path | None, typer.Option(help="Also write a table, a plot and SimulEval's logs here.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, float16, int8.")] = "auto",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 leaves it to torch.")] = 0,
) -> None:
    """Quality against latency of live listening, over policies and their thresholds."""
    import sys

    import torch

    import mmx
    from mmx.streaming import evaluate
    from mmx.streaming.policies import find_policy

    names = [p.strip() for p in policies.split(",") if p.strip()]
    for name in names:
        find_policy(name)  # a typing slip is told before a model is loaded
    recordings = evaluate.read_recordings(files)
    if threads:
        torch.set_num_threads(threads)
    loaded = mmx.load(model, device=device, dtype=dtype)  # pyright: ignore[reportArgumentType]
    quality = "WER %" if task == "transcribe" else "chrF"
    figures = evaluate.evaluate_streaming(
        loaded,
        recordings,
        policies=names,
        steps_s=_numbers(steps_s),
        language=language,
        task=task,
        to=to,
        on_done=lambda f: print(f"{f.system}: {quality} {f.score:.2f}", file=sys.stderr),
    )
    print(evaluate.table(figures, quality))
    if output_dir:
        evaluate.write(figures, recordings, output_dir, quality)


def _numbers(text: str) -> list[float]:
    from mmx.errors import InputError

    try:
        return [float(part) for part in text.split(",")]
    except ValueError as e:
        raise InputError(f"expected numbers with commas such as 0.5,1 for --steps-s, got {text!r}") from e


def serve(
    model: Annotated[
        str, typer.Option(help="A model's name (see `mmx models`) or the path of a checkpoint.")
    ] = "whisper-base",
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
        Path | None, typer.Option(help="Keep live sessions here while the server is not running.")
    ] = None,
    max_upload_mb: Annotated[float, typer.Option(help="Largest upload, in MB.")] = 200.0,
    max_audio_s: Annotated[float, typer.Option(help="Longest recording or live session, in seconds.")] = 14400.0,
    max_queue: Annotated[int, typer.Option(min=0, help="Recordings that may wait.")] = 16,
    max_sessions: Annotated[int, typer.Option(min=1, help="Live sessions at once.")] = 32,
    idle_timeout_s: Annotated[float, typer.Option(help="Close a live connection that is silent for so long.")] = 60.0,
    keep_s: Annotated[float, typer.Option(help="Keep a live session so long for a client that went away.")] = 120.0,
    policy: Annotated[
        str, typer.Option(help="When a word may be written live: alignatt, local-agreement.")
    ] = "alignatt",
    step_s: Annotated[float, typer.Option(help="Look at live speech each time so much is new.")] = 1.0,
    beam_size: Annotated[int, typer.Option(min=1, help="Hypotheses of the search in recordings.")] = 5,
    workers: Annotated[int, typer.Option(min=1, help="Live sessions heard at the same moment.")] = 1,
    file_workers: Annotated[int, typer.Option(min=1, help="Recordings transcribed at the same moment.")] = 1,
    ssl_certfile: Annotated[
        Path | None, typer.Option(help="Certificate: browsers give a microphone to https pages and localhost only.")
    ] = None,
    ssl_keyfile: Annotated[Path | None, typer.Option(help="Key of the certificate.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, float16, int8.")] = "auto",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 leaves it to torch.")] = 0,
) -> None:
    """Serve recordings and live speech over OpenAI's audio API, and a page to speak into."""
    try:
        from mmx.streaming.server_run import run
    except ModuleNotFoundError as e:
        raise InputError(f'expected the packages of the server, got no {e.name}: pip install "mmx[serve]"') from e
    if (ssl_certfile is None) != (ssl_keyfile is None):
        raise InputError("expected --ssl-certfile and --ssl-keyfile together, got one of them")
    if api_key == "":  # an empty variable of the environment sets no key
        api_key = None
    run(
        model=model, text_model=text_model, host=host, port=port, policy=policy, step_s=step_s, beam_size=beam_size,
        device=device, dtype=dtype, threads=threads, ssl_certfile=ssl_certfile, ssl_keyfile=ssl_keyfile,
        api_key=api_key, allow_origin=tuple(allow_origin or ()), state_dir=state_dir, max_upload_mb=max_upload_mb,
        max_audio_s=max_audio_s, max_queue=max_queue, max_sessions=max_sessions, idle_timeout_s=idle_timeout_s,
        keep_s=keep_s, workers=workers, file_workers=file_workers,
    )  # fmt: skip


def bench_serve(
    url: Annotated[str, typer.Argument(help="A server, as in ws://127.0.0.1:8000; it must be running.")],
    sessions: Annotated[int, typer.Option(min=1, help="Clients that speak at the same time.")] = 8,
    seconds: Annotated[float, typer.Option(min=5, help="How long they speak.")] = 60.0,
    file: Annotated[
        Path | None, typer.Option(help="What they say; the shipped sample, again and again, if none.")
    ] = None,
    misbehaving: Annotated[bool, typer.Option(help="Add clients that stall, vanish, send garbage or nothing.")] = True,
    api_key: Annotated[
        str | None, typer.Option(envvar="MMX_API_KEY", show_envvar=True, help="The server's key.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Also write the figures as JSON.")] = None,
) -> None:
    """Lag of many live sessions at once, each speaking in real time."""
    try:
        from mmx.streaming.load import report
    except ModuleNotFoundError as e:
        raise InputError(f'expected the packages of the server, got no {e.name}: pip install "mmx[serve]"') from e
    report(url, sessions, seconds, file=file, misbehaving=misbehaving, api_key=api_key, output=output)
