"""Transcripts as people read them on a screen: text made clean, cut into cues and lines.

Times are integer milliseconds here. Letters of all scripts count by their columns on the screen.
"""

from __future__ import annotations

import itertools
import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from mmx.tasks.words import Segment, Word
from mmx.text.languages import has_spaces, is_spaced
from mmx.text.sentences import CLOSERS, STOPS, TITLES

# What people can read in passing: two lines of 42 columns, seven seconds (the usual broadcast limits).
LINE_COLUMNS = 42
CUE_LINES = 2
CUE_MS = 7000
LEAST_MS = 833  # five sixths of a second, in which a word or two can be read
PAUSE_MS = 2000  # no cue goes on over a silence as long, which would show words that nobody says yet
BREATH_MS = 500  # between two segments; longer, and they do not share a cue
SLOWEST_COLUMNS_PER_S = 3  # slow speech has about 10; below this, the segment is mostly silence


def encodable(text: str) -> str:
    """Replace lone surrogates, which no UTF-8 file can hold, by U+FFFD; pairs become their character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


# --- text ------------------------------------------------------------------------------------------------

# White space and control characters, but not the spaces whose point is that no line breaks there.
_BREAKING_SPACE = re.compile("(?:(?![\u00a0\u2007\u202f])[\\s\x00-\x1f\x7f-\x9f])+")

_CLAUSE_ENDS = ",;:—–،؛、，；："
_OPENERS = "([{（［「『【〈《“‘«¿¡"
# Thai and Lao vowels that are written before the consonant they belong to.
_LEADING_VOWELS = "เแโใไເແໂໃໄ"


def clean(text: str) -> str:
    """Make the text fit one line: line ends, tabs and control characters become a space, runs of them one."""
    return _BREAKING_SPACE.sub(" ", encodable(text))


def join(segments: Iterable[Segment]) -> str:
    """Join the texts; a space is put between two that bring none, except in languages that use none."""
    joined, unspaced = "", False
    for segment in segments:
        bare = joined and segment.text and not joined[-1].isspace() and not segment.text[0].isspace()
        unspaced_before, unspaced = unspaced, not is_spaced(segment.language)
        joined += (" " if bare and not (unspaced_before and unspaced) else "") + segment.text
    return joined.strip()


def escape(line: str) -> str:
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
    if after in CLOSERS + STOPS + _CLAUSE_ENDS:
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


def clock(time_ms: int, point: str) -> str:
    """Return hours:minutes:seconds and milliseconds after `point`; hours take the digits they need."""
    seconds, ms = divmod(time_ms, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}{point}{ms:03d}"


def valid_spans(items: Iterable[Segment | Word], from_ms: int = 0) -> Iterator[tuple[int, int, str]]:
    """Yield start and end (ms) and text; never negative, the end after the start.

    A time that is no number is replaced by the end of the item before it, or by `from_ms`.
    """
    for item in items:
        start_ms = max(0, round(item.start_s * 1000)) if math.isfinite(item.start_s) else from_ms
        end_ms = round(item.end_s * 1000) if math.isfinite(item.end_s) else start_ms
        from_ms = max(end_ms, start_ms + 1)
        yield start_ms, from_ms, item.text


def cues(segments: Sequence[Segment]) -> list[_Cue]:
    """Cut the segments into cues of at most `CUE_LINES` lines of `LINE_COLUMNS` columns and `CUE_MS`.

    The limits on lines give way only to a single word that is too wide, since a word is never cut.
    """
    drafts: list[_Cue] = []
    run: list[_Atom] = []  # one segment's, or those of neighbours of which one is a bit of the other's sentence
    run_unspaced = False
    for segment, whole in zip(segments, valid_spans(segments), strict=True):
        if segment.source_text:
            drafts += [*_packed(run), *_bilingual(segment, *whole[:2])]
            run = []
            continue
        words = list(valid_spans(segment.words, whole[0]))
        timed = any(clean(text).strip() for _, _, text in words)
        unspaced = not is_spaced(segment.language)
        atoms = _atoms(words if timed else [_at_pace(*whole)], unspaced, timed)
        if run and atoms and not (unspaced == run_unspaced and _goes_on(run, atoms)):
            drafts += _packed(run)
            run = []
        run_unspaced = unspaced
        run += _spaced(atoms) if run and not unspaced else atoms
    return _in_order(_joined([*drafts, *_packed(run)]))


def _packed(atoms: Sequence[_Atom]) -> list[_Cue]:
    return [_Cue(part[0].start_ms, part[-1].end_ms, _wrap(part)) for part in _pack(atoms)]


def _goes_on(run: Sequence[_Atom], atoms: Sequence[_Atom]) -> bool:
    """Tell whether a segment goes on with the sentence before it, without a breath between, and one of them is a bit.

    Recognisers part sentences where they like; "he was." is no cue of its own after "more respectable than".
    """
    last = run[-1]
    is_bit = min(_line_columns(run), _line_columns(atoms)) <= LINE_COLUMNS // 2
    return is_bit and not _ends_sentence(last.text) and abs(atoms[0].start_ms - last.end_ms) <= BREATH_MS


def _spaced(atoms: Sequence[_Atom]) -> Sequence[_Atom]:
    """The atoms with a space before them, where the segment brought none."""
    if not atoms or atoms[0].text[0] in CLOSERS + STOPS + _CLAUSE_ENDS:
        return atoms
    return [atoms[0]._replace(gap=1), *atoms[1:]]


def _joined(drafts: Sequence[_Cue]) -> list[_Cue]:
    """Put cues that are too brief to be read, with no room for more time, above or below a neighbour's line."""
    out: list[_Cue] = []
    for cue, after in itertools.zip_longest(drafts, drafts[1:]):
        if out and (_is_brief(out[-1], cue) or _is_brief(cue, after)) and _share(out[-1], cue):
            last = out.pop()
            cue = _Cue(last.start_ms, max(last.end_ms, cue.end_ms), [*last.lines, *cue.lines])
        out.append(cue)
    return out


