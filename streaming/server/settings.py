"""What a server is told, and the one shape in which it says no."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from mmx.errors import InputError
from mmx.options import Option, check
from mmx.streaming.lag import STEPS_S
from mmx.streaming.policies import find_policy

MOST_MESSAGE = 800
"""Letters of an error's message; what a client sent is quoted in it, and may be a megabyte."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Limits and rules of a server; `math.inf` is no limit."""

    api_key: Annotated[str | None, Option("Key that clients must show.", env="MMX_API_KEY")] = None
    allow_origin: Annotated[
        tuple[str, ...], Option("Origin whose pages may use the server (https://example.org), or *.")
    ] = ()
    local: Annotated[
        bool, Option("Answer to this machine's names only, and to those of allow_origin.", shell=False)
    ] = False  # fmt: skip
    root_path: Annotated[
        str, Option("Path below which a proxy shows the server (/mmx), whether it takes it away or not.")
    ] = ""
    state_dir: Annotated[
        Path | None, Option("Keep live sessions here, so that they outlive the server.")
    ] = None  # fmt: skip
    max_upload_mb: Annotated[float, Option("Largest upload, in MB.", above=0, most=math.inf)] = 200.0
    max_audio_s: Annotated[
        float, Option("Longest recording or live session, in seconds.", above=0, most=math.inf)
    ] = 4 * 3600.0  # fmt: skip
    max_queue: Annotated[int, Option("Recordings that may wait.", least=0)] = 16
    max_uploads: Annotated[int, Option("Recordings on their way here at once.", least=1)] = 32
    max_connections: Annotated[int, Option("Connections at once, live ones too.", least=1)] = 512
    header_timeout_s: Annotated[
        float, Option("Close a connection that asks nothing for so long.", above=0, most=math.inf)
    ] = 20.0
    upload_timeout_s: Annotated[
        float,
        Option("Refuse an upload that brings nothing for so long, or less than 1 kB a second.", above=0, most=math.inf),
    ] = 30.0
    max_sessions: Annotated[int, Option("Live sessions at once.", least=1)] = 32
    idle_timeout_s: Annotated[
        float, Option("Close a live connection that is silent for so long.", above=0, most=math.inf)
    ] = 60.0
    keep_s: Annotated[
        float, Option("Keep a live session so long for a client that went away.", least=0, most=math.inf)
    ] = 120.0
    grace_s: Annotated[float, Option("When stopped, give recordings in progress this long to finish.", least=0)] = 5.0
    access_log: Annotated[bool, Option("Log each request to standard error.")] = False
    max_frame_kb: Annotated[int, Option("Largest WebSocket message.", least=1, shell=False)] = 1024
    max_ahead_s: Annotated[
        float,
        Option(
            "Audio that a session may be ahead of the model; past it the server reads no more for a while.",
            above=0,
            most=math.inf,
            shell=False,
        ),
    ] = 30.0
    max_speech_chars: Annotated[int, Option("Longest text to speak, in characters.", least=1)] = 20_000
    speech_workers: Annotated[int, Option("Texts spoken at the same moment.", least=1)] = 1
    workers: Annotated[int, Option("Live sessions decoded at the same time.", least=1)] = 1
    file_workers: Annotated[int, Option("Recordings transcribed at the same moment.", least=1)] = 1

    def __post_init__(self) -> None:
        check(self)
        _check_key(self.api_key)
        for origin in self.allow_origin:
            _check_origin(origin)
        object.__setattr__(self, "root_path", _path(self.root_path))


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Where a server listens, and how its models are asked."""

    host: Annotated[str, Option("Address to listen on; 0.0.0.0 serves other machines, too.")] = "127.0.0.1"
    port: Annotated[int, Option("Port; 0 takes a free one.", least=0, most=65535)] = 8000
    policy: Annotated[
        str, Option("When a word may be written live: alignatt, emma, local-agreement.")
    ] = "alignatt"  # fmt: skip
    step_s: Annotated[
        float, Option("Seconds of live audio between decoding steps.", least=STEPS_S[0], most=STEPS_S[1])
    ] = 1.0
    beam_size: Annotated[int, Option("Hypotheses of the search in recordings.", least=1)] = 5
    ssl_certfile: Annotated[
        Path | None, Option("Certificate: browsers give a microphone to https pages and localhost only.")
    ] = None
    ssl_keyfile: Annotated[Path | None, Option("Key of the certificate.")] = None

    def __post_init__(self) -> None:
        check(self)
        find_policy(self.policy)


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
