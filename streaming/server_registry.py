"""All live sessions of a server: how many there may be, how long they wait for a client, how they outlive a restart."""

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from mmx.errors import MmxError
from mmx.streaming.server_engine import Engine
from mmx.streaming.server_interpreter import Wish
from mmx.streaming.server_journal import Journal
from mmx.streaming.server_metrics import Metrics
from mmx.streaming.server_sessions import House, Session
from mmx.streaming.server_settings import Refusal, Settings

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
        """A new session. Raises `Refusal` where there are too many, or where the wish cannot be met."""
        limit = self.house.settings.max_sessions
        if sum(not s.ended for s in self.sessions.values()) >= limit:
            raise Refusal(
                429, "too_many_sessions", f"expected a free place, got {limit} live sessions (max_sessions {limit}): "
                "try again later", retry_s=10,
            )  # fmt: skip
        session = Session(self.house, wish)
        if self.house.settings.state_dir is not None:
            _keep(session, self.house.settings.state_dir)
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
        """Stop; sessions with a journal are in their files."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        stopped = await asyncio.gather(*(s.stop() for s in self.sessions.values()), return_exceptions=True)
        for error in stopped:
            if isinstance(error, Exception):
                log.error("a session could not be stopped in order", exc_info=error)
        self.house.pool.shutdown()
        for session in self.sessions.values():
            if session.journal is not None:
                session.journal.close()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(min(1.0, max(0.05, self.house.settings.keep_s / 4)))
            before = time.monotonic() - self.house.settings.keep_s
            for session in [s for s in self.sessions.values() if s.connection is None and s.left_at < before]:
                del self.sessions[session.id]
                try:
                    await session.stop()
                    if session.journal is not None:
                        session.journal.drop()
                except Exception:  # the others must not stay for ever because of one
                    log.exception("session %s could not be put away", session.id[:6])

    def _restore(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path in sorted(folder.glob("*.session.json")):
            try:
                session = Session.restore(self.house, path)
            except (OSError, ValueError, KeyError, TypeError, MmxError, Refusal):
                log.exception("%s could not be read: the session is left there", path)
                continue
            self.sessions[session.id] = session
            session.start()


def _keep(session: Session, folder: Path) -> None:
    """Give a new session its journal. Raises `Refusal` where that cannot be written, and then leaves nothing of it."""
    journal: Journal | None = None
    try:
        journal = Journal(folder, session.id)
        session.keep_in(journal)
    except (OSError, MmxError) as e:
        if journal is not None:
            with suppress(OSError):
                journal.drop()
        reason = getattr(e, "strerror", None) or str(e)
        raise Refusal(
            507, "storage_full", f"expected to write a session into {folder}, got {reason}: try again later", retry_s=10
        ) from e
