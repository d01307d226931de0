"""All live sessions of a server: how many there may be, how long they wait for a client, how they outlive a restart."""

import asyncio
import json
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mmx.errors import MmxError
from mmx.files import atomic_write
from mmx.streaming.server_engine import Engine
from mmx.streaming.server_interpreter import Interpreter, Piece, Wish
from mmx.streaming.server_metrics import Metrics
from mmx.streaming.server_sessions import Entry, House, Order, Session
from mmx.streaming.server_settings import Refusal, Settings

VERSION = 1
"""Of the files that `save` writes."""

log = logging.getLogger("mmx.serve")


class Registry:
    """The live sessions, by their secret names.

    Args:
        engine: the models.
        settings: the limits.
        metrics: counts what is done.
    """

    def __init__(self, engine: Engine, settings: Settings, metrics: Metrics):
        pool = ThreadPoolExecutor(settings.workers, thread_name_prefix="mmx-live")
        self.house = House(engine, settings, metrics, pool, asyncio.Semaphore(settings.workers))
        self.sessions: dict[str, Session] = {}
        self._sweeper: asyncio.Task[None] | None = None
        metrics.gauge("mmx_sessions", self._gauge)

    def _gauge(self) -> dict[tuple[tuple[str, str], ...], float]:
        living = [s for s in self.sessions.values() if not s.ended]
        connected = sum(s.connection is not None for s in living)
        return {(("connected", "yes"),): float(connected), (("connected", "no"),): float(len(living) - connected)}

    def create(self, wish: Wish) -> Session:
        """A new session. Raises `Refusal` where there are too many, `InputError` where the wish cannot be met."""
        limit = self.house.settings.max_sessions
        if sum(not s.ended for s in self.sessions.values()) >= limit:
            raise Refusal(
                429, "too_many_sessions", f"expected a free place, got {limit} live sessions (max_sessions {limit}): "
                "try again later", retry_s=10,
            )  # fmt: skip
        session = Session(self.house, wish)
        self.sessions[session.id] = session
        self.house.metrics.count("mmx_sessions_total")
        session.start()
        return session

    def find(self, id: str) -> Session:
        """A session that is here. Raises `Refusal` where it is not."""
        if id not in self.sessions:
            keep_s = self.house.settings.keep_s
            raise Refusal(
                404, "session_not_found", "expected a session of this server, got one that is not here or no longer: "
                f"it waits {keep_s:g} s for its client (keep_s); begin a new one", param="session",
            )  # fmt: skip
        return self.sessions[id]

    # -------------------- their life

    def open(self) -> None:
        """Go on with what an earlier server kept, and look after sessions from now on."""
        if self.house.settings.state_dir is not None:
            self._restore(self.house.settings.state_dir)
        self._sweeper = asyncio.create_task(self._sweep())

    async def close(self) -> None:
        """Stop; keep the sessions where there is a place to keep them."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        await asyncio.gather(*(s.stop() for s in self.sessions.values()))
        self.house.pool.shutdown()
        folder = self.house.settings.state_dir
        for session in self.sessions.values() if folder is not None else ():
            assert folder is not None
            try:
                save(session, folder)
            except (OSError, MmxError):
                log.exception("session %s could not be kept", session.id[:6])

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(min(1.0, max(0.05, self.house.settings.keep_s / 4)))
            before = time.monotonic() - self.house.settings.keep_s
            for session in [s for s in self.sessions.values() if s.connection is None and s.left_at < before]:
                del self.sessions[session.id]
                await session.stop()

    def _restore(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path in sorted(folder.glob("*.session.json")):
            try:
                session = load(self.house, path)
            except (OSError, ValueError, KeyError, TypeError, MmxError):
                log.exception("%s could not be read: the session is left there", path)
                continue
            self.sessions[session.id] = session
            session.start()
            for file in folder.glob(f"{session.id}.*"):
                file.unlink()


def save(session: Session, folder: Path) -> None:
    """Write a session that has stopped; the JSON comes last, so that there is all of it or none."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    stem = folder / f"{session.id}.part"
    sound = [x for x in session.inbox if not isinstance(x, Order)]
    np.save(folder / f"{session.id}.npy", np.concatenate([*sound, np.zeros(0, np.float32)]))
    data: dict[str, Any] = {
        "version": VERSION,
        "id": session.id,
        "wish": asdict(session.wish),
        "log": [asdict(e) for e in session.log],
        "received": session.received,
        "heard": session.heard,
        "ended": session.ended,
        "inbox": [asdict(x) if isinstance(x, Order) else len(x) for x in session.inbox],
        "items": {t: [asdict(p) for p in ps] for t, ps in session._items.items()},
        "count": session._count,
        "resampler": session.resampler.state(),
        "interpreter": None if session.interpreter is None else session.interpreter.save(stem),
    }
    atomic_write(folder / f"{session.id}.session.json", json.dumps(data, ensure_ascii=False))


def load(house: House, path: Path) -> Session:
    """A session that `save` wrote, not yet started."""
    data = json.loads(path.read_text("utf-8"))
    if data["version"] != VERSION:
        raise ValueError(f"expected a session of version {VERSION}, got {data['version']}")
    session = Session(house, Wish(**data["wish"]), data["id"])
    session.log = [Entry(**e) for e in data["log"]]
    session.received, session.heard, session.ended = data["received"], data["heard"], data["ended"]
    session.resampler.restore(data["resampler"])
    session._items = {t: [Piece(**p) for p in ps] for t, ps in data["items"].items()}
    session._count = data["count"]
    sound, at = np.load(path.with_name(f"{session.id}.npy")), 0
    for x in data["inbox"]:
        if isinstance(x, int):
            session.inbox.append(sound[at : at + x])
            at += x
        else:
            wish = None if x["wish"] is None else Wish(**x["wish"])
            session.inbox.append(Order(x["kind"], wish, x["skipped"]))
    if data["interpreter"] is not None:
        stem = path.with_name(f"{session.id}.part")
        session.interpreter = Interpreter.restore(house.engine, session.wish, stem, data["interpreter"])
    return session
