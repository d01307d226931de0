"""The command line: each verb is a thin shell over the Python API, with the same names and defaults.

Nothing heavy is imported before a verb needs it, so that `mmx --help` answers at once.
"""

import io
import math
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from mmx._version import __version__
from mmx.cli import bench as cli_bench
from mmx.cli import evaluate as cli_evaluate
from mmx.cli import live as cli_live
from mmx.cli import make as cli_make
from mmx.cli import train as cli_train
from mmx.cli.options import BeamSize, Channels, Device, DType, Language, ModelName, Threads, Track, Vad
from mmx.errors import InputError, MmxError, MmxWarning, nearest

app = typer.Typer(
    help="Turn what people say into text, in their language or another: from a file, a folder, or live.",
    epilog="Start with: mmx transcribe talk.mp4    Trouble? mmx doctor",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Files = Annotated[list[str], typer.Argument(metavar="FILES", help="Files, folders, globs, or - for standard input.")]
WordTimes = Annotated[bool, typer.Option("--word-timestamps", help="Give every word its times.")]
Format = Annotated[str, typer.Option(help="txt, srt, vtt, tsv, json or all; several with commas.")]
OutputDir = Annotated[Path | None, typer.Option(help="Write files here; without it the text goes to standard output.")]
Temperature = Annotated[str, typer.Option(help="Tried in turn while the text looks like a failure.")]
Prompt = Annotated[str | None, typer.Option(help="Text the speech might continue: style, spelling, names.")]
Hotwords = Annotated[str | None, typer.Option(help="Words that are likely to occur.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Windows of 30 s decoded together, across files.")]
SkipExisting = Annotated[bool, typer.Option("--skip-existing", help="Leave out recordings whose output is there.")]

TEMPERATURES = "0,0.2,0.4,0.6,0.8,1"


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


@app.command(epilog="mmx transcribe talk.mp4   |   mmx transcribe talks/ --output-dir out --output-format srt,json")
def transcribe(
    files: Files,
    model: ModelName = "whisper-base",
    language: Language = None,
    task: Annotated[str, typer.Option(help="transcribe, or translate (to English).")] = "transcribe",
    word_timestamps: WordTimes = False,
    output_format: Format = "txt",
    output_dir: OutputDir = None,
    beam_size: BeamSize = 5,
    temperature: Temperature = TEMPERATURES,
    initial_prompt: Prompt = None,
    hotwords: Hotwords = None,
    batch_size: BatchSize = 8,
    vad: Vad = True,
    track: Track = None,
    channels: Channels = "mix",
    device: Device = "auto",
    dtype: DType = "auto",
    threads: Threads = 0,
    skip_existing: SkipExisting = False,
) -> None:
    """Write down what is said in recordings."""
    _run(
        files, output_format=output_format, output_dir=output_dir, skip_existing=skip_existing, model=model,
        device=device, dtype=dtype, threads=threads, temperature=temperature, language=language, task=task,
        word_timestamps=word_timestamps, beam_size=beam_size, initial_prompt=initial_prompt, hotwords=hotwords,
        batch_size=batch_size, vad=vad, track=track, channels=channels,
    )  # fmt: skip


@app.command(
    epilog="mmx translate rede.mp3 --to en   |   mmx translate talk.mp4 --to de --model seamless-m4t-v2-large "
    '--speak out.wav   |   mmx translate --text "Good morning." --from en --to fr --model nllb-200-distilled-600m'
)
def translate(
    files: Annotated[
        list[str] | None, typer.Argument(metavar="FILES", help="Files, folders, globs, or - for standard input.")
    ] = None,
    to: Annotated[str, typer.Option(help="Language to translate into: de, deu or German.")] = "",
    text: Annotated[str | None, typer.Option(help="Translate this text instead of recordings; - reads it.")] = None,
    model: ModelName = "whisper-base",
    text_model: Annotated[
        str | None, typer.Option(help="A model that translates what --model writes: two steps, for more languages.")
    ] = None,
    language: Language = None,
    bilingual: Annotated[bool, typer.Option("--bilingual", help="Subtitles with the words spoken above.")] = False,
    speak: Annotated[
        Path | None, typer.Option(help="Also say it: a .wav or .flac file, or a folder for several recordings.")
    ] = None,
    speaker: Annotated[int, typer.Option(min=0, help="Voice that says it, by number.")] = 0,
    shortlist: Annotated[
        str | None,
        typer.Option(help="Write only pieces that occur in this text of the target language; `script`: of its script."),
    ] = None,
    word_timestamps: WordTimes = False,
    output_format: Format = "txt",
    output_dir: OutputDir = None,
    beam_size: BeamSize = 5,
    temperature: Temperature = TEMPERATURES,
    initial_prompt: Prompt = None,
    hotwords: Hotwords = None,
    batch_size: BatchSize = 8,
    vad: Vad = True,
    track: Track = None,
    channels: Channels = "mix",
    device: Device = "auto",
    dtype: DType = "auto",
    threads: Threads = 0,
    skip_existing: SkipExisting = False,
) -> None:
    """Write what is said, or a text, in another language; with a model that has a voice, also say it."""
    if not to:
        raise InputError("expected a language to translate into, got none: add --to, as in --to de")
    if (text is None) == (not files):
        raise InputError("expected either recordings or --text, got " + ("both" if files else "neither"))
    if text is not None:
        ignored = {"--output-dir": output_dir, "--output-format": output_format != "txt", "--bilingual": bilingual,
                   "--text-model": text_model, "--word-timestamps": word_timestamps,
                   "--skip-existing": skip_existing, "--track": track, "--channels": channels != "mix"}  # fmt: skip
        if unused := [name for name, given in ignored.items() if given]:
            raise InputError(
                f"expected recordings with {', '.join(unused)}, got --text, whose translation is one text on standard "
                "output: it takes --from, --to, --model, --beam-size, --shortlist, --speak and --speaker"
            )
        from mmx.cli.text import run_text

        raise typer.Exit(
            run_text(
                sys.stdin.read() if text == "-" else text, src=language, to=to, model=model, beam_size=beam_size,
                shortlist=shortlist, speak=speak, speaker=speaker, device=device, dtype=dtype, threads=threads,
            )
        )  # fmt: skip
    _run(
        files or [], output_format=output_format, output_dir=output_dir, skip_existing=skip_existing, model=model,
        device=device, dtype=dtype, threads=threads, speech=speak, text_model=text_model, temperature=temperature,
        language=language, task="translate", to=to, word_timestamps=word_timestamps, beam_size=beam_size,
        initial_prompt=initial_prompt, hotwords=hotwords, batch_size=batch_size, vad=vad, track=track,
        channels=channels, bilingual=bilingual, speak=speak is not None, speaker=speaker, shortlist=shortlist,
    )  # fmt: skip


def _run(
    files: Sequence[str],
    *,
    output_format: str,
    output_dir: Path | None,
    skip_existing: bool,
    model: str,
    device: str,
    dtype: str,
    threads: int,
    temperature: str,
    speech: Path | None = None,
    text_model: str | None = None,
    **options: Any,
) -> None:
    """Leave with the exit code of a run; `options` are those of `mmx.tasks.transcribe.Options`."""
    from mmx.cli.transcribe import Job, run

    job = Job(
        files=tuple(files),
        formats=_formats(output_format, output_dir),
        output_dir=output_dir,
        skip_existing=skip_existing,
        speech=speech,
        model=model,
        text_model=text_model,
        device=device,
        dtype=dtype,
        threads=threads,
        options={**options, "temperature": _temperatures(temperature)},
    )
    raise typer.Exit(run(job))


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


for verbs in (cli_live, cli_train, cli_evaluate, cli_make, cli_bench):
    verbs.register(app)


def _temperatures(text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(t) for t in text.split(","))
    except ValueError:
        raise InputError(f"expected numbers such as 0 or 0,0.4,0.8 for --temperature, got {text!r}") from None
    if not all(math.isfinite(v) and v >= 0 for v in values):
        raise InputError(f"expected temperatures of 0 or more for --temperature, got {text!r}")
    return values


def _formats(text: str, output_dir: Path | None) -> tuple[str, ...]:
    known = ("txt", "srt", "vtt", "tsv", "json")
    names = tuple(dict.fromkeys(n.strip().lower() for n in text.split(",") if n.strip()))
    if "all" in names:
        names = known
    for name in names:
        if name not in known:
            raise InputError(f"expected formats among {', '.join(known)}, all, got {name!r}.{nearest(name, known)}")
    if not names:
        raise InputError(f"expected formats among {', '.join(known)}, all, got {text!r}")
    if len(names) > 1 and output_dir is None:
        raise InputError(f"expected --output-dir with {len(names)} formats: only one fits on standard output")
    return names


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
