"""`mmx transcribe` over files, folders and globs: find them, decode, write, report, go on after errors."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mmx.cli.console import say, write_out
from mmx.cli.options import OutputOptions
from mmx.cli.progress import Report
from mmx.cli.spoken import SpeechOut
from mmx.errors import InputError, MmxError, OutputError
from mmx.files import drop_output, try_folder
from mmx.media.expand import is_address
from mmx.media.source import MEDIA
from mmx.tasks.options import Options
from mmx.tasks.outputs import Folder, Input, assign_names, named, recording
from mmx.text.languages import find_language
from mmx.weights.options import LoadOptions

if TYPE_CHECKING:
    from mmx.cli.spoken import Step
    from mmx.model import Model
    from mmx.tasks.result import Transcript


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run of `mmx transcribe`, or of `mmx translate` over recordings.

    Attributes:
        files: files, folders and globs.
        load: the models.
        options: what it is asked for.
        output: where its texts go.
        speech: where a translation is spoken to, and how.
    """

    files: tuple[str, ...]
    load: LoadOptions
    options: Options
    output: OutputOptions
    speech: SpeechOut | None = None


def run(job: Job) -> int:
    """Transcribe all inputs of the job; returns the exit code: 0 when every one succeeded."""
    inputs = named(job.files, lambda: _endings(job.load.model))
    folders = _folders(job, len(inputs) > 1)
    todo, done = assign_names(inputs, folders, job.output.skip_existing, say)
    if done:
        say(f"{done} of {len(inputs)} are done already")
    if not todo:
        return 0
    _check_writable(job, inputs)
    report = Report()
    report.failed = _missing(todo)
    read = {i.source: recording(i.source) for i in todo if folders}  # as they are before they are read
    try:
        with report.interrupt.kept():
            for item, transcript in _transcripts(job, todo, report) if not report.failed else ():
                report.interrupt.check()
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
        say(f"interrupted: {report.kept(len(todo), job.output.output_dir)}")
        return 130
    except OutputError as e:
        report.close()
        say(f"{e}\n{report.kept(len(todo), job.output.output_dir)}")
        return e.exit_code
    finally:
        report.close()
    for name, error in report.failed:
        say(f"failed: {error}" if str(error).startswith(name) else f"failed: {name}: {error}")
    if report.failed and len(inputs) > 1:
        say(f"{report.finished} of {len(todo)} succeeded, {len(report.failed)} failed")
    return 1 if report.failed else 0


def _check_writable(job: Job, inputs: Sequence[Input]) -> None:
    """What cannot be written is told before hours are spent."""
    if job.output.output_dir is not None:
        try_folder(job.output.output_dir)
    if job.speech is None:
        return
    from mmx.media.film import is_film
    from mmx.media.write import is_audio_file
    from mmx.tasks.dub import check_target

    path = job.speech.path
    if len(inputs) == 1:
        check_target(path, inputs[0].source)
        if path.exists() and Path(inputs[0].source).exists() and path.samefile(inputs[0].source):
            raise InputError(f"expected another file for the speech than the recording, got {path} for both")
    elif is_audio_file(path) or is_film(path):
        raise InputError(f"expected a folder for the speech of {len(inputs)} recordings, got the file {path}")


def _endings(model: str) -> frozenset[str]:
    """Endings of the files that a model reads; of sound and films where it is not found, which loading will tell."""
    from mmx.api import outline
    from mmx.media.clips import endings

    try:
        return endings(outline(model, download=False).recorded) or MEDIA
    except MmxError:
        return MEDIA


def _missing(todo: Sequence[Input]) -> list[tuple[str, MmxError]]:
    """The error of every input, if none of them is there: then no model need be loaded to say so."""
    if any(i.source == "-" or is_address(i.source) or Path(i.source).exists() for i in todo):
        return []
    from mmx.media.audio import open_audio

    failed: list[tuple[str, MmxError]] = []
    for item in todo:
        try:
            open_audio(item.source).close()
        except MmxError as e:
            failed.append((item.source, e))
    return failed if len(failed) == len(todo) else []


def _transcripts(job: Job, todo: Sequence[Input], report: Report) -> Iterator[tuple[Input, "Transcript"]]:
    from mmx.api import open_model, open_route
    from mmx.tasks.transcribe import fit, transcribe

    model, options = open_model(job.load), job.options
    route = open_route(job.load, model, replace(options, speak=False))
    spoken: Step = iter
    second: Step = iter
    if job.speech is not None and (route.text_model or not job.speech.by_itself(model)):
        options = replace(options, speak=False)
        spoken = job.speech.step(options.to)
    if route.text_model is not None:
        second, options = _second_step(route.text_model, options, model.name, route.written), route.first
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

    for transcript in spoken(second(transcribe(model, sources(), options, report.progress, on_error))):
        while report.given in failed:
            report.given += 1
        item = todo[report.given]
        report.given += 1
        yield item, transcript


def _second_step(text_model: "Model", options: Options, first: str, written: str) -> "Step":
    """What translates the transcripts in the language `written` of the speech model, which is called `first`."""
    from mmx.tasks.cascade import cascade, shipped

    limits = ", a small model: expect the gist" if text_model.name in shipped() else ""
    say(f"by a cascade: {first} writes {find_language(written).name}, {text_model.name} translates it{limits}")
    return lambda done: cascade(done, text_model, options.to, options.beam_size, options.bilingual, options.shortlist)


def _folders(job: Job, several: bool) -> list[Folder]:
    """Where outputs are written whose names are not the user's."""
    texts = [] if job.output.output_dir is None else [Folder(job.output.output_dir, job.output.formats)]
    return texts + ([Folder(job.speech.path, ["wav"])] if job.speech is not None and several else [])


def _emit(job: Job, item: Input, transcript: "Transcript", several: bool) -> None:
    if job.output.output_dir is not None:
        paths = transcript.write(job.output.output_dir / item.stem.parent, job.output.formats, item.stem.name)
        say(f"{item.source} -> {', '.join(str(p) for p in paths)}")
    else:
        text = getattr(transcript, f"to_{job.output.formats[0]}")()
        if several and job.output.formats[0] == "txt":
            text = f"{item.source}:\n{text}"
        elif several:  # a line of ours would not be subtitles, a table or JSON
            say(f"{item.source}:")
        write_out(text if text.endswith("\n") or not text else text + "\n")
    if job.speech is not None:
        from mmx.tasks import dub

        path = job.speech.path / f"{item.stem}.wav" if several else job.speech.path
        track = dub.lay(transcript.spoken, transcript.duration_s)
        say(f"{item.source} -> {dub.write(path, track, item.source)}")
    of = f"{item.source}: " if several and job.output.output_dir is None else ""
    for note in transcript.notes:
        if note.action in ("dropped", "warning"):
            say(f"  note: {of}{note.start_s:.1f}-{note.end_s:.1f} s {note.action}: {note.reason}")
