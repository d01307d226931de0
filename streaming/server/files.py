"""Recordings over HTTP, in the shapes of OpenAI's audio API: transcriptions and translations."""

import asyncio
import json
import logging
import math
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, cast

from starlette.datastructures import FormData, UploadFile
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from mmx.errors import InputError, MediaError, MmxError
from mmx.streaming.server import form as fields
from mmx.streaming.server.engine import Engine, check_languages
from mmx.streaming.server.guard import closing
from mmx.streaming.server.jobs import STREAM_HEADERS, Cancelled, busy, drained, event, left
from mmx.streaming.server.length import measured_s
from mmx.streaming.server.metrics import WAIT, WORK, Metrics
from mmx.streaming.server.models import check_model
from mmx.streaming.server.settings import ApiError, Settings, blaming
from mmx.streaming.server.turns import Turns
from mmx.streaming.server.watch import LEFT
from mmx.tasks.result import Segment, Transcript
from mmx.tasks.transcribe import Options, Progress
from mmx.text.languages import find_language

log = logging.getLogger("mmx.serve")

FORMATS = ("json", "text", "srt", "verbose_json", "vtt")
WINDOW_S = 30.0
PULSE_S = 1.0
"""How often a stream may tell how far its recording is."""
HEARTBEAT_S = 10.0
"""A stream says something at least so often: proxies close those that are silent for a minute."""


@dataclass(frozen=True)
class Ask:
    """What a request asks for; only a stream has more than one format, all of which are in its last event."""

    options: Options
    formats: tuple[str, ...]
    stream: bool
    granularities: tuple[str, ...]


class _Recording:
    """An upload for the reader of media, under the name that its client gave it, which messages then say."""

    def __init__(self, upload: UploadFile):
        self.name = upload.filename or "upload"
        self.read, self.seek, self.tell = upload.file.read, upload.file.seek, upload.file.tell


class FileJobs:
    """Recordings, a few windows of one at a time (or of as many at once as there are workers), with bounds on how many
    wait and how many are on their way here.

    Args:
        engine: the models.
        settings: the limits.
        metrics: counts what is done.
    """

    def __init__(self, engine: Engine, settings: Settings, metrics: Metrics):
        self.engine, self.settings, self.metrics = engine, settings, metrics
        self.turns = Turns(settings.file_workers)
        # Each recording has a thread, which mostly waits for its turn. Those given up end soon after.
        threads = settings.max_queue + 2 * settings.file_workers
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="mmx-file")
        self.jobs: set[_Job] = set()
        self.uploads = 0
        self.closing = False

    async def handle(self, request: Request, task: str) -> Response:
        """Answer a request for a transcription or a translation."""
        self._room()  # before the upload: a busy server says so at once
        try:
            form = await self._upload(request)
        except ClientDisconnect:
            return Response(status_code=LEFT)  # nobody is there to read it
        try:
            fields.check_fields(form)
            upload, ask = fields.file_of(form), self._ask(form, task)
            check_languages(self.engine, ask.options.language, ask.options.to if task == "translate" else None)
            self._room()
        except Exception:
            await form.close()
            raise
        job = _Job(self, upload, ask, request)
        try:
            if not ask.stream:
                return formatted(await job.result(), ask.formats[0], ask.granularities)
            await job.finished(1.0)
            if job.work.done():
                job.work.result()  # what is no recording is told by the status, not in a stream
        except Cancelled:
            job.leave()
            return Response(status_code=LEFT)
        except BaseException:
            job.leave()
            raise
        return _Stream(job)

    async def _upload(self, request: Request) -> FormData:
        most = self.settings.max_uploads
        if self.uploads >= most:
            raise busy(f"{most} uploads at once (max_uploads)")
        self.uploads += 1
        try:
            return await fields.read_form(request, self.settings)
        finally:
            self.uploads -= 1

    def _room(self) -> None:
        if self.closing:
            raise closing()
        if len(self.jobs) >= self.settings.max_queue + self.settings.file_workers:
            raise busy(f"a queue of {len(self.jobs)} recordings")

    def _ask(self, form: FormData, task: str) -> Ask:
        check_model(self.engine, fields.text(form, "model"))
        stream = fields.switch(form, "stream")
        formats = tuple(check_format(f) for f in fields.texts(form, "response_format")) or ("json",)
        if len(formats) > 1 and not stream:
            message = f"expected one response_format without stream, got {len(formats)}"
            raise ApiError(400, "invalid_value", message, param="response_format")
        if fields.texts(form, "include"):
            raise ApiError(400, "unsupported_parameter", "expected no include[]: log-probabilities are in verbose_json",
                          param="include")  # fmt: skip
        options = Options(
            language=fields.language(form, "language"), task=task, to=fields.language(form, "to") or "en",  # type: ignore[arg-type]
            initial_prompt=fields.text(form, "prompt"),
        )  # fmt: skip
        kinds = _granularities(form, formats)
        options = replace(options, word_timestamps="word" in kinds)
        if temperature := fields.number(form, "temperature"):
            options = replace(options, temperature=(temperature,))
        options = _of_sound(form, options)
        return Ask(options, formats, stream, kinds or ("segment",))

    async def drain(self, hurry: Callable[[], bool] = lambda: False) -> None:
        """Take nothing new, and give those at work `grace_s` to end; what is left then is told to come back.

        Args:
            hurry: asked now and then; true ends the wait.
        """
        self.closing = True
        await drained(self.jobs, self.settings.grace_s, hurry)

    def close(self) -> None:
        """Take no more work, and end what there is."""
        self.closing = True
        for job in list(self.jobs):
            job.stop()
        self.pool.shutdown(wait=False, cancel_futures=True)


