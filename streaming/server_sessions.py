"""Live sessions: each hears in its turn, writes into a log, and outlives its connection.

What a client sent is in the session's inbox, and in its journal if there is one, before it is acknowledged; what the
session writes is in its log (and there) before any connection sends it. So a connection may be slow, vanish or be
replaced, and with a journal so may the server: nothing that was acknowledged is lost, and no session waits for
another's client. Everything here runs on the event loop, but for `_hear` and `Journal.keep`, which worker threads run.
"""

import asyncio
import json
import logging
import secrets
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mmx.errors import MmxError
from mmx.result import Segment, Transcript, Word
from mmx.streaming.resample import Resampler
from mmx.streaming.server_engine import Engine, check_languages
from mmx.streaming.server_interpreter import RATE, Interpreter, Piece, Wish
from mmx.streaming.server_journal import Journal, read
from mmx.streaming.server_metrics import Metrics
from mmx.streaming.server_settings import Refusal, Settings, blaming

VERSION = 2
"""Of the facts that a session keeps in its journal."""
MOST_ORDERS = 32
"""That wait in a session's inbox; sound is bounded by `Settings.max_ahead_s`."""

log = logging.getLogger("mmx.serve")


@dataclass(frozen=True)
class Entry:
    """A line of a session's log; `seq` is its place, from 0 on.

    Attributes:
        seq: number of the line.
        kind: "delta" appends, "completed" gives a whole sentence, "error" and "closed" tell what happened.
        track: see `Piece`.
        text: to append, or the sentence, or the message.
        start_s: when it was said, in seconds of the session.
        end_s: as above.
        language: that it is written in; of an error, its code.
        item: number of the sentence in its track.
    """

    seq: int
    kind: Literal["delta", "completed", "error", "closed"]
    track: str = ""
    text: str = ""
    start_s: float = 0.0
    end_s: float = 0.0
    language: str = ""
    item: int = 0


@dataclass(frozen=True)
class Order:
    """What a session does once the sound before it is heard.

    Attributes:
        kind: "commit" writes all that is left and goes on, "update" the same with another wish, "clear" forgets what is
            not written, "close" writes all that is left and ends.
        wish: of "update".
        skipped: samples of the client's that "clear" dropped.
        end: its place in the journal.
    """

    kind: Literal["commit", "update", "clear", "close"]
    wish: Wish | None = None
    skipped: int = 0
    end: int = 0


@dataclass(frozen=True)
class Sound:
    """Samples at the client's rate; `end` is their place in the journal."""

    samples: NDArray[np.float32]
    end: int = 0


@dataclass
class House:
    """What all sessions share."""

    engine: Engine
    settings: Settings
    metrics: Metrics
    pool: ThreadPoolExecutor
    turns: asyncio.Semaphore


def _failed() -> Piece:
    return Piece("error", "expected to go on, but the server failed: its log has the reason", language="server_error")


def samples_of(pcm: bytes) -> NDArray[np.float32]:
    """16-bit little-endian samples as numbers in [-1, 1)."""
    return np.frombuffer(pcm, "<i2").astype(np.float32) / 32768


