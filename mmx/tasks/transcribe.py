"""Long recordings to text: windows of speech from many files, decoded in batches, put back on each file's clock.

The order of work: media -> clips -> voice activity -> windows (`segment.py`) -> a decoder of windows -> `Transcript`.
What is skipped, retried or dropped on the way is a `Note` with its reason.
"""

import importlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import TYPE_CHECKING

from mmx.clip import SPEECH, Clip, Input, rate_of
from mmx.errors import InputError, MediaError, MmxError
from mmx.interfaces import Prompter, Recognizer, TaskTokenizer
from mmx.media.audio import SAMPLE_RATE, Source
from mmx.media.clips import ClipReader, open_clip
from mmx.media.downmix import SIDES
from mmx.media.signing import BODY
from mmx.media.source import reopened
from mmx.media.sync import InStep
from mmx.model import Model
from mmx.nn.ctc import NAME
from mmx.tasks.no_speech import no_speech_note
from mmx.tasks.options import Modality, Options, Task
from mmx.tasks.result import Note, Segment, Transcript
from mmx.tasks.second_pass import Text, settle
from mmx.tasks.segment import SegmentOptions, split
from mmx.tasks.window import Gap, Window
from mmx.tasks.windows import OPENING, File, Job
from mmx.weights.card import suggestion

if TYPE_CHECKING:
    from mmx.media.silero_vad import SileroVad

__all__ = ["Options", "Progress", "fit", "transcribe"]

DEFAULTS = Options()


@dataclass
class Progress:
    """How far a run is: seconds of a file that are decoded, and its length where known.

    `segments` are those so far that no later window comes before: a reader may show them, none of them moves.
    """

    name: str
    done_s: float
    total_s: float | None
    finished: bool = False
    segments: Sequence[Segment] = ()


def transcribe(
    model: Model,
    sources: Iterable[Source],
    options: Options = DEFAULTS,
    on_progress: Callable[[Progress], None] | None = None,
    on_error: Callable[[str, MmxError], None] | None = None,
) -> Iterator[Transcript]:
    """Transcripts of the sources, in order, each as soon as it is complete.

    Args:
        model: one that reads recordings, whatever of them (`Model.recorded`), and writes text.
        sources: paths, "-", file objects, bytes, arrays at the model's rate, or mappings of these by medium; see
            `mmx.media.clips.open_clip`.
        options: see `Options`.
        on_progress: called as media is read.
        on_error: called for a source that cannot be read, after which the others go on; without it the error is
            raised.
    """
    return _Run(model, options, on_progress, on_error).run(sources)


def chosen_inputs(model: Model, modality: Modality | None) -> dict[str, Input]:
    """What is read of a recording: all that the model reads, or the media that the option names.

    Raises:
        InputError: the model reads nothing of it.
    """
    if modality in (None, "av"):
        return model.recorded
    chosen = {name: what for name, what in model.recorded.items() if what.medium == modality}
    if not chosen:
        media = ", ".join(dict.fromkeys(what.medium for what in model.recorded.values()))
        raise InputError(f"expected a modality that {model.name} reads ({media}), got {modality!r}: choose av")
    return chosen


