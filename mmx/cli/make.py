"""The verbs that make a model of others; see `mmx.cli.app`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from mmx.errors import InputError

ModelFolder = Annotated[str, typer.Argument(help="A translation model: its name or the path of its folder.")]
Out = Annotated[Path, typer.Option(help="Folder to write; it must not exist.")]


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command(
        epilog="mmx compose --encoder whisper-base --decoder nllb-200-distilled-600m --out speech-nllb   |   "
        "mmx compose --encoder w2v-bert-2.0 --decoder ./Qwen2-0.5B --adapter cif --numbers weight=0.05 --out hears-qwen"
    )(compose)
    app.command(
        epilog="mmx extend runs/en_es/model --languages cat --manifest en_ca.tsv --like cat=spa --out en_es_ca   |   "
        "mmx train recipe.toml init=en_es_ca   |   The second command trains on, on the new data and the old."
    )(extend)
    app.command(
        epilog="mmx trim nllb-200-distilled-600m --languages en,es --text en.txt --text es.txt --out nllb-en-es"
    )(trim)


def compose(
    encoder: Annotated[str, typer.Option(help="Model whose encoder is taken: its name or its path.")],
    decoder: Annotated[
        str, typer.Option(help="Model whose decoder is taken; also a folder of Hugging Face's with a language model.")
    ],
    out: Out,
    adapter: Annotated[str, typer.Option(help="What is put between: linear, conv, qformer or cif.")] = "conv",
    numbers: Annotated[
        str, typer.Option(help="Of the adapter, with commas, as in layers=3,kernel=5; see `mmx.nn.adapters`.")
    ] = "",
    modality: Annotated[str | None, typer.Option(help="What is encoded, of an encoder model that has several.")] = None,
    stage: Annotated[
        str, typer.Option(help="What is trained: adapter, adapter+cross (the decoder's attention too), or all.")
    ] = "adapter",
    seed: Annotated[int, typer.Option(help="Of the adapter's weights.")] = 0,
) -> None:
    """Put the encoder of one model before the decoder of another, ready to train."""
    from mmx.make import compose as composition

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


def extend(
    model: ModelFolder,
    languages: Annotated[str, typer.Option(help="New languages, with commas: cat,oci or Catalan,Occitan.")],
    manifest: Annotated[Path, typer.Option(help="Examples of them, .tsv or .jsonl; see `mmx.train.manifest`.")],
    out: Out,
    like: Annotated[
        str, typer.Option(help="Languages of the model that new ones begin as, with commas: cat=spa,oci=fra.")
    ] = "",
    pieces: Annotated[int, typer.Option(min=0, help="Pieces to add at most for letters that have none.")] = 1000,
) -> None:
    """Give a translation model more languages, to be trained on."""
    from mmx.make import vocabulary

    relatives = dict(_pair(text) for text in _listed(like))
    print(vocabulary.extend(model, _listed(languages), manifest, out, like=relatives, pieces=pieces))


def trim(
    model: ModelFolder,
    languages: Annotated[str, typer.Option(help="Languages to keep, with commas: en,es.")],
    text: Annotated[list[Path], typer.Option(help="Plain text in a language; once for each.")],
    out: Out,
    min_probability: Annotated[
        float, typer.Option(min=0, max=1, help="Share of a text's pieces from which one is kept.")
    ] = 1e-6,
) -> None:
    """Cut a translation model's vocabulary down to some languages."""
    from mmx.make import vocabulary

    print(vocabulary.trim(model, _listed(languages), text, out, min_probability=min_probability))


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _pair(text: str) -> tuple[str, str]:
    new, equals, old = text.partition("=")
    if not equals:
        raise InputError(f"expected pairs such as cat=spa for --like, got {text!r}")
    return new.strip(), old.strip()
