"""`mmx index` and `mmx search`: find recordings by what is said or signed in them, or by example."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmx.cli.console import say, write_out
from mmx.cli.sections import Verbs
from mmx.errors import InputError

if TYPE_CHECKING:
    from mmx.search.embed import Embedder
    from mmx.search.index import Index
    from mmx.search.query import Hit

index = Verbs(help="Make and change an index of recordings, for mmx search.")

Folder = Annotated[Path, typer.Option("--index", help="Folder of the index.")]
ModelName = Annotated[
    str, typer.Option(help="Model that embeds the recordings (poses, video); none searches transcripts of speech.")
]
DEFAULT = Path("mmx-index")
NOT_FOUND = 3
"""Exit code where nothing was found; 0 where something was."""


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    index.command("build", epilog="mmx index build talks/")(build)
    index.command("add", epilog="mmx index add talk.mp4")(add)
    index.command("remove", epilog="mmx index remove talk.mp4   |   mmx index remove talks/")(remove)
    app.add_typer(index, name="index")
    app.command(epilog='mmx search "good morning"   |   mmx search clip.pose --preview hits.html')(search)


def build(
    folders: Annotated[list[str], typer.Argument(metavar="DIRS", help="Folders, files or globs.")],
    folder: Folder = DEFAULT,
    model: ModelName = "",
    speech_model: Annotated[
        str, typer.Option(help="Transcribes recordings without a transcript (NAME.json) next to them; - for none.")
    ] = "whisper-base",
) -> None:
    """Make an index of recordings, or bring one up to date: files that have gone are removed."""
    from mmx.search.build import remove as take_out
    from mmx.search.index import Index

    made = Index.create(folder)
    gone = [source for source in made.files() if not Path(source).exists()]
    if gone:
        say(f"removed {take_out(made, gone)} that have gone")
    _add(folder, folders, model, speech_model)


def add(
    files: Annotated[list[str], typer.Argument(metavar="FILES", help="Files, folders or globs.")],
    folder: Folder = DEFAULT,
    model: ModelName = "",
    speech_model: Annotated[str, typer.Option(help="As of mmx index build.")] = "whisper-base",
) -> None:
    """Add recordings to an index; those that are in and have not changed are skipped."""
    from mmx.search.index import Index

    Index(folder)
    _add(folder, files, model, speech_model)


def remove(
    files: Annotated[list[str], typer.Argument(metavar="FILES", help="Files, or folders with all that is in them.")],
    folder: Folder = DEFAULT,
) -> None:
    """Take recordings out of an index; the files stay."""
    from mmx.search.build import remove as take_out
    from mmx.search.index import Index

    write_out(f"removed {take_out(Index(folder), files)}\n")


def search(
    query: Annotated[str, typer.Argument(help="A text, or a file: an example of what is searched for.")],
    folder: Folder = DEFAULT,
    model: Annotated[
        str, typer.Option(help="The model that made the index; otherwise what the index says made it.")
    ] = "",
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Most answers.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="A line of JSON for each answer.")] = False,
    preview: Annotated[
        Path | None,
        typer.Option(help="A page (.html) that shows and plays the answers, or a sheet of pictures (.png)."),
    ] = None,
) -> None:
    """Find where recordings say a text, or those that are like an example.

    A text is looked for in transcripts, and where none has it, or with --model, by the model that made the index.

    Exit codes: 0 where something was found, 3 where nothing was.
    """
    from mmx.search.preview import KINDS, write

    if preview is not None and preview.suffix.lower() not in KINDS:
        raise InputError(f"expected a .html or .png file for --preview, got {str(preview)!r}")
    hits = _hits(query, folder, model, count)
    for place, hit in enumerate(hits, 1):
        row = f"{place:3}  {hit.score:6.3f}  {_clock(hit.start_s)}-{_clock(hit.end_s)}  {hit.source}  {hit.text}"
        write_out((json.dumps(hit.to_dict(), ensure_ascii=False) if as_json else row.rstrip()) + "\n")
    if preview is not None:
        write(preview, query, hits)
    if not hits:
        say("nothing found")
        raise typer.Exit(NOT_FOUND)


def _hits(query: str, folder: Path, model: str, count: int) -> "list[Hit]":
    from mmx.search import query as ask
    from mmx.search.index import Index

    opened, by_example = Index(folder), Path(query).is_file()
    said = [] if model or by_example else ask.by_words(opened, query, count)
    if said or not (model or opened.model or by_example):
        return said
    embedder = _embedder(model or _maker(opened))
    if by_example:
        opened.check_model(embedder.mark)
        example = next(iter(embedder(query)), None)
        if example is None:
            raise InputError(f"expected frames in {query}, got none: search with another example")
        return ask.by_example(opened, example[1], count)
    if embedder.shares_space:
        return ask.by_text(opened, query, embedder, count)
    if not embedder.reads_text:
        raise InputError(
            f"expected a model with a text encoder or a CTC head, got {embedder.mark.name}: search with a file instead"
        )
    return ask.by_likelihood(opened, query, embedder, count)


def _maker(opened: "Index") -> str:
    """What loads the model of an index."""
    if opened.model is None:
        raise InputError(
            f"expected an index with a model's vectors for an example, got transcripts alone in {opened.folder}: "
            "search with a text, or build it with --model"
        )
    if not opened.model.source:
        raise InputError(f"expected --model, got none: name the model that made the index, {opened.model.name}")
    return opened.model.source


def _add(folder: Path, files: Sequence[str], model: str, speech_model: str) -> None:
    from mmx.media.clips import endings
    from mmx.media.expand import expand
    from mmx.media.source import MEDIA
    from mmx.search import build
    from mmx.search.index import Index

    embedder = _embedder(model) if model else None
    wanted = endings(embedder.model.recorded) if embedder else MEDIA
    sources = [source for source, _ in expand(files, lambda: wanted)]
    make = build.embedded(embedder) if embedder else build.transcribed(_transcriber(speech_model))
    counts = build.add(Index(folder), sources, make, embedder)
    for reason in counts.failed:
        say(f"failed: {reason}")
    write_out(f"added {counts.added}, unchanged {counts.unchanged}, failed {len(counts.failed)}\n")
    raise typer.Exit(1 if counts.failed else 0)


def _embedder(model: str) -> "Embedder":
    from mmx.api import load
    from mmx.files import absolute
    from mmx.search.embed import Embedder

    source = str(absolute(model)) if Path(model).exists() else model
    # One device and precision everywhere: vectors of two machines can be compared.
    return Embedder(load(model, device="cpu", dtype="float32"), source=source)


def _transcriber(model: str):
    """Transcribes with word times; loads the model when the first recording needs it."""
    if model == "-":
        return None
    from functools import cache

    from mmx.api import load

    opened = cache(load)
    return lambda source: opened(model).transcribe(source, word_timestamps=True)


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60:02}:{seconds % 60:05.2f}"
