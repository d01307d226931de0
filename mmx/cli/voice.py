"""`mmx voice`: voices from recordings, for the models that speak in the voice of one."""

from pathlib import Path
from typing import Annotated

import typer

from mmx.cli.console import say
from mmx.cli.flags import Only, with_flags
from mmx.cli.sections import Verbs
from mmx.errors import InputError
from mmx.weights.options import LoadOptions

voice = Verbs(help="Add, list and remove voices that recordings give.")


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.add_typer(voice, name="voice")


@voice.command("add", epilog="mmx voice add me.wav --name me --consent")
@with_flags
def add(
    *,
    recording: Annotated[Path, typer.Argument(help="A recording or film; 5 to 10 s of one speaker are best.")],
    name: Annotated[str, typer.Option(help="What the voice is called.")],
    consent: Annotated[
        bool,
        typer.Option("--consent", help="The person whose voice this is has agreed to its being copied. Required."),
    ] = False,
    text: Annotated[str, typer.Option(help="What is said in it; the recognizer writes it if not given.")] = "",
    language: Annotated[str | None, typer.Option(help="Language of the recording; found out if not given.")] = None,
    load: Annotated[LoadOptions, Only("model", "device", "dtype", "threads")],
) -> None:
    """Keep the voice of a recording as a small file. A copied voice needs the consent of its owner."""
    from mmx.tasks import reference

    reference.check_name(name)
    reference.check_consent(consent)
    if name in reference.names():
        raise InputError(f"expected a new name, got {name!r}, which is taken: remove it first, or take another one")
    from mmx.api import open_model

    made = reference.make(
        recording, None if text.strip() else open_model(load), text=text, language=language, consent=consent
    )
    path = reference.save(name, made)
    say(f"{name}: {made.about['seconds']} s, “{made.text.strip()}”, in {path}")


@voice.command("list")
def show() -> None:
    """List the voices that were added."""
    from mmx.tasks import reference

    for name in reference.names():
        about = reference.read(name).about
        print(f"{name}\t{about.get('seconds', '?')} s\t{about.get('added', '')}\t{about.get('source', '')}")
    if not reference.names():
        say("no voices were added: mmx voice add me.wav --name me --consent")


@voice.command("remove", epilog="mmx voice remove me")
def remove(name: Annotated[str, typer.Argument(help="Of a voice that was added.")]) -> None:
    """Remove a voice."""
    from mmx.tasks import reference

    say(f"removed {reference.remove(name)}")