class _Run:
    def __init__(
        self,
        model: Model,
        options: Options,
        on_progress: Callable[[Progress], None] | None,
        on_error: Callable[[str, MmxError], None] | None,
    ):
        options = fit(model, options)
        self.model, self.options = model, options
        self.on_progress, self.on_error = on_progress, on_error
        self.recognize: Recognizer = _kind(model, options).recognizer(model, options)
        self.inputs = chosen_inputs(model, options.modality)
        # A recogniser's windows are as long as it was trained to read at once.
        longest_s = min(model.window(name).seconds for name in self.inputs)
        self.cut = SegmentOptions(max_window_s=longest_s, pad_s=min(SegmentOptions().pad_s, longest_s / 8))
        # Rest is cut out of whole bodies' poses: of hands alone, a letter that is held still is no rest.
        posed = options.vad and all(i.medium == "pose" and BODY in i.points for i in self.inputs.values())
        self.points = {name: i.points for name, i in self.inputs.items()} if posed else None
        self.queue: list[Job] = []

    def run(self, sources: Iterable[Source]) -> Iterator[Transcript]:
        waiting: list[list[File]] = []
        for source in sources:
            files = self._files(source)
            waiting.append(files)
            items = self._read(source, files)
            while (found := self._next(items, files)) is not None:
                self._take(*found)
                self._decode_full()
            for file in files:
                file.read = True
            self._decode_full()
            yield from self._complete(waiting)
        while self.queue:
            self._decode()
            yield from self._complete(waiting)
        yield from self._complete(waiting)

    def _decode_full(self) -> None:
        """Decode full batches whose recordings' languages can be told: by their opening, or all of what is shorter."""
        size = self.options.batch_size
        while len(self.queue) >= size and all(
            f.language or f.read or len(f.opening) == OPENING for f in (j.file for j in self.queue[:size])
        ):
            self._decode()

    def _files(self, source: Source) -> list[File]:
        """One recording, or both channels of one."""
        name = str(source) if isinstance(source, str) else "audio"
        sides = SIDES if self.options.channels == "each" else ("",)
        return [File(name, self.options.language, side, (i, len(sides))) for i, side in enumerate(sides)]

    def _next(self, items: Iterator[tuple[File, Window | Gap]], files: list[File]) -> tuple[File, Window | Gap] | None:
        """The next stretch of a recording, None at its end or when it cannot be read on."""
        try:
            return next(items, None)
        except MmxError as e:
            for file in files:
                file.error = e
                self.queue = [j for j in self.queue if j.file is not file]
            if self.on_error is None:
                raise
            self.on_error(files[0].name, e)
            return None

    def _read(self, source: Source, files: list[File]) -> Iterator[tuple[File, Window | Gap]]:
        """The stretches of a recording; of one whose channels are heard one by one, those of the left channel first.

        For that it is read twice: what the other channel holds would have to be kept through any long silence.
        """
        o, partial = self.options, self.model.fuse is not None
        with reopened(source) as again:
            for file in files:
                how = {"track": o.track, "channels": file.channel or o.channels, "video_reader": o.video_reader}
                with open_clip(again(), self.inputs, partial=partial, **how) as reader:
                    file.name, file.total_s = reader.name, reader.duration_s
                    step = InStep(self.inputs if partial else {})
                    if file.channel and reader.channels > len(files):
                        raise MediaError(
                            f"{reader.name}: expected two channels to transcribe one by one, got {reader.channels}: "
                            "take the mix, or left or right"
                        )
                    first, second = (vad(), second_vad()) if o.vad and SPEECH in reader.modalities else (None, None)
                    for item in split(self._metered(reader, file, step), first, self.cut, second, self.points):
                        yield file, item
                wrong = [*reader.warnings, *reader.remarks, *filter(None, [step.told()])]
                file.wrong += [Note(0.0, file.duration_s, "warning", w) for w in wrong]
                file.read = True

    def _metered(self, reader: ClipReader, file: File, step: InStep) -> Iterator[Clip]:
        frames = Counter[str]()
        for clip in reader:
            step.push(clip)
            frames.update({name: int(seq.lengths[0]) for name, seq in clip.items()})
            file.duration_s = max(frames[name] / rate_of(name, seq) for name, seq in clip.items())
            if SPEECH in clip:
                file.peak = max(file.peak or 0.0, float(clip[SPEECH].x.abs().amax()) if frames[SPEECH] else 0.0)
            self._tell(file)
            yield clip

    def _tell(self, file: File, decoded: bool = False) -> None:
        """Report how far the recording is decoded, which may be behind what is read."""
        if self.on_progress:
            queued = (j.window.start_s for j in self.queue if j.file is file)
            done_s, (part, parts) = min(queued, default=file.duration_s), file.share
            whole = decoded and parts == 1  # else what the other channel says may come before
            settled = sorted((s for s in file.segments if s.start_s < done_s), key=_order) if whole else ()
            if file.total_s is not None:
                done_s = (part * file.total_s + done_s) / parts
            self.on_progress(Progress(file.name, done_s, file.total_s, segments=settled))

    def _take(self, file: File, item: Window | Gap) -> None:
        if isinstance(item, Gap):
            file.notes.append(Note(item.start_s, item.end_s, "skipped", item.reason))
        else:
            file.waiting += 1
            if not file.language and len(file.opening) < OPENING:
                file.opening.append(item)
            self.queue.append(Job(file, item))

    def _complete(self, waiting: list[list[File]]) -> Iterator[Transcript]:
        """Recordings whose windows are all decoded, from the front, so that the order of the sources is kept."""
        while waiting and all(f.read and not (f.waiting and not f.error) for f in waiting[0]):
            files = waiting.pop(0)
            if files[0].error is None:
                yield self._transcript(files)

    def _transcript(self, files: list[File]) -> Transcript:
        """Of a recording, whose channels are put together by time; its language is that of the one that says most."""
        most = max(files, key=lambda f: sum(len(s.text) for s in f.segments))
        duration_s = max(f.duration_s for f in files)
        if self.on_progress:
            self.on_progress(Progress(most.name, duration_s, duration_s, finished=True))
        segments = [replace(s, channel=f.channel) if f.channel else s for f in files for s in f.segments]
        notes = dict.fromkeys(
            n for f in files for n in [*f.wrong, *(_of(n, f.channel) for n in f.notes), *no_speech_note(f)]
        )  # what is wrong with the file is so on both channels and told once
        return Transcript(
            source=most.name,
            segments=tuple(sorted(segments, key=_order)),
            language=most.language or "",
            language_probability=most.language_probability,
            duration_s=duration_s,
            task=self.options.task,
            model=self.model.name,
            spoken=tuple(sorted((s for f in files for s in f.spoken), key=lambda s: s.start_s)),
            notes=tuple(sorted(notes, key=lambda n: (n.start_s, n.end_s))),
        )

    def _decode(self) -> None:
        jobs, self.queue = self.queue[: self.options.batch_size], self.queue[self.options.batch_size :]
        again: list[Job] = []
        for job, got in zip(jobs, self.recognize(jobs), strict=True):
            job.file.spoken += got.spoken
            if job.second is not None:
                job.second.open += len(got.again) + len(got.seconds)
            for second in got.seconds:
                second.within = job.second
            text = settle(Text(got.segments, got.log_prob, got.tokens, got.failed, got.notes), job.second)
            if text is not None:
                job.file.segments += text.segments
                job.file.notes += text.notes
            again += [Job(job.file, part, job.retry + 1, job.second) for part in got.again]
            again += [Job(job.file, part, job.retry + 1, second) for second in got.seconds for part in second.parts]
            job.file.waiting += len(got.again) + sum(len(s.parts) for s in got.seconds) - 1
        self.queue = again + self.queue
        for file in {id(j.file): j.file for j in jobs}.values():
            self._tell(file, decoded=True)


