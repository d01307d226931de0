"""All live sessions of a server: how many there may be, how long they wait for a client, how they outlive a restart."""

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from mmx.errors import MmxError
from mmx.streaming.server.engine import Engine
from mmx.streaming.server.interpreter import SessionConfig
from mmx.streaming.server.journal import Journal
from mmx.streaming.server.metrics import Metrics
from mmx.streaming.server.sessions import ServerContext, Session
from mmx.streaming.server.settings import ApiError, Settings
from mmx.streaming.server.state import StateFolder

log = logging.getLogger("mmx.serve")


DISK_THREADS = 8
"""That wait for the disk, so that the event loop and the models need not."""
ENDED = 16
"""Sessions that are over and may still be asked for, for each live one that there may be."""
STOP_S = 10.0
"""That a session has to finish its turn when the server stops."""


class Registry:
    """The live sessions, by their secret names.

    A place is taken by who is connected. A session that waits for its client takes none; where more wait than there are
    places, a new one puts away those that have waited longest. One that heard nothing does not wait.

    Args:
        engine: the models.
        settings: the limits.
        metrics: counts what is done.

    Raises:
        InputError: the state folder is another server's, or cannot be used.
    """

    def __init__(self, engine: Engine, settings: Settings, metrics: Metrics):
        self.folder = None if settings.state_dir is None else StateFolder(settings.state_dir)
        pool = ThreadPoolExecutor(settings.workers, thread_name_prefix="mmx-live")
        disk = ThreadPoolExecutor(DISK_THREADS, thread_name_prefix="mmx-disk")
        self.context = ServerContext(engine, settings, metrics, pool, disk, asyncio.Semaphore(settings.workers))
        self.sessions: dict[str, Session] = {}
        self._sweeper: asyncio.Task[None] | None = None
        self._leaving: set[asyncio.Task[None]] = set()
        metrics.gauge("mmx_sessions", self._gauge)

    def _gauge(self) -> dict[tuple[tuple[str, str], ...], float]:
        living = [s for s in self.sessions.values() if not s.ended]
        connected = sum(s.connection is not None for s in living)
        return {(("connected", "yes"),): float(connected), (("connected", "no"),): float(len(living) - connected)}

    async def create(self, config: SessionConfig) -> Session:
        """A new session. Raises `ApiError` where there are too many, or where the config cannot be met."""
        limit = self.context.settings.max_sessions
        if sum(not s.ended and (s.opening or s.connection is not None) for s in self.sessions.values()) >= limit:
            raise ApiError(
                429, "too_many_sessions", f"expected a free place, got {limit} live sessions (max_sessions {limit}): "
                "try again later", retry_s=10,
            )  # fmt: skip
        session = Session(self.context, config)
        self._tidy()
        session.opening = True
        self.sessions[session.id] = session
        try:
            if self.folder is not None:
                loop = asyncio.get_running_loop()
                await loop.run_in_executor(self.context.disk, _keep, session, self.folder.path)
        except BaseException:
            del self.sessions[session.id]
            raise
        finally:
            session.opening = False
        self.context.metrics.count("mmx_sessions_total")
        session.start()
        return session

    def find(self, id: str) -> Session:
        """A session that is here. Raises `ApiError` where it is not."""
        if id not in self.sessions:
            keep_s = self.context.settings.keep_s
            raise ApiError(
                404, "session_not_found", "expected a session of this server, got one that is not here or no longer: "
                f"it waits {keep_s:g} s for its client (keep_s); begin a new one", param="session",
            )  # fmt: skip
        return self.sessions[id]

    # -------------------- their life

    def left(self, session: Session) -> None:
        """A session's client is gone: it waits for it, unless it has nothing to lose."""
        session.connection, session.left_at = None, time.monotonic()
        if self.sessions.get(session.id) is not session:
            return
        if not session.intake.samples:
            self._put_away(session)

    def _tidy(self) -> None:
        """Put away those that have waited longest, where more wait than may."""
        waiting = [s for s in self.sessions.values() if s.connection is None and not s.opening]
        places = self.context.settings.max_sessions
        for ended, most in ((False, places), (True, ENDED * places)):
            those = sorted((s for s in waiting if s.ended == ended), key=lambda s: s.left_at)
            for old in those[: max(0, len(those) - most)]:
                self._put_away(old)

    def open(self) -> None:
        """Go on with what an earlier server kept, and look after sessions from now on."""
        if self.folder is not None:
            self.folder.lock()
            self._restore(self.folder.path)
        self._sweeper = asyncio.create_task(self._sweep())

    async def close(self) -> None:
        """Stop; sessions with a journal are in their files."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        stopping = [*self._leaving, *(asyncio.create_task(_stopped(s)) for s in self.sessions.values())]
        if stopping and (hanging := (await asyncio.wait(stopping, timeout=STOP_S))[1]):
            log.error("%d sessions could not be stopped within %g s", len(hanging), STOP_S)
        for pool in (self.context.pool, self.context.disk):
            pool.shutdown(wait=False, cancel_futures=True)
        if self.folder is not None:
            self.folder.unlock()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(min(1.0, max(0.05, self.context.settings.keep_s / 4)))
            before = time.monotonic() - self.context.settings.keep_s
            for session in list(self.sessions.values()):
                if session.connection is None and not session.opening and session.left_at < before:
                    self._put_away(session)

    def _put_away(self, session: Session) -> None:
        """Forget a session at once; what is left of it goes when its turn is over, which nobody waits for."""
        if self.sessions.pop(session.id, None) is None:
            return
        task = asyncio.create_task(self._drop(session))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def _drop(self, session: Session) -> None:
        try:
            await session.stop()
            if session.journal is not None:
                await asyncio.get_running_loop().run_in_executor(self.context.disk, session.journal.drop)
        except Exception:
            log.exception("session %s could not be put away", session.id[:6])

    def _restore(self, folder: Path) -> None:
        for path in sorted(folder.glob("*.session.json")):
            try:
                session = Session.restore(self.context, path)
            except (OSError, ValueError, KeyError, TypeError, MmxError, ApiError):
                log.exception("%s could not be read: the session is left there", path)
                continue
            self.sessions[session.id] = session
            session.start()


async def _stopped(session: Session) -> None:
    try:
        await session.stop()
        if session.journal is not None:
            session.journal.close()
    except Exception:  # the others go on
        log.exception("a session could not be stopped in command")


def _keep(session: Session, folder: Path) -> None:
    """Give a new session its journal. Raises `ApiError` where that cannot be written, and then leaves nothing of it."""
    journal: Journal | None = None
    try:
        journal = Journal(folder, session.id)
        session.keep_in(journal)
    except (OSError, MmxError) as e:
        if journal is not None:
            with suppress(OSError):
                journal.drop()
        reason = getattr(e, "strerror", None) or str(e)
        raise ApiError(
            507, "storage_full", f"expected to write a session into {folder}, got {reason}: try again later", retry_s=10
        ) from e
