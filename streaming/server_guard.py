"""Who may use the server: the API key, and pages of other sites that a browser here has open."""

import hmac
from typing import Any
from urllib.parse import SplitResult, urlsplit

from starlette.responses import JSONResponse, Response

from mmx.streaming.server_settings import Refusal, Settings

Scope = dict[str, Any]
LOOPBACK = ("localhost", "127.0.0.1", "::1")
OPEN = ("/health", "/", "/favicon.ico")
KEY_PROTOCOL = "openai-insecure-api-key."
"""Browsers cannot set headers of a WebSocket; OpenAI's clients put the key into its list of subprotocols."""


class Guard:
    """ASGI middleware: refuses what comes from another site's page, and requests without the API key.

    A WebSocket is let through without a key, since its first message may bring it; see `key_of`.

    Args:
        app: what is guarded.
        settings: the rules.
    """

    def __init__(self, app: Any, settings: Settings):
        self.app, self.settings = app, settings

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Answer 401 or 403, or pass on."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        no, shared = self._refusal(scope), self._shared(scope)
        if no is not None and scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": no.code})
        elif no is not None:
            await JSONResponse(no.body, no.status, headers=no.headers)(scope, receive, _sharing(send, shared))
        elif shared and scope["method"] == "OPTIONS":
            await Response(status_code=204)(scope, receive, _sharing(send, shared))
        else:
            await self.app(scope, receive, _sharing(send, shared))

    def _refusal(self, scope: Scope) -> Refusal | None:
        headers = _headers(scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        address = _split(f"//{host}")
        if address is None:
            return Refusal(400, "invalid_host", f"expected a host's name and port, got {host!r}")
        if self.settings.local and address.hostname not in LOOPBACK:
            # A page of another site may give its own name this machine's address.
            return Refusal(403, "host_not_allowed", f"expected a request to this machine's own name, got {host!r}")
        if origin is not None and not self._welcome(origin, host):
            return Refusal(
                403, "origin_not_allowed",
                f"expected a page of this server, got one of {origin!r}: start the server with --allow-origin {origin}",
            )  # fmt: skip
        if scope["type"] == "websocket" or scope["path"] in OPEN or scope["path"].startswith("/page/"):
            return None
        preflight = scope.get("method") == "OPTIONS" and origin is not None
        return None if preflight else check_key(self.settings, headers.get("authorization", ""))

    def _welcome(self, origin: str, host: str) -> bool:
        allowed = self.settings.allow_origin
        page = _split(origin)
        own = page is not None and page.netloc == host and origin != "null"
        return "*" in allowed or origin in allowed or own

    def _shared(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        """Headers that let an allowed page read the answer."""
        origin = _headers(scope).get("origin")
        allowed = self.settings.allow_origin
        if origin is None or scope["type"] != "http" or not ("*" in allowed or origin in allowed):
            return []
        return [
            (b"access-control-allow-origin", origin.encode("latin-1")),
            (b"access-control-allow-headers", b"authorization, content-type"),
            (b"vary", b"origin"),
        ]


def check_key(settings: Settings, authorization: str) -> Refusal | None:
    """What is wrong with a header "Bearer KEY"; None where nothing is. The time it takes does not depend on the key."""
    if settings.api_key is None:
        return None
    scheme, _, given = authorization.partition(" ")
    right = hmac.compare_digest(given.strip().encode(), settings.api_key.encode())
    if right and scheme.lower() == "bearer":
        return None
    what = "a wrong one" if authorization else "none"
    return Refusal(401, "invalid_api_key", f"expected the server's API key in 'Authorization: Bearer KEY', got {what}")


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
