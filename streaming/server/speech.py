"""Text to speech over HTTP, in the shape of OpenAI's audio API: sound is sent while the rest of it is made."""

import asyncio
import base64
import difflib
import json
import logging
import math
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from mmx.errors import MmxError
from mmx.media.write import FORMATS, Encoder
from mmx.streaming.server.files import api_error_of
from mmx.streaming.server.form import Body
from mmx.streaming.server.guard import closing
from mmx.streaming.server.jobs import STREAM_HEADERS, Cancelled, busy, drained, event, left
from mmx.streaming.server.metrics import FIRST, Metrics
from mmx.streaming.server.settings import ApiError, Settings, blaming
from mmx.streaming.server.turns import Turns
from mmx.streaming.server.voices import ServedVoice, Speaker, find
from mmx.streaming.server.watch import LEFT
from mmx.tasks.options import SpeakOptions
from mmx.tasks.result import SpokenSegment
from mmx.tasks.words import Word
from mmx.text.languages import find_language

log = logging.getLogger("mmx.serve")

RATE = 24_000
"""Of all that is sent: OpenAI's."""
AHEAD_S = 30.0
"""Speech that may be ahead of a client that reads slowly, whose turn others get meanwhile."""
FIELDS = ("model", "input", "voice", "instructions", "response_format", "speed", "stream_format", "language", "pitch",
          "range")  # fmt: skip
"""Fields that mean something; `language`, `pitch` and `range` are ours."""
MOST_BYTES = 12
"""Of a character in JSON: two escapes."""


@dataclass(frozen=True)
class Ask:
    """What a request asks for."""

    text: str
    voice: ServedVoice
    options: SpeakOptions
    format: str
    events: bool


@dataclass(frozen=True)
class Block:
    """Sound on its way to a client: bytes of the file, the words that begin in it, and its length."""

    data: bytes
    words: tuple[Word, ...]
    text: str
    seconds: float


class SpeechJobs:
    """Texts that are spoken, as many at once as there are workers, a block of one after a block of another.

    Args:
        speaker: speaks.
        settings: the limits.
        metrics: counts what is done.
    """

    def __init__(self, speaker: Speaker, settings: Settings, metrics: Metrics):
        self.speaker, self.settings, self.metrics = speaker, settings, metrics
        self.turns = Turns(settings.speech_workers)
        threads = settings.max_queue + 2 * settings.speech_workers
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="mmx-speech")
        self.jobs: set[_Job] = set()
        self.closing = False

    async def handle(self, request: Request) -> Response:
        """Answer a request for speech: once there is some, so that what cannot be spoken is told by the status."""
        begun = time.monotonic()
        if self.closing:
            raise closing()
        try:
            ask = self._ask(await self._body(request))
        except ClientDisconnect:
            return Response(status_code=LEFT)
        if len(self.jobs) >= self.settings.max_queue + self.settings.speech_workers:
            raise busy(f"a queue of {len(self.jobs)} texts to speak")
        job = _Job(self, ask)
        try:
            first = await job.first(request)
        except Cancelled:
            job.leave()
            return Response(status_code=LEFT)
        except BaseException:
            job.leave()
            raise
        self.metrics.time(FIRST, time.monotonic() - begun)
        return _Stream(job, first)

    async def _body(self, request: Request) -> dict[str, Any]:
        most = self.settings.max_speech_chars * MOST_BYTES + 65_536
        kind = request.headers.get("content-type", "nothing")
        if not kind.startswith("application/json"):
            raise ApiError(400, "invalid_content_type", f"expected application/json, got {kind}")
        body, data = Body(request, self.settings.upload_timeout_s), bytearray()
        more = True
        while more:
            message = await body.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            data += message.get("body", b"")
            more = message.get("more_body", False)
            if len(data) > most:
                raise _too_long(self.settings.max_speech_chars)
        try:
            fields = json.loads(data)
        except (ValueError, RecursionError) as e:
            raise ApiError(400, "invalid_json", f"expected JSON, got what is none: {e}") from e
        if not isinstance(fields, dict):
            raise ApiError(400, "invalid_json", f"expected an object with 'input', got {type(fields).__name__}")
        return fields

    def _ask(self, fields: dict[str, Any]) -> Ask:
        _check_fields(fields)
        text = _text(fields, "input")
        if not text.strip():
            raise ApiError(400, "missing_input", "expected a text to speak in 'input', got none", param="input")
        if len(text) > self.settings.max_speech_chars:
            raise _too_long(self.settings.max_speech_chars, len(text))
        if _text(fields, "instructions"):
            raise ApiError(
                400, "unsupported_parameter", "expected no instructions, which these voices do not follow: choose a "
                "voice, and speed", param="instructions",
            )  # fmt: skip
        language = _text(fields, "language") or None
        if language is not None:
            with blaming("language"):
                find_language(language)
        voice = find(self.speaker.voices, _text(fields, "model"), _voice(fields), language)
        options = SpeakOptions(language=language)
        for name in ("speed", "pitch", "range"):
            if fields.get(name) is not None:
                with blaming(name):
                    options = replace(options, **{name: _number(fields, name)})
        format = _choice(fields, "response_format", tuple(FORMATS), "mp3")
        return Ask(text, voice, options, format, _choice(fields, "stream_format", ("audio", "sse"), "audio") == "sse")

    async def drain(self, hurry: Callable[[], bool] = lambda: False) -> None:
        """As `mmx.streaming.server.files.FileJobs.drain`."""
        self.closing = True
        await drained(self.jobs, self.settings.grace_s, hurry)

    def close(self) -> None:
        """Take no more work, and end what there is."""
        self.closing = True
        for job in list(self.jobs):
            job.stop()
        self.pool.shutdown(wait=False, cancel_futures=True)


