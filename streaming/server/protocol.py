"""What clients and live sessions say to each other: JSON in the shapes of OpenAI's realtime API, and what we add to it.

A client that knows OpenAI's API gets its message types only. With `extras=1` in its address it also gets ours:
`input_audio_buffer.acknowledged`, `tentative` text, `session.closed`, whole sentences of a translation. Fields of ours
are on OpenAI's messages, too: `seq` on each line of the log, so that a client that was cut off asks for those after the
last that it saw, times and languages. Besides JSON, binary messages of samples are taken.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mmx.streaming.server import audio_visual, g711
from mmx.streaming.server.engine import Engine
from mmx.streaming.server.interpreter import SessionConfig
from mmx.streaming.server.items import SOURCE, Entry
from mmx.streaming.server.models import check_model
from mmx.streaming.server.sessions import Command, Session
from mmx.streaming.server.settings import ApiError

OPENAI_RATE = 24_000
TRANSCRIPTION, TRANSLATION = "transcription", "translation"
INPUT = "conversation.item.input_audio_transcription"
FORMATS = {"audio/pcm": None, "audio/pcmu": "mu", "audio/pcma": "a"}
"""Of sound: OpenAI's names, and the law of telephony's."""
_OLD_FORMATS = {"pcm16": "audio/pcm", "g711_ulaw": "audio/pcmu", "g711_alaw": "audio/pcma"}
PHONE_RATE = 8_000
MOST_PROMPT = 4096
"""Characters."""


@dataclass(frozen=True)
class Manner:
    """How a connection speaks.

    Attributes:
        dialect: transcription or translation, as its path says.
        extras: whether message types of ours are sent beside OpenAI's.
    """

    dialect: str
    extras: bool = False


def config_of(query: Mapping[str, str], dialect: str) -> SessionConfig:
    """What the address of a connection asks for: `language`, `to`, `rate`, `source`, `modality`."""
    try:
        rate = int(query.get("rate", OPENAI_RATE))
    except ValueError:
        raise ApiError(400, "invalid_value", f"expected rate in Hz, got {query['rate']!r}", param="rate") from None
    to = query.get("to") or ("en" if dialect == TRANSLATION else None)
    source = query.get("source", "1").lower() not in ("0", "false")
    modality = query.get("modality", "audio")
    if modality not in ("audio", "av"):
        raise _bad("modality", "audio or av", modality)
    return SessionConfig(
        _language(query.get("language")), to, source, rate, audio_visual.NAME if modality == "av" else "audio/pcm"
    )


def _language(text: str | None) -> str | None:
    """None where it is to be detected."""
    return None if not text or text.lower() == "auto" else text


_OBJECTS = (
    "audio", "audio.input", "audio.input.transcription", "audio.input.format", "audio.output",
    "audio.input.turn_detection", "audio.input.noise_reduction", "input_audio_transcription", "turn_detection",
    "input_audio_noise_reduction",
)  # fmt: skip
_TURN_FIELDS = (
    "type", "threshold", "prefix_padding_ms", "silence_duration_ms", "create_response", "interrupt_response",
    "idle_timeout_ms", "eagerness",
)  # fmt: skip


def updated(config: SessionConfig, session: Any, engine: Engine) -> SessionConfig:
    """A config after `session.update`; what the update does not name stays."""
    if not isinstance(session, dict):
        raise _bad("session", "an object", session)
    for name in _OBJECTS:
        if not isinstance(part := _at(session, *name.split(".")), dict | None):
            raise _bad(name, "an object", part)
    source = _either(session, ("audio", "input", "transcription"), ("input_audio_transcription",))
    if source is None:
        config = replace(config, source=False)  # null switches it off
    elif source is not _MISSING:
        check_model(engine, source.get("model"), realtime=True)
        config = replace(config, source=True, echoed=_with_prompt(config.echoed, source))
        if "language" in source:
            config = replace(config, language=_language(_word(source["language"], "language")))
    output = _at(session, "audio", "output", default={})
    if isinstance(output, dict) and "language" in output:
        config = replace(config, to=_word(output["language"], "audio.output.language"))
    return _with_turns(_with_format(config, session), session)


def _with_format(config: SessionConfig, session: dict[str, Any]) -> SessionConfig:
    format = _at(session, "audio", "input", "format")
    if "input_audio_format" in session:
        name = session["input_audio_format"]
        if not isinstance(name, str) or name not in _OLD_FORMATS:
            raise _bad("input_audio_format", " or ".join(_OLD_FORMATS), name)
        format = {"type": _OLD_FORMATS[name]}
    if format is None:
        return config
    kind = format.get("type", config.format)
    if not isinstance(kind, str) or kind not in FORMATS:
        raise _bad("audio.input.format.type", " or ".join(FORMATS), kind)
    if FORMATS[kind] is not None:
        if format.get("rate", PHONE_RATE) != PHONE_RATE:
            raise _bad("audio.input.format.rate", f"{PHONE_RATE} of {kind}", format["rate"])
        return replace(config, format=kind, rate=PHONE_RATE)
    rate = format.get("rate", config.rate if config.format == kind else OPENAI_RATE)
    if not isinstance(rate, int) or isinstance(rate, bool):
        raise _bad("audio.input.format.rate", "a number of Hz", rate)
    return replace(config, format=kind, rate=rate)


def _with_turns(config: SessionConfig, session: dict[str, Any]) -> SessionConfig:
    """Who says where an item ends, and what is only sent back."""
    echoed = dict(config.echoed)
    turns = _either(session, ("audio", "input", "turn_detection"), ("turn_detection",))
    if isinstance(turns, dict):
        if turns.get("type", "server_vad") not in ("server_vad", "semantic_vad"):
            raise _bad("turn_detection.type", "server_vad or semantic_vad", turns["type"])
        echoed["turn_detection"] = _plain({"type": "server_vad", **turns}, _TURN_FIELDS, "turn_detection")
    noise = _either(session, ("audio", "input", "noise_reduction"), ("input_audio_noise_reduction",))
    if noise is not _MISSING:
        echoed["noise_reduction"] = noise and _plain(noise, ("type", "strength"), "noise_reduction")
    include = session.get("include") or []
    if (
        not isinstance(include, list)
        or len(include) > 8
        or not all(isinstance(x, str) and len(x) < 99 for x in include)
    ):
        raise _bad("include", "a list of names", include)
    if "include" in session:
        echoed["include"] = include
    return replace(config, echoed=echoed, manual=config.manual if turns is _MISSING else turns is None)


def _with_prompt(echoed: dict[str, Any], source: dict[str, Any]) -> dict[str, Any]:
    if "prompt" not in source:
        return echoed
    prompt = source["prompt"]
    if not isinstance(prompt, str | None) or len(prompt or "") > MOST_PROMPT:
        raise _bad("prompt", f"text of at most {MOST_PROMPT} characters", prompt)
    return {**echoed, "prompt": prompt}


def _plain(value: dict[str, Any], names: tuple[str, ...], of: str) -> dict[str, Any]:
    """The fields that there are, which are sent back and thus must be small."""
    kept = {n: value[n] for n in names if n in value}
    for name, x in kept.items():
        if not isinstance(x, str | int | float | None) or len(str(x)) > 40:
            raise _bad(f"{of}.{name}", "a number or a name", x)
    return kept


_MISSING: Any = object()


def _either(session: dict[str, Any], *paths: tuple[str, ...]) -> Any:
    """What the first path that is there leads to."""
    for path in paths:
        if (found := _at(session, *path, default=_MISSING)) is not _MISSING:
            return found
    return _MISSING


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


def _bad(name: str, expected: str, got: Any) -> ApiError:
    return ApiError(400, "invalid_value", f"expected {expected} for {name}, got {str(got)[:60]!r}", param=name)


def parsed(text: str) -> dict[str, Any]:
    """A message as an object with a type."""
    try:
        message = json.loads(text)
        if "\\u" in text:  # half of a surrogate pair is no text: it can be neither compared, stored nor sent back
            json.dumps(message, ensure_ascii=False).encode()
    except (ValueError, RecursionError):  # UnicodeEncodeError is a ValueError
        raise ApiError(400, "invalid_json", f"expected a message in JSON, got {text[:40]!r}") from None
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise ApiError(400, "invalid_json", "expected an object with a text 'type'", param="type")
    return message


def event_id_of(message: dict[str, Any]) -> str | None:
    """By which an error names the message that it answers."""
    id = message.get("event_id")
    return id[:512] if isinstance(id, str) else None


def handle_message(session: Session, message: dict[str, Any], dialect: str) -> dict[str, Any] | None:
    """Do what a client's message says; what to answer once it is safe, where there is something to answer.

    Raises:
        ApiError: it cannot be done; the session stays as it was.
    """
    kind = message["type"].removeprefix("session.") if "input_audio_buffer" in message["type"] else message["type"]
    if kind == "input_frames.append":
        if session.frames is None:
            raise ApiError(400, "invalid_value", "expected audio, which the model reads, got frames", param="type")
        session.accept(session.frames.raw(message, session.intake.samples))
        return None
    if kind == "input_audio_buffer.append":
        if session.frames is not None:
            wanted = f"expected input_frames.append of {session.frames.modality}, which the model reads, got audio"
            raise ApiError(400, "invalid_value", wanted, param="type")
        session.accept(decoded(_from_base64(message.get("audio")), session.asked.format))
        return None
    if kind == "input_audio_buffer.commit":
        session.command(Command("commit"))  # answered once the sound before it is heard: see `rendered`
        return None
    if kind == "input_audio_buffer.clear":
        session.command(Command("clear"))
        return {"type": "input_audio_buffer.cleared"}
    if kind in ("session.update", "transcription_session.update"):
        config = updated(session.asked, message.get("session", {}), session.context.engine)
        if config != session.asked:
            session.command(Command("update", config))
        return {"type": kind.replace("update", "updated"), "session": described(session, dialect)}
    if kind == "session.close":
        session.command(Command("close"))
        return None
    raise ApiError(
        400, "unknown_type", "expected input_audio_buffer.append, .commit, .clear, input_frames.append, session.update "
        f"or session.close, got {kind[:60]!r}", param="type",
    )  # fmt: skip


def decoded(data: bytes, format: str) -> bytes:
    """Sound as 16-bit samples."""
    law = FORMATS.get(format)
    return data if law is None else g711.decoded(data, law)


def _from_base64(audio: Any) -> bytes:
    if not isinstance(audio, str):
        raise _bad("audio", "base64 of samples", audio)
    try:
        return base64.b64decode(audio, validate=True)
    except (binascii.Error, ValueError):
        raise _bad("audio", "base64 of samples", audio) from None


def described(session: Session, dialect: str) -> dict[str, Any]:
    """The session as its client sees it, in OpenAI's shape."""
    config, model = session.asked, session.context.engine.names[0]
    echoed = {"turn_detection": {"type": "server_vad"}, "noise_reduction": None, "include": None, **config.echoed}
    transcription = {"model": model, "language": config.language} if config.source else None
    if transcription is not None and echoed.get("prompt") is not None:
        transcription["prompt"] = echoed["prompt"]
    frames = session.frames
    shape = {} if frames is None else {"modality": frames.modality, "shape": list(frames.what.shape)}
    audio: dict[str, Any] = {
        "input": {
            "format": {"type": config.format, "rate": config.rate, **shape},
            "transcription": transcription,
            "noise_reduction": echoed["noise_reduction"],
            "turn_detection": None if config.manual else echoed["turn_detection"],
        }
    }
    if config.to is not None:
        audio["output"] = {"language": config.to}
    return {
        "id": session.id,
        "object": f"realtime.{dialect}_session",
        "type": dialect,
        "model": model,
        "audio": audio,
        "include": echoed["include"],
        "expires_at": round(session.begun_s + session.context.settings.max_audio_s),
    }


