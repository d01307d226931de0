"""The command line: each verb is a thin shell over the Python API, with the same names and defaults.

Nothing heavy is imported before a verb needs it, so that `mmx --help` answers at once.
"""

import io
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from mmx import cli_live
from mmx._version import __version__
from mmx.errors import InputError, MmxError, nearest

app = typer.Typer(
    help="Turn what people say into text, in their language or another: from a file, a folder, or live.",
    epilog="Start with: mmx transcribe talk.mp4    Trouble? mmx doctor",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
bench = typer.Typer(help="Measure mmx beside its peers, in one run.", no_args_is_help=True)
app.add_typer(bench, name="bench")

Files = Annotated[list[str], typer.Argument(metavar="FILES", help="Files, folders, globs, or - for standard input.")]
ModelName = Annotated[str, typer.Option(help="A model's name (see `mmx models`) or the path of a checkpoint.")]
Language = Annotated[
    str | None, typer.Option("--language", "--from", help="Language spoken: de, deu or German. Detected if not given.")
]
WordTimes = Annotated[bool, typer.Option("--word-timestamps", help="Give every word its times.")]
Format = Annotated[str, typer.Option(help="txt, srt, vtt, tsv, json or all; several with commas.")]
OutputDir = Annotated[Path | None, typer.Option(help="Write files here; without it the text goes to standard output.")]
BeamSize = Annotated[int, typer.Option(min=1, help="Hypotheses the search keeps; 1 is greedy and fastest.")]
Temperature = Annotated[str, typer.Option(help="Tried in turn while the text looks like a failure.")]
Prompt = Annotated[str | None, typer.Option(help="Text the speech might continue: style, spelling, names.")]
Hotwords = Annotated[str | None, typer.Option(help="Words that are likely to occur.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Windows of 30 s decoded together, across files.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
DType = Annotated[str, typer.Option(help="auto, float32, bfloat16, float16, int8.")]
Threads = Annotated[int, typer.Option(min=0, help="CPU threads; 0 leaves it to torch.")]
SkipExisting = Annotated[bool, typer.Option("--skip-existing", help="Leave out files whose output is there already.")]
Vad = Annotated[bool, typer.Option("--vad/--no-vad", help="Skip what is not speech.")]

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
        batch_size=batch_size, vad=vad,
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
    word_timestamps: WordTimes = False,
    output_format: Format = "txt",
    output_dir: OutputDir = None,
    beam_size: BeamSize = 5,
    temperature: Temperature = TEMPERATURES,
    initial_prompt: Prompt = None,
    hotwords: Hotwords = None,
    batch_size: BatchSize = 8,
    vad: Vad = True,
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
        from mmx.batch import run_text

        raise typer.Exit(
            run_text(
                sys.stdin.read() if text == "-" else text, src=language, to=to, model=model, beam_size=beam_size,
                speak=speak, speaker=speaker, device=device, dtype=dtype, threads=threads,
            )
        )  # fmt: skip
    _run(
        files or [], output_format=output_format, output_dir=output_dir, skip_existing=skip_existing, model=model,
        device=device, dtype=dtype, threads=threads, speech=speak, text_model=text_model, temperature=temperature,
        language=language, task="translate", to=to, word_timestamps=word_timestamps, beam_size=beam_size,
        initial_prompt=initial_prompt, hotwords=hotwords, batch_size=batch_size, vad=vad, bilingual=bilingual,
        speak=speak is not None, speaker=speaker,
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
    """Leave with the exit code of a run; `options` are those of `mmx.transcribe.Options`."""
    from mmx.batch import Job, run

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
    from mmx.export import convert_model

    print(convert_model(source, out, to))


@app.command()
def models() -> None:
    """List the models, their licences and what is here."""
    from mmx.doctor import show_models

    show_models()


@app.command()
def doctor() -> None:
    """Check this installation, with one real decode."""
    from mmx.doctor import examine

    raise typer.Exit(examine())


cli_live.register(app, bench)


@bench.command("asr", epilog="mmx bench asr talk.wav --reference talk.txt")
def bench_asr(
    files: Annotated[list[Path] | None, typer.Argument(help="Recordings; the shipped sample if none.")] = None,
    reference: Annotated[
        Path | None, typer.Option(help="Their text, one line a file, for the word error rate.")
    ] = None,
    beam_size: BeamSize = 5,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds; the best of each engine counts.")] = 3,
    threads: Threads = 0,
    repeat: Annotated[int, typer.Option(min=1, help="Join the recordings this many times.")] = 1,
    output: Annotated[Path | None, typer.Option(help="Also write the figures as JSON.")] = None,
) -> None:
    """Speed, errors, memory and cold start of mmx, openai-whisper, faster-whisper and transformers."""
    from mmx.bench import asr

    asr(
        files or [],
        reference,
        beam_size=beam_size,
        rounds=rounds,
        threads=threads,
        repeat=repeat,
        output=output,
    )


@bench.command("s2tt", epilog="mmx bench s2tt --size half --beam-size 5")
def bench_s2tt(
    size: Annotated[str, typer.Option(help="large, half or tiny: 24, 12 or 2 layers of each kind.")] = "large",
    seconds: Annotated[float, typer.Option(min=1, help="Seconds of speech.")] = 10.0,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to write.")] = 30,
    beam_size: BeamSize = 1,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16, of both sides.")] = "float32",
    device: Device = "auto",
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds; the best of each side counts.")] = 3,
    threads: Threads = 0,
    output: Annotated[Path | None, typer.Option(help="Also write the figures as JSON.")] = None,
) -> None:
    """Speed of SeamlessM4T v2's parts beside transformers, on random weights of the full size."""
    from mmx.bench_s2tt import s2tt

    s2tt(
        size=size, seconds=seconds, tokens=tokens, beam_size=beam_size, dtype=dtype, device=device, rounds=rounds,
        threads=threads, output=output,
    )  # fmt: skip


@bench.command("live", epilog="mmx bench live talk.wav --reference talk.txt")
def bench_live(
    file: Annotated[Path | None, typer.Argument(help="A recording; the shipped sample if none.")] = None,
    reference: Annotated[Path | None, typer.Option(help="Its text, for the word error rate.")] = None,
    language: Annotated[str, typer.Option("--language", "--from", help="Language spoken.")] = "en",
    step_s: Annotated[float, typer.Option(help="Seconds of sound from look to look.")] = 1.0,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds; the best of each system counts.")] = 1,
    threads: Threads = 0,
    output: Annotated[Path | None, typer.Option(help="Also write the figures as JSON.")] = None,
) -> None:
    """Live listening beside the methods of whisper_streaming and SimulStreaming on openai-whisper, in one run."""
    from mmx.bench_live import live

    live(file, reference, language=language, step_s=step_s, rounds=rounds, threads=threads, output=output)


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
