"""What a transcription returns, and its writers (txt, srt, vtt, tsv, json).

Times are seconds from the start of the recording in the dataclasses, integer milliseconds in the writers.
The JSON carries every number as it is; the formats for people (SRT, VTT) are cleaned up so that any player
can show them.
"""

import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args

import numpy as np
from numpy.typing import NDArray

from mmx.errors import InputError, nearest
from mmx.files import atomic_write, file_name, readable
from mmx.tasks.eaf import to_eaf
from mmx.tasks.subtitles import clean, clock, cues, encodable, escape, join, valid_spans
from mmx.tasks.words import Segment, Word

FORMATS = ("txt", "srt", "vtt", "tsv", "json")
MORE_FORMATS = ("eaf",)
"""Those that are written only where they are named."""

SCHEMA = 1  # version of the JSON; a reader refuses a newer one instead of misreading it

Action = Literal["skipped", "retried", "dropped", "warning"]


@dataclass(frozen=True, slots=True, eq=False)
class SpokenSegment:
    """Synthesized speech: `samples` `(N,)` float32, `rate` of them per second, from `start_s` of the recording on.

    `words` have times from its own start; a synth that knows none leaves it empty. `text` is what is spoken, where it
    was kept.
    """

    start_s: float
    samples: NDArray[np.float32]
    rate: float = 16_000.0
    words: tuple[Word, ...] = ()
    text: str = ""


@dataclass(frozen=True, slots=True)
class Note:
    """A span that was not simply transcribed, and why."""

    start_s: float
    end_s: float
    action: Action
    reason: str


