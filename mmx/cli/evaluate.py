"""`mmx evaluate`."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from mmx.cli.flags import Only, with_flags
from mmx.errors import InputError
from mmx.evaluate.options import DecodeOptions, Scoring, StreamingOptions
from mmx.weights.options import DEFAULT_MODEL, LoadOptions


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command(
        epilog="mmx evaluate test.tsv --model out/model --output scores.json   |   "
        "mmx evaluate --hypotheses a.txt --hypotheses b.txt --references ref.txt --language de --metrics bleu,chrf"
        "   |   mmx evaluate --streaming talk.wav --policies alignatt:0.3,emma --output-dir out"
    )(with_flags(evaluate))


def evaluate(
    *,
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
        str, typer.Option(help="Language of --references, and of the speech where a test set does not give it.")
    ] = "",
    scoring: Scoring,
    decoding: DecodeOptions,
    load: Annotated[LoadOptions, Only("device", "dtype", "threads")],
    output: Annotated[
        Path | None, typer.Option(help="JSON of scores and hypotheses; the same command resumes after a stop.")
    ] = None,
    streaming: Annotated[
        bool, typer.Option("--streaming", help="Transcribe the speech live: quality against latency.")
    ] = False,
    retrieval: Annotated[
        bool, typer.Option("--retrieval", help="Search it by text and by example: R@1, 5, 10 and the median rank.")
    ] = False,
    options: StreamingOptions,
) -> None:
    """Score models on a test set, or texts: WER, CER, BLEU, chrF, with intervals; live listening, its latency too."""
    if streaming:
        if manifest is None:
            raise InputError("expected a recording with its text next to it, or a manifest of speech, got none")
        _streaming(manifest, replace(load, model=(model or [DEFAULT_MODEL])[0]), language, options, scoring)
        return
    _check(manifest, model, hypotheses, references)
    if retrieval:
        _retrieval(manifest, model or [], load, language, output)
        return
    from mmx.evaluate import offline as verb

    if manifest is None:
        assert hypotheses and references
        lines = verb.score(hypotheses, references, scoring, language=language)
        if output is not None:
            verb.write(output, lines)
    else:
        _set_threads(load.threads)
        lines = verb.evaluate(
            manifest, model or [], scoring, beam_size=decoding.beam_size, batch_size=decoding.batch_size,
            device=load.device, dtype=load.dtype, language=language, output=output, on_progress=_progress(),
            control=decoding.control,
        )  # fmt: skip
    verb.show(lines)


def _retrieval(manifest: Path | None, models: list[str], load: LoadOptions, language: str, output: Path | None) -> None:
    import json

    from mmx import api
    from mmx.evaluate import collection
    from mmx.files import atomic_write

    if manifest is None or len(models) != 1:
        raise InputError("expected a manifest and one model with --retrieval, got texts or several models")
    _set_threads(load.threads)
    model = api.load(models[0], device="cpu", dtype="float32")
    found = collection.evaluate_retrieval(manifest, model, language=language)
    print(collection.HEAD, *found, sep="\n")
    if output is not None:
        atomic_write(output, json.dumps(collection.record(found), indent=1))


def _check(
    manifest: Path | None, model: list[str] | None, hypotheses: list[Path] | None, references: Path | None
) -> None:
    if (manifest is None) == (not hypotheses):
        raise InputError(
            "expected either a manifest or --hypotheses, got " + ("neither" if manifest is None else "both")
        )
    if manifest is not None and not model:
        raise InputError("expected a model to run over the manifest, got none: add --model")
    if hypotheses and references is None:
        raise InputError("expected references to score against, got none: add --references")


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


def _streaming(path: Path, load: LoadOptions, language: str, options: StreamingOptions, scoring: Scoring) -> None:
    from mmx.api import open_model
    from mmx.evaluate import streaming as evaluate
    from mmx.streaming.emma.heads import find_heads
    from mmx.streaming.policies import find_policy

    for name in options.policies:
        find_policy(name)  # a typing slip is told before a model is loaded
    if not path.is_file():
        raise InputError(f"expected a recording or a manifest, got none at {path}")
    if len(scoring.metrics) > 1:
        raise InputError(f"expected one of --metrics with --streaming, got {', '.join(scoring.metrics)}")
    model, to = open_model(load), options.to
    recordings = evaluate.read_recordings([path], language, model.recorded)
    metric = scoring.metrics[0] if scoring.metrics else "chrf" if to else "wer"
    quality = evaluate.QUALITIES[metric]
    figures = evaluate.evaluate_streaming(
        model,
        recordings,
        policies=options.policies,
        steps_s=options.steps_s,
        language=language or None,
        task="translate" if to else "transcribe",
        to=to,
        monotonic=find_heads(model, options.heads) if options.heads else None,
        quality=metric,
        on_done=lambda f: print(f"{f.system}: {quality} {f.score:.2f}", file=sys.stderr),
    )
    print(evaluate.table(figures, quality))
    if options.output_dir:
        evaluate.write(figures, recordings, options.output_dir, quality)


def _set_threads(threads: int) -> None:
    if threads:
        import torch

        torch.set_num_threads(threads)
