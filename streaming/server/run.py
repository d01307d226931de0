"""The server's process: check what is asked, load the models, listen, and on the way out keep what must outlive it."""

import asyncio
import contextlib
import errno
import os
import socket
import ssl
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import uvicorn
from fastapi import FastAPI

from mmx.errors import InputError
from mmx.streaming.server.app import create_app
from mmx.streaming.server.engine import Engine
from mmx.streaming.server.guard import LOOPBACK
from mmx.streaming.server.http import protocol
from mmx.streaming.server.settings import ServeOptions, Settings
from mmx.streaming.server.state import StateFolder
from mmx.streaming.server.voices import ServedVoice, Voices
from mmx.weights.card import Card
from mmx.weights.options import LoadOptions

GOODBYE_S = 3.0
"""Once the recordings are done with, connections have this long to take their answers."""


def run(options: ServeOptions, load: LoadOptions, settings: Settings) -> None:
    """Serve until interrupted.

    Raises:
        InputError: something cannot work, or `state_dir` is another server's; told before a model is loaded.
    """
    host, port = options.host, options.port
    rules = replace(settings, local=host in LOOPBACK)
    _check_certificate(options.ssl_certfile, options.ssl_keyfile)
    if rules.state_dir is not None:
        StateFolder(rules.state_dir).unlock()  # whether it can be had; the application takes it
    with _listening(host, port) as sockets:
        if not rules.local and rules.api_key is None:
            print(
                f"mmx: anyone who reaches {host}:{port} may use this server: --api-key asks for a key", file=sys.stderr
            )
        app = create_app(_engine(options, load), rules)
        config = configured(app, ssl_certfile=options.ssl_certfile, ssl_keyfile=options.ssl_keyfile)
        Server(config).run(sockets)


def configured(app: FastAPI, **more: Any) -> uvicorn.Config:
    """How an application of `create_app` is served; `more` is uvicorn's."""
    rules: Settings = app.state.settings
    return uvicorn.Config(
        app,
        http=protocol(rules, app.state.metrics),
        log_level="warning",
        ws_max_size=max(2**24, 8 * 1024 * rules.max_frame_kb),  # larger than our limit, which answers with a reason
        ws_ping_timeout=60.0,  # a client that the server makes wait answers late
        timeout_graceful_shutdown=max(1, round(GOODBYE_S)),
        **more,
    )


class Server(uvicorn.Server):
    """Says where the page is, and ends in order: nothing new, then what is at work, then the connections.

    Args:
        config: of `configured`.
    """

    def __init__(self, config: uvicorn.Config):
        super().__init__(config)
        self.state = cast(FastAPI, config.app).state

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Say where the page is, once it is there."""
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            scheme = "https" if self.config.is_ssl else "http"
            name = f"[{host}]" if ":" in host else host
            root = self.state.settings.root_path
            print(f"mmx: listening on {scheme}://{name}:{port}{root}/ (stop: Ctrl-C)", file=sys.stderr, flush=True)
            self.state.metrics.gauge("mmx_connections", lambda: {(): float(len(self.server_state.connections))})

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer on, with 503, while what is at work has its time to end."""
        await self.state.drain(lambda: self.force_exit)
        await asyncio.sleep(0)  # those who waited for it answer now
        await super().shutdown(sockets)


# -------------------- before the models


def _check_certificate(certfile: Path | None, keyfile: Path | None) -> None:
    if (certfile is None) != (keyfile is None):
        raise InputError("expected --ssl-certfile and --ssl-keyfile together, got one of them")
    if certfile is None or keyfile is None:
        return
    for path, option in ((certfile, "--ssl-certfile"), (keyfile, "--ssl-keyfile")):
        if not path.is_file() or not os.access(path, os.R_OK):
            raise InputError(f"expected {option} to be a file that can be read, got {path}")
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certfile, keyfile, password="")
    except (ssl.SSLError, OSError, ValueError) as e:
        raise InputError(
            f"expected a certificate and its key in PEM, without a password, got {certfile} and {keyfile}: {e}"
        ) from e


@contextlib.contextmanager
def _listening(host: str, port: int) -> Iterator[list[socket.socket]]:
    """The addresses of a host, bound before models are loaded; nobody is let in before the server listens."""
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as e:
        raise InputError(f"expected --host to be an address or a name of this machine, got {host!r}: {e}") from e
    sockets: list[socket.socket] = []
    try:
        for family, address in dict.fromkeys((f[0], f[4]) for f in found):
            taken = sockets[0].getsockname()[1] if sockets else port  # of port 0: one for all
            sockets.append(_bound(family, (address[0], taken, *address[2:])))
        yield sockets
    finally:
        for s in sockets:
            s.close()


def _bound(family: int, address: tuple[Any, ...]) -> socket.socket:
    s = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        s.bind(address)
    except OSError as e:
        s.close()
        host, port = address[:2]
        remedy = {errno.EADDRINUSE: "choose another --port", errno.EACCES: "choose a --port above 1023"}
        how = remedy.get(e.errno or 0, "choose an address of this machine for --host, such as 127.0.0.1 or 0.0.0.0")
        raise InputError(f"expected to listen on {host}:{port}, but could not ({e.strerror}): {how}") from e
    return s


def _engine(options: ServeOptions, load: LoadOptions) -> Engine:
    from mmx.api import open_model
    from mmx.tasks.cascade import shipped

    speech = open_model(load)
    name = load.text_model or next(iter(shipped()), None)
    text = None if name is None else open_model(load, name)
    speaker = Voices(installed_voices(), partial(open_model, load))
    return Engine(
        speech, text, policy=options.policy, step_s=options.step_s, beam_size=options.beam_size, speaker=speaker
    )


def installed_voices() -> list[ServedVoice]:
    """The voices whose models are on this machine, those that are chosen by default first."""
    from mmx.errors import ModelNotFoundError
    from mmx.tasks.voices import voices
    from mmx.weights.hub import locate

    def is_here(card: Card) -> bool:
        with contextlib.suppress(ModelNotFoundError):
            return bool(locate(card, download=False))
        return False

    found = voices()
    here = {card.name for card in {v.card.name: v.card for v in found}.values() if is_here(card)}
    return [ServedVoice(v.name, v.languages, v.card.name) for v in found if v.card.name in here]
