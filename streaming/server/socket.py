"""WebSockets: a connection reads a client's messages into its session, and sends it the session's log.

The two directions are two tasks that never wait for each other, and a session belongs to no connection: a client that
was cut off connects again with `?session=ID&after=SEQ` and goes on.
"""

import asyncio
import contextlib
import json
import logging
import re
import secrets
from collections import deque
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from mmx.errors import InputError
from mmx.streaming.server.audio_visual import Frames
from mmx.streaming.server.files import api_error_of
from mmx.streaming.server.guard import KEY_PROTOCOL, check_key, key_of
from mmx.streaming.server.interpreter import SessionConfig
from mmx.streaming.server.models import check_model
from mmx.streaming.server.protocol import (
    Manner,
    config_of,
    decoded,
    described,
    error_message,
    event_id_of,
    handle_message,
    parsed,
    rendered,
)
from mmx.streaming.server.registry import Registry
from mmx.streaming.server.sessions import Session
from mmx.streaming.server.settings import ApiError, Settings
from mmx.streaming.server.sight import Sight

log = logging.getLogger("mmx.serve")

MOST_ERRORS = 50
"""A client that errs more often is not speaking this protocol."""

AUTH_S = 10.0
"""A connection without a key in its handshake has this long to send one."""

GOODBYE_S = 5.0
"""A client has this long to take the last messages."""


async def serve_socket(socket: WebSocket, dialect: str, registry: Registry) -> None:
    """Serve one connection to its end.

    Args:
        socket: not yet accepted.
        dialect: see `mmx.streaming.server.protocol`.
        registry: the sessions.
    """
    offered = [p for p in socket.scope.get("subprotocols", ()) if not p.startswith(KEY_PROTOCOL)]
    await socket.accept(subprotocol=offered[0] if offered else None)
    query = socket.query_params
    try:
        await _authenticate(socket, registry.context.settings)
        resumed, config = query.get("session"), config_of(query, dialect)
        check_model(registry.context.engine, query.get("model"), realtime=True)
        if resumed:
            session = registry.find(resumed)
            _same(query, config, session)
            after = _after(query.get("after"), session.published)
        else:
            after = _after(query.get("after"), 0)  # before there is a session: what is refused makes none
            session = await registry.create(config)
    except ApiError as error:
        registry.context.metrics.count("mmx_errors_total", code=error.code)
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):
            await socket.send_text(_json(_numbered(error_message(error))))
            await socket.close(1013 if error.status in (429, 507) else 1008, error.code)
        return
    except WebSocketDisconnect:
        return
    if resumed:
        registry.context.metrics.count("mmx_resumes_total")
    manner = Manner(dialect, _switched_on(query.get("extras")))
    await _Connection(socket, registry, session, manner, after, bool(resumed)).serve()


def _switched_on(value: str | None) -> bool:
    return value is not None and value.lower() not in ("", "0", "false")


async def _authenticate(socket: WebSocket, settings: Settings) -> None:
    """The key from the handshake, else from the first message: `{"type": "session.authenticate", "api_key": KEY}`."""
    given = key_of(dict(socket.scope))
    if settings.api_key is not None and given is None:
        try:
            first = await asyncio.wait_for(socket.receive_text(), AUTH_S)
        except (TimeoutError, KeyError):
            first = ""
        message = parsed(first) if first else {}
        given = f"Bearer {message['api_key']}" if isinstance(message.get("api_key"), str) else ""
    if error := check_key(settings, given or ""):
        raise error


def _same(query: Mapping[str, str], config: SessionConfig, session: Session) -> None:
    """Raise `ApiError` where the address of a client that comes back asks for another session than it has."""
    for name in ("language", "to", "source", "rate"):
        if name in query and (got := getattr(config, name)) != (had := getattr(session.asked, name)):
            raise ApiError(
                400, "invalid_value", f"expected {name} {had!r} as the session has it, got {got!r}: leave it out, and "
                "change it by session.update", param=name,
            )  # fmt: skip


