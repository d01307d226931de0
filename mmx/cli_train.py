"""The verbs of training and of changing what was trained; see `mmx.cli`."""

from pathlib import Path
from typing import Annotated

import typer

from mmx.errors import InputError

ModelFolder = Annotated[str, typer.Argument(help="A translation model: its name or the path of its folder.")]
Out = Annotated[Path, typer.Option(help="Folder to write; it must not exist.")]


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command(
        epilog="mmx extend runs/en_es/model --languages cat --manifest en_ca.tsv --like cat=spa --out en_es_ca   |   "
        "then train on, on the new data and the old: python -m mmx.train recipe.toml init=en_es_ca"
    )(extend)
    app.command(
        epilog="mmx trim nllb-200-distilled-600m --languages en,es --text en.txt --text es.txt --out nllb-en-es"
    )(trim)


def extend(
    model: ModelFolder,
    languages: Annotated[str, typer.Option(help="New languages, with commas: cat,oci or Catalan,Occitan.")],
    manifest: Annotated[Path, typer.Option(help="Examples of them, .tsv or .jsonl; see `mmx.manifest`.")],
    out: Out,
    like: Annotated[
        str, typer.Option(help="Languages of the model that new ones begin as, with commas: cat=spa,oci=fra.")
    ] = "",
    pieces: Annotated[int, typer.Option(min=0, help="Pieces to add at most for letters that have none.")] = 1000,
) -> None:
    """Give a translation model more languages, to be trained on."""
    from mmx import vocabulary

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
    from mmx import vocabulary

    print(vocabulary.trim(model, _listed(languages), text, out, min_probability=min_probability))


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _pair(text: str) -> tuple[str, str]:
    new, equals, old = text.partition("=")
    if not equals:
        raise InputError(f"expected pairs such as cat=spa for --like, got {text!r}")
    return new.strip(), old.strip()