def _is_brief(cue: _Cue, after: _Cue | None) -> bool:
    """Tell whether a cue would be shown for less than `LEAST_MS` before the next."""
    return after is not None and max(0, after.start_ms - cue.start_ms) < LEAST_MS


def _share(first: _Cue, second: _Cue) -> bool:
    """Tell whether two neighbours may be one cue."""
    return (
        len(first.lines) + len(second.lines) <= CUE_LINES
        and second.start_ms - first.end_ms <= BREATH_MS
        and max(first.end_ms, second.end_ms) - first.start_ms <= CUE_MS
    )


def _bilingual(segment: Segment, start_ms: int, end_ms: int) -> Iterator[_Cue]:
    """Cues of a translated segment: what was said above, its translation below, each of at most `CUE_LINES` lines.

    Both texts are cut at about the same shares of their length, since no alignment of their words is known.
    """
    both = (segment.source_text, has_spaces(segment.source_text)), (segment.text, is_spaced(segment.language))
    texts = [_atoms([(start_ms, end_ms, t.strip())], not spaced, False) for t, spaced in both]
    pairs: list[tuple[Sequence[_Atom], ...]] = []
    for n in range(1, max(*map(len, texts), 1) + 1):
        pairs = list(zip(*(_parts(atoms, n) for atoms in texts), strict=True))
        if all(_fits(part) for pair in pairs for part in pair):
            break
    duration_ms = end_ms - start_ms
    begins = [p[0][0].start_ms if p[0] else start_ms + duration_ms * k // len(pairs) for k, p in enumerate(pairs)]
    for begin_ms, stop_ms, pair in zip(begins, [*begins[1:], end_ms], pairs, strict=True):
        yield _Cue(begin_ms, stop_ms, [line for part in pair if part for line in _wrap(part)])


def _parts(atoms: Sequence[_Atom], n: int) -> list[Sequence[_Atom]]:
    """Cut into `n` parts of like size, best after punctuation; some are empty where there are fewer atoms."""
    ends = list(itertools.accumulate(atom.gap + atom.columns for atom in atoms))
    cuts = [0]
    for k in range(1, n):
        if len(atoms) < n:
            cuts.append(len(atoms) * k // n)
            continue
        wanted, size = ends[-1] * k / n, ends[-1] / n
        # A break in the middle of a phrase is as bad as a cut that misses its place by a quarter of a part.
        choices = range(cuts[-1] + 1, len(atoms) - (n - k) + 1)
        cuts.append(min(choices, key=lambda c: abs(ends[c - 1] - wanted) / size + 0.2 * _break_cost(atoms, c)))
    return [atoms[first:end] for first, end in itertools.pairwise([*cuts, len(atoms)])]


def _fits(atoms: Sequence[_Atom]) -> bool:
    """Tell whether lines hold the atoms; a single word is never cut, however wide."""
    return len(atoms) < 2 or all(_columns(line) <= LINE_COLUMNS for line in _wrap(atoms))


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
        for start_ms, end_ms, piece in _shares(span_start, span_end, _split(clean(text), unspaced, fine)):
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
        if i > first and atom.start_ms - atoms[i - 1].end_ms > PAUSE_MS:
            return
        yield i + 1, columns


def _break_cost(atoms: Sequence[_Atom], end: int) -> float:
    """Return how bad a new cue or line before atom `end` is: 0 (good), 1.2 (inside a phrase), 1.8 (inside a name)."""
    if end == len(atoms):
        return 0.0
    if _ends_sentence(atoms[end - 1].text):
        return 0.0
    if atoms[end - 1].text.rstrip(CLOSERS).endswith(tuple(_CLAUSE_ENDS)):
        return 0.4
    pause_ms = atoms[end].start_ms - atoms[end - 1].end_ms
    if pause_ms >= 300:  # after which "Main St." did end the sentence
        return 0.6
    return 1.8 if _is_abbreviation(atoms[end - 1].text) else 1.2


def _ends_sentence(word: str) -> bool:
    """Tell whether a word with its punctuation ends a sentence."""
    return word.rstrip(CLOSERS).endswith(tuple(STOPS)) and not _is_abbreviation(word)


def _is_abbreviation(word: str) -> bool:
    """Tell whether a word with its punctuation is one such as "Mr." or an initial."""
    word = word.strip(_OPENERS + CLOSERS)
    return word.endswith(".") and (word[:-1].casefold() in TITLES or (len(word) == 2 and word[0].isupper()))


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
    since a cue that comes late is worse than one that goes early. None is shown longer than `CUE_MS`, nor, where there
    is room after it or else before it, for less than `LEAST_MS`.
    """
    starts: list[int] = []
    for cue in drafts:
        starts.append(max(cue.start_ms, starts[-1] + 1) if starts else cue.start_ms)
    out: list[_Cue] = []
    for cue, start_ms, after_ms in zip(drafts, starts, [*starts, math.inf][1:], strict=True):
        wanted_ms = min(max(cue.end_ms, start_ms + LEAST_MS), start_ms + CUE_MS)
        end_ms = max(start_ms + 1, int(min(wanted_ms, after_ms)))
        free_ms = out[-1].end_ms if out else 0
        out.append(_Cue(min(start_ms, max(free_ms, end_ms - LEAST_MS)), end_ms, cue.lines))
    return out
