"""The server's process: load the models, listen, and on the way out keep what must outlive it."""

import sys
from pathlib import Path
from typing import Any

import uvicorn

from mmx.errors import InputError
from mmx.streaming.server import create_app
from mmx.streaming.server_engine import Engine
from mmx.streaming.server_guard import LOOPBACK
from mmx.streaming.server_settings import Settings


def run(
    *,
    model: str,
    text_model: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    policy: str = "alignatt",
    step_s: float = 1.0,
    beam_size: int = 5,
    device: str = "auto",
    dtype: Any = "auto",
    threads: int = 0,
    ssl_certfile: Path | None = None,
    ssl_keyfile: Path | None = None,
    **settings: Any,
) -> None:
    """Serve until interrupted; arguments as in `mmx serve`, `settings` those of `Settings`."""
    import torch

    from mmx.api import load
    from mmx.cascade import shipped
    from mmx.streaming.policies import find_policy

    find_policy(policy)
    local = host in LOOPBACK
    rules = Settings(local=local, **settings)
    if not local and rules.api_key is None:
        print(f"mmx: anyone who reaches {host}:{port} may use this server: --api-key asks for a key", file=sys.stderr)
    if threads:
        torch.set_num_threads(threads)
    speech = load(model, device=device, dtype=dtype)
    text_model = text_model or next(iter(shipped()), None)
    text = None if text_model is None else load(text_model, device=device, dtype=dtype)
    engine = Engine(speech, text, policy=policy, step_s=step_s, beam_size=beam_size)
    config = uvicorn.Config(
        create_app(engine, rules),
        host=host,
        port=port,
        log_level="warning",
        ws_max_size=max(2**24, 8 * 1024 * rules.max_frame_kb),  # larger than our limit, which answers with a reason
        ws_ping_timeout=60.0,  # a client that the server makes wait answers late
        timeout_graceful_shutdown=5,
        ssl_certfile=ssl_certfile,
        ssl_keyfile=ssl_keyfile,
    )
    try:
        _Server(config).run()
    except SystemExit as e:  # uvicorn's way to say that the port is taken
        raise InputError(f"expected to listen on {host}:{port}, but could not: choose another --port") from e


class _Server(uvicorn.Server):
    async def startup(self, sockets: Any = None) -> None:
        """Say where the page is, once it is there."""
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            scheme = "https" if self.config.is_ssl else "http"
            name = f"[{host}]" if ":" in host else host
            print(f"mmx: listening on {scheme}://{name}:{port}/ (stop: Ctrl-C)", file=sys.stderr, flush=True)
