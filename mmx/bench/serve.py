"""Load on a server: many clients that speak in real time, and some that misbehave; how far behind is the text?"""

import asyncio
import contextlib
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from mmx.errors import InputError
from mmx.files import SAMPLE
from mmx.media.audio import SAMPLE_RATE as RATE
from mmx.media.audio import read_audio

PIECE_S = 0.1
DELTA = "conversation.item.input_audio_transcription.delta"


@dataclass
class Tally:
    """What the well-behaved clients saw.

    Attributes:
        lags_s: of each word, from the end of its sound to its text, with the network.
        words: words received.
        gaps: lines of a log that were missing or came twice; there must be none.
        failures: clients that ended otherwise than by `session.closed`, with the reason.
        misbehaviour: how each misbehaving client ended.
    """

    lags_s: list[float] = field(default_factory=list)
    words: int = 0
    gaps: int = 0
    failures: list[str] = field(default_factory=list)
    misbehaviour: dict[str, str] = field(default_factory=dict)


def report(
    url: str,
    sessions: int,
    seconds: float,
    *,
    file: Path | None = None,
    misbehaving: bool = True,
    api_key: str | None = None,
    output: Path | None = None,
) -> dict[str, Any]:
    """Print and return the figures; arguments as in `mmx bench serve`."""
    said = SAMPLE if file is None else file
    sound = np.concatenate([read_audio(said), np.zeros(RATE, np.float32)])
    address = f"{_socket(url)}/v1/realtime?rate={RATE}&extras=1"
    tally = asyncio.run(_all(address, sessions, seconds, sound, misbehaving, api_key))
    p50, p95, p99 = np.quantile(tally.lags_s, [0.5, 0.95, 0.99]).tolist() if tally.lags_s else [float("nan")] * 3
    figures = {
        "sessions": sessions, "seconds": seconds, "words": tally.words, "lag_p50_s": round(p50, 2),
        "lag_p95_s": round(p95, 2), "lag_p99_s": round(p99, 2), "gaps": tally.gaps, "failures": tally.failures,
        "misbehaving": tally.misbehaviour,
    }  # fmt: skip
    for name, value in figures.items():
        print(f"{name:12} {json.dumps(value)}")
    if output is not None:
        output.write_text(json.dumps(figures) + "\n", "utf-8")
    return figures


def _socket(url: str) -> str:
    scheme, found, rest = url.rstrip("/").partition("://")
    schemes = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}
    if not found or scheme not in schemes:
        raise InputError(f"expected an address such as ws://127.0.0.1:8000, got {url!r}")
    return f"{schemes[scheme]}://{rest}"


async def _all(
    url: str, sessions: int, seconds: float, sound: np.ndarray, misbehaving: bool, api_key: str | None
) -> Tally:
    tally = Tally()
    pcm = (np.clip(sound, -1, 1) * 32767).astype("<i2")
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    work = [_speak(url, headers, np.roll(pcm, i * len(pcm) // sessions), seconds, tally) for i in range(sessions)]
    if misbehaving:
        bad = {"stalls": _stall, "vanishes": _vanish, "garbage": _garbage, "oversize": _oversize, "silent": _silent}
        work += [_badly(name, f, url, headers, pcm, seconds, tally) for name, f in bad.items()]
    await asyncio.gather(*work)
    return tally


async def _speak(url: str, headers: dict[str, str], pcm: np.ndarray, seconds: float, tally: Tally) -> None:
    """One client that does as it should."""
    try:
        async with connect(url, additional_headers=headers, open_timeout=60, ping_timeout=None) as socket:
            begun = time.monotonic()
            speaking = asyncio.create_task(_feed(socket, pcm, seconds))
            try:
                await _listen(socket, begun, tally)
            finally:
                speaking.cancel()
    except (OSError, TimeoutError, ConnectionClosed) as e:
        tally.failures.append(f"{type(e).__name__}: {e}")


async def _feed(socket: ClientConnection, pcm: np.ndarray, seconds: float) -> None:
    """Send the sound, in a circle, as fast as it is said."""
    begun, n = time.monotonic(), round(PIECE_S * RATE)
    for i in range(round(seconds / PIECE_S)):
        await asyncio.sleep(max(0.0, begun + (i + 1) * PIECE_S - time.monotonic()))
        await socket.send(np.take(pcm, range(i * n, (i + 1) * n), mode="wrap").tobytes())
    await socket.send(json.dumps({"type": "session.close"}))


async def _listen(socket: ClientConnection, begun: float, tally: Tally) -> None:
    seq = -1
    async for text in socket:
        message = json.loads(text)
        if "seq" in message:
            tally.gaps += message["seq"] != seq + 1
            seq = message["seq"]
        if message["type"] == DELTA:
            tally.words += 1
            tally.lags_s.append(time.monotonic() - begun - message["end_ms"] / 1000)
        elif message["type"] == "error":
            tally.failures.append(message["error"]["code"])
        elif message["type"] == "session.closed":
            return


# -------------------- those who misbehave


async def _badly(
    name: str, how: Any, url: str, headers: dict[str, str], pcm: np.ndarray, seconds: float, tally: Tally
) -> None:
    """Run one, and note how the server took it."""
    try:
        async with connect(url, additional_headers=headers, max_queue=1, ping_timeout=None) as socket:
            tally.misbehaviour[name] = await asyncio.wait_for(how(socket, pcm, seconds), seconds)
    except (OSError, TimeoutError, ConnectionClosed) as e:
        tally.misbehaviour[name] = f"{type(e).__name__} {getattr(getattr(e, 'rcvd', None), 'reason', '')}".strip()


async def _stall(socket: ClientConnection, pcm: np.ndarray, seconds: float) -> str:
    """Speaks and never reads."""
    with contextlib.suppress(asyncio.CancelledError):
        await _feed(socket, pcm, seconds * 0.9)
    return "spoke without reading"


async def _vanish(socket: ClientConnection, pcm: np.ndarray, seconds: float) -> str:
    """Goes without a word in the middle of one."""
    await _feed(socket, pcm, min(3.0, seconds / 2))
    socket.transport.abort()
    return "vanished"


async def _garbage(socket: ClientConnection, pcm: np.ndarray, seconds: float) -> str:
    """Sends what is no message, until it is shown the door."""
    await socket.recv()
    for _ in range(100):
        await socket.send("{]")
        await socket.recv()
    return "was not stopped"


async def _oversize(socket: ClientConnection, pcm: np.ndarray, seconds: float) -> str:
    """Sends two megabytes at once."""
    await socket.recv()
    await socket.send(bytes(2**21))
    return json.loads(await socket.recv())["error"]["code"]


async def _silent(socket: ClientConnection, pcm: np.ndarray, seconds: float) -> str:
    """Says nothing."""
    async for text in socket:
        message = json.loads(text)
        if message["type"] == "error":
            return message["error"]["code"]
    return "closed"
