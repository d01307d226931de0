"""Recordings over HTTP, in the shapes of OpenAI's audio API: transcriptions, translations, models."""

import asyncio
import json
import math
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, cast

from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from mmx.errors import InputError, MediaError, MmxError
from mmx.languages import find_language
from mmx.result import Segment, Transcript
from mmx.streaming.server_engine import Engine, check_languages
from mmx.streaming.server_metrics import Metrics
from mmx.streaming.server_settings import Refusal, Settings, blaming
from mmx.transcribe import Options, Progress

FORMATS = ("json", "text", "srt", "verbose_json", "vtt")
ALIASES = ("whisper-1",)
"""Names that clients have built in; they mean whatever model the server has."""


def accepted(engine: Engine) -> tuple[str, ...]:
    """What a request may name as its `model`; the text model only ever follows the speech model."""
    return (engine.names[0], *ALIASES)


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


class Cancelled(MmxError):  # noqa: N818 - nobody failed
    """Nobody waits for the result any more."""


class FileJobs:
    """Recordings one after the other (or as many at once as there are workers), with a bounded queue before them.

    Args:
        engine: the models.
        settings: the limits.
        metrics: counts what is done.
    """

    def __init__(self, engine: Engine, settings: Settings, metrics: Metrics):
        self.engine, self.settings, self.metrics = engine, settings, metrics
        self.pool = ThreadPoolExecutor(settings.file_workers, thread_name_prefix="mmx-file")
        self.jobs = 0

    async def handle(self, request: Request, task: str) -> Response:
        """Answer a request for a transcription or a translation."""
        self._room()  # before the upload: a busy server says so at once
        form = await _form(request, self.settings.max_upload_mb)
        try:
            upload, ask = _file(form), self._ask(form, task)
            check_languages(self.engine, ask.options.language, ask.options.to if task == "translate" else None)
            self._room()
        except Exception:
            await form.close()
            raise
        job = _Job(self, upload, ask)
        if not ask.stream:
            return formatted(await job.result(request), ask.formats[0], ask.granularities)
        await asyncio.wait([job.work], timeout=1.0)
        if job.work.done():
            job.work.result()  # what is no recording is told by the status, not in a stream
        return StreamingResponse(job.events(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    def _room(self) -> None:
        limit = self.settings.max_queue + self.settings.file_workers
        if self.jobs >= limit:
            raise Refusal(
                503, "server_busy", f"expected a free place, got a queue of {self.jobs} recordings: ask again later",
                retry_s=10,
            )  # fmt: skip

    def _ask(self, form: FormData, task: str) -> Ask:
        model = _text(form, "model")
        if model and model not in (names := accepted(self.engine)):
            expected = " or ".join(map(repr, names))
            raise Refusal(404, "model_not_found", f"expected model {expected}, got {model!r}", param="model")
        stream = _switch(form, "stream")
        formats = tuple(check_format(f) for f in _list(form, "response_format")) or ("json",)
        if len(formats) > 1 and not stream:
            message = f"expected one response_format without stream, got {len(formats)}"
            raise Refusal(400, "invalid_value", message, param="response_format")
        if form.getlist("include[]") or form.getlist("include"):
            raise Refusal(400, "unsupported_parameter", "expected no include[]: log-probabilities are in verbose_json",
                          param="include")  # fmt: skip
        kinds = tuple(
            str(g) for g in [*form.getlist("timestamp_granularities[]"), *form.getlist("timestamp_granularities")]
        )
        if bad := [k for k in kinds if k not in ("word", "segment")]:
            raise Refusal(400, "invalid_value", f"expected granularities word or segment, got {bad[0]!r}",
                          param="timestamp_granularities")  # fmt: skip
        options = Options(
            language=_language(form, "language"), task=task, to=_language(form, "to") or "en",  # type: ignore[arg-type]
            initial_prompt=_text(form, "prompt"), word_timestamps="word" in kinds,
        )  # fmt: skip
        if temperature := _number(form, "temperature"):
            options = replace(options, temperature=(temperature,))
        return Ask(options, formats, stream, kinds or ("segment",))

    def close(self) -> None:
        """Take no more work."""
        self.pool.shutdown(wait=False, cancel_futures=True)


class _Job:
    """One recording on its way through the pool. It closes the upload when the worker no longer needs it."""

    def __init__(self, jobs: FileJobs, upload: UploadFile, ask: Ask):
        self.jobs, self.upload, self.ask = jobs, upload, ask
        self.gone = threading.Event()
        self.loop = asyncio.get_running_loop()
        self.segments: asyncio.Queue[tuple[Segment, ...]] = asyncio.Queue()
        upload.file.seek(0)
        jobs.jobs += 1
        self.work = self.loop.run_in_executor(jobs.pool, self._transcript)
        self.work.add_done_callback(self._done)

    def _done(self, work: "asyncio.Future[Transcript]") -> None:
        self.jobs.jobs -= 1
        self.upload.file.close()
        if not work.cancelled() and work.exception() is None:
            self.jobs.metrics.count("mmx_audio_seconds_total", work.result().duration_s, kind="file")

    def _transcript(self) -> Transcript:
        """In a worker thread; its language is that of the text, which for a translation is not the one spoken."""
        options = self.ask.options
        done = self.jobs.engine.transcribe(cast(BinaryIO, _Recording(self.upload)), options, self._progress)
        return done if options.task == "transcribe" else replace(done, language=find_language(options.to).tag)

    def _progress(self, progress: Progress) -> None:
        """Called by the worker: stops for a client that left and at the longest recording."""
        limit_s = self.jobs.settings.max_audio_s
        if self.gone.is_set():
            raise Cancelled("nobody waits for this recording")
        if max(progress.total_s or 0.0, progress.done_s) > limit_s:
            raise Refusal(
                413, "audio_too_long", f"expected at most {limit_s:g} s of audio, got more: cut it", param="file"
            )
        if progress.segments:
            self.loop.call_soon_threadsafe(self.segments.put_nowait, tuple(progress.segments))

    async def result(self, request: Request) -> Transcript:
        """The transcript; given up when the client leaves."""
        while True:
            done, _ = await asyncio.wait([self.work], timeout=1.0)
            if done:
                return self.work.result()
            if await request.is_disconnected():
                self.gone.set()
                raise Refusal(499, "client_closed_request", "expected the client to wait, it left")

    async def events(self) -> AsyncIterator[str]:
        """Server-sent events: text that no later window changes, as soon as it is there."""
        sent = ""
        route = self.jobs.engine.route(self.ask.options.language, self.ask.options.to)
        early = self.ask.options.task == "transcribe" or route == "own"  # else the segments are the first step's
        try:
            while not self.work.done() or not self.segments.empty():
                segments = asyncio.ensure_future(self.segments.get())
                await asyncio.wait([segments, self.work], return_when=asyncio.FIRST_COMPLETED)
                if not segments.done():
                    segments.cancel()
                    continue
                text = _joined(segments.result()) if early else sent
                if text.startswith(sent) and text != sent:
                    yield _event({"type": "transcript.text.delta", "delta": text[len(sent) :]})
                    sent = text
            for event in _last_events(self.work, self.ask, sent):
                yield _event(event)
        finally:
            self.gone.set()


def _last_events(work: "asyncio.Future[Transcript]", ask: Ask, sent: str) -> list[dict[str, Any]]:
    try:
        transcript = work.result()
    except (Refusal, MmxError) as e:
        return [{"type": "error", **refusal_of(e).body}]
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


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"


# -------------------- answers

_WRITERS: dict[str, Callable[[Transcript], str]] = {
    "text": lambda t: t.text + "\n",
    "srt": Transcript.to_srt,
    "vtt": Transcript.to_vtt,
}
_TYPES = {"text": "text/plain", "srt": "application/x-subrip", "vtt": "text/vtt"}


def formatted(transcript: Transcript, format: str, granularities: tuple[str, ...] = ("segment",)) -> Response:
    """A transcript in one of the formats. Raises `Refusal` for any other."""
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
    raise Refusal(
        400, "unsupported_format", f"expected response_format among {', '.join(FORMATS)}, got {format!r}",
        param="response_format",
    )  # fmt: skip


def _usage(transcript: Transcript) -> dict[str, Any]:
    return {"type": "duration", "seconds": math.ceil(transcript.duration_s)}


def verbose(transcript: Transcript, granularities: tuple[str, ...]) -> dict[str, Any]:
    """OpenAI's verbose_json: `words` beside or instead of `segments`, as the granularities ask.

    Ours is `notes`, as `Transcript.to_dict` has them: what was damaged, skipped or tried again.
    """
    data = transcript.to_dict()
    out: dict[str, Any] = {
        "task": transcript.task,
        "language": find_language(transcript.language).name.lower() if transcript.language else "",
        "duration": data["duration"],
        "text": data["text"],
        "usage": _usage(transcript),
        "notes": data["notes"],
    }
    if "word" in granularities:
        words = [w for s in data["segments"] for w in s["words"]]
        out["words"] = [{"word": w["word"].strip(), "start": w["start"], "end": w["end"]} for w in words]
    if "segment" in granularities:
        names = ("id", "start", "end", "text", "tokens", "temperature", "avg_logprob", "compression_ratio",
                 "no_speech_prob")  # fmt: skip
        out["segments"] = [{"seek": round(s["start"] * 100), **{n: s[n] for n in names}} for s in data["segments"]]
    return out


def refusal_of(error: Exception) -> Refusal:
    """An error of ours as an answer."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, InputError):
        return Refusal(400, "invalid_value", str(error))
    if isinstance(error, MediaError):
        return Refusal(400, "invalid_audio", str(error), param="file")
    return Refusal(500, "server_error", "expected to finish, but the server failed: its log has the reason")


# -------------------- the form


MOST_FIELDS = 64
MOST_FIELD_KB = 1024
_FAULTS = {
    "Too many files": ("expected one file, got several: send them one by one", "file"),
    "Too many fields": (f"expected at most {MOST_FIELDS} fields, got more", None),
    "Part exceeded": (
        f"expected text fields of at most {MOST_FIELD_KB} kB, got a larger one: a recording goes into 'file', with its "
        "file name", None,
    ),
}  # fmt: skip
"""How the parser's refusals begin, what we say instead, and the field at fault; it does not tell which text it was."""


async def _form(request: Request, most_mb: float) -> FormData:
    """The multipart form, refused as soon as it is larger than allowed."""
    most = int(most_mb * 2**20) + 65536  # the other fields
    too_large = Refusal(
        413, "file_too_large", f"expected an upload of at most {most_mb:g} MB, got more: send its sound only, or "
        "compressed", param="file",
    )  # fmt: skip
    declared, kind = request.headers.get("content-length", ""), request.headers.get("content-type", "nothing")
    if declared.isdigit() and int(declared) > most:
        raise too_large
    if not kind.startswith("multipart/form-data"):
        raise Refusal(400, "invalid_content_type", f"expected multipart/form-data with a field 'file', got {kind}")
    receive, seen = request.receive, 0

    async def counted() -> Any:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > most:
            raise too_large
        return message

    try:
        return await Request(request.scope, counted).form(
            max_files=1, max_fields=MOST_FIELDS, max_part_size=MOST_FIELD_KB * 1024
        )  # fmt: skip
    except HTTPException as e:
        fault = f"expected a multipart form, got one that cannot be read: {e.detail}"
        message, param = next((told for words, told in _FAULTS.items() if e.detail.startswith(words)), (fault, None))
        raise Refusal(400, "invalid_form", message, param=param) from e


def _file(form: FormData) -> UploadFile:
    upload = form.get("file")
    if not isinstance(upload, UploadFile):
        raise Refusal(400, "missing_file", "expected a recording in the field 'file', got none", param="file")
    if upload.size == 0:
        raise Refusal(400, "invalid_audio", "expected a recording in the field 'file', got an empty file", param="file")
    return upload


def _text(form: FormData, name: str) -> str | None:
    value = form.get(name)
    if value is not None and not isinstance(value, str):
        raise Refusal(400, "invalid_value", f"expected text in the field {name!r}, got a file", param=name)
    return value or None


def _language(form: FormData, name: str) -> str | None:
    if text := _text(form, name):
        with blaming(name):
            find_language(text)
    return text


def _list(form: FormData, name: str) -> tuple[str, ...]:
    """All values of a field, which clients write with or without brackets."""
    return tuple(str(v) for v in [*form.getlist(f"{name}[]"), *form.getlist(name)])


def _switch(form: FormData, name: str) -> bool:
    text = _text(form, name) or "false"
    if text.lower() not in ("true", "1", "false", "0"):
        raise Refusal(400, "invalid_value", f"expected {name} to be true or false, got {text!r}", param=name)
    return text.lower() in ("true", "1")


def _number(form: FormData, name: str) -> float | None:
    text = _text(form, name)
    try:
        value = None if text is None else float(text)
    except ValueError:
        value = math.nan
    if value is not None and not 0 <= value <= 1:
        raise Refusal(400, "invalid_value", f"expected {name} in 0 to 1, got {text!r}", param=name)
    return value
