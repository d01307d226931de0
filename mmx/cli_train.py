"""The verbs of training and of judging what was trained; see `mmx.cli`."""

import os
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from mmx.errors import InputError

data = typer.Typer(help="Look at training data before hours are spent on it.", no_args_is_help=True)

TRAIN_EXAMPLES = (
    "mmx train models/recipes/new_word.toml   |   mmx train recipe.toml updates=2000 lr=3e-4 out=runs/second   |   "
    "The same command resumes; the options are those of mmx.train.TrainOptions."
)
CHECK_EXAMPLES = (
    "mmx data check data/train.tsv --model whisper-base   |   mmx data check my_recordings/ --language en   |   "
    "Exit code 1 where something is wrong."
)


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command(epilog=TRAIN_EXAMPLES)(train)
    app.add_typer(data, name="data")
    app.command(
        epilog="mmx evaluate test.tsv --model out/model --output scores.json   |   "
        "mmx evaluate --hypotheses a.txt --hypotheses b.txt --references ref.txt --language de --metrics bleu,chrf"
    )(evaluate)


def train(
    recipe: Annotated[Path, typer.Argument(help="A recipe in TOML; see models/recipes.")],
    changes: Annotated[
        list[str] | None, typer.Argument(metavar="[OPTION=VALUE]...", help="Options that come before the recipe's.")
    ] = None,
) -> None:
    """Train, or go on with, a model; at the end, write it as a folder that every verb takes."""
    chosen = options(changes or [])
    from mmx.train import TrainOptions
    from mmx.train import train as run

    model = run(TrainOptions.from_toml(recipe, **chosen))
    if os.environ.get("RANK", "0") == "0":  # of the processes that torchrun starts
        print(model)


def options(changes: Sequence[str]) -> dict[str, Any]:
    """`name=value` texts as a table; values as in TOML, texts with or without quotes."""
    found: dict[str, Any] = {}
    for change in changes:
        name, sign, value = change.partition("=")
        if not (name and sign):
            raise InputError(f"expected option=value, as in updates=2000, got {change!r}")
        try:
            found[name] = tomllib.loads(f"x = {value}")["x"]
        except tomllib.TOMLDecodeError:
            found[name] = value
    return found


@data.command("check", epilog=CHECK_EXAMPLES)
def check(
    manifest: Annotated[Path, typer.Argument(help="A .tsv or .jsonl file, or a folder of recordings beside texts.")],
    model: Annotated[
        str | None, typer.Option(help="Also check that this model has the languages and the room.")
    ] = None,
    language: Annotated[str, typer.Option(help="What is spoken where the data do not say it.")] = "",
    show: Annotated[int, typer.Option(min=1, help="Problems that are listed; all are counted.")] = 50,
    threads: Annotated[int, typer.Option(min=1, help="Recordings read at once.")] = 4,
) -> None:
    """Say what is wrong with training data, and what is in them."""
    from mmx.data_check import check_data, report

    found = check_data(manifest, model, language, threads)
    report(found, show)
    raise typer.Exit(1 if found.problems else 0)


def evaluate(
    manifest: Annotated[
        Path | None, typer.Argument(help="Test set, .tsv or .jsonl: source, target, src_lang, tgt_lang; or audio.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="Model to run over it; again for more, compared with the first.")
    ] = None,
    hypotheses: Annotated[
        list[Path] | None, typer.Option(help="Instead: what a system wrote, a sentence a line; again for more.")
    ] = None,
    references: Annotated[Path | None, typer.Option(help="What they should have written.")] = None,
    language: Annotated[str, typer.Option(help="Language of --references: for tokens and normalization.")] = "",
    metrics: Annotated[
        str, typer.Option(help="wer, cer, bleu, chrf, several with commas; by the task if not given.")
    ] = "",
    normalize: Annotated[str, typer.Option(help="What WER and CER disregard: whisper, basic or none.")] = "whisper",
    bootstrap: Annotated[int, typer.Option(min=0, help="Resamples for intervals and p; 0 for none.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the resampling.")] = 0,
    beam_size: Annotated[int, typer.Option(min=1, help="Hypotheses the search keeps; 1 is greedy and fastest.")] = 5,
    batch_size: Annotated[int, typer.Option(min=1, help="Sentences decoded together.")] = 16,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, float16, int8.")] = "auto",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 leaves it to torch.")] = 0,
    output: Annotated[
        Path | None, typer.Option(help="JSON of scores and hypotheses; the same command goes on after a stop.")
    ] = None,
) -> None:
    """Score models on a test set, or texts: WER, CER, BLEU, chrF, with intervals."""
    if (manifest is None) == (not hypotheses):
        raise InputError(
            "expected either a manifest or --hypotheses, got " + ("neither" if manifest is None else "both")
        )
    if manifest is not None and not model:
        raise InputError("expected a model to run over the manifest, got none: add --model")
    if hypotheses and references is None:
        raise InputError("expected references to score against, got none: add --references")
    from mmx import evaluate as verb

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
            output=output, on_progress=_progress(),
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
