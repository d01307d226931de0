"""What every request goes through first: the path below a proxy, a count, a line for the log, and an answer in OpenAI's
shape whatever happens."""

import asyncio
import contextlib
import logging
import re
import secrets
import sys
import time
from typing import Any

from mmx.streaming.server.guard import Scope, closing, refuse, route_of
from mmx.streaming.server.metrics import Metrics
from mmx.streaming.server.settings import ApiError, Settings

log = logging.getLogger("mmx.serve")

LEFT = 499
"""The status that is counted for a client that left, as nginx does; nobody is there to be told."""

_ENDPOINTS = (
    "/", "/health", "/metrics", "/openapi.json", "/v1/audio/transcriptions", "/v1/audio/translations",
    "/v1/audio/speech", "/v1/audio/voices", "/v1/models", "/v1/capabilities", "/v1/realtime",
    "/v1/realtime/translations",
)  # fmt: skip
_PATTERNS = (
    (re.compile(r"/page/"), "/page"),
    (re.compile(r"/v1/models/"), "/v1/models/{id}"),
    (re.compile(r"/v1/realtime/sessions/[^/]+/transcript$"), "/v1/realtime/sessions/{id}/transcript"),
)


def endpoint_of(path: str) -> str:
    """A path without what clients put into it: their sessions' ids are secrets, and a label must have few values."""
    if path in _ENDPOINTS:
        return path
    return next((name for pattern, name in _PATTERNS if pattern.match(path)), "other")


class Watch:
    """ASGI middleware, outside of all others.

    Args:
        app: what is watched.
        settings: `root_path` and `access_log`.
        metrics: counts requests and closes.
    """

    def __init__(self, app: Any, settings: Settings, metrics: Metrics):
        self.app, self.settings, self.metrics = app, settings, metrics

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Pass on, and answer what nobody answered."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        scope = _below(scope, self.settings.root_path)
        request = _Request(scope, receive, send)
        try:
            await self.app(scope, request.receive, request.send)
        except asyncio.CancelledError:  # the server's own time to stop is over
            await request.fail(closing())
        except Exception:
            if not request.left:
                log.exception("%s %s failed", scope.get("method", "WebSocket"), endpoint_of(route_of(scope)))
                await request.fail(
                    ApiError(500, "server_error", "expected to finish, but the server failed: its log has the reason")
                )
        finally:
            self._tell(scope, request)

    def _tell(self, scope: Scope, request: "_Request") -> None:
        endpoint = endpoint_of(route_of(scope))
        if scope["type"] == "http":
            self.metrics.count("mmx_http_requests_total", endpoint=endpoint, status=str(request.status))
        else:
            self.metrics.count("mmx_live_closes_total", code=str(request.status))
        if self.settings.access_log:
            now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            who = (scope.get("client") or ("-",))[0]
            what = scope.get("method", "WebSocket")
            print(
                f"mmx: {now} {who} {what} {endpoint} {request.status} {request.seconds:.3f} s {request.id}",
                file=sys.stderr, flush=True,
            )  # fmt: skip


class _Request:
    """What became of a request: its status, or a socket's code of closing."""

    def __init__(self, scope: Scope, receive: Any, send: Any):
        self.scope, self._receive, self._send = scope, receive, send
        self.id = f"req_{secrets.token_hex(8)}"
        self.status = LEFT if scope["type"] == "http" else 1006
        self.started = self.left = False
        self._since = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._since

    async def receive(self) -> dict[str, Any]:
        message = await self._receive()
        if message["type"].endswith(".disconnect"):
            self.left = True
            if message["type"] == "websocket.disconnect" and self.status == 1006:
                self.status = message.get("code", 1005)
        return message

    async def send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start" and not self.left:
            self.status = message["status"]
        if message["type"].endswith("response.start"):
            message = {**message, "headers": [*message.get("headers", []), (b"x-request-id", self.id.encode())]}
        if message["type"] == "websocket.http.response.start":
            self.status = message["status"]
        if message["type"] == "websocket.close":
            self.status = message.get("code", 1000)
        self.started = True
        await self._send(message)

    async def fail(self, error: ApiError) -> None:
        """Answer where nothing was answered; an answer that has begun is broken off."""
        with contextlib.suppress(Exception):  # whoever was to be told may have gone
            if not self.started:
                await refuse(error, self.scope, self.receive, self.send)
            elif self.scope["type"] == "websocket":
                await self.send({"type": "websocket.close", "code": 1012 if error.status == 503 else 1011})


def _below(scope: Scope, root: str) -> Scope:
    """A scope as ASGI has it below a path, whether the proxy took the path away or not."""
    if not root:
        return scope
    path = scope["path"]
    inside = path == root or path.startswith(root + "/")
    return {**scope, "root_path": root, "path": path if inside else root + path}
