"""What a server is told, and the one shape in which it says no."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmx.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Limits and rules of a server; the command line has the same names and defaults.

    Attributes:
        api_key: what every request but /health and the page's files must show; None asks for none.
        allow_origin: origins ("https://example.org") whose pages may use the server beside its own; "*" is all.
        local: the server is bound to this machine only, so that it answers to this machine's names only.
        state_dir: where live sessions are kept, so that they outlive the server; None forgets them.
        max_upload_mb: largest upload.
        max_audio_s: longest recording, and longest live session.
        max_queue: recordings that may wait; past it the answer is 503.
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
    state_dir: Path | None = None
    max_upload_mb: float = 200.0
    max_audio_s: float = 4 * 3600.0
    max_queue: int = 16
    max_sessions: int = 32
    idle_timeout_s: float = 60.0
    keep_s: float = 120.0
    max_frame_kb: int = 1024
    max_ahead_s: float = 30.0
    workers: int = 1
    file_workers: int = 1

    def __post_init__(self) -> None:
        for name in ("max_upload_mb", "max_audio_s", "max_sessions", "idle_timeout_s", "max_frame_kb", "max_ahead_s",
                     "workers", "file_workers"):  # fmt: skip
            if getattr(self, name) <= 0:
                raise InputError(f"expected {name} to be more than 0, got {getattr(self, name)}")
        if self.max_queue < 0 or self.keep_s < 0:
            raise InputError("expected max_queue and keep_s to be 0 or more")
        if self.api_key is not None and not self.api_key:
            raise InputError("expected an API key, got an empty one: leave it out to ask for none")


class Refusal(Exception):  # noqa: N818 - an answer, not a fault of the server
    """An answer that says no, in the shape of OpenAI's errors.

    Args:
        status: of HTTP.
        code: a name for programs ("audio_too_long").
        message: what was expected, what was got, the remedy.
        param: the field at fault.
        retry_s: when it is worth to ask again.
    """

    def __init__(self, status: int, code: str, message: str, *, param: str | None = None, retry_s: int | None = None):
        super().__init__(message)
        self.status, self.code, self.message, self.param, self.retry_s = status, code, message, param, retry_s

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
        return {**headers, "WWW-Authenticate": "Bearer"} if self.status == 401 else headers


@contextmanager
def blaming(param: str) -> Iterator[None]:
    """Within, an `InputError` becomes a `Refusal` that names the field at fault."""
    try:
        yield
    except InputError as e:
        raise Refusal(400, "invalid_value", str(e), param=param) from e
