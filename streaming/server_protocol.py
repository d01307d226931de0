"""What clients and live sessions say to each other: JSON in the shapes of OpenAI's realtime API, and what we add to it.

Added: `seq` on all that a session writes (a line of its log, so that a client that was cut off asks for those after the
last that it saw), times and languages, `session.resumed`, `input_audio_buffer.acknowledged`, `tentative` text, binary
messages of 16-bit samples.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mmx.streaming.server_interpreter import Wish
from mmx.streaming.server_sessions import Entry, Order, Session
from mmx.streaming.server_settings import Refusal

OPENAI_RATE = 24_000
TRANSCRIPTION, TRANSLATION = "transcription", "translation"
INPUT = "conversation.item.input_audio_transcription"


def wish_of(query: Mapping[str, str], dialect: str) -> Wish:
    """What the address of a connection asks for: `language`, `to`, `rate`, `source`."""
    try:
        rate = int(query.get("rate", OPENAI_RATE))
    except ValueError:
        raise Refusal(400, "invalid_value", f"expected rate in Hz, got {query['rate']!r}", param="rate") from None
    to = query.get("to") or ("en" if dialect == TRANSLATION else None)
    source = query.get("source", "1").lower() not in ("0", "false")
    return Wish(query.get("language") or None, to, source, rate)


_OBJECTS = (
    "audio", "audio.input", "audio.input.transcription", "audio.input.format", "audio.output",
    "input_audio_transcription",
)  # fmt: skip


def updated(wish: Wish, session: Any) -> Wish:
    """A wish after `session.update`; what the update does not name stays."""
    if not isinstance(session, dict):
        raise _bad("session", "an object", session)
    for name in _OBJECTS:
        if not isinstance(part := _at(session, *name.split(".")), dict | None):
            raise _bad(name, "an object", part)
    source = _at(session, "audio", "input", "transcription", default=_at(session, "input_audio_transcription"))
    if isinstance(source, dict) and "language" in source:
        wish = replace(wish, language=_word(source["language"], "language"))
    if source is None and "transcription" in (_at(session, "audio", "input", default={}) or {}):
        wish = replace(wish, source=False)  # null switches it off
    elif isinstance(source, dict):
        wish = replace(wish, source=True)
    output = _at(session, "audio", "output", default={})
    if isinstance(output, dict) and "language" in output:
        wish = replace(wish, to=_word(output["language"], "audio.output.language"))
    format = _at(session, "audio", "input", "format")
    if isinstance(format, dict):
        if format.get("type", "audio/pcm") != "audio/pcm":
            raise _bad("audio.input.format.type", "audio/pcm", format.get("type"))
        rate = format.get("rate", wish.rate)
        if not isinstance(rate, int) or isinstance(rate, bool):
            raise _bad("audio.input.format.rate", "a number of Hz", rate)
        wish = replace(wish, rate=rate)
    if session.get("input_audio_format", "pcm16") != "pcm16":
        raise _bad("input_audio_format", "pcm16", session["input_audio_format"])
    return wish


def _at(data: Any, *path: str, default: Any = None) -> Any:
    for name in path:
        if not isinstance(data, dict) or name not in data:
            return default
        data = data[name]
    return data


def _word(value: Any, name: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise _bad(name, "a language", value)
    return value or None


def _bad(name: str, expected: str, got: Any) -> Refusal:
    return Refusal(400, "invalid_value", f"expected {expected} for {name}, got {str(got)[:60]!r}", param=name)


def parsed(text: str) -> dict[str, Any]:
    """A message as an object with a type."""
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        raise Refusal(400, "invalid_json", f"expected a message in JSON, got {text[:40]!r}") from None
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise Refusal(400, "invalid_json", "expected an object with a text 'type'", param="type")
    return message


def obey(session: Session, message: dict[str, Any], dialect: str) -> dict[str, Any] | None:
    """Do what a client's message says; what to answer, where there is something to answer.

    Raises:
        Refusal: it cannot be done; the session stays as it was.
    """
    kind = message["type"].removeprefix("session.") if "input_audio_buffer" in message["type"] else message["type"]
    if kind == "input_audio_buffer.append":
        session.accept(_decoded(message.get("audio")))
        return None
    if kind == "input_audio_buffer.commit":
        session.order(Order("commit"))
        return {"type": "input_audio_buffer.committed"}
    if kind == "input_audio_buffer.clear":
        session.order(Order("clear"))
        return {"type": "input_audio_buffer.cleared"}
    if kind in ("session.update", "transcription_session.update"):
        wish = updated(session.asked, message.get("session", {}))
        if wish != session.asked:
            session.order(Order("update", wish))
        return {"type": kind.replace("update", "updated"), "session": described(session, dialect, wish)}
    if kind == "session.close":
        if not session.ended:
            session.order(Order("close"))
        return None
    raise Refusal(
        400, "unknown_type", f"expected input_audio_buffer.append, .commit, .clear, session.update or session.close, "
        f"got {kind[:60]!r}", param="type",
    )  # fmt: skip


def _decoded(audio: Any) -> bytes:
    if not isinstance(audio, str):
        raise _bad("audio", "base64 of 16-bit samples", audio)
    try:
        return base64.b64decode(audio, validate=True)
    except (binascii.Error, ValueError):
        raise _bad("audio", "base64 of 16-bit samples", audio) from None


def described(session: Session, dialect: str, wish: Wish | None = None) -> dict[str, Any]:
    """The session as its client sees it, in OpenAI's shape."""
    wish = wish or session.wish
    transcription = {"model": session.house.engine.names[0], "language": wish.language} if wish.source else None
    format = {"type": "audio/pcm", "rate": wish.rate}
    audio: dict[str, Any] = {"input": {"format": format, "transcription": transcription}}
    if wish.to is not None:
        audio["output"] = {"language": wish.to}
    return {"id": session.id, "object": "realtime.session", "type": dialect, "audio": audio}


def rendered(entry: Entry, dialect: str) -> dict[str, Any]:
    """A line of a session's log as a message."""
    if entry.kind == "closed":
        return {"type": "session.closed", "seq": entry.seq}
    if entry.kind == "error":
        return {**error_message(Refusal(400, entry.language, entry.text)), "seq": entry.seq}
    ends = entry.kind == "completed"
    facts = {
        "seq": entry.seq,
        "item_id": f"item_{entry.track}_{entry.item}",
        "content_index": 0,
        "transcript" if ends else "delta": entry.text,
        "start_ms": round(entry.start_s * 1000),
        "end_ms": round(entry.end_s * 1000),
        "language": entry.language,
    }
    if entry.track == "source" and dialect == TRANSCRIPTION:
        return {"type": f"{INPUT}.{'completed' if ends else 'delta'}", **facts}
    name = "session.input_transcript" if entry.track == "source" else "session.output_transcript"
    return {"type": f"{name}.{'done' if ends else 'delta'}", **facts}


def error_message(no: Refusal) -> dict[str, Any]:
    """An error as a message."""
    return {"type": "error", **no.body}