def rendered(session: Session, entry: Entry, manner: Manner, closing: bool = False) -> list[dict[str, Any]]:
    """A line of a session's log as messages; what has its number comes last, so that none before it is lost.

    Args:
        session: whose line it is.
        entry: the line.
        manner: of the connection.
        closing: whether its client asked for the end.
    """
    if entry.kind == "closed":
        visible = manner.extras or closing or manner.dialect == TRANSLATION
        return [{"type": "session.closed", "seq": entry.seq}] if visible else []
    if entry.kind == "error":
        error = ApiError(500 if entry.language == "server_error" else 400, entry.language, entry.text)
        item = {"item_id": _id(SOURCE, entry.item), "content_index": 0}
        failed = [] if entry.item < 0 else [{"type": f"{INPUT}.failed", **item, **error.body}]
        return [*failed, {**error_message(error), "seq": entry.seq}]
    ends = entry.kind == "completed"
    facts = {
        "seq": entry.seq,
        "item_id": _id(entry.track, entry.item),
        "content_index": 0,
        "transcript" if ends else "delta": entry.text,
        "start_ms": _ms(entry.start_s),
        "end_ms": _ms(entry.end_s),
        "language": entry.language,
    }
    if entry.track == SOURCE and manner.dialect == TRANSCRIPTION:
        if not ends:
            return [*_begun(entry), {"type": f"{INPUT}.delta", **facts}]
        usage = {"type": "duration", "seconds": round(entry.seconds, 3)}
        return [*_committed(entry), {"type": f"{INPUT}.completed", **facts, "usage": usage}]
    before = [{"type": "input_audio_buffer.committed", **_names(entry)}] if entry.cause == "commit" else []
    name = "session.input_transcript" if entry.track == SOURCE else "session.output_transcript"
    if not ends:
        return [{"type": f"{name}.delta", **facts}]
    before = before if entry.track == SOURCE else []
    return [*before, {"type": f"{name}.done", **facts}] if manner.extras else before


