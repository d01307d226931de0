"""Live sessions: each hears in its turn, writes into a log, and outlives its connection.

What a client sent is in the session's inbox, and on the disk if there is a journal, before it is acknowledged; what the
session writes is in its log (and there) before any connection sends it. So a connection may be slow, vanish or be
replaced, and with a journal so may the server: nothing that was acknowledged is lost, and no session waits for
another's client.

A session has two sides. What has come in (`intake`) is the event loop's; what has been heard (`hearing`, the resampler,
the interpreter) is the turn's, of which only one runs at a time, in a worker thread. They meet in the inbox only.
"""

import asyncio
import json
import logging
import secrets
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from mmx.clip import SPEECH, Clip
from mmx.errors import MmxError
from mmx.media.audio import SAMPLE_RATE as RATE
from mmx.streaming.client.microphone import Captured
from mmx.streaming.client.presence import Presence
from mmx.streaming.server import audio_visual
from mmx.streaming.server.audio_visual import Frames
from mmx.streaming.server.engine import Engine, check_languages
from mmx.streaming.server.guard import closing
from mmx.streaming.server.interpreter import Interpreter, SessionConfig
from mmx.streaming.server.items import Entry, Failure, Items, Turn
from mmx.streaming.server.journal import Journal, Record, read
from mmx.streaming.server.metrics import Metrics
from mmx.streaming.server.resample import Resampler, check_rate
from mmx.streaming.server.settings import ApiError, Settings, blaming
from mmx.tasks.events import Event
from mmx.tasks.result import Segment, Transcript, Word

VERSION = 4
"""Of the facts that a session keeps in its journal."""
MOST_COMMANDS = 32
"""That wait in a session's inbox; sound is bounded by `Settings.max_ahead_s`."""
PIECE = 1 << 15
"""Bytes of sound, up to which small pieces of the inbox become one."""

log = logging.getLogger("mmx.serve")


@dataclass(frozen=True)
class Command:
    """What a session does once the sound before it is heard.

    Attributes:
        kind: "commit" writes all that is left and goes on, "update" the same with another config, "clear" forgets what
            is not written, "close" writes all that is left and ends.
        config: of "update".
        skipped: samples of the client's that "clear" dropped.
        end: its place in the journal.
    """

    kind: Literal["commit", "update", "clear", "close"]
    config: SessionConfig | None = None
    skipped: int = 0
    end: int = 0


@dataclass
class AudioChunk:
    """16-bit little-endian samples at the client's rate, or raw frames of `width` bytes each, where the model reads no
    sound; `end` is their place in the journal."""

    pcm: bytearray
    end: int = 0
    width: int = 2

    @property
    def count(self) -> int:
        """How many samples or frames."""
        return len(self.pcm) // self.width


@dataclass(frozen=True)
class Intake:
    """What has come in so far.

    Attributes:
        asked: the latest config.
        samples: the client's.
        uncommitted: of these, since the last commit.
        commands: how many.
        closing: whether the last of them is "close".
    """

    asked: SessionConfig
    samples: int = 0
    uncommitted: int = 0
    commands: int = 0
    closing: bool = False

    def after(self, x: "AudioChunk | Command") -> "Intake":
        """With what comes next."""
        if isinstance(x, AudioChunk):
            return replace(self, samples=self.samples + x.count, uncommitted=self.uncommitted + x.count)
        return replace(
            self,
            asked=x.config or self.asked,
            uncommitted=0 if x.kind in ("commit", "clear") else self.uncommitted,
            commands=self.commands + 1,
            closing=x.kind == "close",
        )


class Client(Protocol):
    """Who is connected."""

    def refuse(self, error: ApiError) -> None:
        """Tell that something was not taken."""
        ...


@dataclass
class ServerContext:
    """What all sessions share: `pool` hears, `disk` writes journals, `turns` are free places in the pool."""

    engine: Engine
    settings: Settings
    metrics: Metrics
    pool: ThreadPoolExecutor
    disk: ThreadPoolExecutor
    turns: asyncio.Semaphore


def _broken(
    message: str = "expected to continue, but the server failed: its log has the reason", code: str = "server_error"
) -> Turn:
    """The end of a session that cannot go on."""
    return Turn(failures=[Failure(message, code)], ends=True, broken=True)


def samples_of(pcm: bytes | bytearray) -> NDArray[np.float32]:
    """16-bit little-endian samples as numbers in [-1, 1)."""
    return np.frombuffer(pcm, "<i2").astype(np.float32) * np.float32(2**-15)


