"""The verbs of training; see `mmx.cli`."""

import os
import tomllib
from collections.abc import Sequence
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