def _of(note: Note, channel: str) -> Note:
    """The note with the channel that it is about."""
    return replace(note, reason=f"{channel} channel: {note.reason}") if channel else note


def _order(segment: Segment) -> tuple[float, float]:
    return segment.start_s, segment.end_s


def vad() -> "SileroVad":
    """The voice activity model; small enough to build for each run."""
    from mmx.media.silero_vad import load

    return load()


def second_vad() -> "SileroVad":
    """The one to ask where the first hears next to nothing."""
    from mmx.media.silero_vad import load_other

    return load_other()


def fit(model: Model, options: Options) -> Options:
    """The options in this model's own terms. Raises `InputError` for what it cannot do."""
    if NAME not in model.heads:
        model.require_decoder()
    if model.tokenizer is None:
        raise InputError(
            f"expected a model with a tokenizer, got {model.name} without: put its files next to the weights"
        )
    if not model.recorded:
        raise InputError(f"expected a model with a speech encoder, got {model.name}: {suggestion('transcribe')}")
    if SPEECH in model.recorded and (rate := model.recorded[SPEECH].rate) != SAMPLE_RATE:
        raise InputError(f"expected a model for speech at {SAMPLE_RATE} Hz, got {model.name}, at {rate:g} Hz")
    if options.vocabulary and model.decoder is not None:
        raise InputError(f"expected no vocabulary with {model.name}, which writes any text: give the words as hotwords")
    if options.channels != "mix" and SPEECH not in model.recorded:
        raise InputError(f"expected a model with a speech encoder for channels, got {model.name}: leave them out")
    return _kind(model, options).fit(model, options)


def prompter(model: Model, language: str | None, task: Task, to: str | None) -> Prompter:
    """The text side of a live session.

    Args:
        model: with a tokenizer.
        language: of the speech; detected when None, by models that can.
        task: transcribe or translate.
        to: language to translate into; English when None.

    Raises:
        InputError: what the model cannot do.
    """
    options = fit(model, Options(language=language, task=task, to=to or "en"))
    return _kind(model, options).prompter(model, options)


def _kind(model: Model, options: Options) -> ModuleType:
    """The module with the recognizer: the one that a tokenizer whose texts hold more than text names, else ours.

    Where the CTC head has all of the say, the decoder is not asked at all.
    """
    tok = model.tokenizer
    if isinstance(tok, TaskTokenizer):
        return importlib.import_module(tok.recognizer)
    only_ctc = NAME in model.heads and options.ctc_weight == 1 and options.task == "transcribe"
    by_ctc = model.decoder is None or only_ctc
    return importlib.import_module("mmx.tasks.ctc_recognizer" if by_ctc else "mmx.tasks.recognizer")
