"""Connections: who says nothing for too long is closed, and there are only so many at once."""

import asyncio
import json
import socket
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from mmx.streaming.server.metrics import Metrics
from mmx.streaming.server.settings import ApiError, Settings

UNREAD_S = 60.0
"""A client that takes nothing of an answer for so long has gone, or means no good."""


def protocol(settings: Settings, metrics: Metrics) -> type[H11Protocol]:
    """uvicorn's HTTP with our limits. `uvicorn.Config(http=...)` takes a class, so that they are a class's.

    Args:
        settings: `header_timeout_s` and `max_connections`.
        metrics: counts who is refused.
    """

    class Limited(H11Protocol):
        """A connection that must say what it wants in time, before its first request and before each other."""

        _late: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            _drop_when_unread(transport, UNREAD_S)
            if len(self.connections) > settings.max_connections:
                self._refuse("too_many_connections")
            else:
                self._wait()

        def data_received(self, data: bytes) -> None:
            if self.transport.is_closing():
                return
            super().data_received(data)
            if self.transport.get_protocol() is not self:  # a WebSocket now, which may be slow to read
                _drop_when_unread(self.transport, 0.0)
                self._stop_waiting()
            elif self.cycle is not None and not self.cycle.response_complete:
                self._stop_waiting()
            elif self._late is None:
                self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def _wait(self) -> None:
            self._late = self.loop.call_later(settings.header_timeout_s, self._refuse, "header_timeout")

        def _stop_waiting(self) -> None:
            if self._late is not None:
                self._late.cancel()
                self._late = None

        def _refuse(self, reason: str) -> None:
            metrics.count("mmx_connections_refused_total", reason=reason)
            if not self.transport.is_closing():
                self.transport.write(_answer(_REASONS[reason]))
                self.transport.close()

    return Limited


_REASONS = {
    "header_timeout": ApiError(
        408, "header_timeout", "expected a request soon after the connection, got none: connect when there is one"
    ),
    "too_many_connections": ApiError(
        503, "too_many_connections", "expected a free connection, got as many as there may be (max_connections): ask "
        "again later", retry_s=10,
    ),
}  # fmt: skip


def _answer(error: ApiError) -> bytes:
    """A refusal as it goes over the network, for who has not asked yet."""
    body = json.dumps(error.body).encode()
    headers = {"Content-Type": "application/json", "Content-Length": len(body), "Connection": "close", **error.headers}
    phrase = {408: "Request Timeout", 503: "Service Unavailable"}[error.status]
    head = [f"HTTP/1.1 {error.status} {phrase}", *(f"{k}: {v}" for k, v in headers.items())]
    return "\r\n".join([*head, "", ""]).encode() + body


def _drop_when_unread(transport: Any, seconds: float) -> None:
    """Let the system end a connection whose client reads nothing for so long; 0 for never. Only Linux can."""
    own = transport.get_extra_info("socket")
    if own is not None and hasattr(socket, "TCP_USER_TIMEOUT") and own.family in (socket.AF_INET, socket.AF_INET6):
        own.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(seconds * 1000))
