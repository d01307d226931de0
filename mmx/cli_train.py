"""The verbs of training and of making what is to be trained; see `mmx.cli`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from mmx.errors import InputError


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command(
        epilog="mmx compose --encoder whisper-base --decoder nllb-200-distilled-600m --out speech-nllb   |   "
        "mmx compose --encoder w2v-bert-2.0 --decoder ./Qwen2-0.5B --adapter cif --numbers weight=0.05 --out hears-qwen"
    )(compose)


def compose(
    encoder: Annotated[str, typer.Option(help="Model whose encoder is taken: its name or its path.")],
    decoder: Annotated[
        str, typer.Option(help="Model whose decoder is taken; also a folder of Hugging Face's with a language model.")
    ],
    out: Annotated[Path, typer.Option(help="Folder to write; it must not exist.")],
    adapter: Annotated[str, typer.Option(help="What is put between: linear, conv, qformer or cif.")] = "conv",
    numbers: Annotated[
        str, typer.Option(help="Of the adapter, with commas, as in layers=3,kernel=5; see `mmx.adapters`.")
    ] = "",
    modality: Annotated[str | None, typer.Option(help="What is encoded, of an encoder model that has several.")] = None,
    stage: Annotated[
        str, typer.Option(help="What is trained: adapter, adapter+cross (the decoder's attention too), or all.")
    ] = "adapter",
    seed: Annotated[int, typer.Option(help="Of the adapter's weights.")] = 0,
) -> None:
    """Put the encoder of one model before the decoder of another, ready to train."""
    from mmx import composition

    chosen = composition.as_stage(stage)
    model = composition.compose(
        encoder,
        decoder,
        adapter=adapter,
        numbers=_numbers(numbers),
        modality=modality,
        stage=chosen,
        seed=seed,
        out=out,
    )
    print(composition.describe(model))
    print(f"\nwritten to {out}. To train the stage {chosen}, put into a recipe:\n")
    print(composition.recipe(model, out, chosen))
    print("\nand run: mmx train recipe.toml")


def _numbers(text: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, equals, value = part.partition("=")
        try:
            found[name.strip()] = int(value) if value.strip().lstrip("-").isdigit() else float(value)
        except ValueError:
            equals = ""
        if not equals:
            raise InputError(f"expected numbers such as layers=3,kernel=5 for --numbers, got {part!r}")
    return found
