"""A live session from end to end: sound comes, is recorded, heard, translated, shown and said; at the end it is saved.

Letters: N samples.
"""

import math
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from mmx.clip import SPEECH, Clip
from mmx.errors import InputError, MmxError, OutputError
from mmx.media.audio import SAMPLE_RATE as RATE
from mmx.media.live_mouth import LiveMouth
from mmx.media.pose import ENDINGS
from mmx.media.source import FILMS, open_file
from mmx.seq import Seq
from mmx.streaming.client.camera import Camera, WithCamera
from mmx.streaming.client.landmarks import Extractor
from mmx.streaming.client.microphone import Captured, FileSource, Microphone, Source, find_device
from mmx.streaming.client.options import LiveOptions
from mmx.streaming.client.presence import Presence
from mmx.streaming.client.speech import Loudspeaker, SourceClock, Speaking, SpeechFile, SpeechWriter
from mmx.streaming.client.terminal import Display, JsonDisplay, PlainDisplay, Status, TerminalDisplay
from mmx.streaming.lag import LagControl
from mmx.tasks.events import Event
from mmx.tasks.result import Transcript, check_format
from mmx.weights.options import DEFAULT_MODEL, LoadOptions

if TYPE_CHECKING:
    from mmx.model import Model
    from mmx.streaming.stream import Stream
    from mmx.tasks.cascade import Translator
    from mmx.tasks.options import Options, Task
    from mmx.tasks.result import SpokenSegment

# -------------------- what is done with sound and text


class Recorder:
    """Writes sound to a .wav or .flac file as it comes.

    Args:
        path: a file that does not exist yet.
        rate: samples per second.

    Raises:
        InputError: it does, or has another ending.
        OutputError: it cannot be written.
    """

    def __init__(self, path: Path, rate: float = RATE):
        import soundfile

        kind = path.suffix.lower()
        if kind not in (".wav", ".flac"):  # what a crash leaves of other formats cannot be read
            raise InputError(f"expected a .wav or .flac file for the recording, got {str(path)!r}")
        _new(path)
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = soundfile.SoundFile(str(path), "w", round(rate), 1, "PCM_16", format=kind[1:].upper())
        except (OSError, soundfile.SoundFileError) as e:
            raise OutputError(f"cannot record to {path}: {e}") from e

    def write(self, samples: NDArray[np.float32]) -> None:
        """Append samples. Raises `OutputError` when the disk is full."""
        try:
            self._file.write(samples)
            self._file.flush()
        except (OSError, RuntimeError) as e:  # soundfile's errors are RuntimeErrors
            raise OutputError(f"recording to {self.path} stopped: {e}; what it has is kept") from e

    def close(self) -> None:
        """Finish the file."""
        with suppress(OSError, RuntimeError):
            self._file.close()


class Saver:
    """Writes the transcript at the end, and now and then before it, in the format that the file's ending names.

    Raises:
        InputError: the ending names no format.
        OutputError: the folder cannot be written.
    """

    EVERY_S = 20.0

    def __init__(self, path: Path):
        from mmx.files import try_folder

        if not path.suffix:
            raise InputError(f"expected a file name with an ending, such as {path}.srt, got {str(path)!r}")
        self.path, self.format = path, check_format(path.suffix)
        try_folder(path.parent)
        self._next_s = self.EVERY_S

    def keep(self, transcript: Transcript, final: bool) -> None:
        """Write it, if it is time. Raises `OutputError`."""
        if final or transcript.duration_s >= self._next_s:
            # Each writing costs in proportion to the session, so they become rarer in proportion.
            self._next_s = max(transcript.duration_s + self.EVERY_S, transcript.duration_s * 1.05)
            transcript.write(self.path.parent, [self.format], stem=self.path.stem)


# -------------------- the session


