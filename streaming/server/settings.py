"""What a server is told, and the one shape in which it says no."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mmx.errors import InputError

MOST_MESSAGE = 800
"""Letters of an error's message; what a client sent is quoted in it, and may be a megabyte."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Limits and rules of a server; the command line has the same names and defaults.

    Attributes:
        api_key: what every request but /health and the page's files must show; None asks for none.
        allow_origin: origins ("https://example.org") whose pages may use the server beside its own; "*" is all.
        local: the server is bound to this machine only, so that it answers to this machine's names only, and to
            those of `allow_origin`.
        root_path: the path below which a proxy shows the server ("/mmx"), whether or not it takes it away.
        state_dir: where live sessions are kept, so that they outlive the server; None forgets them.
        max_upload_mb: largest upload.
        max_audio_s: longest recording, and longest live session.
        max_queue: recordings that may wait; past it the answer is 503.
        max_uploads: recordings that may be on their way here at once; past it the answer is 503.
        max_connections: open connections; past it the answer is 503.
        header_timeout_s: a connection has this long to say what it wants.
        upload_timeout_s: an upload that brings nothing for so long, or less than 1 kB a second, is refused.
        grace_s: a server that is told to stop gives the recordings at work this long to end.
        access_log: tell each request on the standard error.
        max_sessions: live sessions at once; past it the answer is `too_many_sessions`.
        idle_timeout_s: a live connection that says nothing for so long is closed.
        keep_s: a live session waits so long for a client that went away.
        max_frame_kb: largest WebSocket message.
        max_ahead_s: sound that a session may be ahead of the model; past it the server reads no more until it is heard.
        workers: live sessions heard at the same moment.
        file_workers: recordings transcribed at the same moment.
    """

    api_key: str | None = None
    allow_origin: tuple[str, ...] = ()
    local: bool = False
    root_path: str = ""
    state_dir: Path | None = None
    max_upload_mb: float = 200.0
    max_audio_s: float = 4 * 3600.0
    max_queue: int = 16
    max_uploads: int = 32
    max_connections: int = 512
    header_timeout_s: float = 20.0
    upload_timeout_s: float = 30.0
    grace_s: float = 5.0
    access_log: bool = False
    max_sessions: int = 32
    idle_timeout_s: float = 60.0
    keep_s: float = 120.0
    max_frame_kb: int = 1024
    max_ahead_s: float = 30.0
    workers: int = 1
    file_workers: int = 1

    def __post_init__(self) -> None:
        for name in ("max_upload_mb", "max_audio_s", "max_uploads", "max_connections", "max_sessions", "idle_timeout_s",
                     "max_frame_kb", "max_ahead_s", "workers", "file_workers", "header_timeout_s",
                     "upload_timeout_s"):  # fmt: skip
            if not getattr(self, name) > 0:  # no number is not, either
                raise InputError(f"expected {name} to be more than 0, got {getattr(self, name)}")
        for name in ("max_queue", "keep_s", "grace_s"):
            if not getattr(self, name) >= 0:
                raise InputError(f"expected {name} to be 0 or more, got {getattr(self, name)}")
        if math.isinf(self.grace_s):
            raise InputError("expected grace_s to be a number of seconds, got infinity: the server could never stop")
        _check_key(self.api_key)
        for origin in self.allow_origin:
            _check_origin(origin)
        object.__setattr__(self, "root_path", _path(self.root_path))


def _check_key(key: str | None) -> None:
    """Raise `InputError` for a key that no header could bring."""
    if key is None:
        return
    if not key:
        raise InputError("expected an API key, got an empty one: leave it out to ask for none")
    if key != key.strip() or not key.isprintable():
        raise InputError("expected an API key of printable letters without space at its ends, got another")


def _check_origin(origin: str) -> None:
    """Raise `InputError` for what no browser sends as its `Origin`."""
    if origin == "*":
        return
    try:
        parts = urlsplit(origin)
        right = bool(parts.hostname) and f"{parts.scheme}://{parts.netloc}" == origin and parts.port != 0
    except ValueError:
        right = False
    if not right:
        raise InputError(f"expected allow_origin like https://example.org, without a path, or *, got {origin!r}")


def _path(path: str) -> str:
    """A path as ASGI has it: "" or "/mmx". Raises `InputError` for what is none."""
    path = path.rstrip("/")
    if path and (not path.startswith("/") or any(c in path for c in "?#% ") or "//" in path or not path.isascii()):
        raise InputError(f"expected root_path to be a path like /mmx, got {path!r}")
    return path


class ApiError(Exception):
    """An answer that says no, in the shape of OpenAI's errors.

    Args:
        status: of HTTP.
        code: a name for programs ("audio_too_long").
        message: what was expected, what was got, the remedy.
        param: the field at fault.
        retry_s: when it is worth to ask again.
        close: the connection ends with the answer.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_s: int | None = None,
        close: bool = False,
    ):
        message = shortened(message)
        super().__init__(message)
        self.status, self.code, self.message, self.param, self.retry_s = status, code, message, param, retry_s
        self.close = close

    @property
    def body(self) -> dict[str, Any]:
        """`{"error": {message, type, param, code}}`."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(self.status, kind)
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the answer."""
        headers = {} if self.retry_s is None else {"Retry-After": str(self.retry_s)}
        headers |= {"Connection": "close"} if self.close else {}
        return {**headers, "WWW-Authenticate": "Bearer"} if self.status == 401 else headers


def shortened(message: str) -> str:
    """A message without the middle of what is too long, so that what was expected and the remedy stay."""
    if len(message) <= MOST_MESSAGE:
        return message
    return f"{message[: MOST_MESSAGE * 2 // 3]}… {message[-MOST_MESSAGE // 3 :]}"


@contextmanager
def blaming(param: str) -> Iterator[None]:
    """Within, an `InputError` becomes a `ApiError` that names the field at fault."""
    try:
        yield
    except InputError as e:
        raise ApiError(400, "invalid_value", str(e), param=param) from e
