"""The verb that judges models; see `mmx.cli.app`."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from mmx.cli.options import BeamSize, Device, DType, Threads
from mmx.errors import InputError

POLICIES = "alignatt:0.3,alignatt:0.5,alignatt:1,local-agreement,hold-n:4"


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command(
        epilog="mmx evaluate test.tsv --model out/model --output scores.json   |   "
        "mmx evaluate --hypotheses a.txt --hypotheses b.txt --references ref.txt --language de --metrics bleu,chrf"
        "   |   mmx evaluate --streaming talk.wav --policies alignatt:0.3,emma --output-dir out"
    )(evaluate)


def evaluate(
    manifest: Annotated[
        Path | None,
        typer.Argument(
            help="Test set, .tsv, .csv or .jsonl: source, target, src_lang, tgt_lang; or audio. Or a folder of "
            "recordings beside texts."
        ),
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="Model to run over it; again for more, compared with the first.")
    ] = None,
    hypotheses: Annotated[
        list[Path] | None, typer.Option(help="Instead: what a system wrote, a sentence a line; again for more.")
    ] = None,
    references: Annotated[Path | None, typer.Option(help="What they should have written.")] = None,
    language: Annotated[
        str, typer.Option(help="Language of --references, and of what is spoken where a test set does not say it.")
    ] = "",
    metrics: Annotated[
        str, typer.Option(help="wer, cer, bleu, chrf, several with commas; by the task if not given.")
    ] = "",
    normalize: Annotated[str, typer.Option(help="What WER and CER disregard: whisper, basic or none.")] = "whisper",
    bootstrap: Annotated[int, typer.Option(min=0, help="Resamples for intervals and p; 0 for none.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the resampling.")] = 0,
    beam_size: BeamSize = 5,
    batch_size: Annotated[int, typer.Option(min=1, help="Sentences decoded together.")] = 16,
    device: Device = "auto",
    dtype: DType = "auto",
    threads: Threads = 0,
    output: Annotated[
        Path | None, typer.Option(help="JSON of scores and hypotheses; the same command goes on after a stop.")
    ] = None,
    streaming: Annotated[
        bool, typer.Option("--streaming", help="Listen to the speech live: quality against latency.")
    ] = False,
    policies: Annotated[
        str, typer.Option(help="Of --streaming: alignatt, emma, local-agreement, hold-n, wait-k, with thresholds.")
    ] = POLICIES,
    steps_s: Annotated[str, typer.Option(help="Of --streaming: seconds from look to look, with commas.")] = "1",
    to: Annotated[str | None, typer.Option(help="Of --streaming: language to translate into.")] = None,
    heads: Annotated[Path | None, typer.Option(help="Of --streaming: monotonic heads for the policy emma.")] = None,
    output_dir: Annotated[
        Path | None, typer.Option(help="Of --streaming: also write a table, a plot and SimulEval's logs here.")
    ] = None,
) -> None:
    """Score models on a test set, or texts: WER, CER, BLEU, chrF, with intervals; live listening, its latency too."""
    if streaming:
        if manifest is None:
            raise InputError("expected a recording with its text beside it, or a manifest of speech, got none")
        _streaming(manifest, (model or ["whisper-base"])[0], policies, steps_s, language, to, heads, output_dir,
                   device, dtype, threads)  # fmt: skip
        return
    if (manifest is None) == (not hypotheses):
        raise InputError(
            "expected either a manifest or --hypotheses, got " + ("neither" if manifest is None else "both")
        )
    if manifest is not None and not model:
        raise InputError("expected a model to run over the manifest, got none: add --model")
    if hypotheses and references is None:
        raise InputError("expected references to score against, got none: add --references")
    from mmx.evaluate import offline as verb

    scoring = verb.Scoring(
        metrics=[m.strip() for m in metrics.split(",") if m.strip()],
        normalize=normalize,  # pyright: ignore[reportArgumentType]
        bootstrap=bootstrap,
        seed=seed,
    )
    if manifest is None:
        assert hypotheses and references
        lines = verb.score(hypotheses, references, scoring, language=language)
        if output is not None:
            verb.write(output, lines)
    else:
        if threads:
            import torch

            torch.set_num_threads(threads)
        lines = verb.evaluate(
            manifest, model or [], scoring, beam_size=beam_size, batch_size=batch_size, device=device, dtype=dtype,
            language=language, output=output, on_progress=_progress(),
        )  # fmt: skip
    verb.show(lines)


def _progress() -> Callable[[str, int, int], None]:
    """A line that is written over where a person is looking, else one for each tenth."""
    last: dict[str, int] = {}

    def tell(name: str, done: int, total: int) -> None:
        tenth = 10 * done // total
        if sys.stderr.isatty():
            print(f"\r{name}: {done} of {total}", end="\n" if done == total else "", file=sys.stderr, flush=True)
        elif last.get(name) != tenth:
            print(f"{name}: {done} of {total}", file=sys.stderr, flush=True)
        last[name] = tenth

    return tell


def _streaming(
    path: Path,
    model: str,
    policies: str,
    steps_s: str,
    language: str,
    to: str | None,
    heads: Path | None,
    output_dir: Path | None,
    device: str,
    dtype: str,
    threads: int,
) -> None:
    import torch

    import mmx
    from mmx.evaluate import streaming as evaluate
    from mmx.streaming.emma.heads import find_heads
    from mmx.streaming.policies import find_policy

    names = [p.strip() for p in policies.split(",") if p.strip()]
    for name in names:
        find_policy(name)  # a typing slip is told before a model is loaded
    recordings = evaluate.read_recordings([path], language)
    if threads:
        torch.set_num_threads(threads)
    loaded = mmx.load(model, device=device, dtype=dtype)  # pyright: ignore[reportArgumentType]
    task = "translate" if to else "transcribe"
    quality = "WER %" if task == "transcribe" else "chrF"
    figures = evaluate.evaluate_streaming(
        loaded,
        recordings,
        policies=names,
        steps_s=_numbers(steps_s),
        language=language or None,
        task=task,
        to=to,
        monotonic=find_heads(loaded, heads) if heads else None,
        on_done=lambda f: print(f"{f.system}: {quality} {f.score:.2f}", file=sys.stderr),
    )
    print(evaluate.table(figures, quality))
    if output_dir:
        evaluate.write(figures, recordings, output_dir, quality)


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as e:
        raise InputError(f"expected numbers with commas such as 0.5,1 for --steps-s, got {text!r}") from e
