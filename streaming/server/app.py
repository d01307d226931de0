"""`mmx serve`: recordings over HTTP and live speech over WebSockets, in the shapes of OpenAI's audio API, and a page.

The event loop only moves bytes. Models run in worker threads, one turn at a time for each live session, and a session
writes into a log that connections read (see `server_sessions`): a slow or vanished client holds up nobody.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, WebSocket
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from mmx._version import __version__
from mmx.errors import MmxError
from mmx.media.write import FORMATS
from mmx.streaming.server.engine import Engine
from mmx.streaming.server.files import FileJobs, api_error_of, formatted
from mmx.streaming.server.guard import Guard, route_of
from mmx.streaming.server.metrics import Metrics
from mmx.streaming.server.models import accepted, check_model
from mmx.streaming.server.protocol import TRANSCRIPTION, TRANSLATION
from mmx.streaming.server.registry import Registry
from mmx.streaming.server.settings import ApiError, Settings
from mmx.streaming.server.socket import serve_socket
from mmx.streaming.server.speech import SpeechJobs
from mmx.streaming.server.voices import model_names
from mmx.streaming.server.watch import Watch
from mmx.tasks.events import TRACKS

PAGE = Path(__file__).parent / "page"
PAGE_RULES = {
    "Content-Security-Policy": "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data:; "
    "media-src 'self' blob:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
DEFAULTS = Settings()


def create_app(engine: Engine, settings: Settings = DEFAULTS) -> FastAPI:
    """The server as an ASGI application.

    Args:
        engine: the models.
        settings: limits and rules.
    """
    metrics = Metrics()
    files = FileJobs(engine, settings, metrics)
    speech = SpeechJobs(engine.speaker, settings, metrics)
    registry = Registry(engine, settings, metrics)
    metrics.gauge("mmx_jobs", lambda: {(): float(len(files.jobs))})
    metrics.gauge("mmx_speech_jobs", lambda: {(): float(len(speech.jobs))})
    metrics.gauge("mmx_uploads", lambda: {(): float(files.uploads)})

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        registry.open()
        yield
        files.close()
        speech.close()
        await registry.close()

    # The pages that FastAPI makes of the schema load scripts from elsewhere; the schema itself stays at /openapi.json.
    app = FastAPI(title="mmx", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.add_middleware(Guard, settings=settings, stops=lambda: files.closing)  # type: ignore[arg-type]
    app.add_middleware(Watch, settings=settings, metrics=metrics)  # type: ignore[arg-type]
    app.add_exception_handler(ApiError, _refuse)
    app.add_exception_handler(MmxError, _refuse)
    app.add_exception_handler(HTTPException, _refuse_http)  # type: ignore[arg-type]
    app.state.metrics = metrics
    app.state.registry = registry
    app.state.drain = lambda hurry: asyncio.gather(files.drain(hurry), speech.drain(hurry))
    app.state.settings = settings
    _add_files(app, files)
    _add_speech(app, speech, engine)
    _add_live(app, registry)
    _add_facts(app, engine, settings, metrics)
    _add_page(app)
    return app


def _add_files(app: FastAPI, files: FileJobs) -> None:
    @app.post("/v1/audio/transcriptions", openapi_extra=_form_schema())
    async def transcriptions(request: Request) -> Any:
        """What is said in a recording."""
        return await files.handle(request, "transcribe")

    @app.post("/v1/audio/translations", openapi_extra=_form_schema("to"))
    async def translations(request: Request) -> Any:
        """What is said in a recording, in English or the language `to`."""
        return await files.handle(request, "translate")


def _add_speech(app: FastAPI, speech: SpeechJobs, engine: Engine) -> None:
    @app.post("/v1/audio/speech", openapi_extra=_speech_schema())
    async def speak(request: Request) -> Any:
        """A text, spoken."""
        return await speech.handle(request)

    @app.head("/v1/audio/voices", include_in_schema=False)
    @app.get("/v1/audio/voices")
    async def voices() -> dict[str, Any]:
        """What a request for speech may name as its `voice`; OpenAI's names mean one of them."""
        return {"object": "list", "data": [v.body for v in engine.speaker.voices]}


def _add_live(app: FastAPI, registry: Registry) -> None:
    @app.websocket("/v1/realtime")
    async def transcription(socket: WebSocket) -> None:
        await serve_socket(socket, TRANSCRIPTION, registry)

    @app.websocket("/v1/realtime/translations")
    async def translation(socket: WebSocket) -> None:
        await serve_socket(socket, TRANSLATION, registry)

    @app.get("/v1/realtime/sessions/{id}/transcript")
    def transcript(id: str, track: str = "source", response_format: str = "srt") -> Any:
        """What a live session wrote, as a file."""
        if track not in TRACKS:
            raise ApiError(
                400, "invalid_value", f"expected track among {', '.join(TRACKS)}, got {track!r}", param="track"
            )
        return formatted(registry.find(id).transcript(track), response_format)