class Session:
    """One live session.

    Args:
        context: what it shares with others.
        config: what is asked for.
        id: a secret name; whoever knows it may go on with the session.

    Attributes:
        items: what it wrote.
        published: lines of its log that clients may see.
        intake: what has come in.
        safe: of that, what the client may take for safe.
        hearing: the config that what is heard now was sent with.
        heard: samples at 16 kHz.
        journal: where it is kept, if it is.
        connection: its client; `opening` while that waits for the session to be made.
        remarks: of what was heard, that end nothing: a modality that is lost, or back.
    """

    def __init__(self, context: ServerContext, config: SessionConfig, id: str | None = None):
        check_languages(context.engine, config.language, config.to)
        self.frames = _frames(context.engine, config)
        self.presence = Presence(context.engine.model.recorded) if config.format == audio_visual.NAME else None
        self.remarks: list[str] = []
        self.width = 2 if self.frames is None else self.frames.width
        if self.frames is None:
            with blaming("rate"):
                check_rate(int(config.rate))
        else:
            config = replace(config, rate=self.frames.rate, format=self.frames.name)
        self.context, self.id = context, id or f"sess_{secrets.token_urlsafe(18)}"
        self.journal: Journal | None = None
        self.begun_s = time.time()
        self.intake = self.safe = Intake(config)
        self.items = Items()
        self.published = 0
        self.connection: Client | None = None
        self.opening = False
        self.left_at = time.monotonic()
        self.pulse = asyncio.Event()
        self.inbox: deque[AudioChunk | Command] = deque()
        self._queued = 0  # bytes of sound in the inbox
        self._pending: list[tuple[str, bytes, AudioChunk | Command, Intake]] = []  # on its way to the disk
        self._writer: asyncio.Task[None] | None = None
        self._losses = 0  # how often the disk refused
        self.hearing = config
        self.heard = 0
        self.resampler: Resampler | None = None
        self.interpreter: Interpreter | None = None
        self.tentative: dict[str, str] = {}
        self.behind_s = 0.0
        self._taken = Intake(config)  # what is out of the inbox
        self._taken_to = 0  # place in the journal up to which all is
        self._arrivals: deque[tuple[float, float]] = deque(maxlen=4096)
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more is written."""
        return self.items.ended

    @property
    def log(self) -> list[Entry]:
        """All lines; see `published`."""
        return self.items.log

    @property
    def asked(self) -> SessionConfig:
        """The latest config, which may still wait for the sound before it."""
        return self.intake.asked

    @property
    def received(self) -> int:
        """The client's samples that are safe: heard, or in the inbox."""
        return self.safe.samples

    # -------------------- what a client does

    def accept(self, pcm: bytes) -> None:
        """Take sound: 16-bit little-endian mono samples at the client's rate; or frames, as `frames` says."""
        self._check_open()
        if self.frames is not None and (len(pcm) % self.width or not pcm):
            raise ApiError(400, "invalid_frames", f"expected frames of {self.width} bytes, got {len(pcm)} bytes")
        if len(pcm) % 2 or not pcm:
            raise ApiError(400, "invalid_audio", f"expected 16-bit samples, an even number of bytes, got {len(pcm)}")
        if (self.intake.samples + len(pcm) // self.width) / self.asked.rate > self.context.settings.max_audio_s:
            self.command(Command("close"))
            raise ApiError(
                413, "session_too_long", f"expected a session of at most {self.context.settings.max_audio_s:g} s "
                "(max_audio_s), got more: it was closed, begin a new one",
            )  # fmt: skip
        self._submit("sound", pcm, AudioChunk(bytearray(pcm), width=self.width))

    def command(self, command: Command) -> None:
        """Take what is to be done after the sound so far."""
        if command.kind == "close" and (self.ended or self.intake.closing):
            return
        self._check_open()
        if command.config is not None:
            check_languages(self.context.engine, command.config.language, command.config.to)
            self._check_format(command.config)
        if command.kind == "commit" and not self.intake.uncommitted:
            raise ApiError(
                400, "input_audio_buffer_commit_empty", "expected audio since the last commit, got none: append some "
                "before the commit",
            )  # fmt: skip
        if self.intake.commands - self._taken.commands >= MOST_COMMANDS:
            raise ApiError(
                429, "too_many_messages", f"expected at most {MOST_COMMANDS} commands at once: wait for the answers"
            )
        self._submit("command", json.dumps(asdict(command)).encode(), command)

    def _check_open(self) -> None:
        if self.ended or self.intake.closing:
            raise ApiError(400, "session_closed", "expected nothing after the session was closed: begin a new one")

    def _check_format(self, config: SessionConfig) -> None:
        """Before it is in the journal, which must hold nothing that cannot be done."""
        if (config.rate, config.format) == (self.asked.rate, self.asked.format):
            return
        if self.frames is not None:
            message = f"expected no format of audio, as the model reads {self.frames.modality}: leave it out"
            raise ApiError(400, "invalid_value", message, param="audio.input.format")
        if self.intake.samples:
            message = "expected the rate and the format before the first audio: open a new session"
            raise ApiError(400, "invalid_value", message, param="rate")
        with blaming("rate"):
            check_rate(int(config.rate))

    def _submit(self, kind: str, data: bytes, x: AudioChunk | Command) -> None:
        """Into the inbox; where there is a journal, by way of the disk, many pieces at once if it is slow."""
        if self._stopping:
            raise closing()
        self.intake = self.intake.after(x)
        if self.journal is None:
            self._put(x, 0, self.intake)
            return
        self._pending.append((kind, data, x, self.intake))
        if self._writer is None:
            self._writer = asyncio.create_task(self._write_down(self.journal))

    async def _write_down(self, journal: Journal) -> None:
        loop = asyncio.get_running_loop()
        while self._pending:
            batch, self._pending = self._pending, []
            sent = [(kind, data) for kind, data, _, _ in batch]
            try:
                ends = await loop.run_in_executor(self.context.disk, journal.add_all, sent)
            except Exception as e:
                if not isinstance(e, OSError):
                    log.exception("session %s could not be written down", self.id[:6])
                self._lose(journal, e)
                continue
            for (_, _, x, state), end in zip(batch, ends, strict=True):
                self._put(x, end, state)
        self._writer = None

    def _lose(self, journal: Journal, cause: Exception) -> None:
        """What is not on the disk was not taken, nor what came after it."""
        self._pending, self.intake, self._losses = [], self.safe, self._losses + 1
        reason = getattr(cause, "strerror", None) or "an error"
        error = ApiError(
            507, "storage_full", f"expected to write what was sent into {journal.folder}, got {reason}: it was not "
            "taken, send it again later", retry_s=10,
        )  # fmt: skip
        if self.connection is not None:
            self.connection.refuse(error)
        self.notify()

    async def kept(self) -> bool:
        """Wait until all that was taken is safe; whether it is."""
        losses = self._losses
        if self._writer is not None:
            await asyncio.wait([self._writer])
        return losses == self._losses

    def _put(self, x: AudioChunk | Command, end: int, state: Intake) -> None:
        self.safe, x = state, replace(x, end=end)
        if isinstance(x, AudioChunk):
            self._queued += len(x.pcm)
            self._arrivals.append((state.samples / self.asked.rate, time.monotonic()))
            last = self.inbox[-1] if self.inbox else None
            if isinstance(last, AudioChunk) and len(last.pcm) < PIECE:
                last.pcm += x.pcm
                last.end = end
                x = last
            else:
                self.inbox.append(x)
        else:
            skipped = 0
            while x.kind == "clear" and self.inbox and isinstance(last := self.inbox[-1], AudioChunk):
                skipped += last.count
                self._queued -= len(last.pcm)
                self.inbox.pop()
            self.inbox.append(replace(x, skipped=skipped))
        self.notify()

    @property
    def waiting_s(self) -> float:
        """Seconds of sound that came in and are not heard."""
        return (self.intake.samples - self._taken.samples) / self.asked.rate

    async def room(self) -> None:
        """Wait until the inbox may take more."""
        while not self.ended and self.waiting_s > self.context.settings.max_ahead_s:
            await self.pulse.wait()

    def notify(self) -> None:
        """Wake all that wait for a change of this session."""
        pulse, self.pulse = self.pulse, asyncio.Event()
        pulse.set()

    # -------------------- its work

    def start(self) -> None:
        """Begin to hear."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Finish the turn at hand and hear no more; the inbox keeps the rest."""
        self._stopping = True
        self.notify()
        await self.kept()
        if self._task is not None:
            await self._task

    async def _run(self) -> None:
        try:
            await self._turns()
        except Exception:  # of this session only: whoever stops it, or waits for it, goes on
            log.exception("session %s failed", self.id[:6])
            self._write(_broken(), None, self.hearing)
            self.published = len(self.log)
            self.notify()

    async def _turns(self) -> None:
        while not self.ended and not self._stopping:
            pulse = self.pulse
            if not self._ready():
                await pulse.wait()
                continue
            async with self.context.turns:
                if self._stopping:
                    return
                config = self.hearing
                sound, command = self._take()  # now, not before the turn came: all that has arrived meanwhile is in it
                turn = await self._heard(sound, command)
            self._write(turn, command, config)
            await self._keep()  # outside of the turn: a slow disk holds up nobody else's hearing
            self.context.metrics.count("mmx_audio_seconds_total", len(sound) / self.width / config.rate, kind="live")
            self.published = len(self.log)
            self.notify()

    def _ready(self) -> bool:
        enough = self._queued / self.width >= self.context.engine.step_s * self.asked.rate
        return enough or self.safe.commands > self._taken.commands

    def _take(self) -> tuple[bytes, Command | None]:
        """All sound up to the first command, and that."""
        sound, command = bytearray(), None
        while self.inbox and command is None:
            x = self.inbox.popleft()
            self._taken_to = x.end
            if isinstance(x, Command):
                command = x
                skipped = replace(self._taken, samples=self._taken.samples + x.skipped)
                self._taken = skipped.after(x)
            else:
                self._queued -= len(x.pcm)
                self._taken = self._taken.after(x)
                sound += x.pcm
        return bytes(sound), command

    async def _heard(self, sound: bytes, command: Command | None) -> Turn:
        try:
            return await asyncio.get_running_loop().run_in_executor(self.context.pool, self._push, sound, command)
        except MmxError as e:
            return _broken(str(e), "invalid_value")
        except Exception:
            log.exception("session %s failed", self.id[:6])
            return _broken()

    def _push(self, sound: bytes, command: Command | None) -> Turn:
        """In a worker thread: listen, then do what was asked for. Only one turn of a session runs at a time."""
        config = self.hearing if command is None or command.config is None else command.config
        anew = not config.hears_as(self.hearing) or config.rate != self.hearing.rate
        final = command is not None and (command.kind in ("commit", "close") or anew)
        x, count = self._input(sound, final)
        events: list[Event] = []
        failures: list[Failure] = []
        if self.interpreter is None and count:
            self.interpreter = Interpreter(self.context.engine, self.hearing, self.heard / RATE)
        if self.interpreter is not None:
            events = self.interpreter.push(x, final)
            failures = [Failure(note, "language_not_translated") for note in self.interpreter.notes()]
            self.behind_s = max((s.lag_s for s in self.interpreter.streams.values()), default=0.0)
            self.tentative = {} if final else self.interpreter.tentative
        self.heard += count
        if command is not None:
            if final or command.kind == "clear":
                self.interpreter, self.resampler, self.tentative, self.behind_s = None, None, {}, 0.0
                self.heard += round(command.skipped * RATE / self.hearing.rate)
            self.hearing = config
        return Turn(events, failures, ends=command is not None and command.kind == "close")

    def _input(self, sound: bytes, final: bool) -> tuple[NDArray[np.float32] | Clip, int]:
        """What the interpreter is given, and its length in samples at 16 kHz."""
        if self.frames is not None:
            clip = self.frames.clip(sound)
            if self.presence is not None:
                others = {name: seq for name, seq in clip.items() if name != SPEECH}
                self.remarks += self.presence.told(Captured(clip[SPEECH].x[0].numpy(), 0.0, False, others))
            return clip, round(len(sound) // self.width * RATE / self.frames.rate)
        if self.resampler is None:
            self.resampler = Resampler(int(self.hearing.rate))
        x = self.resampler.push(samples_of(sound), final)
        return x, len(x)

    # -------------------- its log

    def _write(self, turn: Turn, command: Command | None, config: SessionConfig) -> None:
        """Into the log; `config` is what it was heard with, before the command."""
        before = len(self.log)
        kind = None if command is None else command.kind
        goes_on = kind == "update" and self.hearing.manual == config.manual
        self.items.write(turn, self.heard / RATE, manual=config.manual, command=kind, goes_on=goes_on)
        for entry in self.log[before:]:
            if entry.kind == "error":
                self.context.metrics.count("mmx_errors_total", code=entry.language)
            elif entry.kind == "delta":
                self._lag(entry.end_s)
        if self.ended:
            self.left_at = time.monotonic()

    def _lag(self, end_s: float) -> None:
        while self._arrivals and self._arrivals[0][0] < end_s:
            self._arrivals.popleft()
        if self._arrivals:
            self.context.metrics.lag(time.monotonic() - self._arrivals[0][1])

    # -------------------- what outlives the server

    def keep_in(self, journal: Journal) -> None:
        """Write down from now on all that must not be lost."""
        self.journal = journal
        journal.keep(self._facts(), [], None, self._taken_to)

    async def _keep(self) -> None:
        """Write down what this turn did; a disk that is full is told in the log of the server, for the turn before it
        is still there."""
        if self.journal is None:
            return
        lines = [json.dumps(asdict(e), ensure_ascii=False) for e in self.log[self.journal.lines :]]
        what = (self._facts(), lines, self.interpreter, self._taken_to)
        try:
            await asyncio.get_running_loop().run_in_executor(self.context.disk, self.journal.keep, *what)
        except (OSError, MmxError):
            log.exception("session %s could not be kept", self.id[:6])

    def _facts(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "config": asdict(self.hearing),
            "begun_s": self.begun_s,
            "received": self._taken.samples,
            "uncommitted": self._taken.uncommitted,
            "heard": self.heard,
            "resampler": None if self.resampler is None else self.resampler.state(),
            **self.items.facts(),
        }

    @classmethod
    def restore(cls, context: ServerContext, path: Path) -> "Session":
        """A session that an earlier server kept, not yet started; `path` is its `ID.session.json`.

        Raises:
            ValueError, KeyError, TypeError, OSError, MmxError, ApiError: it cannot be read, or not by this server.
        """
        kept = read(path)
        facts = kept.facts
        if facts["version"] != VERSION:
            raise ValueError(f"expected a session of version {VERSION}, got {facts['version']}")
        self = cls(context, SessionConfig(**facts["config"]), kept.journal.id)
        self.items.restore((Entry(**json.loads(line)) for line in kept.lines), facts)
        self.published, self.heard, self.begun_s = len(self.log), facts["heard"], facts.get("begun_s", self.begun_s)
        samples = facts["received"]
        self._taken = self.intake = self.safe = Intake(self.hearing, samples, facts.get("uncommitted", samples))
        self._taken_to = facts["heard_to"]
        if facts["resampler"] is not None:
            self.resampler = Resampler(int(self.hearing.rate))
            self.resampler.restore(facts["resampler"])
        if facts["interpreter"] is not None:
            self.interpreter = Interpreter.restore(context.engine, self.hearing, kept.stem, facts["interpreter"])
        for record in kept.records:
            x = _item(record, self.width)
            self.intake = self.intake.after(x)
            self._put(x, record.end, self.intake)
        self.journal = kept.journal
        return self

    def transcript(self, track: str) -> Transcript:
        """A track so far, to be written in any format."""
        by_item: dict[int, list[Entry]] = {}
        for e in self.log[: self.published]:
            if e.kind == "delta" and e.track == track:
                by_item.setdefault(e.item, []).append(e)
        segments = tuple(
            Segment(
                es[0].start_s, max(e.end_s for e in es), "".join(e.text for e in es), es[-1].language,
                words=tuple(Word(e.text, e.start_s, e.end_s, 1.0) for e in es) if track == "source" else (),
            )
            for es in by_item.values()
        )  # fmt: skip
        language = segments[-1].language if segments else ""
        task = "transcribe" if track == "source" else "translate"
        model = self.context.engine.names[0]
        return Transcript("live", segments, language, 1.0, self.received / self.asked.rate, task, model)


def _frames(engine: Engine, config: SessionConfig) -> Frames | None:
    """What a session takes in the place of sound alone. Raises `ApiError` where the model has no such thing."""
    if config.format != audio_visual.NAME:
        return engine.frames
    if engine.both is None:
        raise ApiError(
            400, "invalid_value", f"expected audio for modality of {engine.names[0]}, which reads no lips beside it, "
            "got av: leave it out", param="modality",
        )  # fmt: skip
    return engine.both


def _item(record: Record, width: int) -> AudioChunk | Command:
    """What a record of the journal puts into the inbox."""
    if record.kind == "sound":
        return AudioChunk(bytearray(record.data), width=width)
    command = json.loads(record.data)
    return Command(command["kind"], None if command["config"] is None else SessionConfig(**command["config"]))
