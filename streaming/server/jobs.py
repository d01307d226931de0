"""What recordings and speech share as jobs that clients wait for: turned away when there are too many, left by clients,
and answered by a stream of events."""

import asyncio
import json
import time
from collections.abc import Callable, Collection
from typing import Any, Protocol

from starlette.requests import Request

from mmx.errors import MmxError
from mmx.streaming.server.settings import ApiError

# X-Accel-Buffering: nginx would keep a stream until it has a buffer full of it.
STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class Cancelled(MmxError):  # noqa: N818 - nobody failed
    """Nobody waits for the result any more."""


def busy(got: str) -> ApiError:
    """What a server that has enough to do says."""
    return ApiError(503, "server_busy", f"expected a free place, got {got}: ask again later", retry_s=10)


def event(body: dict[str, Any]) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"


class Job(Protocol):
    """What a client waits for."""

    def stop(self) -> None:
        """The server stops: whoever waits is told, and the worker ends soon."""
        ...


async def drained(jobs: Collection[Job], grace_s: float, hurry: Callable[[], bool]) -> None:
    """Wait until there are no more jobs, at most `grace_s` or until `hurry` says so, and stop those that are left."""
    end = time.monotonic() + grace_s
    while jobs and time.monotonic() < end and not hurry():
        await asyncio.sleep(0.05)
    for job in list(jobs):
        job.stop()


async def left(request: Request) -> None:
    """Returns when the client has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