class _Job:
    """One text on its way."""

    def __init__(self, jobs: SpeechJobs, ask: Ask):
        self.jobs, self.ask = jobs, ask
        self.loop = asyncio.get_running_loop()
        self.blocks: asyncio.Queue[Block | None] = asyncio.Queue()
        self.stopped, self.sent_s, self.made_s = False, 0.0, 0.0
        self._room = threading.Event()
        self._room.set()
        jobs.jobs.add(self)
        self.turn = jobs.turns.join()
        self.work = self.loop.run_in_executor(jobs.pool, self._speak)
        self.work.add_done_callback(self._done)

    def _done(self, work: "asyncio.Future[None]") -> None:
        self.jobs.jobs.discard(self)
        self.turn.end()
        self.jobs.metrics.count("mmx_audio_seconds_total", self.made_s, kind="speech")
        if not work.cancelled():
            work.exception()  # told by whoever reads the blocks
        self.blocks.put_nowait(None)

    def leave(self) -> None:
        """Nobody waits any more: its place is free at once, and its worker stops at the next block."""
        self.jobs.jobs.discard(self)
        self.turn.give_up()
        self._room.set()

    def stop(self) -> None:
        """The server stops: what is being sent ends here."""
        self.stopped = True
        self.leave()

    # -------------------- in the worker's thread

    def _speak(self) -> None:
        ask, encoder = self.ask, Encoder(RATE, self.ask.format)
        convert = _Rate()
        try:
            if not self.turn.take():
                raise Cancelled("nobody waits for this speech")
            for one in self.jobs.speaker.speak(ask.voice, ask.text, ask.options):
                self._give(encoder.push(convert(one)), one)
                if not self._go_on():
                    raise Cancelled("nobody waits for this speech")
            self._give(encoder.push(convert.rest()) + encoder.close())
        finally:
            self.turn.end()

    def _give(self, data: bytes, one: SpokenSegment | None = None) -> None:
        seconds = 0.0 if one is None else len(one.samples) / one.rate
        words = () if one is None else tuple(_moved(w, one.start_s) for w in one.words)
        self.made_s += seconds
        block = Block(data, words, "" if one is None else one.text, seconds)
        self.loop.call_soon_threadsafe(self.blocks.put_nowait, block)

    def _go_on(self) -> bool:
        """Let others go first; wait for a client that reads slowly. False where it has left."""
        if self.made_s - self.sent_s <= AHEAD_S:
            return self.turn.offer()
        self._room.clear()
        if self.made_s - self.sent_s <= AHEAD_S:  # it has read meanwhile
            self._room.set()
        return self.turn.rest(self._room.wait)

    # -------------------- for its client

    async def first(self, request: Request) -> list[Block]:
        """The blocks up to the first with bytes. Raises what the worker did; `Cancelled` once the client has left."""
        gone = self.loop.create_task(left(request))
        blocks: list[Block] = []
        try:
            while not any(b.data for b in blocks):
                following = asyncio.ensure_future(self.blocks.get())
                await asyncio.wait([following, gone], return_when=asyncio.FIRST_COMPLETED)
                if not following.done():
                    following.cancel()
                    raise Cancelled("the client left")
                block = following.result()
                if block is None:
                    self._raise()
                    break
                blocks.append(block)
        finally:
            gone.cancel()
        return blocks

    def _raise(self) -> None:
        """What ended the worker, where something did."""
        if self.stopped:
            raise closing()
        if not self.work.cancelled():
            self.work.result()

    async def all_blocks(self, first: list[Block]) -> AsyncIterator[Block]:
        """Blocks as they come, to the end of the text."""
        for block in first:
            yield self._sent(block)
        while not self.work.done() or not self.blocks.empty():
            block = await self.blocks.get()
            if block is None:
                break
            yield self._sent(block)
        self._raise()

    def _sent(self, block: Block) -> Block:
        self.sent_s += block.seconds
        if self.made_s - self.sent_s <= AHEAD_S:
            self._room.set()
        return block

    async def file(self, first: list[Block]) -> AsyncIterator[bytes]:
        """The bytes of the file; where it cannot be finished, the connection breaks off."""
        async for block in self.all_blocks(first):
            yield block.data

    async def events(self, first: list[Block]) -> AsyncIterator[str]:
        """The same as server-sent events, each with the words that begin in it."""
        seconds = 0.0
        try:
            async for block in self.all_blocks(first):
                seconds += block.seconds
                if block.data or block.words:
                    yield event(_delta(block))
        except Exception as e:
            if not isinstance(e, ApiError | MmxError):
                log.error("a text could not be spoken", exc_info=e)
            yield event({"type": "error", **api_error_of(e).body})
            return
        tokens = {"input_tokens": len(self.ask.text), "output_tokens": math.ceil(seconds)}
        yield event({"type": "speech.audio.done", "usage": {**tokens, "total_tokens": sum(tokens.values())}})