def _add_facts(app: FastAPI, engine: Engine, settings: Settings, metrics: Metrics) -> None:
    @app.head("/health", include_in_schema=False)
    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether the server answers."""
        return {"status": "ok"}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """What a request may name as its `model`; OpenAI's names mean the first."""
        names = dict.fromkeys([*accepted(engine), *model_names(engine.speaker.voices)])
        return {"object": "list", "data": [_model(n) for n in names]}

    @app.get("/v1/models/{id:path}")
    async def model(id: str) -> dict[str, Any]:
        """One of them."""
        if id not in model_names(engine.speaker.voices):
            check_model(engine, id)
        return _model(id)

    @app.get("/v1/capabilities")
    async def capabilities() -> dict[str, Any]:
        """What the page offers: models, languages and limits."""
        return {
            "models": accepted(engine),
            "text_model": next(iter(engine.names[1:]), None),
            "pictures": _pictures(engine),
            "languages": engine.languages,
            "targets": engine.targets,
            "voices": [v.body for v in engine.speaker.voices],
            "limits": {
                "upload_mb": settings.max_upload_mb,
                "audio_s": settings.max_audio_s,
                "sessions": settings.max_sessions,
                "idle_s": settings.idle_timeout_s,
                "keep_s": settings.keep_s,
                "frame_kb": settings.max_frame_kb,
                "speech_chars": settings.max_speech_chars,
            },
        }

    @app.get("/metrics", response_class=PlainTextResponse)
    async def prometheus() -> PlainTextResponse:
        """Counters for Prometheus."""
        return PlainTextResponse(metrics.render(), media_type="text/plain; version=0.0.4")


def _pictures(engine: Engine) -> dict[str, Any] | None:
    """What a page does with a camera, in the place of a microphone or (`sound`) beside it; None where it needs none."""
    if engine.both is not None:
        return {"rate": engine.both.rate, "points": ["FACE"], "detects": engine.detects, "sound": True}
    if engine.frames is None or not engine.frames.what.extractor:
        return None
    return {"rate": engine.frames.rate, "points": list(engine.frames.what.points), "detects": engine.detects}


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "mmx"}


def _add_page(app: FastAPI) -> None:
    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html", headers=PAGE_RULES)

    app.mount("/page", _PageFiles(directory=PAGE), name="page")


class _PageFiles(StaticFiles):
    """Modules that belong together: a browser asks each time whether it has the present ones."""

    def file_response(self, *args: Any, **more: Any) -> Response:
        response = super().file_response(*args, **more)
        response.headers.update({name: PAGE_RULES[name] for name in ("Cache-Control", "X-Content-Type-Options")})
        return response


def _form_schema(*more: str) -> dict[str, Any]:
    names = ["model", "prompt", "response_format", "temperature", "stream", "timestamp_granularities[]", "track",
             "channels", "language", *more]  # fmt: skip
    fields: dict[str, Any] = {"file": {"type": "string", "format": "binary"}, **{n: {"type": "string"} for n in names}}
    schema = {"type": "object", "required": ["file"], "properties": fields}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


def _speech_schema() -> dict[str, Any]:
    texts: dict[str, Any] = {name: {"type": "string"} for name in ("model", "input", "voice", "language")}
    choices = {"response_format": list(FORMATS), "stream_format": ["audio", "sse"]}
    fields = {
        **texts, **{n: {"type": "string", "enum": v} for n, v in choices.items()},
        **{n: {"type": "number"} for n in ("speed", "pitch", "range")},
    }  # fmt: skip
    schema = {"type": "object", "required": ["input"], "properties": fields}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


async def _refuse(request: Request, error: Exception) -> JSONResponse:
    answer = api_error_of(error)
    return JSONResponse(answer.body, answer.status, headers=answer.headers)


async def _refuse_http(request: Request, error: HTTPException) -> JSONResponse:
    """What the framework refuses by itself, in the same shape."""
    got, headers = route_of(request.scope), error.headers or {}
    message = {
        404: f"expected a path of this server, got {got}: see /openapi.json",
        405: f"expected {headers.get('Allow', 'another method')} for {got}, got {request.method}",
    }.get(error.status_code, f"expected a request that can be answered, got {error.detail}")
    code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
    return JSONResponse(ApiError(error.status_code, code, message).body, error.status_code, headers=headers)