class Session:
    """One live session.

    Args:
        house: what it shares with others.
        wish: what is asked for.
        id: a secret name; whoever knows it may go on with the session.

    Attributes:
        log: what it wrote.
        told: lines of the log that clients may see.
        received: the client's samples, all of which are heard or in the inbox.
        heard: samples at 16 kHz.
        journal: where it is kept, if it is.
    """

    def __init__(self, house: House, wish: Wish, id: str | None = None):
        check_languages(house.engine, wish.language, wish.to)
        self.house, self.wish, self.id = house, wish, id or secrets.token_urlsafe(18)
        self.journal: Journal | None = None
        with blaming("rate"):
            self.resampler = Resampler(wish.rate)
        self.log: list[Entry] = []
        self.told = self.received = self.heard = 0
        self.tentative: dict[str, str] = {}
        self.behind_s = 0.0
        self.ended = False
        self.connection: object | None = None
        self.left_at = time.monotonic()
        self.pulse = asyncio.Event()
        self.interpreter: Interpreter | None = None
        self.inbox: deque[Sound | Order] = deque()
        self._taken = self._taken_to = 0  # samples out of the inbox, place in the journal up to which all is
        self._items: dict[str, list[Piece]] = {}
        self._count: dict[str, int] = {}
        self._arrivals: deque[tuple[float, float]] = deque(maxlen=4096)
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    # -------------------- what a client does

    def accept(self, pcm: bytes) -> None:
        """Take sound: 16-bit little-endian mono samples at the client's rate."""
        if self.ended or any(isinstance(o, Order) and o.kind == "close" for o in self.inbox):
            raise Refusal(400, "session_closed", "expected no sound after the session was closed: begin a new one")
        if len(pcm) % 2 or not pcm:
            raise Refusal(400, "invalid_audio", f"expected 16-bit samples, an even number of bytes, got {len(pcm)}")
        samples = samples_of(pcm)
        if (self.received + len(samples)) / self.wish.rate > self.house.settings.max_audio_s:
            self.order(Order("close"))
            raise Refusal(
                413, "session_too_long", f"expected a session of at most {self.house.settings.max_audio_s:g} s "
                "(max_audio_s), got more: it was closed, begin a new one",
            )  # fmt: skip
        self._put_sound(samples, self._write_down("sound", pcm))

    def _put_sound(self, samples: NDArray[np.float32], end: int) -> None:
        self.received += len(samples)
        self._arrivals.append((self.received / self.wish.rate, time.monotonic()))
        self.inbox.append(Sound(samples, end))
        self.tell()

    def order(self, order: Order) -> None:
        """Take what is to be done after the sound so far."""
        if order.wish is not None:
            check_languages(self.house.engine, order.wish.language, order.wish.to)
            self._check_rate(order.wish.rate)
        if sum(isinstance(x, Order) for x in self.inbox) >= MOST_ORDERS:
            raise Refusal(
                429, "too_many_messages", f"expected at most {MOST_ORDERS} orders at once: wait for the answers"
            )
        self._put_order(order, self._write_down("order", json.dumps(asdict(order)).encode()))

    def _check_rate(self, rate: int) -> None:
        """Before it is in the journal, which must hold nothing that cannot be done."""
        if rate == self.wish.rate:
            return
        if self.received:
            message = "expected the rate before the first sound: begin a new session"
            raise Refusal(400, "invalid_value", message, param="rate")
        with blaming("rate"):
            Resampler(rate)

    def _put_order(self, order: Order, end: int) -> None:
        skipped = 0
        if order.kind == "clear":
            while self.inbox and isinstance(last := self.inbox[-1], Sound):
                skipped += len(last.samples)
                self.inbox.pop()
        order = Order(order.kind, order.wish, skipped, end)
        if order.wish is not None and not self.received:
            self.wish, self.resampler = order.wish, Resampler(order.wish.rate)
        else:
            self.inbox.append(order)
        self.tell()

    def _write_down(self, kind: str, data: bytes) -> int:
        """Into the journal, before anything else happens; the place there."""
        if self.journal is None:
            return 0
        try:
            return self.journal.add(kind, data)
        except OSError as e:
            raise Refusal(
                507, "storage_full", f"expected to write what was sent into {self.journal.folder}, got {e.strerror}: "
                "it was not taken, send it again later", retry_s=10,
            ) from e  # fmt: skip

    @property
    def asked(self) -> Wish:
        """The latest wish, which may still wait for the sound before it."""
        return next((x.wish for x in reversed(self.inbox) if isinstance(x, Order) and x.wish), self.wish)

    @property
    def waiting_s(self) -> float:
        """Seconds of sound in the inbox."""
        return sum(len(x.samples) for x in self.inbox if isinstance(x, Sound)) / self.wish.rate

    async def room(self) -> None:
        """Wait until the inbox may take more."""
        while not self.ended and self.waiting_s > self.house.settings.max_ahead_s:
            await self.pulse.wait()

    def tell(self) -> None:
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
        self.tell()
        if self._task is not None:
            await self._task

    async def _run(self) -> None:
        try:
            await self._turns()
        except Exception:  # of this session only: whoever stops it, or waits for it, goes on
            log.exception("session %s failed", self.id[:6])
            self._write([_failed(), Piece("end", "")])
            self.told = len(self.log)
            self.tell()

    async def _turns(self) -> None:
        loop = asyncio.get_running_loop()
        while not self.ended:
            pulse = self.pulse
            if self._stopping:
                return
            if not self._ready():
                await pulse.wait()
                continue
            async with self.house.turns:
                if self._stopping:
                    return
                sound, order = self._take()  # now, not before the turn came: all that has arrived meanwhile is in it
                try:
                    pieces = await loop.run_in_executor(self.house.pool, self._hear, sound, order)
                except MmxError as e:
                    pieces = [Piece("error", str(e), language="invalid_value"), Piece("end", "")]
                except Exception:
                    log.exception("session %s failed", self.id[:6])
                    pieces = [_failed(), Piece("end", "")]
                self._write(pieces)
                await self._keep()
            self.house.metrics.count("mmx_audio_seconds_total", len(sound) / self.wish.rate, kind="live")
            self.told = len(self.log)
            self.tell()

    def _ready(self) -> bool:
        return self.waiting_s >= self.house.engine.step_s or any(isinstance(x, Order) for x in self.inbox)

    def _take(self) -> tuple[NDArray[np.float32], Order | None]:
        """All sound up to the first order, and that."""
        sound, order = [np.zeros(0, np.float32)], None
        while self.inbox and order is None:
            x = self.inbox.popleft()
            self._taken_to = x.end
            if isinstance(x, Order):
                order = x
            else:
                sound.append(x.samples)
        self._taken += sum(map(len, sound)) + (order.skipped if order else 0)
        return np.concatenate(sound), order

    def _hear(self, sound: NDArray[np.float32], order: Order | None) -> list[Piece]:
        """In a worker thread: listen, then do what was ordered. Only one turn of a session runs at a time."""
        final = order is not None and order.kind != "clear"
        x = self.resampler.push(sound, final)
        if self.interpreter is None:
            self.interpreter = Interpreter(self.house.engine, self.wish, self.heard / RATE)
        pieces = self.interpreter.hear(x, final)
        self.heard += len(x)
        self.behind_s = max((s.lag_s for s in self.interpreter.streams.values()), default=0.0)
        self.tentative = {} if final else self.interpreter.tentative
        if order is not None:
            self.interpreter = None
            self.heard += round(order.skipped * RATE / self.wish.rate)
            self.wish = order.wish or self.wish
            self.resampler = Resampler(self.wish.rate)
        return [*pieces, Piece("end", "")] if order is not None and order.kind == "close" else pieces

    # -------------------- its log

    def _write(self, pieces: list[Piece]) -> None:
        for p in pieces:
            seq, item = len(self.log), self._count.get(p.track, 0)
            if p.track == "error":
                self.log.append(Entry(seq, "error", text=p.text, language=p.language))
                self.house.metrics.count("mmx_errors_total", code=p.language)
            elif p.track == "end":
                self.ended, self.left_at = True, time.monotonic()
                self.log.append(Entry(seq, "closed"))
            else:
                if p.text:
                    self.log.append(Entry(seq, "delta", p.track, p.text, p.start_s, p.end_s, p.language, item))
                    self._lag(p.end_s)
                self._items.setdefault(p.track, []).append(p)
                if p.final:
                    self._complete(p.track, item)

    def _complete(self, track: str, item: int) -> None:
        pieces = [p for p in self._items.pop(track) if p.text]
        if not pieces:
            return
        text = "".join(p.text for p in pieces).strip()
        start_s, end_s = pieces[0].start_s, max(p.end_s for p in pieces)
        self.log.append(Entry(len(self.log), "completed", track, text, start_s, end_s, pieces[-1].language, item))
        self._count[track] = item + 1

    def _lag(self, end_s: float) -> None:
        while self._arrivals and self._arrivals[0][0] < end_s:
            self._arrivals.popleft()
        if self._arrivals:
            self.house.metrics.lag(time.monotonic() - self._arrivals[0][1])

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
            await asyncio.get_running_loop().run_in_executor(self.house.pool, self.journal.keep, *what)
        except (OSError, MmxError):
            log.exception("session %s could not be kept", self.id[:6])

    def _facts(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "wish": asdict(self.wish),
            "received": self._taken,
            "heard": self.heard,
            "ended": self.ended,
            "items": {t: [asdict(p) for p in ps] for t, ps in self._items.items()},
            "count": self._count,
            "resampler": self.resampler.state(),
        }

    @classmethod
    def restore(cls, house: House, path: Path) -> "Session":
        """A session that an earlier server kept, not yet started; `path` is its `ID.session.json`.

        Raises:
            ValueError, KeyError, TypeError, OSError, MmxError, Refusal: it cannot be read, or not by this server.
        """
        kept = read(path)
        facts = kept.facts
        if facts["version"] != VERSION:
            raise ValueError(f"expected a session of version {VERSION}, got {facts['version']}")
        self = cls(house, Wish(**facts["wish"]), kept.journal.id)
        self.log = [Entry(**json.loads(line)) for line in kept.lines]
        self.told, self.heard, self.ended = len(self.log), facts["heard"], facts["ended"]
        self.received = self._taken = facts["received"]
        self.resampler.restore(facts["resampler"])
        self._taken_to, self._count = facts["heard_to"], facts["count"]
        self._items = {t: [Piece(**p) for p in ps] for t, ps in facts["items"].items()}
        if facts["interpreter"] is not None:
            self.interpreter = Interpreter.restore(house.engine, self.wish, kept.stem, facts["interpreter"])
        for record in kept.records:
            if record.kind == "sound":
                self._put_sound(samples_of(record.data), record.end)
            else:
                order = json.loads(record.data)
                wish = None if order["wish"] is None else Wish(**order["wish"])
                self._put_order(Order(order["kind"], wish), record.end)
        self.journal = kept.journal
        return self

    def transcript(self, track: str) -> Transcript:
        """A track so far, to be written in any format."""
        by_item: dict[int, list[Entry]] = {}
        for e in self.log:
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
        model = self.house.engine.names[0]
        return Transcript("live", segments, language, 1.0, self.received / self.wish.rate, task, model)