class _Stream(StreamingResponse):
    """What a job makes, which ends with its client."""

    def __init__(self, job: _Job, first: list[Block]):
        body: Any = job.events(first) if job.ask.events else job.file(first)
        kind = "text/event-stream" if job.ask.events else FORMATS[job.ask.format].mime
        super().__init__(body, media_type=kind, headers=STREAM_HEADERS)
        self.job = job

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.job.leave()


class _Rate:
    """Brings blocks to `RATE`."""

    def __init__(self) -> None:
        self._stream: soxr.ResampleStream | None = None

    def __call__(self, one: SpokenSegment) -> NDArray[np.float32]:
        if one.rate == RATE:
            return one.samples
        self._stream = self._stream or soxr.ResampleStream(one.rate, RATE, 1, dtype="float32")
        return self._stream.resample_chunk(one.samples)

    def rest(self) -> NDArray[np.float32]:
        """What is left at the end."""
        none = np.zeros(0, np.float32)
        return none if self._stream is None else self._stream.resample_chunk(none, last=True)


def _moved(word: Word, by_s: float) -> Word:
    return Word(word.text, word.start_s + by_s, word.end_s + by_s)


def _delta(block: Block) -> dict[str, Any]:
    words = [{"word": w.text, "start": round(w.start_s, 3), "end": round(w.end_s, 3)} for w in block.words]
    audio = base64.b64encode(block.data).decode()
    return {
        "type": "speech.audio.delta",
        "audio": audio,
        "words": words,
        **({"text": block.text} if block.text else {}),
    }


# -------------------- fields


def _too_long(most: int, got: int | None = None) -> ApiError:
    size = "more" if got is None else f"{got}"
    return ApiError(
        413, "text_too_long", f"expected at most {most} characters (max_speech_chars), got {size}: send it in parts",
        param="input",
    )  # fmt: skip


def _check_fields(fields: dict[str, Any]) -> None:
    """Refuse a field that is a known one misspelt; see `mmx.streaming.server.form.check_fields`."""
    for name in fields:
        near = difflib.get_close_matches(name.lower(), FIELDS, n=1, cutoff=0.8)
        if name not in FIELDS and near:
            raise ApiError(400, "unknown_parameter", f"expected {near[0]!r}, got {name!r}: correct it", param=name)


def _text(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
        raise ApiError(400, "invalid_value", f"expected text in {name!r}, got {type(value).__name__}", param=name)
    return value or ""


def _voice(fields: dict[str, Any]) -> str:
    """The name of the voice, which OpenAI also writes as `{"id": name}`."""
    value = fields.get("voice")
    return _text(value, "id") if isinstance(value, dict) else _text(fields, "voice")


def _number(fields: dict[str, Any], name: str) -> float:
    value = fields[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ApiError(400, "invalid_value", f"expected a number in {name!r}, got {value!r}", param=name)
    return float(value)


def _choice(fields: dict[str, Any], name: str, among: tuple[str, ...], default: str) -> str:
    value = _text(fields, name) or default
    if value not in among:
        raise ApiError(400, "invalid_value", f"expected {name} among {', '.join(among)}, got {value!r}", param=name)
    return value
