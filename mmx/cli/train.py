"""The verbs of training; see `mmx.cli.app`."""

import os
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from mmx.cli.sections import Verb, Verbs
from mmx.errors import InputError, MmxError
from mmx.options import type_of

data = Verbs(help="Check training data before hours are spent on it.")

TRAIN_EXAMPLES = (
    "mmx train models/recipes/new_word.toml   |   mmx train recipe.toml updates=2000 lr=3e-4 out=runs/second   |   "
    "The same command resumes. Relative paths, in a recipe too, start from the current folder."
)
CHECK_EXAMPLES = (
    "mmx data check data/train.tsv --model whisper-base   |   mmx data check my_recordings/ --language en   |   "
    "Exit code 1 where something is wrong."
)


class TrainCommand(Verb):
    """`mmx train`, whose help lists the options of a recipe."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """The command's own options, then those of `mmx.train.options`."""
        from mmx.train.options import reference

        super().format_options(ctx, formatter)
        with formatter.section("Options of a recipe, also as OPTION=VALUE"):
            formatter.write_dl(
                [(name, f"{text} [{kind}; {default}]") for name, kind, default, text in reference()], col_max=18
            )


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command(epilog=TRAIN_EXAMPLES, cls=TrainCommand)(train)
    app.add_typer(data, name="data")


def train(
    recipe: Annotated[Path, typer.Argument(help="A recipe in TOML; see models/recipes.")],
    changes: Annotated[
        list[str] | None, typer.Argument(metavar="[OPTION=VALUE]...", help="Options that come before the recipe's.")
    ] = None,
) -> None:
    """Train, or go on with, a model; at the end, write it as a folder that every verb takes.

    Ctrl-C stops it after the update that it is at, with a checkpoint.
    """
    try:
        model = _trained(recipe, changes or [])
    except MmxError as e:
        from mmx.train.distributed import is_first_to_report

        if not is_first_to_report(str(e)):  # of the processes that torchrun starts, one is enough
            raise typer.Exit(e.exit_code) from None
        raise
    if os.environ.get("RANK", "0") == "0":
        print(model)


def _trained(recipe: Path, changes: Sequence[str]) -> Path:
    chosen = options(changes)
    from mmx.train.loop import train as run
    from mmx.train.options import TrainOptions

    return run(TrainOptions.from_toml(recipe, **chosen))


def options(changes: Sequence[str]) -> dict[str, Any]:
    """`name=value` texts as a table; values as in TOML, texts with or without quotes."""
    from mmx.train.options import OPTIONS, TrainOptions

    found: dict[str, Any] = {}
    for change in changes:
        name, sign, value = change.partition("=")
        if not (name and sign):
            raise InputError(f"expected option=value, as in updates=2000, got {change!r}")
        try:
            found[name] = tomllib.loads(f"x = {value}")["x"]
        except tomllib.TOMLDecodeError:
            found[name] = value
        if name in OPTIONS and type_of(TrainOptions, name) is str and not isinstance(found[name], str):
            found[name] = value  # a folder may be called 2026
    return found


@data.command("check", epilog=CHECK_EXAMPLES)
def check(
    manifest: Annotated[
        Path,
        typer.Argument(
            help="A .tsv, .csv or .jsonl file in UTF-8. Columns of texts: source, target, src_lang, tgt_lang; of "
            "recordings: audio, video, pose or features, target (or text), src_lang, and if needed tgt_lang, start_s, "
            "duration_s; of both, if you like: id, origin, task. "
            "Recordings are relative to the file. Or a folder of recordings with their texts."
        ),
    ],
    model: Annotated[
        str | None, typer.Option(help="Also check that this model has the languages and the room.")
    ] = None,
    language: Annotated[str, typer.Option(help="Language spoken where the data do not give it.")] = "",
    show: Annotated[int, typer.Option(min=1, help="Problems that are listed; all are counted.")] = 50,
    threads: Annotated[int, typer.Option(min=1, help="Recordings read at once.")] = 4,
    held_out: Annotated[
        list[Path] | None,
        typer.Option(help="Manifest that no text and no recording may be of, as that of the test; again for more."),
    ] = None,
) -> None:
    """Say what is wrong with training data, and what is in them."""
    from mmx.train.data_check import check_data, report

    found = check_data(manifest, model, language, threads, held_out or ())
    report(found, show)
    raise typer.Exit(1 if found.problems else 0)
