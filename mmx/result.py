"""What a transcription returns, and its writers (txt, srt, vtt, tsv, json).

Times are seconds from the start of the recording in the dataclasses, integer milliseconds in the writers.
The JSON carries every number as it is; the formats for people (SRT, VTT) are cleaned up so that any player
can show them.
"""

import itertools
import json
import math
import os
import re
import textwrap
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast, get_args

import numpy as np
from numpy.typing import NDArray

from mmx.errors import InputError, nearest
from mmx.files import atomic_write

FORMATS = ("txt", "srt", "vtt", "tsv", "json")

SCHEMA = 1  # version of the JSON; a reader refuses a newer one instead of misreading it

# What people can read in passing: two lines of 42 columns, seven seconds (the usual broadcast limits).
LINE_COLUMNS = 42
CUE_LINES = 2
CUE_MS = 7000
SLOWEST_COLUMNS_PER_S = 3  # slow speech has about 10; below this, the segment is mostly silence

Action = Literal["skipped", "retried", "dropped", "warning"]


@dataclass(frozen=True, slots=True)
class Word:
    """A word and when it was said; the text keeps its leading space: joined texts give the sentence."""

    text: str
    start_s: float
    end_s: float
    probability: float


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of speech, usually a sentence or a part of one, with the figures that its decoding left.

    `language` is a code ("de"); `avg_logprob` the mean natural log-probability of a token (<= 0);
    `no_speech_prob` a probability; `compression_ratio` bytes before / bytes after zlib (high is repetition);
    `temperature` the sampling temperature of the attempt that was kept; `source_text` what a translation translates,
    where it was kept.
    """

    start_s: float
    end_s: float
    text: str
    language: str
    tokens: tuple[int, ...] = ()
    avg_logprob: float = 0.0
    no_speech_prob: float = 0.0
    compression_ratio: float = 1.0
    temperature: float = 0.0
    words: tuple[Word, ...] = ()
    source_text: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Spoken:
    """A stretch of a translation said aloud: `samples` `(N,)` float32 at 16 kHz, from `start_s` of the recording on."""

    start_s: float
    samples: NDArray[np.float32]


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
    the written formats: see `mmx.dub`.
    """

    source: str
    segments: tuple[Segment, ...]
    language: str
    language_probability: float
    duration_s: float
    task: str
    model: str
    notes: tuple[Note, ...] = ()
    spoken: tuple[Spoken, ...] = ()

    @property
    def text(self) -> str:
        """All that was said, on one line of text, without space at its ends."""
        return _join(self.segments)

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
            "source": _encodable(self.source),
            "model": _encodable(self.model),
            "task": self.task,
            "language": self.language,
            "language_probability": _number(self.language_probability),
            "duration": _number(self.duration_s),
            "text": _encodable(self.text),
            "segments": [_segment_to_dict(i, segment) for i, segment in enumerate(self.segments)],
            "notes": [{**_span(note), "action": note.action, "reason": _encodable(note.reason)} for note in self.notes],
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
        """Return one line of text a segment."""
        lines = (_clean(segment.text).strip() for segment in self.segments)
        return "".join(f"{line}\n" for line in lines if line)

    def to_srt(self) -> str:
        """Return SubRip subtitles."""
        blocks = (
            f"{number}\n{_clock(cue.start_ms, ',')} --> {_clock(cue.end_ms, ',')}\n"
            + "".join(f"{line}\n" for line in cue.lines)
            + "\n"
            for number, cue in enumerate(_cues(self.segments), 1)
        )
        return "".join(blocks)

    def to_vtt(self) -> str:
        """Return WebVTT subtitles; the characters that the format uses itself are escaped."""
        blocks = (
            f"\n{_clock(cue.start_ms, '.')} --> {_clock(cue.end_ms, '.')}\n"
            + "".join(f"{_escape(line)}\n" for line in cue.lines)
            for cue in _cues(self.segments)
        )
        return "WEBVTT\n" + "".join(blocks)

    def to_tsv(self) -> str:
        """Return a table with header: start, end (integer milliseconds) and text, tabs between, unquoted."""
        rows = ["start\tend\ttext"]
        for start_ms, end_ms, text in _spoken(self.segments):
            rows.append(f"{start_ms}\t{end_ms}\t{_clean(text).strip()}")
        return "\n".join(rows) + "\n"

    def to_json(self) -> str:
        """Return `to_dict` as JSON on one line, with all characters written as themselves."""
        return json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False) + "\n"

    def write(
        self,
        folder: str | os.PathLike[str],
        formats: Sequence[str] = ("txt", "srt", "vtt", "tsv", "json"),
        stem: str | None = None,
    ) -> list[Path]:
        """Write the transcript into a folder, one file a format.

        Args:
            folder: Where to write; created when missing.
            formats: Some of `FORMATS`, or one of them as a string.
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


_WRITERS: dict[str, Callable[[Transcript], str]] = {
    "txt": Transcript.to_txt,
    "srt": Transcript.to_srt,
    "vtt": Transcript.to_vtt,
    "tsv": Transcript.to_tsv,
    "json": Transcript.to_json,
}


def check_format(name: str) -> str:
    """Return the format's name in the form that `FORMATS` has; ".SRT" is accepted.

    Raises:
        InputError: There is no such format.
    """
    plain = name.strip().lower().removeprefix(".")
    if plain not in FORMATS:
        raise InputError(f"Unknown format {name!r}.{nearest(plain, FORMATS)} Expected some of {', '.join(FORMATS)}.")
    return plain


def _listed(formats: Sequence[str]) -> Sequence[str]:
    """Take a lone string as a list ("srt" or "srt,vtt") instead of as its letters."""
    return formats.split(",") if isinstance(formats, str) else formats


def _file_stem(name: str, is_path: bool) -> str:
    """Return a file name without ending: that of a source path or address, or a name chosen by the caller."""
    plain = _encodable(name).replace("\0", "")
    plain = Path(plain).stem if is_path else Path(plain).name
    return plain or "transcript"


# --- JSON ------------------------------------------------------------------------------------------------


def _encodable(text: str) -> str:
    """Replace lone surrogates, which no UTF-8 file can hold, by U+FFFD; pairs become their character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _number(value: float) -> float | None:
    """Return None for NaN and infinity, which JSON does not know."""
    return value if math.isfinite(value) else None