@dataclass(frozen=True, slots=True)
class Transcript:
    """The result for one recording, `duration_s` seconds long.

    `source` names the recording; `language` is the code of the recording's language with its probability;
    `task` is what was done ("transcribe", "translate"); `model` names the model; `notes` lists every span
    that was skipped or tried again; `spoken` is a translation said aloud, where that was asked for. It is no part of
    the written formats: see `mmx.tasks.dub`.
    """

    source: str
    segments: tuple[Segment, ...]
    language: str
    language_probability: float
    duration_s: float
    task: str
    model: str
    notes: tuple[Note, ...] = ()
    spoken: tuple[SpokenSegment, ...] = ()

    @property
    def text(self) -> str:
        """All that was said, on one line of text, without space at its ends."""
        return join(self.segments)

    @property
    def words(self) -> tuple[Word, ...]:
        """The words of all segments, in order; empty when word times were not asked for."""
        return tuple(word for segment in self.segments for word in segment.words)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that is valid JSON: no NaN or infinity (None instead), no lone surrogates.

        The names are those of openai-whisper's JSON where it has the field; the rest is `schema`, `source`,
        `task`, `model`, `language_probability`, `duration` and `notes`.
        """
        return {
            "schema": SCHEMA,
            "source": readable(self.source),
            "model": encodable(self.model),
            "task": self.task,
            "language": self.language,
            "language_probability": _number(self.language_probability),
            "duration": _number(self.duration_s),
            "text": encodable(self.text),
            "segments": [_segment_to_dict(i, segment) for i, segment in enumerate(self.segments)],
            "notes": [{**_span(note), "action": note.action, "reason": encodable(note.reason)} for note in self.notes],
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Transcript":
        """Read what `to_dict` returned, or openai-whisper's own result (missing fields get defaults).

        Raises:
            InputError: The data is of a newer version or is not a transcript.
        """
        schema = data.get("schema", SCHEMA) if isinstance(data, dict) else None
        if not isinstance(schema, int) or schema > SCHEMA:
            raise InputError(
                f"Expected a transcript of schema {SCHEMA} or older, got {schema!r}. "
                "Update mmx, or write the transcript again with this version."
            )
        try:
            return _transcript_from_dict(data)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"This is not a transcript: {type(error).__name__} {error}. "
                "Expected what `Transcript.to_dict` returns, or openai-whisper's result."
            ) from error

    def to_txt(self) -> str:
        """Return one line of text a segment, after its channel where it has one."""
        lines = ((segment.channel, clean(segment.text).strip()) for segment in self.segments)
        return "".join(f"{_named(channel)}{line}\n" for channel, line in lines if line)

    def to_srt(self) -> str:
        """Return SubRip subtitles; those of two channels overlap where both speak."""
        blocks = (
            f"{number}\n{clock(cue.start_ms, ',')} --> {clock(cue.end_ms, ',')}\n{_named(channel)}"
            + "".join(f"{line}\n" for line in cue.lines)
            + "\n"
            for number, (channel, cue) in enumerate(self._by_channel(cues), 1)
        )
        return "".join(blocks)

    def to_vtt(self) -> str:
        """Return WebVTT subtitles; the characters that the format uses itself are escaped, channels are voices."""
        blocks = (
            f"\n{clock(cue.start_ms, '.')} --> {clock(cue.end_ms, '.')}\n"
            + (f"<v {escape(clean(channel))}>" if channel else "")
            + "".join(f"{escape(line)}\n" for line in cue.lines)
            for channel, cue in self._by_channel(cues)
        )
        return "WEBVTT\n" + "".join(blocks)

    def to_tsv(self) -> str:
        """Return a table with header: start, end (integer milliseconds) and text, tabs between, unquoted.

        Of channels heard one by one, the channel is a fourth column.
        """
        several = any(segment.channel for segment in self.segments)
        rows = ["start\tend\ttext" + ("\tchannel" if several else "")]
        for channel, (start_ms, end_ms, text) in self._by_channel(valid_spans):
            rows.append(f"{start_ms}\t{end_ms}\t{clean(text).strip()}" + (f"\t{clean(channel)}" if several else ""))
        return "\n".join(rows) + "\n"

    def _by_channel(self, timed: "Callable[[Sequence[Segment]], Iterable[_Timed]]") -> "list[tuple[str, _Timed]]":
        """What `timed` makes of each channel's segments by themselves, with the channel, in order of time."""
        channels = dict.fromkeys(segment.channel for segment in self.segments)
        found = [(c, item) for c in channels for item in timed([s for s in self.segments if s.channel == c])]
        return found if len(channels) < 2 else sorted(found, key=lambda pair: _start_ms(pair[1]))

    def to_json(self) -> str:
        """Return `to_dict` as JSON on one line, with all characters written as themselves."""
        return json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False) + "\n"

    def to_eaf(self) -> str:
        """Return annotations for ELAN: what was said, its words, and what was skipped, with the reason."""
        skipped = ((n.start_s, n.end_s, n.reason) for n in self.notes if n.action == "skipped")
        return to_eaf(self.segments, skipped, readable(self.source))

    def write(
        self,
        folder: str | os.PathLike[str],
        formats: Sequence[str] = ("txt", "srt", "vtt", "tsv", "json"),
        stem: str | None = None,
    ) -> list[Path]:
        """Write the transcript into a folder, one file a format.

        Args:
            folder: Where to write; created when missing.
            formats: Some of `FORMATS` and `MORE_FORMATS`, or one of them as a string.
            stem: File name without its ending; by default that of the source.

        Returns:
            The files written, in the order of `formats`.

        Raises:
            InputError: An unknown format; nothing has been written then.
            OutputError: A file cannot be written; a file of that name from before is intact.
        """
        wanted = list(dict.fromkeys(check_format(name) for name in _listed(formats)))
        name = _file_stem(self.source if stem is None else stem, is_path=stem is None)
        # All texts first: an error in one format must not leave the others half done.
        contents = [(Path(folder) / f"{name}.{ending}", _WRITERS[ending](self)) for ending in wanted]
        return [atomic_write(path, content) for path, content in contents]


_Timed = TypeVar("_Timed")


def _start_ms(item: Any) -> int:
    """Of a cue, or of a row of the table."""
    return item[0] if isinstance(item, tuple) else item.start_ms


def _named(channel: str) -> str:
    """A channel before what is said on it, in formats that have no place of their own for it."""
    return f"{clean(channel)}: " if channel else ""


_WRITERS: dict[str, Callable[[Transcript], str]] = {
    "txt": Transcript.to_txt,
    "srt": Transcript.to_srt,
    "vtt": Transcript.to_vtt,
    "tsv": Transcript.to_tsv,
    "json": Transcript.to_json,
    "eaf": Transcript.to_eaf,
}


