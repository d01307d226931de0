"""`mmx transcribe` over files, folders and globs: find them, decode, write, report, go on after errors."""

import glob
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmx.errors import InputError, MmxError, OutputError
from mmx.files import drop_output
from mmx.media.source import MEDIA, is_there, recordings
from mmx.tasks.outputs import Folder, Input, absolute, apart, recording, settle

if TYPE_CHECKING:
    from mmx.tasks.result import Transcript
    from mmx.tasks.transcribe import Options, Progress

    Step = Callable[[Iterator[Transcript]], Iterator[Transcript]]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run of the command line.

    Attributes:
        speech: where a translation is said aloud: a file for one recording, a folder for several.
        text_model: translates what `model` writes.
    """

    files: tuple[str, ...]
    formats: tuple[str, ...] = ("txt",)
    output_dir: Path | None = None
    skip_existing: bool = False
    speech: Path | None = None
    model: str = "whisper-base"
    text_model: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    threads: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)


def expand(patterns: Sequence[str]) -> list[Input]:
    """Files in order, folders and globs opened up. Two recordings never share a stem.

    Raises `InputError` for a folder or a glob without media; a missing file is left for the reader to report. Hidden
    files are taken when they are named, not from a folder.
    """
    found: list[Input] = []
    for pattern in patterns:
        path = _home(Path(pattern))
        if not pattern:
            raise InputError("expected a file, a folder, a glob or -, got an empty name")
        if pattern == "-":
            found.append(Input("-", Path("stdin")))
        elif _ADDRESS.match(pattern):  # as it is, for the reader to say what to do: a path would lose a slash
            found.append(Input(pattern, Path(Path(pattern).name)))
        elif path.is_dir():
            inside = recordings(path)
            if not inside:
                raise InputError(f"expected media files in the folder {pattern}, got none (looked for {_kinds()})")
            found += [Input(str(p), p.relative_to(path)) for p in inside]
        elif path.exists() or not glob.has_magic(pattern):
            found.append(Input(str(path), Path(path.name)))
        else:
            hits = sorted(p for p in glob.glob(str(path), recursive=True) if is_there(Path(p)))  # noqa: PTH207 (absolute ones too)
            if not hits:
                raise InputError(f"expected files that match {pattern!r}, got none")
            root = Path(os.path.commonpath([str(Path(h).parent) for h in hits]))
            found += [Input(h, Path(h).relative_to(root)) for h in hits]
    first: dict[str, Input] = {}
    for item in found:
        first.setdefault(item.source if item.source == "-" else str(absolute(item.source)), item)
    return apart(list(first.values()))


def _home(path: Path) -> Path:
    """The path from the home folder that `~` stands for; a name that begins so and is no user's is a name."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path


_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def _kinds() -> str:
    return ", ".join(sorted(MEDIA)[:6]) + ", ..."


def run(job: Job) -> int:
    """Transcribe all inputs of the job; returns the exit code: 0 when every one succeeded."""
    if job.skip_existing and job.output_dir is None:
        raise InputError(
            "expected --output-dir with --skip-existing, got none: only files that were written are skipped"
        )
    inputs = expand(job.files)
    folders = _folders(job, len(inputs) > 1)
    todo, done = settle(inputs, folders, job.skip_existing, _say)
    if done:
        _say(f"{done} of {len(inputs)} are done already")
    if not todo:
        return 0
    if job.output_dir is not None:
        from mmx.files import try_folder

        try_folder(job.output_dir)
    if job.speech is not None:  # what cannot be written is told before hours are spent
        from mmx.tasks.dub import is_sound, kind_of

        if len(inputs) == 1:
            kind_of(job.speech)
            if job.speech.exists() and Path(inputs[0].source).exists() and job.speech.samefile(inputs[0].source):
                raise InputError(f"expected another file for the speech than the recording, got {job.speech} for both")
        elif is_sound(job.speech):
            raise InputError(f"expected a folder for the speech of {len(inputs)} recordings, got the file {job.speech}")
    report = Report()
    report.failed = _missing(todo)
    read = {i.source: recording(i.source) for i in todo if folders}  # as they are before they are read
    try:
        with report.interruptible():
            for item, transcript in _transcripts(job, todo, report) if not report.failed else ():
                report.check()
                with report.paused():
                    _emit(job, item, transcript, len(inputs) > 1)
                for folder in folders:
                    folder.note(item.stem, read.get(item.source))
                report.finished += 1
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        drop_output()
        return 0
    except KeyboardInterrupt:
        report.close()
        _say(f"interrupted: {report.kept(job, len(todo))}")
        return 130
    except OutputError as e:
        report.close()
        _say(f"{e}\n{report.kept(job, len(todo))}")
        return e.exit_code
    finally:
        report.close()
    for name, error in report.failed:
        _say(f"failed: {error}" if str(error).startswith(name) else f"failed: {name}: {error}")
    if report.failed and len(inputs) > 1:
        _say(f"{report.finished} of {len(todo)} succeeded, {len(report.failed)} failed")
    return 1 if report.failed else 0


