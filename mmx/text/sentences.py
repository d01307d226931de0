"""Sentences of a text, for translators that read one at a time. No character is ever lost.

A sentence ends at a stop, with the quotes and brackets that close after it, or at a line break. A full stop does not
end one after an abbreviation, an initial or a number that goes on; the stops of scripts that have no capitals end one
always.
"""

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

# Stops that mean nothing else. Those of CJK need no space after them.
_WIDE = "。！？｡．"
_SURE = "।॥؟۔։።፧።၊။។៕༎⸮"
STOPS = f".!?…‼⁇⁈⁉{_WIDE}{_SURE}"
"""Marks that end a sentence, in all scripts."""
CLOSERS = "\"'”’»›)]}］｝」』）】〉》〕＂＇"
"""Marks that close after the stop: quotes and brackets."""
_END = re.compile(rf"[{re.escape(STOPS)}]+[{re.escape(CLOSERS)}]*")
_OPENERS = "\"'“‘«‹([{¿¡„‚「『（—–-"

# Abbreviations, in lower case and without the last full stop; those of the first kind stand before a name.
_BEFORE_NAMES = """
    mr mrs ms dr prof rev hon st sr jr gen col capt lt sgt gov sen rep pres messrs mme mlle m mm hr fr frau dipl ing
    sra srta d dª dr dra sig sigg dott avv prof.ssa s.e mt pvt cmdr vs
"""
_MIDDLE = """
    e.g i.e cf approx no nos vol fig figs pp p ch sec art al ca z.b d.h u.a z.t bzw usw ggf evtl vgl nr s bd
    p.ex p.ej pág págs núm tel av avda ed eds c.-à-d env r. g. т.е т.д т.п г гг стр см им ул
    jan feb mar apr jun jul aug sep sept oct nov dec mon tue tues wed thu thur thurs fri sat
"""
TITLES = frozenset(_BEFORE_NAMES.split())
"""Abbreviations that stand before a name, in lower case and without the last full stop."""
_ABBREVIATIONS = TITLES | frozenset(_MIDDLE.split())

# After these a new sentence may begin all the same: "at 5 p.m. He left."
_MAY_END = re.compile(r"(?:[ap]\.m|etc|inc|ltd|co|corp|u\.s|u\.k|u\.s\.a|jr|sr|usw)", re.IGNORECASE)


class Sentence(NamedTuple):
    """A sentence and the white space after it; the first of a text may be empty and hold what comes before."""

    text: str
    gap: str


def split_sentences(text: str) -> list[Sentence]:
    """The sentences of a text in order; joined with their gaps they are the text, to the character."""
    out: list[Sentence] = []
    lead = re.match(r"\s+", text)
    if lead:
        out.append(Sentence("", lead[0]))
    start = lead.end() if lead else 0
    for end in [*_ends(text, start), len(text.rstrip())]:
        gap = re.compile(r"\s*").match(text, end)
        assert gap is not None
        if end > start:
            out.append(Sentence(text[start:end], gap[0]))
            start = gap.end()
    return out


def _ends(text: str, start: int) -> Iterator[int]:
    """Where sentences end, ascending: after their closing marks, before white space."""
    stops = {m.end(): m for m in _END.finditer(text, start)}
    breaks = {m.start() for m in re.finditer(r"[ \t\f\v]*[\r\n\u2028\u2029]\s*", text)}
    for end in sorted(stops.keys() | breaks):
        if end in breaks or _is_end(text, stops[end]):
            yield end


def _is_end(text: str, stop: re.Match[str]) -> bool:
    """Whether a run of stops and closing marks ends a sentence."""
    after = text[stop.end() :]
    mark = stop[0].rstrip(CLOSERS)
    if not after.strip():
        return True
    if mark[-1] in _WIDE or mark[-1] in _SURE:
        return True
    if not after[0].isspace():
        return False
    first = after.lstrip().lstrip(_OPENERS)[:1]
    if first.islower():  # "he asked." he said; "Yahoo! is", "wait... what"
        return False
    if mark != ".":
        return True
    return not _goes_on(text[: stop.start()], first)


def _goes_on(before: str, first: str) -> bool:
    """Whether a single full stop belongs to the word before it."""
    word = re.split(r"[\s(\[\"'“‘«„]", before[-40:])[-1]
    if re.fullmatch(r"[^\W\d_]", word):  # an initial, "J. S. Bach"; the pronoun I ends sentences too
        return word != "I"
    if word.casefold() in _ABBREVIATIONS:
        # "No. 5", "Fig. 2"; but "No. It is" is an answer
        return first.isdigit() if word.casefold() in {"no", "nos", "art", "mar", "sat", "jan", "sec"} else True
    if re.fullmatch(r"(?:[^\W\d_]\.)+[^\W\d_]", word):  # U.S., e.g.
        return not _MAY_END.fullmatch(word)
    return bool(re.fullmatch(r"\d{1,2}", word)) and not re.search(r"\d[\s.]+\d{1,2}$", before) and _is_ordinal(before)


def _is_ordinal(before: str) -> bool:
    """A number alone at the start of a line ("1. First") or after an article, as in "am 3. Oktober"."""
    line = re.split(r"[\r\n]", before)[-1]
    if re.fullmatch(r"\s*\d{1,2}", line):
        return True
    return bool(re.search(r"\b(?:der|die|das|den|dem|des|am|vom|zum|im|den|det|dne|ve|af)\s+\d{1,2}$", line, re.I))


# -------------------- sentences that are too long

_CLAUSES = "[,;:،؛、，；：—–၊፣፤,]"


def split_long(text: str, fits: Callable[[str], bool]) -> list[Sentence]:
    """Parts of a sentence that all fit, cut near the middle: at a clause, else at a space, else between characters.

    Args:
        text: without white space at its ends.
        fits: whether a part is short enough; a single character always counts as such.
    """
    if len(text) < 2 or fits(text):
        return [Sentence(text, "")]
    at = _cut(text)
    left, right = text[:at], text[at:]
    body, rest = left.rstrip(), right.lstrip()
    gap = left[len(body) :] + right[: len(right) - len(rest)]
    first, last = split_long(body, fits), split_long(rest, fits)
    return [*first[:-1], Sentence(first[-1].text, gap), *last]


def clause_ends(text: str) -> list[int]:
    """Where clauses end: the places after their marks (comma, semicolon, colon, dash), in any script."""
    return [m.end() for m in re.finditer(rf"{_CLAUSES}(?=\s|[^\x00-\u02ff])", text)]


def _cut(text: str) -> int:
    """The best place to cut: the clause nearest to the middle if it leaves a fifth on both sides, else a space."""
    middle, edge = len(text) / 2, len(text) / 5
    spaces = [m.end() for m in re.finditer(r"\s+", text)]
    for ends, margin in ((clause_ends(text), edge), (spaces, 1)):
        places = [end for end in ends if margin <= end <= len(text) - margin]
        if places:
            return min(places, key=lambda p: abs(p - middle))
    at = int(middle)
    while at > 1 and _joins(text[at]):  # never before a combining mark
        at -= 1
    return at


def _joins(char: str) -> bool:
    import unicodedata

    return unicodedata.combining(char) > 0 or char in "\u200c\u200d\ufe0f" or unicodedata.category(char) in ("Mc", "Mn")
