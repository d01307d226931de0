"""Who may use the server: the API key, and pages of other sites that a browser here has open."""

import hmac
from collections.abc import Callable, MutableMapping
from typing import Any
from urllib.parse import SplitResult, urlsplit

from starlette.responses import JSONResponse, Response

from mmx.streaming.server.settings import ApiError, Settings

Scope = dict[str, Any]
LOOPBACK = ("localhost", "127.0.0.1", "::1")
OPEN = ("/health", "/", "/favicon.ico")
KEY_PROTOCOL = "openai-insecure-api-key."
"""Browsers cannot set headers of a WebSocket; OpenAI's clients put the key into its list of subprotocols."""
PREFLIGHT_S = 600
"""How long a browser may remember what it was allowed."""
CLOSING_S = 5
"""When to come back to a server that stops: another, or its successor."""


class Guard:
    """ASGI middleware: refuses what comes from another site's page, requests without the API key, and all that is new
    once the server stops.

    A WebSocket is let through without a key, since its first message may bring it; see `key_of`.

    Args:
        app: what is guarded.
        settings: the rules.
        stops: whether the server takes nothing new.
    """

    def __init__(self, app: Any, settings: Settings, stops: Callable[[], bool] = lambda: False):
        self.app, self.settings, self.stops = app, settings, stops

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Answer 401, 403 or 503, or pass on."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        error, shared = self._refused(scope), self._shared(scope)
        if error is not None:
            await refuse(error, scope, receive, _sharing(send, shared))
        elif shared and scope["method"] == "OPTIONS":
            await Response(status_code=204)(scope, receive, _sharing(send, shared))
        else:
            await self.app(scope, receive, _sharing(send, shared))

    def _refused(self, scope: Scope) -> ApiError | None:
        headers, path = _headers(scope), route_of(scope)
        if error := self._stranger(headers, public=path in OPEN or path.startswith("/page/")):
            return error
        if self.stops() and path != "/metrics":
            return closing()
        if scope["type"] == "websocket" or path in OPEN or path.startswith("/page/"):
            return None
        preflight = scope.get("method") == "OPTIONS" and "origin" in headers
        return None if preflight else check_key(self.settings, headers.get("authorization", ""))

    def _stranger(self, headers: dict[str, str], *, public: bool) -> ApiError | None:
        """What is wrong with where a request comes from. What is `public` holds nothing that a page of another site
        could not have from elsewhere, and the browser names an origin where a page asks for its own modules."""
        host, origin = headers.get("host", ""), headers.get("origin")
        address = _split(f"//{host}")
        if address is None:
            return ApiError(400, "invalid_host", f"expected a host's name and port, got {host!r}")
        if self.settings.local and not self._ours(address):
            # A page of another site may give its own name this machine's address.
            return ApiError(
                403, "host_not_allowed", f"expected a request to this machine's own name, got {host!r}: behind a "
                f"proxy, start the server with --allow-origin https://{host}",
            )  # fmt: skip
        if origin is None or public or self._welcome(origin, headers):
            return None
        return ApiError(
            403, "origin_not_allowed",
            f"expected a page of this server, got one of {origin!r}: start the server with --allow-origin {origin}",
        )  # fmt: skip

    def _ours(self, address: SplitResult) -> bool:
        allowed = self.settings.allow_origin
        return address.hostname in (*LOOPBACK, *(urlsplit(o).hostname for o in allowed)) or "*" in allowed

    def _welcome(self, origin: str, headers: dict[str, str]) -> bool:
        """Whether a page may use the server. A proxy may have put its own name for the server into Host; a page can
        set neither of the headers that then tell."""
        allowed = self.settings.allow_origin
        page = _split(origin)
        hosts = (headers.get("host", ""), headers.get("x-forwarded-host", ""))
        own = page is not None and page.netloc in hosts and origin != "null"
        return "*" in allowed or origin in allowed or own or headers.get("sec-fetch-site") == "same-origin"

    def _shared(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        """Headers that let an allowed page ask, and read the answer."""
        headers = _headers(scope)
        origin = headers.get("origin")
        allowed = self.settings.allow_origin
        if origin is None or scope["type"] != "http" or not ("*" in allowed or origin in allowed):
            return []
        shared = {"access-control-allow-origin": origin, "vary": "origin"}
        if scope["method"] == "OPTIONS":
            # The key is what guards the server, so that no header need be forbidden: OpenAI's client sends a dozen.
            asked = headers.get("access-control-request-headers", "authorization, content-type")
            shared |= {
                "access-control-allow-headers": asked,
                "access-control-allow-methods": "GET, HEAD, POST, OPTIONS",
                "access-control-max-age": str(PREFLIGHT_S),
            }
            if headers.get("access-control-request-private-network") == "true":
                shared["access-control-allow-private-network"] = "true"
        else:
            shared["access-control-expose-headers"] = "retry-after, x-request-id, www-authenticate"
        return [(k.encode(), v.encode("latin-1")) for k, v in shared.items()]


def closing() -> ApiError:
    """What a server that stops says."""
    return ApiError(
        503, "server_closing", "expected a running server, but this one is stopping: ask again in a moment",
        retry_s=CLOSING_S,
    )  # fmt: skip


async def refuse(error: ApiError, scope: Scope, receive: Any, send: Any) -> None:
    """Answer with a refusal; of a WebSocket's handshake as HTTP, where the server of ASGI can."""
    if scope["type"] == "http" or "websocket.http.response" in scope.get("extensions", {}):
        await JSONResponse(error.body, error.status, headers=error.headers)(scope, receive, send)
    else:
        await send({"type": "websocket.close", "code": 1008, "reason": error.code})


def route_of(scope: MutableMapping[str, Any]) -> str:
    """The path without the one that a proxy shows the server below."""
    return scope["path"].removeprefix(scope.get("root_path", "")) or "/"


def check_key(settings: Settings, authorization: str) -> ApiError | None:
    """What is wrong with a header "Bearer KEY"; None where nothing is. The time it takes does not depend on the key.

    Args:
        settings: have the key.
        authorization: as text from JSON, or a header's bytes read as Latin-1: clients write a key past ASCII as UTF-8
            or as Latin-1.
    """
    if settings.api_key is None:
        return None
    scheme, _, text = authorization.partition(" ")
    given, key = text.strip().encode("utf-8", "surrogatepass"), settings.api_key.encode()
    spellings = (key, key.decode("latin-1").strip().encode())
    right = [hmac.compare_digest(given, k) for k in spellings]  # whichever it is, both are compared
    if any(right) and scheme.lower() == "bearer":
        return None
    what = "a wrong one" if authorization else "none"
    return ApiError(401, "invalid_api_key", f"expected the server's API key in 'Authorization: Bearer KEY', got {what}")


def key_of(scope: Scope) -> str | None:
    """The "Bearer KEY" that a WebSocket's handshake brings, None where it brings none."""
    for protocol in scope.get("subprotocols", ()):
        if protocol.startswith(KEY_PROTOCOL):
            return f"Bearer {protocol.removeprefix(KEY_PROTOCOL)}"
    return _headers(scope).get("authorization")


def _split(url: str) -> SplitResult | None:
    """The parts of an address, None where it is none, as with a bracket that is not closed."""
    try:
        return urlsplit(url)
    except ValueError:
        return None


def _headers(scope: Scope) -> dict[str, str]:
    return {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}


def _sharing(send: Any, extra: list[tuple[bytes, bytes]]) -> Any:
    if not extra:
        return send

    async def with_headers(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), *extra]}
        await send(message)

    return with_headers
