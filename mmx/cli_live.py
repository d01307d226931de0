"""The verbs of live work; see `mmx.cli`."""

import time
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer, bench: typer.Typer) -> None:
    """Add the verbs to the command line."""
    bench.command("slots", epilog="mmx bench slots --slots 1,4,16,64 --size full --device cuda")(bench_slots)
    app.command(
        epilog="mmx live   |   mmx live --file talk.wav --realtime   |   mmx live --to en --save talk.srt   |   "
        "mmx live --to de --text-model nllb-200-distilled-600m   |   mmx live --list-devices"
    )(live)
    app.command(
        "evaluate-streaming",
        epilog="mmx evaluate-streaming talk.wav --policies alignatt:0.3,alignatt:1,local-agreement --output-dir out",
    )(evaluate_streaming)


def live(
    file: Annotated[str | None, typer.Option(help="Listen to this recording instead of the microphone.")] = None,
    realtime: Annotated[
        bool, typer.Option("--realtime", help="Play the file at the speed of life; else as fast as it is heard.")
    ] = False,
    microphone: Annotated[str | None, typer.Option(help="Name, part of one, or number; the default one else.")] = None,
    list_devices: Annotated[bool, typer.Option("--list-devices", help="List the microphones and stop.")] = False,
    model: Annotated[
        str, typer.Option(help="A model's name (see `mmx models`) or the path of a checkpoint.")
    ] = "whisper-base",
    language: Annotated[
        str | None,
        typer.Option("--language", "--from", help="Language spoken: de, deu or German. Detected if not given."),
    ] = None,
    to: Annotated[str | None, typer.Option(help="Language to translate into: de, deu or German.")] = None,
    text_model: Annotated[
        str | None, typer.Option(help="A model that translates what --model writes: two steps, for more languages.")
    ] = None,
    policy: Annotated[
        str, typer.Option(help="When to write: alignatt, local-agreement, hold-n, wait-k; a threshold after a colon.")
    ] = "alignatt",
    step_s: Annotated[float, typer.Option(help="Seconds of sound from look to look.")] = 1.0,
    vad: Annotated[bool, typer.Option("--vad/--no-vad", help="Skip what is not speech.")] = True,
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
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, float16, int8.")] = "auto",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 leaves it to torch.")] = 0,
) -> None:
    """Listen to a microphone and write, or translate, while people speak. Ctrl-C ends and saves."""
    if list_devices:
        _print_devices()
        return
    from mmx.streaming.live import Job, run

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
    from mmx.streaming.mic import list_devices

    devices = list_devices()
    if not devices:
        raise MediaError("found no microphone: plug one in, or allow this program to use it in the system's settings")
    for d in devices:
        print(f"{'*' if d.default else ' '} {d.index:2d}  {d.name}  ({d.channels} ch, {d.rate_hz / 1000:g} kHz)")


def bench_slots(
    size: Annotated[str, typer.Option(help="full, half or tiny; full on a GPU, tiny elsewhere if not given.")] = "",
    slots: Annotated[str, typer.Option(help="Numbers of sessions to try.")] = "1,4,16,64",
    steps: Annotated[int, typer.Option(min=10, help="Timed steps of each.")] = 100,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16; chosen by the device if not given.")] = "",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 leaves it to torch.")] = 0,
    output: Annotated[Path | None, typer.Option(help="Also write the figures as JSON.")] = None,
) -> None:
    """Live sessions that one machine holds in real time, and the time of a step, with CUDA graphs and without."""
    from mmx.bench_slots import slots as measure

    measure(size=size, slots=slots, steps=steps, device=device, dtype=dtype, threads=threads, output=output)


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