def _after(text: str | None, published: int) -> int:
    """The last line of the log that the client has, of `published`; -1 where it has none."""
    if text is None:
        return -1
    if not re.fullmatch("-1|[0-9]{1,18}", text) or int(text) >= published:
        raise ApiError(
            400, "invalid_value", f"expected after in -1 to {published - 1}, got {text[:40]!r}", param="after"
        )
    return int(text)


@dataclass
class _Leaving:
    """How a connection ends once all is sent."""

    code: int
    reason: str


class _Connection:
    def __init__(
        self, socket: WebSocket, registry: Registry, session: Session, manner: Manner, after: int, resumed: bool
    ):
        self.socket, self.registry, self.session, self.manner = socket, registry, session, manner
        self.next = after + 1
        self.settings = session.context.settings
        self.replaced = asyncio.Event()
        self.taken = asyncio.Event()  # set when the client has taken all of `own`
        self.leaving: _Leaving | None = None
        self.closing = False  # whether the client asked for the end
        self.errors = 0
        self.event_id: str | None = None  # of the message at hand
        self.sight: Sight | None = None  # once pictures come
        self.troubled = False  # whether the client knows that nothing is found in them here
        # Messages that belong to this connection, not to the session; what a client must do to get one bounds them.
        self.own: deque[dict[str, Any]] = deque()
        kind = "session.resumed" if resumed else "session.created"
        facts = {"samples": session.received, "seq": session.published - 1}
        self.own.append({"type": kind, "session": described(session, manner.dialect), "acknowledged": facts})

    async def serve(self) -> None:
        earlier, self.session.connection = self.session.connection, self
        if isinstance(earlier, _Connection):
            earlier.replaced.set()
        self.session.notify()
        reader, sender = asyncio.create_task(self._read()), asyncio.create_task(self._send())
        replaced = asyncio.create_task(self.replaced.wait())
        try:
            await asyncio.wait([reader, sender, replaced], return_when=asyncio.FIRST_COMPLETED)
            if self.leaving is not None:
                await asyncio.wait([sender], timeout=GOODBYE_S)
        finally:  # what must be done comes before the first await: that one may be cancelled
            for task in (reader, sender, replaced):
                task.cancel()
            if self.sight is not None:
                self.sight.close()
            if self.session.connection is self:
                self.registry.left(self.session)
            for error in await asyncio.gather(reader, sender, replaced, return_exceptions=True):
                if isinstance(error, Exception) and not self._gone(error):
                    log.error("a connection of session %s failed", self.session.id[:6], exc_info=error)
                    self.leaving = _Leaving(1011, "server_error")
            await self._close()

    def _gone(self, error: Exception) -> bool:
        """Whether an error says but that the client has gone."""
        states = (self.socket.client_state, self.socket.application_state)
        over = isinstance(error, RuntimeError) and WebSocketState.DISCONNECTED in states
        return over or isinstance(error, WebSocketDisconnect)

    async def _close(self) -> None:
        bye = _Leaving(4001, "replaced") if self.replaced.is_set() else self.leaving or _Leaving(1000, "")
        with contextlib.suppress(RuntimeError, WebSocketDisconnect, TimeoutError):
            await asyncio.wait_for(self.socket.close(bye.code, bye.reason), GOODBYE_S)

    # -------------------- from the client

    async def _read(self) -> None:
        while self.leaving is None:
            try:
                message = await asyncio.wait_for(self.socket.receive(), self.settings.idle_timeout_s)
            except TimeoutError:
                if self.session.intake.closing:  # it waits for the rest of its text
                    continue
                limit = self.settings.idle_timeout_s
                self.refuse(
                    ApiError(408, "idle_timeout", f"expected audio within {limit:g} s (idle_timeout_s), got none")
                )
                self._leave(1000, "idle_timeout")
                return
            if message["type"] == "websocket.disconnect" or self.replaced.is_set():
                return
            self.event_id = None
            try:
                await self._take(message)
            except ApiError as error:
                self.refuse(error, self.event_id)
            except InputError as e:
                self.refuse(api_error_of(e), self.event_id)
            if self.errors > MOST_ERRORS:
                self._leave(1008, "too_many_errors")
            await self._room()

    async def _room(self) -> None:
        """Read no more than the session can hear and the client takes: TCP makes the client wait, and only that one."""
        await self.session.room()
        while len(self.own) > MOST_ERRORS + 10:
            self.taken.clear()
            await self.taken.wait()

    async def _take(self, message: MutableMapping[str, Any]) -> None:
        data, text = message.get("bytes"), message.get("text")
        limit = self.settings.max_frame_kb * 1024
        if len(data or text or "") > limit:
            raise ApiError(
                413, "frame_too_large", f"expected a message of at most {self.settings.max_frame_kb} kB "
                f"(max_frame_kb), got {len(data or text or '') // 1024} kB: send audio in shorter pieces",
            )  # fmt: skip
        if data is not None:
            self.session.accept(decoded(data, self.session.asked.format))
            return
        wanted = parsed(text or "")
        self.event_id = event_id_of(wanted)
        frames = self.session.frames
        if wanted["type"] == "input_frames.append" and frames and frames.has_pictures(wanted):
            await self._look(wanted, frames)
            return
        answer = handle_message(self.session, wanted, self.manner.dialect)
        self.closing |= wanted["type"] == "session.close"
        if answer is not None and await self.session.kept():
            self._say(answer)

    async def _look(self, message: dict[str, Any], frames: Frames) -> None:
        """Take pictures: they are decoded, and points found in them, off the event loop. The client learns of these."""
        if self.sight is None:
            self.sight = frames.sight()
        data = await asyncio.to_thread(frames.raw, message, self.session.intake.samples, self.sight)
        if self.replaced.is_set():  # another connection goes on with the session
            return
        if data:
            self.session.accept(data)
        if self.sight is None or not message.get("images") or not self.manner.extras:
            return
        if self.sight.trouble and not self.troubled:
            self._say({"type": "session.note", "text": self.sight.trouble})
        self.troubled = bool(self.sight.trouble)
        self._say({"type": "input_frames.points", "points": self.sight.shown})

    def refuse(self, error: ApiError, event_id: str | None = None) -> None:
        """Tell the client that something was not done; `event_id` is the message's that asked for it."""
        self.errors += 1
        self.session.context.metrics.count("mmx_errors_total", code=error.code)
        self._say(error_message(error, event_id))

    def _say(self, message: dict[str, Any]) -> None:
        self.own.append(message)
        self.session.notify()

    def _leave(self, code: int, reason: str) -> None:
        self.leaving = _Leaving(code, reason)
        self.session.notify()

    # -------------------- to the client

    async def _send(self) -> None:
        acknowledged, shown, remarks = self.session.received, {}, len(self.session.remarks)
        while True:
            pulse = self.session.pulse
            while self.own:
                await self._message(self.own.popleft())
            self.taken.set()
            while self.manner.extras and remarks < len(self.session.remarks):
                await self._message({"type": "session.note", "text": self.session.remarks[remarks]})
                remarks += 1
            while self.next < self.session.published:
                for message in rendered(self.session, self.session.log[self.next], self.manner, self.closing):
                    await self._message(message)
                self.next += 1
            if self.manner.extras and acknowledged != self.session.received:
                acknowledged = self.session.received
                await self._message({"type": "input_audio_buffer.acknowledged", "samples": acknowledged})
            if self.leaving is not None or (self.session.ended and self.next == len(self.session.log)):
                return
            now = {"text": dict(self.session.tentative), "lag_ms": round(self.lag_s * 1000)}
            if self.manner.extras and now["text"] != shown:  # only the latest: a slow client skips what has changed
                shown = now["text"]
                await self._message({"type": "tentative", **now})
            await pulse.wait()

    @property
    def lag_s(self) -> float:
        """Seconds of speech that are not written yet."""
        return self.session.behind_s + self.session.waiting_s

    async def _message(self, message: dict[str, Any]) -> None:
        await self.socket.send_text(_json(_numbered(message)))


def _numbered(message: dict[str, Any]) -> dict[str, Any]:
    return {"event_id": f"event_{secrets.token_hex(6)}", **message}


def _json(message: dict[str, Any]) -> str:
    return json.dumps(message, ensure_ascii=False)
