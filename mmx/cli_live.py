"""The verbs of live work; see `mmx.cli`."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command(
        "evaluate-streaming",
        epilog="mmx evaluate-streaming talk.wav --policies alignatt:0.3,alignatt:1,local-agreement --output-dir out",
    )(evaluate_streaming)


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