def _begun(entry: Entry) -> list[dict[str, Any]]:
    """What comes before the first words of a turn."""
    if not entry.opens:
        return []
    facts = {"item_id": _id(SOURCE, entry.item), "audio_start_ms": _ms(entry.start_s)}
    return [{"type": "input_audio_buffer.speech_started", **facts}]


def _committed(entry: Entry) -> list[dict[str, Any]]:
    """What comes before the whole text of an item."""
    names, id = _names(entry), _id(SOURCE, entry.item)
    content = [{"type": "input_audio", "transcript": entry.text}]
    item = {"id": id, "object": "realtime.item", "type": "message", "status": "completed", "role": "user"}
    whole = {"previous_item_id": names["previous_item_id"], "item": {**item, "content": content}}
    before: list[dict[str, Any]] = [{"type": "input_audio_buffer.committed", **names}]
    if entry.cause == "turn":
        stopped = {"item_id": id, "audio_end_ms": _ms(entry.end_s)}
        before.insert(0, {"type": "input_audio_buffer.speech_stopped", **stopped})
    return [*before, *({"type": f"conversation.item.{x}", **whole} for x in ("added", "created", "done"))]


def _names(entry: Entry) -> dict[str, Any]:
    previous = None if entry.previous < 0 else _id(entry.track, entry.previous)
    return {"item_id": _id(entry.track, entry.item), "previous_item_id": previous}


def _id(track: str, number: int) -> str:
    return f"item_{track}_{number}"


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def error_message(error: ApiError, event_id: str | None = None) -> dict[str, Any]:
    """An error as a message; `event_id` is that of the client's message that it answers."""
    return {"type": "error", "error": {**error.body["error"], "event_id": event_id}}
