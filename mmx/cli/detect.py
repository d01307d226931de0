"""`mmx detect`: whether recordings are speech that mmx made."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from mmx.cli.console import say, write_out
from mmx.errors import InputError, MmxError

if TYPE_CHECKING:
    from mmx.mark.detect import Marking

NOT_FOUND = 3
"""Exit code where no file has the mark; 0 where one has, 1 where a file could not be read."""


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command(epilog="mmx detect talk.mp3   |   mmx detect *.wav --output-format json")(detect)


def detect(
    files: Annotated[list[str], typer.Argument(metavar="FILES", help="Audio or video files, folders, globs, or -.")],
    output_format: Annotated[str, typer.Option("--output-format", "-f", help="txt, or json: a line a file.")] = "txt",
) -> None:
    """Tell whether speech was made by mmx: by its inaudible mark, and by what the file says of itself.

    Exit codes: 0 where a mark was found, 3 where none was, 1 where a file cannot be read.
    """
    if output_format not in ("txt", "json"):
        raise InputError(f"expected --output-format txt or json, got {output_format!r}")
    from mmx.mark.detect import detect as look
    from mmx.tasks.outputs import named

    found = failed = False
    for item in named(tuple(files)):
        try:
            got = look(item.source)
        except MmxError as e:
            say(f"failed: {e}")
            failed = True
            continue
        found = found or got.found
        told = f"{item.source}: {_told(got)}"
        write_out((json.dumps({**got.to_dict(), "source": item.source}) if output_format == "json" else told) + "\n")
    raise typer.Exit(1 if failed else 0 if found else NOT_FOUND)


def _doubt(got: "Marking") -> str:
    """What speaks for a mark that is not sure enough to be found; at 0.5 and below, nothing does."""
    return f"; it may be marked (false alarm {got.false_alarm:.0e})" if got.probability > 0.9 else ""


def _told(got: "Marking") -> str:
    """The finding in a line or two."""
    from mmx.mark.detect import SHORTEST_S

    if got.found:
        spans = ", ".join(f"{s.start_s:.1f}-{s.end_s:.1f} s" for s in got.spans)
        payload = "" if got.payload is None else f", payload {got.payload}"
        line = f"marked as made by mmx ({spans}; false alarm below {max(got.false_alarm, 1e-99):.0e}{payload})"
    elif got.too_short:
        line = f"too short to tell: {got.duration_s:.1f} s, of {SHORTEST_S:g} s or more it can be told{_doubt(got)}"
    else:
        line = f"no mark found{_doubt(got)}"
    p = got.provenance
    if p is None:
        return line
    by = f", signed by {p.signer}" if p.signer else ""
    return f"{line}\n  its {p.kind} says: {p.says}{' (synthetic)' if p.synthetic else ''}; {p.state}{by}"