def _granularities(form: FormData, formats: tuple[str, ...]) -> tuple[str, ...]:
    kinds = fields.texts(form, "timestamp_granularities")
    if bad := [k for k in kinds if k not in ("word", "segment")]:
        raise ApiError(400, "invalid_value", f"expected granularities word or segment, got {bad[0]!r}",
                      param="timestamp_granularities")  # fmt: skip
    if kinds and "verbose_json" not in formats:
        raise ApiError(
            400, "invalid_value", "expected response_format verbose_json with timestamp_granularities, got "
            f"{', '.join(formats)}: no other has them", param="timestamp_granularities",
        )  # fmt: skip
    return kinds


def _of_sound(form: FormData, options: Options) -> Options:
    """The options with the audio track and the channels that are to be heard, as of `mmx transcribe`."""
    if channels := fields.text(form, "channels"):
        with blaming("channels"):
            options = replace(options, channels=channels)  # type: ignore[arg-type]
    if track := fields.text(form, "track"):
        if not track.isascii() or not track.isdigit():
            raise ApiError(400, "invalid_value", f"expected the number of a track, got {track!r}", param="track")
        with blaming("track"):
            options = replace(options, track=int(track))
    return options


class _Job:
    """One recording on its way. It closes the upload when the worker no longer needs it.

    Attributes:
        work: the transcript to come, whether or not anybody waits for it.
    """

    def __init__(self, jobs: FileJobs, upload: UploadFile, ask: Ask, request: Request):
        self.jobs, self.upload, self.ask = jobs, upload, ask
        self.stopped = asyncio.Event()
        self.loop = asyncio.get_running_loop()
        self.segments: asyncio.Queue[tuple[Segment, ...]] = asyncio.Queue()
        self.done_s, self.total_s = 0.0, None
        self._measured = False
        upload.file.seek(0)
        jobs.jobs.add(self)
        self.turn = jobs.turns.join()
        self.work: asyncio.Future[Transcript] = self.loop.run_in_executor(jobs.pool, self._transcript)
        self.work.add_done_callback(self._done)
        self._client_left = self.loop.create_task(left(request))

    def _done(self, work: "asyncio.Future[Transcript]") -> None:
        self.jobs.jobs.discard(self)
        self._client_left.cancel()
        self.turn.end()  # also of work that was cancelled before it began
        self.upload.file.close()
        self.jobs.metrics.time(WAIT, self.turn.waited_s)
        self.jobs.metrics.time(WORK, self.turn.worked_s)
        if not work.cancelled() and work.exception() is None:
            self.jobs.metrics.count("mmx_audio_seconds_total", work.result().duration_s, kind="file")

    def watch_no_more(self) -> None:
        """Somebody else looks after the client."""
        self._client_left.cancel()

    def leave(self) -> None:
        """Nobody waits any more: its place is free at once, and its worker stops at the next window."""
        self.jobs.jobs.discard(self)
        self.turn.give_up()
        self._client_left.cancel()

    def stop(self) -> None:
        """The server stops: whoever waits is told, and the worker as above."""
        self.stopped.set()
        self.leave()

    # -------------------- in the worker's thread

    def _transcript(self) -> Transcript:
        """Its language is that of the text, which for a translation is not the one spoken."""
        options = self.ask.options
        try:
            if not self.turn.take():
                raise Cancelled("nobody waits for this recording")
            done = self.jobs.engine.transcribe(cast(BinaryIO, _Recording(self.upload)), options, self._progress)
        finally:
            self.turn.end()
        return done if options.task == "transcribe" else replace(done, language=find_language(options.to).tag)

    def _progress(self, progress: Progress) -> None:
        """Called by the worker: stops for a client that left and at the longest recording; lets others go first."""
        self._check_length(progress)
        self.done_s, self.total_s = progress.done_s, progress.total_s
        if progress.segments:
            self.loop.call_soon_threadsafe(self.segments.put_nowait, tuple(progress.segments))
        if not self.turn.offer():
            raise Cancelled("nobody waits for this recording")

    def _check_length(self, progress: Progress) -> None:
        limit_s = self.jobs.settings.max_audio_s
        too_long = progress.done_s > limit_s
        if not too_long and not self._measured and (progress.total_s or 0.0) > limit_s:
            self._measured = True  # a header may say anything
            too_long = measured_s(self.upload.file, self.ask.options.track) > limit_s
        if too_long:
            raise ApiError(
                413, "audio_too_long", f"expected at most {limit_s:g} s of audio, got more: cut it", param="file"
            )

    # -------------------- for its client

    async def finished(self, timeout_s: float) -> bool:
        """Wait for the transcript. Raises `Cancelled` once the client has left, `ApiError` once the server stops."""
        stopped = asyncio.ensure_future(self.stopped.wait())
        try:
            await asyncio.wait(
                [self.work, self._client_left, stopped], timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            stopped.cancel()
        if self.stopped.is_set():
            raise closing()
        if not self.work.done() and self._client_left.done():
            raise Cancelled("the client left")
        return self.work.done()

    async def result(self) -> Transcript:
        """The transcript."""
        while not await self.finished(HEARTBEAT_S):
            pass
        return self.work.result()

    async def events(self) -> AsyncIterator[str]:
        """Server-sent events: text that no later window changes, as soon as it is there; between them comments, which
        clients skip, with how far it is."""
        sent, shown, beat = "", "", time.monotonic()
        route = self.jobs.engine.route(self.ask.options.language, self.ask.options.to)
        early = (
            self.ask.options.task == "transcribe" or route.text_model is None
        )  # else the segments are the first step's
        while not (self.work.done() or self.stopped.is_set()) or not self.segments.empty():
            segments = await self._next_segments()
            text = _joined(segments) if early and segments else sent
            if text.startswith(sent) and text != sent:
                yield event({"type": "transcript.text.delta", "delta": text[len(sent) :]})
                sent = text
            how_far, now = self._how_far(), time.monotonic()
            if not shown or now - beat >= (HEARTBEAT_S if how_far == shown else PULSE_S):
                shown, beat = how_far, now
                yield f": {how_far}\n\n"
        if self.stopped.is_set():
            yield event({"type": "error", **closing().body})
            return
        for body in _last_events(self.work, self.ask, sent):
            yield event(body)

    async def _next_segments(self) -> tuple[Segment, ...]:
        """The next of the queue; none after `PULSE_S`, or once there will be no more."""
        ways = [asyncio.ensure_future(self.segments.get()), asyncio.ensure_future(self.stopped.wait())]
        try:
            await asyncio.wait([*ways, self.work], timeout=PULSE_S, return_when=asyncio.FIRST_COMPLETED)
            return ways[0].result() if ways[0].done() else ()  # type: ignore[return-value]
        finally:
            for way in ways:
                way.cancel()

    def _how_far(self) -> str:
        if not self.turn.worked_s and not self.turn.working:
            return json.dumps({"state": "waiting", "place": self.turn.place})
        total_s = None if self.total_s is None else round(self.total_s, 1)
        return json.dumps({"state": "working", "done_s": round(self.done_s, 1), "total_s": total_s})


class _Stream(StreamingResponse):
    """Events of a job, which ends with its client."""

    def __init__(self, job: _Job):
        super().__init__(job.events(), media_type="text/event-stream", headers=STREAM_HEADERS)
        self.job = job

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send them."""
        self.job.watch_no_more()
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.job.leave()


def _last_events(work: "asyncio.Future[Transcript]", ask: Ask, sent: str) -> list[dict[str, Any]]:
    try:
        transcript = work.result()
    except Exception as e:
        if not isinstance(e, ApiError | MmxError):
            log.error("a recording failed", exc_info=e)
        return [{"type": "error", **api_error_of(e).body}]
    text = transcript.text
    rest = [{"type": "transcript.text.delta", "delta": text[len(sent) :]}] if text[len(sent) :] else []
    done = {"type": "transcript.text.done", "text": text, "language": transcript.language, "usage": _usage(transcript)}
    for format in ask.formats:
        if format == "verbose_json":
            done[format] = verbose(transcript, ask.granularities)
        elif format in ("srt", "vtt"):
            done[format] = _WRITERS[format](transcript)
    return [*rest, done]


def _joined(segments: tuple[Segment, ...]) -> str:
    return Transcript("", segments, "", 0.0, duration_s=0.0, task="", model="").text


# -------------------- answers

_WRITERS: dict[str, Callable[[Transcript], str]] = {
    "text": lambda t: t.text + "\n",
    "srt": Transcript.to_srt,
    "vtt": Transcript.to_vtt,
}
_TYPES = {"text": "text/plain", "srt": "application/x-subrip", "vtt": "text/vtt"}


def formatted(transcript: Transcript, format: str, granularities: tuple[str, ...] = ("segment",)) -> Response:
    """A transcript in one of the formats. Raises `ApiError` for any other."""
    check_format(format)
    if format == "json":
        return JSONResponse({"text": transcript.text, "usage": _usage(transcript)})
    if format == "verbose_json":
        return JSONResponse(verbose(transcript, granularities))
    return PlainTextResponse(_WRITERS[format](transcript), media_type=_TYPES[format])


def check_format(format: str) -> str:
    """The format, where there is one of the name."""
    if format in FORMATS:
        return format
    raise ApiError(
        400, "unsupported_format", f"expected response_format among {', '.join(FORMATS)}, got {format!r}",
        param="response_format",
    )  # fmt: skip


def _usage(transcript: Transcript) -> dict[str, Any]:
    return {"type": "duration", "seconds": math.ceil(transcript.duration_s)}


def verbose(transcript: Transcript, granularities: tuple[str, ...]) -> dict[str, Any]:
    """OpenAI's verbose_json: `words` beside or instead of `segments`, as the granularities ask.

    `seek` is the window of 30 s that a segment begins in, in hundredths of a second. Ours is `notes`, as
    `Transcript.to_dict` has them: what was damaged, skipped or tried again.
    """
    data = _rounded(transcript.to_dict())
    out: dict[str, Any] = {
        "task": transcript.task,
        "language": find_language(transcript.language).name.lower() if transcript.language else "",
        "duration": data["duration"],
        "text": data["text"],
        "usage": _usage(transcript),
        "notes": data["notes"],
    }
    if "word" in granularities:
        words = [(w, s) for s in data["segments"] for w in s["words"]]
        out["words"] = [
            {"word": w["word"].strip(), "start": w["start"], "end": w["end"], **_channel(s)} for w, s in words
        ]
    if "segment" in granularities:
        names = ("id", "start", "end", "text", "tokens", "temperature", "avg_logprob", "compression_ratio",
                 "no_speech_prob")  # fmt: skip
        out["segments"] = [
            {
                "seek": int(s["start"] // WINDOW_S * WINDOW_S * 100), **{n: s[n] for n in names},
                **_channel(s),
            }
            for s in data["segments"]
        ]  # fmt: skip
    return out


def _channel(segment: dict[str, Any]) -> dict[str, str]:
    """Ours, beside what OpenAI has: where each channel was heard by itself, the one of a segment and of its words."""
    return {"channel": segment["channel"]} if "channel" in segment else {}


def _rounded(data: Any, name: str = "") -> Any:
    """Numbers without the noise of their last bits: times to 1 ms, figures to six places."""
    if isinstance(data, dict):
        return {k: _rounded(v, k) for k, v in data.items()}
    if isinstance(data, list):
        return [_rounded(v, name) for v in data]
    return round(data, 3 if name in ("start", "end", "duration") else 6) if isinstance(data, float) else data


def api_error_of(error: Exception) -> ApiError:
    """An error of ours as an answer."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, InputError):
        return ApiError(400, "invalid_value", str(error))
    if isinstance(error, MediaError):
        return ApiError(400, "invalid_audio", str(error), param="file")
    return ApiError(500, "server_error", "expected to finish, but the server failed: its log has the reason")