def check_format(name: str) -> str:
    """Return the format's name in the form that `FORMATS` has; ".SRT" is accepted.

    Raises:
        InputError: There is no such format.
    """
    plain, known = name.strip().lower().removeprefix("."), (*FORMATS, *MORE_FORMATS)
    if plain not in known:
        raise InputError(f"Unknown format {name!r}.{nearest(plain, known)} Expected some of {', '.join(known)}.")
    return plain


def _listed(formats: Sequence[str]) -> Sequence[str]:
    """Take a lone string as a list ("srt" or "srt,vtt") instead of as its letters."""
    return formats.split(",") if isinstance(formats, str) else formats


def _file_stem(name: str, is_path: bool) -> str:
    """Return a file name without ending: that of a source path or address, or a name chosen by the caller."""
    plain = file_name(name).replace("\0", "")
    plain = Path(plain).stem if is_path else Path(plain).name
    return plain or "transcript"


# --- JSON ------------------------------------------------------------------------------------------------


def _number(value: float) -> float | None:
    """Return None for NaN and infinity, which JSON does not know."""
    return value if math.isfinite(value) else None


def _span(item: Segment | Word | Note) -> dict[str, float | None]:
    return {"start": _number(item.start_s), "end": _number(item.end_s)}


def _segment_to_dict(index: int, segment: Segment) -> dict[str, Any]:
    return {
        "id": index,
        **_span(segment),
        "text": encodable(segment.text),
        **({"source_text": encodable(segment.source_text)} if segment.source_text else {}),
        **({"channel": encodable(segment.channel)} if segment.channel else {}),
        "language": segment.language,
        "tokens": list(segment.tokens),
        "temperature": _number(segment.temperature),
        "avg_logprob": _number(segment.avg_logprob),
        "compression_ratio": _number(segment.compression_ratio),
        "no_speech_prob": _number(segment.no_speech_prob),
        "words": [
            {"word": encodable(word.text), **_span(word), "probability": _number(word.probability)}
            for word in segment.words
        ],
    }


def _float(data: dict[str, Any], key: str, default: float = math.nan) -> float:
    """Read a number; null, which stands for NaN or infinity, becomes NaN."""
    value = data.get(key, default)
    return math.nan if value is None else float(value)


def _segment_from_dict(data: dict[str, Any], language: str) -> Segment:
    return Segment(
        start_s=_float(data, "start"),
        end_s=_float(data, "end"),
        text=str(data["text"]),
        language=data.get("language", language),
        tokens=tuple(int(token) for token in data.get("tokens", ())),
        avg_logprob=_float(data, "avg_logprob", 0.0),
        no_speech_prob=_float(data, "no_speech_prob", 0.0),
        compression_ratio=_float(data, "compression_ratio", 1.0),
        temperature=_float(data, "temperature", 0.0),
        words=tuple(
            Word(str(word["word"]), _float(word, "start"), _float(word, "end"), _float(word, "probability"))
            for word in data.get("words", ())
        ),
        source_text=str(data.get("source_text", "")),
        channel=str(data.get("channel", "")),
    )


def _note_from_dict(data: dict[str, Any]) -> Note:
    action = data["action"]
    if action not in get_args(Action):
        raise ValueError(f"unknown action {action!r} of a note, expected one of {', '.join(get_args(Action))}")
    return Note(_float(data, "start"), _float(data, "end"), cast(Action, action), str(data["reason"]))


def _transcript_from_dict(data: dict[str, Any]) -> Transcript:
    language = str(data["language"])
    segments = tuple(_segment_from_dict(segment, language) for segment in data["segments"])
    last_s = max((segment.end_s for segment in segments), default=0.0)
    return Transcript(
        source=str(data.get("source", "")),
        segments=segments,
        language=language,
        language_probability=_float(data, "language_probability"),
        duration_s=_float(data, "duration", last_s),
        task=str(data.get("task", "transcribe")),
        model=str(data.get("model", "")),
        notes=tuple(_note_from_dict(note) for note in data.get("notes", ())),
    )