@dataclass
class Session:
    """Everything that a live session does, in one loop.

    Attributes:
        source: where sound comes from.
        stream: hears it.
        view: shows what happens.
        translator: translates what the stream writes.
        recorder: keeps the sound.
        savers: keep the text.
        speaking: speaks the sentences.
        mutes: whether the source may hear what is spoken, so that it is not listened to meanwhile.
        source_clock: what `speaking` goes by.
        presence: tells what is lost of several modalities.
        clock: seconds, monotonic.
    """

    source: Source
    stream: "Stream"
    view: Display
    translator: "Translator | None" = None
    recorder: Recorder | None = None
    savers: Sequence[Saver] = ()
    speaking: Speaking | None = None
    mutes: bool = False
    source_clock: SourceClock | None = None
    presence: Presence | None = None
    clock: Callable[[], float] = time.monotonic
    stopping: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.control = LagControl(self.stream.step / RATE)
        self._unheard = 0  # samples since the last look
        self._spans: deque[tuple[float, float]] = deque(maxlen=100)  # seconds of sound, seconds of work
        self._unsaid: list[Event] = []  # of a sentence that is not spoken yet

    def run(self) -> Transcript:
        """Listen until the source ends or somebody presses Ctrl-C; what was heard is written to the end.

        A second Ctrl-C ends at once, with what was written so far.

        Raises:
            MmxError: the source broke off, or something could not be written; the text until then is saved.
        """
        try:
            with self._stoppable():
                self._listen()
        finally:
            transcript = self._finish()
        return transcript

    def transcript(self) -> Transcript:
        """What was written so far: the translation where there is a translator."""
        heard = self.stream.transcript(self.source.name)
        return heard if self.translator is None else self.translator.transcript(heard)

    def _listen(self) -> None:
        broken: MmxError | None = None
        final = False
        while not final:
            if self.stopping:
                self.source.stop()
            try:
                heard = self.source.read()
            except MmxError as e:  # what was heard before is written first
                broken, heard = e, Captured(np.zeros(0, np.float32), self.stream.source_s, True)
            self._take(heard)
            final = heard.final
        if broken is not None:
            raise broken

    def _take(self, heard: Captured) -> None:
        begun = self.clock()
        if self.source_clock is not None:
            self.source_clock.heard(heard.start_s + heard.duration_s)
        self._record(heard)
        for note in () if self.presence is None else self.presence.told(heard):
            self.view.note(note)
        events = self.stream.push(self._listened_to(heard), heard.final)
        for sentence in _sentences(events):
            self._show(sentence, over=False)
        if heard.final:
            self._show([], over=True)
        spent_s = self.clock() - begun
        self._spans.append((heard.duration_s, spent_s))
        self._unheard += heard.count
        if self._unheard >= self.stream.step:  # there was a look
            self._unheard %= self.stream.step
            self._keep_up(spent_s)
        self._tell_speech()
        self.view.status(self._status(heard))

    def _listened_to(self, heard: Captured) -> "NDArray[np.float32] | Clip":
        """Sound, or a clip where there is more."""
        samples = self._muted(heard)
        if not heard.others:
            return samples
        if SPEECH not in self.stream.inputs:
            return heard.others
        x = torch.from_numpy(samples)[None]
        return {SPEECH: Seq(x, torch.tensor([len(samples)]), float(RATE), heard.final), **heard.others}

    def _muted(self, heard: Captured) -> NDArray[np.float32]:
        """The sound that is listened to."""
        if self.speaking is None or not self.mutes:
            return heard.samples
        return self.speaking.without_echo(heard.samples, heard.start_s)

    def _tell_speech(self) -> None:
        for told in () if self.speaking is None else self.speaking.told():
            if isinstance(told, str):
                self.view.note(told)
            else:
                self.view.spoken(told)

    def _keep_up(self, look_s: float) -> None:
        """Only a clock can be fallen behind."""
        if not self.source.live:
            return
        told = self.control.update(self.source.pending_s, look_s)
        self.stream.step = round(self.control.step_s * RATE)
        if told:
            self.view.note(told)

    def _tell_notes(self) -> None:
        for note in self.source.notes():
            self.view.note(note)

    def _record(self, heard: Captured) -> None:
        self._tell_notes()
        if self.recorder is None:
            return
        try:
            self.recorder.write(heard.samples)
        except OutputError as e:  # the text goes on
            self.view.note(str(e))
            self.recorder.close()
            self.recorder = None

    def _show(self, events: Sequence[Event], over: bool) -> None:
        self.view.written(events)
        spoken = list(events)
        if self.translator is not None:
            spoken = self.translator.take(events, over)
            self.view.translated(spoken)
            for note in self.translator.notes():
                self.view.note(note)
        if self.speaking is not None:
            self._speak(self.speaking, spoken, over)
        if any(e.final for e in events):
            self._save()

    def _speak(self, speaking: Speaking, events: Sequence[Event], over: bool) -> None:
        """Speak each sentence that has come to its end."""
        sentences = _sentences([*self._unsaid, *events])
        self._unsaid = sentences.pop() if sentences and not (over or sentences[-1][-1].final) else []
        for words in sentences:
            speaking.say(words)

    def _status(self, heard: Captured) -> Status:
        sound_s, work_s = (sum(x) for x in zip(*self._spans, strict=True))
        power = float(np.square(heard.samples, dtype=np.float64).mean()) if len(heard.samples) else 0.0
        written_s = self.stream.events[-1].end_s if self.stream.events else 0.0
        return Status(
            heard_s=self.stream.source_s,
            # A stream counts from where it last had written everything; words after that are written too.
            lag_s=min(self.stream.lag_s, max(0.0, self.stream.source_s - written_s)) + self.source.pending_s,
            real_time_factor=work_s / sound_s if sound_s else 0.0,
            level_db=10 * math.log10(max(power, 1e-9)),
            step_s=self.control.step_s,
            tentative=self.stream.tentative,
            language=self.stream.listener.language,
            stopping=self.stopping,
        )

    def _save(self) -> None:
        """Now and then; only the last saving must succeed."""
        for saver in self.savers:
            try:
                saver.keep(self.transcript(), False)
            except OutputError as e:
                self.view.note(f"not saved yet: {e}")

    def _finish(self) -> Transcript:
        """Save and close everything, whatever fails on the way; the first failure is raised at the end."""
        # The text first: what comes after it may fail, or wait until somebody presses Ctrl-C.
        steps: list[Callable[[], None]] = [lambda s=s: s.keep(self.transcript(), True) for s in self.savers]
        steps += [p.close for p in (self.source, self.recorder, self.speaking) if p is not None]
        steps += [self._tell_notes, self._tell_speech, self._sum_up, self.view.close]
        failed: BaseException | None = None
        for step in steps:
            try:
                step()
            except (Exception, KeyboardInterrupt) as e:  # a driver raises what it likes
                failed = failed or e
        if failed is not None:
            raise failed
        return self.transcript()

    def _sum_up(self) -> None:
        if self.speaking is not None and (summary := self.speaking.summary()):
            self.view.note(summary)

    @contextmanager
    def _stoppable(self) -> Iterator[None]:
        """Ctrl-C, or a terminal that is closed, ends the session in order: no look is broken off."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handler(number: int, frame: Any) -> None:
            if self.stopping:
                raise KeyboardInterrupt
            self.stopping = True

        numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
        before = {n: signal.signal(n, handler) for n in numbers}
        try:
            yield
        finally:
            for number, usual in before.items():
                signal.signal(number, usual)


def _sentences(events: Sequence[Event]) -> list[list[Event]]:
    """The events, cut after each one that ends a sentence."""
    out: list[list[Event]] = []
    for event in events:
        if not out or out[-1][-1].final:
            out.append([])
        out[-1].append(event)
    return out


# -------------------- from options


def run(job: LiveOptions, load: LoadOptions) -> Transcript:
    """Hold the session that `mmx live` was asked for.

    Raises:
        MmxError: something is missing or does not fit; whatever can be is told before a model is loaded.
    """
    from mmx.api import open_model, open_route
    from mmx.files import drop_output
    from mmx.tasks.cascade import Translator
    from mmx.tasks.options import Options

    if load.text_model and not job.to:
        raise InputError("expected --to with --text-model: the language to translate into")
    _check_files(job)
    savers = [Saver(p) for p in job.save]
    early = _early_source(job)
    model = open_model(load)
    task: Task = "translate" if job.to else "transcribe"
    route = open_route(load, model, Options(language=job.language, task=task, to=job.to or "en"))
    text_model = route.text_model
    live = job.file is None or job.realtime
    opening, modalities, told = _source(job, model, early)
    stream = _listening(job, model, route.first, catch_up=live, modalities=modalities)
    translator = None if text_model is None else Translator.of(text_model, job.to or "", job.beam_size)
    clock = SourceClock() if job.speak and live else None
    speaking = _speaking(job, load, text_model or model, clock) if job.speak else None
    recorder = Recorder(job.record) if job.record else None
    source = opening()
    title = f"{source.name} → {model.name}" + (f" → {text_model.name}" if text_model else "")
    view = _view(job, title, bilingual=text_model is not None)
    mutes = job.speak == "play" and job.file is None and SPEECH in modalities and not job.headphones
    if mutes:
        view.note("while it speaks it does not listen: with headphones on, --headphones has it do both")
    for note in told:
        view.note(note)
    presence = None
    if model.fuse is not None and len(modalities) > 1:
        presence = Presence({name: model.recorded[name] for name in modalities})
    session = Session(source, stream, view, translator, recorder, savers, speaking, mutes, clock, presence)
    try:
        return session.run()
    except BrokenPipeError:  # whoever read our output has gone; all is saved
        drop_output()
        return session.transcript()


class Opening(NamedTuple):
    """Opens the source of a session.

    Attributes:
        source: opens it.
        modalities: that it has of what the model reads.
        notes: what is to be said of it.
    """

    source: Callable[[], Source]
    modalities: Sequence[str]
    notes: Sequence[str] = ()


def _early_source(job: LiveOptions) -> FileSource | None:
    """A recording of sound, opened before a model is loaded; None for what may hold more, and for devices. What is
    wrong with any of them is told."""
    if job.file is None:
        if job.camera is None:
            find_device(job.microphone)
        return None
    if Path(job.file).suffix.lower() not in FILMS.union(*ENDINGS.values()):
        return FileSource(job.file, job.realtime)
    file, _, _, ours = open_file(job.file)
    if ours:
        file.close()
    return None


def _source(job: LiveOptions, model: "Model", early: FileSource | None) -> "Opening":
    """What opens the source of a session.

    A device is opened last: it sees and hears from then on.

    Raises:
        InputError: the model reads nothing of it.
    """
    from mmx.tasks.transcribe import chosen_inputs

    inputs = chosen_inputs(model, job.modality)
    if job.record and SPEECH not in inputs:
        raise InputError(f"expected a model that reads sound with --record, got {model.name}")
    if job.file is not None:
        if list(inputs) == [SPEECH]:
            source = early or FileSource(job.file, job.realtime)
        else:
            if early is not None:
                early.close()
            source = FileSource(job.file, job.realtime, inputs=inputs, partial=model.fuse is not None)
        return Opening(lambda: source, source.modalities)
    seen = {n: i for n, i in inputs.items() if i.medium in ("video", "pose")}
    if job.camera is None:
        if SPEECH not in inputs:
            remedy = "--camera 0, or --file" if seen else "--file"
            raise InputError(f"expected a model that reads sound for a microphone, got {model.name}: give {remedy}")
        return Opening(lambda: Microphone(job.microphone), [SPEECH])
    if not seen:
        raise InputError(f"expected a model that reads pictures or poses with --camera, got {model.name}: leave it out")
    extractor, camera = _extractor(model), job.camera
    try:
        mouths = {name: LiveMouth(what.shape) for name, what in seen.items() if what.shows}
    except InputError as e:
        if SPEECH not in inputs:
            raise
        return Opening(
            lambda: Microphone(job.microphone), [SPEECH], [f"no mouth is looked for, the sound is alone: {e}"]
        )
    if SPEECH not in inputs:
        return Opening(lambda: Camera(camera, inputs=seen, extractor=extractor, mouths=mouths), list(seen))

    def both() -> Source:
        begun = time.monotonic()
        sound = Microphone(job.microphone)
        try:
            return WithCamera(sound, Camera(camera, inputs=seen, extractor=extractor, mouths=mouths, since_s=begun))
        except MmxError:
            sound.close()
            raise

    return Opening(both, [SPEECH, *seen])


def _extractor(model: "Model") -> Extractor | None:
    """What finds the points that a model of poses reads in pictures; None for any other model."""
    poses = [i for i in model.recorded.values() if i.medium == "pose"]
    if not poses:
        return None
    if not poses[0].extractor:
        raise InputError(
            f"expected a file of poses (.pose, .npy) for {model.name}, which reads points of a body and does not say "
            "what finds them in pictures: find them first"
        )
    from mmx.media.landmarks import Landmarks

    return Landmarks(poses[0].points, poses[0].extractor)


def _check_files(job: LiveOptions) -> None:
    """That no file of the session overwrites another, nor a recording that was there before."""
    speak = Path(job.speak) if job.speak not in (None, "play") else None
    if speak is not None:
        from mmx.media.write import format_of

        format_of(speak)
    for path in filter(None, (job.record, speak)):
        _new(path)
    uses = [("--file", job.file), ("--record", job.record), ("--speak", speak), *(("--save", p) for p in job.save)]
    by_path: dict[str, str] = {}
    for option, path in uses:
        if path is None:
            continue
        other = by_path.setdefault(os.path.realpath(path), option)
        if other != option:
            raise InputError(f"expected another file for {option} than for {other}, got {path} for both")


def _new(recording: Path) -> None:
    if recording.exists():
        raise InputError(f"expected a new file to record to, {recording} exists: choose another name, or move it away")


def _listening(
    job: LiveOptions, model: "Model", asked: "Options", catch_up: bool, modalities: Sequence[str]
) -> "Stream":
    """The stream that writes what the speech model is asked for."""
    from mmx.streaming.stream import Stream

    return Stream(
        model, policy=job.policy, language=asked.language, task=asked.task, to=asked.to, step_s=job.step_s,
        vad=True if job.vad else None, catch_up=catch_up, modalities=modalities,
    )  # fmt: skip


def _speaking(job: LiveOptions, load: LoadOptions, made_by: "Model", clock: SourceClock | None) -> Speaking:
    """Speaks sentences: by the model that made them where it has a synth and no other voice is asked for."""
    from mmx.api import open_voice
    from mmx.tasks.options import SpeakOptions
    from mmx.tasks.synthesize import synthesize

    if made_by.synth is not None and not job.voice and job.voice_model is None:
        model, options = made_by, SpeakOptions(voice=str(job.speaker), language=job.to)
    else:
        where = replace(load, model=job.voice_model or DEFAULT_MODEL)
        model, options = open_voice(SpeakOptions(voice=job.voice, language=job.to), where)

    def utter(text: str, language: str, speed: float) -> "Iterator[SpokenSegment]":
        return synthesize(model, text, replace(options, speed=speed), blocks=True)

    rate = model.require_synth().rate
    output = Loudspeaker(rate) if job.speak == "play" else SpeechFile(SpeechWriter(Path(job.speak or ""), rate), rate)
    return Speaking(utter, output, clock)


def _view(job: LiveOptions, title: str, bilingual: bool) -> Display:
    if job.json:
        return JsonDisplay()
    if not sys.stdout.isatty():
        return PlainDisplay(bilingual=bilingual)
    return TerminalDisplay(title, recording=str(job.record or ""))
