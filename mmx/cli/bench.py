"""The verbs that measure mmx beside its peers; see `mmx.cli.app`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from mmx.cli.flags import Defaults, Only, Without, with_flags
from mmx.cli.sections import Verbs
from mmx.errors import InputError
from mmx.options import Option, check
from mmx.streaming.server.settings import Settings
from mmx.weights.options import LoadOptions


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """How something is measured."""

    beam_size: Annotated[int, Option("Hypotheses the search keeps; 1 is greedy and fastest.", least=1)] = 5
    rounds: Annotated[int, Option("Interleaved rounds; the best of each system counts.", least=1)] = 3
    output: Annotated[Path | None, Option("Also write the figures as JSON.")] = None

    def __post_init__(self) -> None:
        check(self)


bench = Verbs(help="Measure mmx against baselines, in one run.")


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.add_typer(bench, name="bench")


@bench.command("asr", epilog="mmx bench asr talk.wav --reference talk.txt")
@with_flags
def asr(
    *,
    files: Annotated[list[Path] | None, typer.Argument(help="Recordings; the shipped sample if none.")] = None,
    reference: Annotated[
        Path | None, typer.Option(help="Their text, one line a file, for the word error rate.")
    ] = None,
    options: BenchOptions,
    load: Annotated[LoadOptions, Only("threads")],
    repeat: Annotated[int, typer.Option(min=1, help="Join the recordings this many times.")] = 1,
) -> None:
    """Speed, errors, memory and cold start of mmx, openai-whisper, faster-whisper and transformers."""
    from mmx.bench.asr import asr as measure

    measure(
        files or [],
        reference,
        beam_size=options.beam_size,
        rounds=options.rounds,
        threads=load.threads,
        repeat=repeat,
        output=options.output,
    )


@bench.command("s2tt", epilog="mmx bench s2tt --size half --beam-size 5")
@with_flags
def s2tt(
    *,
    size: Annotated[str, typer.Option(help="large, half or tiny: 24, 12 or 2 layers of each kind.")] = "large",
    seconds: Annotated[float, typer.Option(min=1, help="Seconds of speech.")] = 10.0,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to write.")] = 30,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16, of both sides.")] = "float32",
    options: Annotated[BenchOptions, Defaults(beam_size=1)],
    load: Annotated[LoadOptions, Only("device", "threads")],
) -> None:
    """Speed of SeamlessM4T v2's parts beside transformers, on random weights of the full size."""
    from mmx.bench.s2tt import s2tt as measure

    measure(
        size=size, seconds=seconds, tokens=tokens, beam_size=options.beam_size, dtype=dtype, device=load.device,
        rounds=options.rounds, threads=load.threads, output=options.output,
    )  # fmt: skip


@bench.command("tts", epilog="mmx bench tts --size half --steps 8")
@with_flags
def tts(
    *,
    size: Annotated[str, typer.Option(help="Of F5-TTS: base, half or tiny: 22, 11 or 2 layers.")] = "base",
    seconds: Annotated[float, typer.Option(min=1, help="Seconds of speech that it makes.")] = 3.0,
    steps: Annotated[int, typer.Option(min=1, help="Steps of its sampler.")] = 4,
    options: Annotated[BenchOptions, Without("beam_size")],
    load: Annotated[LoadOptions, Only("device", "threads")],
) -> None:
    """F5-TTS beside its own package on the same random weights, cost against length, and the voices that are here."""
    from mmx.bench.tts import tts as measure

    measure(
        size=size, seconds=seconds, steps=steps, device=load.device, rounds=options.rounds, threads=load.threads,
        output=options.output,
    )  # fmt: skip


@bench.command("live", epilog="mmx bench live talk.wav --reference talk.txt")
@with_flags
def live(
    *,
    file: Annotated[Path | None, typer.Argument(help="A recording; the shipped sample if none.")] = None,
    reference: Annotated[Path | None, typer.Option(help="Its text, for the word error rate.")] = None,
    language: Annotated[str, typer.Option("--language", "--from", help="Language spoken.")] = "en",
    step_s: Annotated[float, typer.Option(help="Seconds of audio between decoding steps.")] = 1.0,
    options: Annotated[BenchOptions, Without("beam_size"), Defaults(rounds=1)],
    load: Annotated[LoadOptions, Only("threads")],
) -> None:
    """Live listening beside the methods of whisper_streaming and SimulStreaming on openai-whisper, in one run."""
    from mmx.bench.live import live as measure

    measure(
        file, reference, language=language, step_s=step_s, rounds=options.rounds, threads=load.threads,
        output=options.output,
    )  # fmt: skip


@bench.command("serve", epilog="mmx bench serve ws://127.0.0.1:8000 --sessions 8 --seconds 60")
@with_flags
def bench_serve(
    *,
    url: Annotated[str, typer.Argument(help="A server, as in ws://127.0.0.1:8000; it must be running.")],
    sessions: Annotated[int, typer.Option(min=1, help="Clients that speak at the same time.")] = 8,
    seconds: Annotated[float, typer.Option(min=5, help="How long they speak.")] = 60.0,
    file: Annotated[Path | None, typer.Option(help="Their recording; the shipped sample, repeated, if none.")] = None,
    misbehaving: Annotated[bool, typer.Option(help="Add clients that stall, vanish, send garbage or nothing.")] = True,
    settings: Annotated[Settings, Only("api_key")],
    options: Annotated[BenchOptions, Only("output")],
) -> None:
    """Lag of many live sessions at once, each speaking in real time."""
    try:
        from mmx.bench.serve import report
    except ModuleNotFoundError as e:
        raise InputError(f'expected the packages of the server, got no {e.name}: pip install "mmx[serve]"') from e
    report(url, sessions, seconds, file=file, misbehaving=misbehaving, api_key=settings.api_key, output=options.output)