def _text_model(name: str, to: str) -> str:
    """The model asked for, or, where it reads no text, the one that ships for the language, which is told."""
    from mmx.tasks.cascade import text_model_for
    from mmx.weights.card import cards

    card = cards().get(name)
    if card is None or "translate-text" in card.tasks:
        return name
    found = text_model_for(to)
    if found is None:
        return name
    _say(f"{found} translates it, as {name} reads no text")
    return found


def run_text(
    text: str,
    *,
    src: str | None,
    to: str,
    model: str,
    beam_size: int = 5,
    shortlist: str | None = None,
    speak: Path | None = None,
    speaker: int = 0,
    device: str = "auto",
    dtype: str = "auto",
    threads: int = 0,
) -> int:
    """Translate a text to standard output, and say it in `speak` if that is given; returns the exit code."""
    if not text.strip():
        raise InputError("expected a text to translate, got an empty one: give it to --text, or - to read it")
    if src is None:
        raise InputError("expected the language of the text, got none: add --from, as in --from en")
    if speak is not None:
        from mmx.tasks.dub import kind_of

        kind_of(speak)
    import torch

    from mmx.api import load

    if threads:
        torch.set_num_threads(threads)
    loaded = load(_text_model(model, to), device=device, dtype=dtype)  # type: ignore[arg-type]
    if speak is not None:
        from mmx.tasks import dub
        from mmx.tasks.speak import speak_text

        done, track = speak_text(
            loaded, text, src=src, to=to, speaker=speaker, beam_size=beam_size, shortlist=shortlist
        )
        dub.write(speak, track)
        _say(f"spoken -> {speak}")
    else:
        done = loaded.translate_text([text], src=src, to=to, beam_size=beam_size, shortlist=shortlist)[0]
    for number, s in enumerate(done.segments, 1):
        if s.repetition or s.cut:
            _say(f"  note: sentence {number} warning: the text model repeated itself or was cut at its limit")
        elif s.source.strip() and not s.text.strip():
            _say(f"  note: sentence {number} warning: the text model wrote nothing")
    try:
        _write_out(done.text + "\n")
    except BrokenPipeError:
        drop_output()
    return 0


def _missing(todo: Sequence[Input]) -> list[tuple[str, MmxError]]:
    """The error of every input, if none of them is there: then no model need be loaded to say so."""
    if any(i.source == "-" or _ADDRESS.match(i.source) or Path(i.source).exists() for i in todo):
        return []
    from mmx.media.audio import open_audio

    failed: list[tuple[str, MmxError]] = []
    for item in todo:
        try:
            open_audio(item.source).close()
        except MmxError as e:
            failed.append((item.source, e))
    return failed if len(failed) == len(todo) else []


def _transcripts(job: Job, todo: Sequence[Input], report: "Report") -> Iterator[tuple[Input, "Transcript"]]:
    import torch

    from mmx.api import load
    from mmx.tasks.cascade import second_step
    from mmx.tasks.transcribe import Options, fit, transcribe

    options = Options(**job.options)
    if job.threads:
        torch.set_num_threads(job.threads)
    model = load(job.model, device=job.device, dtype=job.dtype)  # type: ignore[arg-type]
    text_model = job.text_model or second_step(model, options)
    options, second = _two_steps(job, options, model.name, text_model) if text_model else (options, iter)
    fit(model, options)
    if options.speak:
        from mmx.tasks.speak import require_voice

        require_voice(model, options.to, options.speaker)
    report.open()
    failed: set[int] = set()

    def on_error(name: str, error: MmxError) -> None:
        index = report.reading - 1
        failed.add(index)
        report.failed.append((todo[index].source, error))

    def sources() -> Iterator[str]:
        for item in todo:
            report.reading += 1
            yield item.source

    for transcript in second(transcribe(model, sources(), options, report.progress, on_error)):
        while report.given in failed:
            report.given += 1
        item = todo[report.given]
        report.given += 1
        yield item, transcript


def _two_steps(job: Job, options: "Options", first: str, second: str) -> "tuple[Options, Step]":
    """What the speech model, called `first`, is asked for, and what translates its transcripts, the model `second`."""
    from mmx.api import load
    from mmx.tasks.cascade import cascade, first_step, shipped
    from mmx.text.languages import find_language

    text_model = load(second, device=job.device, dtype=job.dtype)  # type: ignore[arg-type]
    text_model.tokenizer.language(options.to)
    asked = first_step(text_model, options)
    language = asked.language if asked.task == "transcribe" and asked.language else "en"
    text_model.translate_text([], src=language, to=options.to)  # a direction it lacks is told before hours are spent
    written = find_language(language).name
    limits = ", a small model: expect the gist" if second in shipped() else ""
    _say(f"in two steps: {first} writes {written}, {text_model.name} translates it{limits}")
    return asked, lambda done: cascade(
        done, text_model, options.to, options.beam_size, options.bilingual, options.shortlist
    )