def _span(item: Segment | Word | Note) -> dict[str, float | None]:
    return {"start": _number(item.start_s), "end": _number(item.end_s)}


def _segment_to_dict(index: int, segment: Segment) -> dict[str, Any]:
    return {
        "id": index,
        **_span(segment),
        "text": _encodable(segment.text),
        **({"source_text": _encodable(segment.source_text)} if segment.source_text else {}),
        "language": segment.language,
        "tokens": list(segment.tokens),
        "temperature": _number(segment.temperature),
        "avg_logprob": _number(segment.avg_logprob),
        "compression_ratio": _number(segment.compression_ratio),
        "no_speech_prob": _number(segment.no_speech_prob),
        "words": [
            {"word": _encodable(word.text), **_span(word), "probability": _number(word.probability)}
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


# --- text ------------------------------------------------------------------------------------------------

# Languages written without spaces between words (Khmer and Tibetan too, which Whisper splits at spaces).
_UNSPACED = frozenset({"zh", "ja", "th", "lo", "my", "yue", "km", "bo"})

# White space and control characters, but not the spaces whose point is that no line breaks there.
_BREAKING_SPACE = re.compile("(?:(?![\u00a0\u2007\u202f])[\\s\x00-\x1f\x7f-\x9f])+")

_SENTENCE_ENDS = ".?!…。？！؟۔।॥"
_CLAUSE_ENDS = ",;:—–،؛、，；："
_CLOSERS = "\"'”’»)]}）］」』】〉》"
_OPENERS = "([{（［「『【〈《“‘«¿¡"
# Thai and Lao vowels that are written before the consonant they belong to.
_LEADING_VOWELS = "เแโใไເແໂໃໄ"


def _clean(text: str) -> str:
    """Make the text fit one line: line ends, tabs and control characters become a space, runs of them one."""
    return _BREAKING_SPACE.sub(" ", _encodable(text))


def _join(segments: Iterable[Segment]) -> str:
    """Join the texts; a space is put between two that bring none, except in languages that use none."""
    joined, unspaced = "", False
    for segment in segments:
        bare = joined and segment.text and not joined[-1].isspace() and not segment.text[0].isspace()
        unspaced_before, unspaced = unspaced, segment.language in _UNSPACED
        joined += (" " if bare and not (unspaced_before and unspaced) else "") + segment.text
    return joined.strip()


def _escape(line: str) -> str:
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _columns(text: str) -> int:
    """Return how many columns the text takes: 2 for a wide character (CJK, emoji), 0 for a mark, else 1."""
    return sum(_columns_of(char) for char in text)


def _columns_of(char: str) -> int:
    if char.isascii():
        return 1
    if _is_mark(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _is_mark(char: str) -> bool:
    """Tell whether the character belongs to the one before it (accents, joiners, skin tones)."""
    return unicodedata.category(char) in ("Mn", "Me", "Mc", "Cf") or "\U0001f3fb" <= char <= "\U0001f3ff"


def _may_break(before: str, after: str, unspaced: bool) -> bool:
    """Tell whether a line may end between two characters that have no space between them.

    Wide characters may be parted, except Hangul: Korean has spaces. Marks stay with their character, closing
    punctuation with what it closes, opening punctuation with what it opens.
    """
    if _is_mark(after) or before == "\u200d" or before in _OPENERS or before in _LEADING_VOWELS:
        return False
    if after in _CLOSERS + _SENTENCE_ENDS + _CLAUSE_ENDS:
        return False
    return unspaced or any(
        _columns_of(char) == 2 and not unicodedata.name(char, "").startswith("HANGUL") for char in (before, after)
    )


# --- cues ------------------------------------------------------------------------------------------------


class _Atom(NamedTuple):
    """The smallest piece that a line may hold: a word with its punctuation, or a character of Chinese."""

    text: str
    gap: int  # 1 when a space comes before it, else 0
    columns: int  # without that space
    start_ms: int
    end_ms: int


class _Cue(NamedTuple):
    start_ms: int
    end_ms: int
    lines: list[str]


def _clock(time_ms: int, point: str) -> str:
    """Return hours:minutes:seconds and milliseconds after `point`; hours take the digits they need."""
    seconds, ms = divmod(time_ms, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}{point}{ms:03d}"


def _spoken(items: Iterable[Segment | Word], from_ms: int = 0) -> Iterator[tuple[int, int, str]]:
    """Yield start and end (ms) and text; never negative, the end after the start.

    A time that is no number is replaced by the end of the item before it, or by `from_ms`.
    """
    for item in items:
        start_ms = max(0, round(item.start_s * 1000)) if math.isfinite(item.start_s) else from_ms
        end_ms = round(item.end_s * 1000) if math.isfinite(item.end_s) else start_ms
        from_ms = max(end_ms, start_ms + 1)
        yield start_ms, from_ms, item.text


def _cues(segments: Sequence[Segment]) -> list[_Cue]:
    """Cut the segments into cues of at most `CUE_LINES` lines of `LINE_COLUMNS` columns and `CUE_MS`.

    The limits on lines give way only to a single word that is too wide, since a word is never cut.
    """
    drafts: list[_Cue] = []
    for segment, whole in zip(segments, _spoken(segments), strict=True):
        if segment.source_text:
            drafts.append(_bilingual(segment, *whole[:2]))
            continue
        words = list(_spoken(segment.words, whole[0]))
        timed = any(_clean(text).strip() for _, _, text in words)
        atoms = _atoms(words if timed else [_at_pace(*whole)], segment.language in _UNSPACED, timed)
        drafts += [_Cue(part[0].start_ms, part[-1].end_ms, _wrap(part)) for part in _pack(atoms)]
    return _in_order(drafts)


def _bilingual(segment: Segment, start_ms: int, end_ms: int) -> _Cue:
    """One cue for a translated segment, however long: what was said above, its translation below."""
    lines: list[str] = []
    for text in (segment.source_text, segment.text):
        clean = _clean(text).strip().replace("-->", "→")
        lines += textwrap.wrap(clean, LINE_COLUMNS, break_long_words=False, break_on_hyphens=False) if clean else []
    return _Cue(start_ms, end_ms, lines)


def _at_pace(start_ms: int, end_ms: int, text: str) -> tuple[int, int, str]:
    """Bring the end (ms) nearer when nobody speaks that slowly: two words in 30 s are not five cues."""
    longest_ms = max(CUE_MS, _columns(text) * 1000 // SLOWEST_COLUMNS_PER_S)
    return start_ms, min(end_ms, start_ms + longest_ms), text.strip()


def _atoms(spans: Sequence[tuple[int, int, str]], unspaced: bool, timed: bool) -> list[_Atom]:
    """Cut timed texts (ms) where a line may break, and join what belongs together (a word and its comma).

    `timed` says that the spans are words: those of an unspaced script are then parted only when too wide
    for a line, since their ends are better places to break than any place inside.
    """
    atoms: list[_Atom] = []
    gap = 0
    for span_start, span_end, text in spans:
        fine = not timed or _columns(text) > LINE_COLUMNS
        for start_ms, end_ms, piece in _shares(span_start, span_end, _split(_clean(text), unspaced, fine)):
            body = piece.strip(" ")
            if not body:
                gap = 1
                continue
            gap = 1 if piece.startswith(" ") else gap
            if atoms and not gap and not _may_break(atoms[-1].text[-1], body[0], unspaced):
                last = atoms.pop()
                body, start_ms, gap = last.text + body, last.start_ms, last.gap
            atoms.append(_Atom(body, gap, _columns(body), start_ms, end_ms))
            gap = 1 if piece.endswith(" ") else 0
    return atoms


def _split(text: str, unspaced: bool, fine: bool) -> list[str]:
    """Split before spaces; `fine` also parts the characters of unspaced scripts."""
    pieces: list[str] = re.findall(r" ?[^ ]+| $", text)
    if not fine:
        return pieces
    parts: list[str] = []
    for piece in pieces:
        cut = 0
        for i in range(1, len(piece)):
            if piece[i - 1] != " " and _may_break(piece[i - 1], piece[i], unspaced):
                parts.append(piece[cut:i])
                cut = i
        parts.append(piece[cut:])
    return parts


def _shares(start_ms: int, end_ms: int, pieces: Sequence[str]) -> Iterator[tuple[int, int, str]]:
    """Give each piece its share of the time, by its number of characters."""
    total = sum(len(piece) for piece in pieces)
    done = 0
    for piece in pieces:
        begin = start_ms + (end_ms - start_ms) * done // total
        done += len(piece)
        yield begin, start_ms + (end_ms - start_ms) * done // total, piece


def _pack(atoms: Sequence[_Atom]) -> Iterator[Sequence[_Atom]]:
    """Part the atoms into cues: few, of like size, ending where a reader would pause (least cost)."""
    n = len(atoms)
    cost = [0.0] + [math.inf] * n  # of the best partition of the first i atoms
    previous = [0] * (n + 1)
    for first in range(n):
        for end, columns in _reach(atoms, first):
            # Squares prefer two cues of like size to a full one and a rest of one word.
            size = 0.5 * (columns / (LINE_COLUMNS * CUE_LINES)) ** 2
            total = cost[first] + 1.0 + size + _break_cost(atoms, end)
            if total < cost[end]:
                cost[end], previous[end] = total, first
    cuts = [n]
    while cuts[-1]:
        cuts.append(previous[cuts[-1]])
    cuts.reverse()
    for first, end in itertools.pairwise(cuts):
        yield atoms[first:end]


def _reach(atoms: Sequence[_Atom], first: int) -> Iterator[tuple[int, int]]:
    """Yield each end (exclusive) that a cue from `first` may have, and its columns."""
    lines, column, columns = 1, 0, 0
    for i in range(first, len(atoms)):
        atom = atoms[i]
        step = atom.columns + (atom.gap if column else 0)
        columns += step
        if column and column + step > LINE_COLUMNS:
            lines, column = lines + 1, atom.columns
        else:
            column += step
        if i > first and (lines > CUE_LINES or atom.end_ms - atoms[first].start_ms > CUE_MS):
            return
        yield i + 1, columns


def _break_cost(atoms: Sequence[_Atom], end: int) -> float:
    """Return how bad a new cue or line before atom `end` is: 0 (good) to 1.2 (in the middle of a phrase)."""
    if end == len(atoms):
        return 0.0
    last = atoms[end - 1].text.rstrip(_CLOSERS)[-1:]
    if last and last in _SENTENCE_ENDS:
        return 0.0
    if last and last in _CLAUSE_ENDS:
        return 0.4
    pause_ms = atoms[end].start_ms - atoms[end - 1].end_ms
    return 0.6 if pause_ms >= 300 else 1.2


def _wrap(atoms: Sequence[_Atom]) -> list[str]:
    """Break a cue's atoms into lines: one if it fits, else two of like length, best after punctuation."""
    if len(atoms) == 1 or _line_columns(atoms) <= LINE_COLUMNS:
        return [_line(atoms)]

    def cost(cut: int) -> float:
        above, below = _line_columns(atoms[:cut]), _line_columns(atoms[cut:])
        excess = max(0, above - LINE_COLUMNS) + max(0, below - LINE_COLUMNS)
        return 1000 * excess + abs(above - below) / LINE_COLUMNS + _break_cost(atoms, cut)

    cut = min(range(1, len(atoms)), key=cost)
    return [_line(atoms[:cut]), _line(atoms[cut:])]


def _line_columns(atoms: Sequence[_Atom]) -> int:
    return sum(atom.gap + atom.columns for atom in atoms) - atoms[0].gap


def _line(atoms: Sequence[_Atom]) -> str:
    """Join atoms to a line; the arrow of SRT's and VTT's time lines is replaced by another."""
    text = "".join(" " * atom.gap + atom.text for atom in atoms).strip(" ")
    return text.replace("-->", "→")


def _in_order(drafts: Sequence[_Cue]) -> list[_Cue]:
    """Repair times: each cue starts after the start of the one before and ends by the start of the next.

    Word times come from attention and overlap or run backwards at times. Starts are kept where possible,
    since a cue that comes late is worse than one that goes early. None is shown longer than `CUE_MS`.
    """
    starts: list[int] = []
    for cue in drafts:
        starts.append(max(cue.start_ms, starts[-1] + 1) if starts else cue.start_ms)
    nexts = [*starts, math.inf][1:]
    return [
        _Cue(start, max(start + 1, int(min(cue.end_ms, after, start + CUE_MS))), cue.lines)
        for cue, start, after in zip(drafts, starts, nexts, strict=True)
    ]
