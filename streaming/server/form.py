"""The form of a request about a recording: read as it comes, with limits of size and time, and its fields."""

import asyncio
import difflib
import math
import time
from typing import Any

from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from mmx.streaming.server.settings import ApiError, Settings, blaming
from mmx.text.languages import find_language

MOST_FIELDS = 64
MOST_FIELD_KB = 1024
LEAST_BYTES_S = 1000
"""An upload slower than this, once `upload_timeout_s` has passed, is no person's."""
_FAULTS = {
    "Too many files": ("expected one file, got several: send them one by one", "file"),
    "Too many fields": (f"expected at most {MOST_FIELDS} fields, got more", None),
    "Part exceeded": (
        f"expected text fields of at most {MOST_FIELD_KB} kB, got a larger one: a recording goes into 'file', with its "
        "file name", None,
    ),
}  # fmt: skip
"""How the parser's refusals begin, what we say instead, and the field at fault; it does not tell which text it was."""

FIELDS = (
    "file", "model", "language", "prompt", "response_format", "temperature", "timestamp_granularities", "stream",
    "include", "chunking_strategy", "to", "track", "channels",
)  # fmt: skip
"""Fields that mean something; `chunking_strategy` is OpenAI's, and nothing here need be told how to cut."""


async def read_form(request: Request, settings: Settings) -> FormData:
    """The multipart form, refused as soon as it is larger than allowed, or too slow."""
    most_mb = settings.max_upload_mb
    most = int(most_mb * 2**20) + 65536  # the other fields
    too_large = ApiError(
        413, "file_too_large", f"expected an upload of at most {most_mb:g} MB, got more: send its audio only, or "
        "compressed", param="file",
    )  # fmt: skip
    declared, kind = request.headers.get("content-length", ""), request.headers.get("content-type", "nothing")
    if declared.isdigit() and int(declared) > most:
        raise too_large
    if not kind.startswith("multipart/form-data"):
        raise ApiError(400, "invalid_content_type", f"expected multipart/form-data with a field 'file', got {kind}")
    body = Body(request, settings.upload_timeout_s)

    async def counted() -> Any:
        message = await body.receive()
        if body.seen > most:
            raise too_large
        return message

    try:
        form = await Request(request.scope, counted).form(
            max_files=1, max_fields=MOST_FIELDS, max_part_size=MOST_FIELD_KB * 1024
        )  # fmt: skip
    except HTTPException as e:
        fault = f"expected a multipart form, got one that cannot be read: {e.detail}"
        message, param = next((told for words, told in _FAULTS.items() if e.detail.startswith(words)), (fault, None))
        raise ApiError(400, "invalid_form", message, param=param) from e
    return form


class Body:
    """The body of a request, as long as it comes along."""

    def __init__(self, request: Request, patience_s: float):
        self._receive, self.patience_s = request.receive, patience_s
        self.seen, self.since = 0, time.monotonic()

    async def receive(self) -> Any:
        try:
            message = await asyncio.wait_for(self._receive(), self.patience_s)
        except TimeoutError:
            raise self._slow() from None
        self.seen += len(message.get("body", b""))
        took_s = time.monotonic() - self.since
        if message.get("more_body") and took_s > self.patience_s + self.seen / LEAST_BYTES_S:
            raise self._slow()
        return message

    def _slow(self) -> ApiError:
        return ApiError(
            408, "upload_timeout", f"expected an upload in progress, got nothing for {self.patience_s:g} s "
            f"(upload_timeout_s) or less than {LEAST_BYTES_S} bytes a second: send it again", close=True,
        )  # fmt: skip


def check_fields(form: FormData) -> None:
    """Refuse a field that is a known one misspelt, such as `langauge`. Others are left alone, as clients send fields of
    other servers' and of later versions of OpenAI's API."""
    for name in form:
        bare = name.removesuffix("[]")
        near = difflib.get_close_matches(bare.lower(), FIELDS, n=1, cutoff=0.8)
        if bare not in FIELDS and near:
            raise ApiError(400, "unknown_parameter", f"expected {near[0]!r}, got {name!r}: correct it", param=name)


def file_of(form: FormData) -> UploadFile:
    """The recording."""
    upload = form.get("file")
    if not isinstance(upload, UploadFile):
        raise ApiError(400, "missing_file", "expected a recording in the field 'file', got none", param="file")
    if upload.size == 0:
        raise ApiError(
            400, "invalid_audio", "expected a recording in the field 'file', got an empty file", param="file"
        )
    return upload


def text(form: FormData, name: str) -> str | None:
    """The text of a field; None where it is empty or not there."""
    value = form.get(name)
    if value is not None and not isinstance(value, str):
        raise ApiError(400, "invalid_value", f"expected text in the field {name!r}, got a file", param=name)
    return value or None


def language(form: FormData, name: str) -> str | None:
    """A language that there is; None where it is to be detected, which some clients write as "auto"."""
    given = text(form, name)
    if given is None or (name == "language" and given.lower() == "auto"):
        return None
    with blaming(name):
        find_language(given)
    return given


def texts(form: FormData, name: str) -> tuple[str, ...]:
    """All values of a field, which clients write with or without brackets."""
    return tuple(str(v) for v in [*form.getlist(f"{name}[]"), *form.getlist(name)])


def switch(form: FormData, name: str) -> bool:
    """Whether a field says yes."""
    given = text(form, name) or "false"
    if given.lower() not in ("true", "1", "false", "0"):
        raise ApiError(400, "invalid_value", f"expected {name} to be true or false, got {given!r}", param=name)
    return given.lower() in ("true", "1")


def number(form: FormData, name: str) -> float | None:
    """A number in 0 to 1."""
    given = text(form, name)
    try:
        value = None if given is None else float(given)
    except ValueError:
        value = math.nan
    if value is not None and not 0 <= value <= 1:
        raise ApiError(400, "invalid_value", f"expected {name} in 0 to 1, got {given!r}", param=name)
    return value
