"""The command line: each verb is a thin shell over the Python API, with the same names and defaults.

Nothing heavy is imported before a verb needs it, so that `mmx --help` answers at once.
"""

import io
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from mmx._version import __version__
from mmx.cli import bench as cli_bench
from mmx.cli import crop_mouth as cli_crop_mouth
from mmx.cli import detect as cli_detect
from mmx.cli import evaluate as cli_evaluate
from mmx.cli import live as cli_live
from mmx.cli import make as cli_make
from mmx.cli import search as cli_search
from mmx.cli import speak as cli_speak
from mmx.cli import train as cli_train
from mmx.cli import transcribe as cli_transcribe
from mmx.cli import voice as cli_voice
from mmx.cli.sections import Verbs
from mmx.errors import MmxError, MmxWarning

app = Verbs(
    help="Turn what people say, mouth or sign into text or speech, in its language or another: from a file, a folder, "
    "a microphone, a camera or a browser.",
    epilog="Start with: mmx transcribe talk.mp4    Trouble? mmx doctor",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        print(f"mmx {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and stop.")
    ] = False,
) -> None:
    pass


cli_transcribe.register(app)


@app.command(
    epilog="mmx convert whisper-base whisper-base-folder   |   mmx convert seamlessM4T_v2_large.pt m4t --to hf   |   "
    "mmx convert my_nllb_card.yaml nllb"
)
def convert(
    source: Annotated[str, typer.Argument(help="A model's name, the path of a checkpoint, or fairseq2's asset card.")],
    out: Annotated[Path, typer.Argument(help="Folder to write; it must not exist.")],
    to: Annotated[str, typer.Option(help="mmx, or hf: what transformers opens.")] = "mmx",
) -> None:
    """Write a model as a folder of safetensors."""
    from mmx.make.export import convert_model

    print(convert_model(source, out, to))


@app.command()
def models() -> None:
    """List the models, their licences and what is here."""
    from mmx.cli.doctor import show_models

    show_models()


@app.command()
def doctor() -> None:
    """Check this installation, with one real decode."""
    from mmx.cli.doctor import examine

    raise typer.Exit(examine())


_of_files = (cli_detect, cli_crop_mouth, cli_search, cli_live)
for verbs in (cli_speak, cli_voice, *_of_files, cli_train, cli_evaluate, cli_make, cli_bench):
    verbs.register(app)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point: errors become one line on standard error and an exit code."""
    _speak_utf8()
    with warnings.catch_warnings():
        warnings.simplefilter("default", MmxWarning)
        warnings.showwarning = partial(_show_warning, warnings.showwarning)
        return _answer(argv)


def _show_warning(usual: Callable[..., None], message: Warning | str, category: type[Warning], *rest: Any) -> None:
    """Our warnings are for the person who typed the command: a line, without the place in the code."""
    if issubclass(category, MmxWarning):
        print(f"mmx: {message}", file=sys.stderr)
    else:
        usual(message, category, *rest)


def _answer(argv: Sequence[str] | None) -> int:
    try:
        result: Any = app(args=list(argv) if argv is not None else None, standalone_mode=False)
        return int(result or 0)
    except MmxError as e:
        print(f"mmx: {e}", file=sys.stderr)
        return e.exit_code
    except KeyboardInterrupt:
        print("mmx: interrupted", file=sys.stderr)
        return 130
    except Exception as e:
        return _usage_error(e)


def _speak_utf8() -> None:
    """Any language can be printed, even where the system's own encoding has no letters for it."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.encoding.lower().replace("-", "") != "utf8":
        sys.stdout.reconfigure(encoding="utf-8")


def _usage_error(e: Exception) -> int:
    """Errors of the option parser (an unknown option, a missing value) are the user's; others are ours."""
    show = getattr(e, "show", None)
    code = getattr(e, "exit_code", None)
    if code is None:
        raise e
    if show is not None:
        show()
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