def _folders(job: Job, several: bool) -> list[Folder]:
    """Where outputs are written whose names are not the user's."""
    texts = [] if job.output_dir is None else [Folder(job.output_dir, job.formats)]
    return texts + ([Folder(job.speech, ["wav"])] if job.speech is not None and several else [])


def _emit(job: Job, item: Input, transcript: "Transcript", several: bool) -> None:
    if job.output_dir is not None:
        paths = transcript.write(job.output_dir / item.stem.parent, job.formats, item.stem.name)
        _say(f"{item.source} -> {', '.join(str(p) for p in paths)}")
    else:
        text = getattr(transcript, f"to_{job.formats[0]}")()
        if several and job.formats[0] == "txt":
            text = f"{item.source}:\n{text}"
        elif several:  # a line of ours would not be subtitles, a table or JSON
            _say(f"{item.source}:")
        _write_out(text if text.endswith("\n") or not text else text + "\n")
    if job.speech is not None:
        from mmx.tasks import dub

        path = job.speech / f"{item.stem}.wav" if several else job.speech
        _say(f"{item.source} -> {dub.write(path, dub.lay(transcript.spoken, transcript.duration_s))}")
    of = f"{item.source}: " if several and job.output_dir is None else ""
    for note in transcript.notes:
        if note.action in ("dropped", "warning"):
            _say(f"  note: {of}{note.start_s:.1f}-{note.end_s:.1f} s {note.action}: {note.reason}")


def _write_out(text: str) -> None:
    """Write to standard output at once. Raises `OutputError`, and `BrokenPipeError` when its reader went away."""
    from mmx.files import cannot_write, readable

    try:
        sys.stdout.write(readable(text))
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as e:
        drop_output()
        raise cannot_write("standard output", e) from e


def _say(text: str) -> None:
    from mmx.files import readable

    print(readable(text), file=sys.stderr)


class Report:
    """What happened so far, and the progress bar: media read, real-time factor, time left."""

    def __init__(self) -> None:
        self.finished, self.reading, self.given = 0, 0, 0
        self.failed: list[tuple[str, MmxError]] = []
        self.before_s = 0.0
        self.now_s = 0.0
        self.bar: Any = None
        self.started = time.monotonic()
        self.interrupted = False

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Ctrl-C counts wherever it falls.

        While FFmpeg reads through a Python file, PyAV swallows KeyboardInterrupt, and the sound being read
        becomes silence. So the signal is also kept here, for `check` to find.
        """
        usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if not usual or threading.current_thread() is not threading.main_thread():
            yield
            return

        def handler(number: int, frame: Any) -> None:
            self.interrupted = True
            raise KeyboardInterrupt

        hooks = sys.unraisablehook, sys.excepthook  # Cython tells both of what it swallows
        sys.unraisablehook = lambda u: None if u.exc_type is KeyboardInterrupt else hooks[0](u)
        sys.excepthook = lambda kind, *rest: None if kind is KeyboardInterrupt else hooks[1](kind, *rest)
        signal.signal(signal.SIGINT, handler)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            sys.unraisablehook, sys.excepthook = hooks

    def check(self) -> None:
        """Raise the interrupt that was swallowed, before a text that lacks something is kept."""
        if self.interrupted:
            raise KeyboardInterrupt

    def open(self) -> None:
        """Show the bar when a person is looking."""
        self.started = time.monotonic()
        if not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[clock]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            redirect_stdout=False,  # rich would send the text to the terminal even where it goes to a file
            redirect_stderr=False,
        )
        self.task = self.bar.add_task("", total=None, clock="")
        self.bar.start()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Take the bar away while something else is printed."""
        if self.bar:
            self.bar.stop()
        yield
        if self.bar:
            self.bar.start()

    def kept(self, job: Job, total: int) -> str:
        """What is safe after a run that did not come to its end, and how to go on."""
        again = " Add --skip-existing to go on from there." if job.output_dir else ""
        return f"{self.finished} of {total} were finished and kept.{again}"

    def progress(self, p: "Progress") -> None:
        """Called as media is decoded."""
        self.check()
        if p.finished:
            self.before_s += p.done_s
            return
        self.now_s = p.done_s
        if self.bar:
            spent = time.monotonic() - self.started
            speed = (self.before_s + self.now_s) / spent if spent > 0 else 0.0
            self.bar.update(
                self.task,
                description=p.name[-40:],
                completed=p.done_s,
                total=p.total_s,
                clock=f"{_clock(p.done_s)} of {_clock(p.total_s)}, {speed:.1f}x real time",
            )

    def close(self) -> None:
        """Take the bar away."""
        if self.bar:
            self.bar.stop()
            self.bar = None


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    minutes, s = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{s:02}" if hours else f"{minutes}:{s:02}"
