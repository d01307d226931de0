"""A text as it is spoken: numbers, dates, times, money, units, abbreviations and symbols in words.

The rules are the same for English, Spanish, French, Italian and Portuguese; their words are in `spoken_words.toml`,
those of numbers in num2words (LGPL, extra `voices`). In other languages only digits are written out. What no voice can
speak is left out, with a warning.
"""

import re
import tomllib
import unicodedata
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from mmx.errors import InputError, MmxWarning
from mmx.extras import import_extra
from mmx.text.languages import Language, find_language, script_of

_NUMBERS = {"pt": "pt_BR"}
"""num2words' names of languages where they are others than tags."""
_BEFORE_NUMBERS = frozenset(("no.", "nos.", "fig.", "p.", "pp.", "ch.", "vol.", "n.", "pag.", "pág.", "págs.", "núm."))
_FRACTION = r"(?:[½⅓⅔¼¾]|(?<![\d/])[1-3]/[2-4]\b(?!/))"
_PARTS = (5, 6, 7, 8, 9, 10, 12, 16, 20, 32, 64, 100)
"""What people divide by."""
_POINTED = ("en", "ja", "zh")
"""Languages that write a point before decimals."""
_ROMAN = {"I": 1, "V": 5, "X": 10}
_NUMERAL = "(?:X{1,3}(?:IX|IV|VI{0,3}|I{1,3})|X{2,3}|IX|IV|VI{0,3}|I{2,3})"
"""Up to 39, but for I and X, which are words and names as well."""
_LONGEST = 15
"""Digits past which a number is read digit by digit."""


class Spoken(NamedTuple):
    """A word as it is written, or several that are read together, and what is spoken for it; nothing for an emoji."""

    written: str
    said: str


def spoken(text: str, language: str) -> list[Spoken]:
    """The words of a text as they are spoken in a language, in order; joined by spaces, they are the text.

    Raises:
        InputError: most letters are of a script that the language is not written in.
    """
    known = find_language(language)
    text = " ".join(text.split())
    check_script(text, known)
    words, pending, left_out = [], None, dict[str, None]()
    for written, said, joins in _segments(text, known.tag):
        clean, dropped = _speakable(said, known)
        left_out |= dict.fromkeys(map(_named, dropped))
        if joins and pending is not None:
            pending = Spoken(pending.written + written, pending.said + clean)
        else:
            words += [pending] if pending is not None else []
            pending = Spoken(written, clean)
    words += [pending] if pending is not None else []
    if left_out:
        warnings.warn(f"left out what {known} has no words for: {', '.join(left_out)}", MmxWarning, 2)
    plain = (Spoken(w.written, " ".join(w.said.split())) for w in words)
    return [w if any(c.isalnum() for c in w.said) else Spoken(w.written, _only_marks(w.said)) for w in plain]


def _only_marks(said: str) -> str:
    """Of what has no letters, a mark that is a pause; nothing of the rest."""
    return "".join(c for c in said if c in ".,;:!?…—–-")[:1].replace("-", "—").replace("–", "—")


# -------------------- what can be spoken


def check_script(text: str, language: Language) -> None:
    """Raise `InputError` where most letters of a text are of another script than its language's; it is named."""
    scripts = [s for s in map(script_of, text) if s]
    foreign = [c for c in text if script_of(c) and not _reads(language, c)]
    if len(foreign) * 2 > len(scripts):
        raise InputError(
            f"expected a text in {language}, got {_script(foreign[0])} letters ({''.join(foreign[:12])}): "
            "say the language of the text with --language, as in --language es"
        )


def _reads(language: Language, char: str) -> bool:
    kana = {"Jpan": {"Hani", "Kana"}, "Hans": {"Hani"}, "Hant": {"Hani"}}
    return script_of(char) in kana.get(language.script, {language.script})


def _script(letter: str) -> str:
    """The name of a letter's script, for people."""
    name = unicodedata.name(letter, "unknown").partition(" ")[0]
    return {"CJK": "Chinese"}.get(name, name.capitalize())


def _named(part: str) -> str:
    """What is left out, with the name of its script if it is of letters."""
    return f"{part} ({_script(part[0])})" if part[0].isalpha() else part


def _speakable(said: str, language: Language) -> tuple[str, list[str]]:
    """What of a word can be spoken, and the parts that cannot: letters of other scripts and pictures."""
    kept: list[str] = []
    dropped: list[str] = []
    at = -2  # of the last that was dropped
    plain = (c if c == "…" else unicodedata.normalize("NFKC", c) for c in unicodedata.normalize("NFC", said))
    for i, c in enumerate("".join(plain)):
        kind = unicodedata.category(c)
        if kind in ("So", "Co", "Cn") or (kind[0] == "L" and not _reads(language, c)):
            same = i == at + 1 and (dropped[-1][0].isalpha(), c.isalpha()) != (True, False)
            dropped = [*dropped[:-1], dropped[-1] + c] if same and c.isalpha() else [*dropped, c]
            at = i
        elif c in "*_~|^\\#<>{}=":
            kept.append(" ")
        elif kind[0] not in "C" and kind not in ("Sk", "Me") and c not in "\ufe0f\u20e3`":
            kept.append(c)
    return "".join(kept), dropped


# -------------------- rules

Rule = tuple[re.Pattern[str], Callable[[re.Match[str]], str]]
"""What is written, and what is said for it; an empty text leaves it as it is."""


def _segments(text: str, tag: str) -> list[tuple[str, str, bool]]:
    """The words of a text: written, said, and whether a word goes on without a space from the one before."""
    out: list[tuple[str, str, bool]] = []
    at = 0

    def plain(end: int) -> None:
        for m in re.finditer(r"\S+", text[at:end]):
            joins = m.start() == 0 and at > 0 and text[at - 1] != " "
            out.append((m[0], m[0], joins))

    for start, end, said in _found(text, tag):
        plain(start)
        out.append((text[start:end], said, start > 0 and text[start - 1] != " "))
        at = end
    plain(len(text))
    return out


def _found(text: str, tag: str) -> list[tuple[int, int, str]]:
    """Where rules apply, from left to right; of two that overlap, the one that comes first in the list of rules."""
    taken: list[tuple[int, int, str]] = []
    for pattern, say in _rules(tag):
        for m in pattern.finditer(text):
            if m.end() > m.start() and all(m.end() <= a or m.start() >= b for a, b, _ in taken) and (said := say(m)):
                taken.append((m.start(), m.end(), said))
    return sorted(taken)


@cache
def _tables() -> Mapping[str, Mapping[str, Any]]:
    return tomllib.loads(Path(__file__).with_name("spoken_words.toml").read_text("utf-8"))


@cache
def _rules(tag: str) -> tuple[Rule, ...]:
    if tag in _tables():
        return _Words(tag, _tables()[tag]).rules()
    words = _Words(tag, {"decimal": "点"} if tag in _POINTED else {})
    year: Rule = (re.compile(r"(?<!\d)\d{4}(?=年)" if tag == "zh" else r"(?!)"), lambda m: words._digits(m[0]))
    return year, (re.compile(r"\d+(?:[.,]\d+)*"), lambda m: words.number(m[0]))


class _Words:
    """The rules of a language."""

    def __init__(self, tag: str, table: Mapping[str, Any]):
        self.tag, self.t = tag, table
        point, group = (
            (".", ",") if tag in _POINTED else (",", r"[. \u00a0\u202f]" if tag == "fr" else r"[.\u00a0\u202f]")
        )
        self.point, self.group = point, re.compile(group)
        self.num = rf"\d{{1,3}}(?:{group}\d{{3}})+(?:{re.escape(point)}\d+)?|\d+(?:{re.escape(point)}\d+)?"

    def rules(self) -> tuple[Rule, ...]:
        """In order: what is more specific comes first."""
        t, n = self.t, f"(?:{self.num})"
        en, never = self.tag == "en", r"(?!)"
        months, money = "|".join(t["months"]), _alternatives(t["money"])
        brief = "|".join(_beginnings(t["months"]))
        day, year = r"(\d{1,2})(?:st|nd|rd|th|er|º|°)?", r"(?:,? (?:de )?(\d{4})(?!\w))?"
        ends = r"\.?(?!\w)" if en else r"\."
        scales = rf"(?:\s?({_alternatives(t['scales'])})\b)?"
        made: list[tuple[str, Callable[[re.Match[str]], str]]] = [
            (r"(?:https?://)?[\w.+-]+(?:@[\w-]+|\.[\w-]+)*(?:@|://|www\.)[\w-]+(?:\.[\w-]+)+(?:/[\w./-]*)?|www\.[\w./-]+\w",
             self._address),
            (r"\b(\d{4})-(\d{2})-(\d{2})\b", lambda m: self._date(m[3], m[2], m[1])),
            (r"\b(\d{1,2})[/.](\d{1,2})[/.](\d{4})\b", self._slashed),
            (rf"\b({months}|{brief})\.? (\d{{1,2}})(?:st|nd|rd|th)?(?:,? (\d{{4}}))?\b(?!:\d)" if en else never,
             lambda m: self._date(m[2], m[1], m[3])),
            (rf"(?i)\b{day} (?:(?:of|de) )?({months}|(?{'-i' * en}:{brief}){ends}){year}(?!\w)",
             lambda m: self._date(m[1], m[2], m[3]) + "." * (m[0].endswith(".") and not m.string[m.end() :])),
            (r"\b(\d{1,2}):(\d{2})(?::\d{2})?(?:\s?([ap])(?:\.m\.|m\b))?(?!\d)", self._time),
            (r"\b(\d{1,2})()\s?([ap])(?:\.m\.|m\b)" if en else never, self._time),
            (r"\b(\d{1,3}):(\d)(?![:\d])", lambda m: f"{self.number(m[1])} {t['to']} {self.number(m[2])}"),
            (r"\b(\d{1,2})\s?h(?:\s(?=\d\d\b))?(\d{1,2})?\b" if self.tag in ("fr", "pt") else never, self._time),
            (rf"({money})\s?({n}){scales}", lambda m: self._money(m[2], m[1], m[3])),
            (rf"({n}){scales}\s?({money})(?!\w)", lambda m: self._money(m[1], m[3], m[2])),
            (rf"(?<!\w)([-−]?{n})\s?%", lambda m: f"{self.number(m[1])} {t['percent']}"),
            (rf"(?<!\w)([-−]?{n})\s?°\s?([CF])?(?!\w)", self._degrees),
            (r"(?<!\w)\+?(?:\d{1,3}[-\s])?\(\d{2,4}\)\s?\d{3,4}[-\s]\d{3,4}\b|\+?\b(?:\d-)?\d{2,4}(?:[-\s]\d{2,4}){2,}\b",
             lambda m: "" if re.fullmatch(self.num, m[0]) else self._digits(m[0])),
            (r"\b\d{3}-\d{4}\b" if en else never, lambda m: self._digits(m[0])),
            (r"['’]?\b(1[1-9]\d0|20\d0|[2-9]0)s\b" if en else never, self._decade),
            (r"\b(\d)['′’](\d{1,2})[\"″”]" if en else never, lambda m: f"{self.number(m[1])} foot {self.number(m[2])}"),
            (rf"\b({n})(?:\^([-−]?\d+)|([⁰¹²³⁴-⁹]+))(?!\w)", self._power),
            (rf"\b({n})\s?x\s?({n})\b", lambda m: f"{self.number(m[1])} {t['by']} {self.number(m[2])}"),
            (rf"\b({n})[x×](?!\w)", lambda m: f"{self.number(m[1])} {t['times']}"),
            (rf"(?<![\w.])([-−]?{n}(?: ?{_FRACTION})?|{_FRACTION})\s?({_alternatives(t['units'])})(?!\w)", self._unit),
            (r"\b(\d+)(?:st|nd|rd|th)\b" if en else r"\b(\d+)(?:er|ère|ème|e|è|\.?[ºª]|°)(?!\w)",
             self._ordinal),
            (rf"(?:\b(\d+) ?)?({_FRACTION})", self._fraction),
            (r"(?<![\d/])(\d{1,2})/(\d{1,3})\b(?!/)", self._over),
            (rf"\b({n})\s?[-–]\s?({n})\b(?![-–]\d)", self._range),
            (rf"(?<!\w)({_alternatives(t['abbreviations'])})(?!\w)", self._abbreviation),
            (r"(?<!\w)#(\d{1,9})\b", lambda m: f"{t['hash']} {self.number(m[1])}"),
            (r"\b(1[1-9]\d\d|20\d\d)\b(?![.,]\d)" if en else never,
             lambda m: self._in_words(int(m[1]), "year")),
            (r"\d+(?:\.\d+){2,}\b", lambda m: "" if re.fullmatch(self.num, m[0]) else f" {t['dot']} ".join(
                map(self.number, m[0].split(".")))),
            (rf"(?<![\w.,])[-−](?={n})(?:{n})|{self.num}", self._plain_number),
            (rf"\b()({_NUMERAL}|I)(?:ers?|re|es?|è|ème)\b(?:(?<=\bIer)|(?= [a-zé]))" if self.tag == "fr" else never,
             self._century),
            (rf"\b()({_NUMERAL}|[IX])(?= secolo\b)|\b([Ss]ecolo )({_NUMERAL}|[IX])\b" if self.tag == "it"
             else rf"\b([Ss](?:iglos?|éculos?) )({_NUMERAL}|[IX])\b", self._century),
            (rf"\b([A-ZÀ-Ý]\w+) ({_NUMERAL})\b", self._roman),
            (r"(?<![^\W\d_])[A-ZÑ]{2,5}(?![^\W\d_])" if t["letters"] else never, self._initials),
            (rf"(?<!\S)({_alternatives(t['symbols'])})(?!\S)|[&+@×÷=](?=\w)|(?<!\w)[~≈<>±](?=\d)",
             lambda m: f" {t['symbols'].get(m[0], '')} "),
        ]  # fmt: skip
        return tuple((re.compile(pattern), say) for pattern, say in made)

    def number(self, text: str, kind: str = "cardinal") -> str:
        """A number as it is written, in words."""
        sign = f"{self.t.get('minus', '')} " if text[0] in "-−" else ""
        whole, _, part = text.lstrip("-−").partition(self.point)
        whole = self.group.sub("", whole)
        if len(whole) > _LONGEST or (len(whole) > 1 and whole[0] == "0"):
            words = self._digits(whole)
        else:
            words = self._in_words(int(whole), kind)
        space = " " * (self.tag != "zh")
        return f"{sign}{words}{space}{self.t.get('decimal', '')}{space}{self._digits(part)}" if part else sign + words

    def _plain_number(self, m: re.Match[str]) -> str:
        """A number, apart from the letters that it touches ("3D")."""
        before, behind = m.string[: m.start()][-1:].isalpha(), m.string[m.end() :][:1].isalpha()
        return f"{' ' * before}{self.number(m[0])}{' ' * behind}"

    def _in_words(self, value: int, kind: str = "cardinal") -> str:
        try:
            words = import_extra("num2words", "voices").num2words(value, lang=_NUMBERS.get(self.tag, self.tag), to=kind)
        except NotImplementedError:
            return _hanzi(value) if self.tag == "zh" else str(value)
        return words.replace(",", "").replace("-", " " if self.tag == "en" else "-")

    def _digits(self, text: str) -> str:
        return (" " * (self.tag != "zh")).join(self._in_words(int(c)) for c in text if c.isdecimal())

    def _decade(self, m: re.Match[str]) -> str:
        return re.sub(r"ys$", "ies", self._in_words(int(m[1]), "year") + "s")

    def _date(self, day: str, month: str, year: str | None) -> str:
        names = self.t["months"]
        if (month.isdecimal() and not 1 <= int(month) <= 12) or not 1 <= int(day) <= 31:
            return ""
        brief = month.rstrip(".").lower()
        name = names[int(month) - 1] if month.isdecimal() else next(n for n in names if n.lower().startswith(brief))
        spelled = "" if not year else self._in_words(int(year), "year" if self.tag == "en" else "cardinal")
        if self.tag == "en":
            return f"{name} {self._in_words(int(day), 'ordinal')}{', ' if year else ''}{spelled}"
        first = {"fr": "premier", "it": "primo", "pt": "primeiro"}.get(self.tag)
        number = first if int(day) == 1 and first else self._in_words(int(day))
        return " ".join(w for w in (number, self.t["of"], name, self.t["of"] if year else "", spelled) if w)

    def _slashed(self, m: re.Match[str]) -> str:
        first, second = (m[1], m[2]) if self.tag != "en" else (m[2], m[1])
        return self._date(first, second, m[3])

    def _time(self, m: re.Match[str]) -> str:
        hour, minute = int(m[1]), int(m[2] or 0)
        half = m[3] if self.tag == "en" and m.lastindex and m.lastindex > 2 else None
        if hour > 24 or minute > 59:
            return ""
        hours, minutes = self._in_words(hour), self._in_words(minute) if minute else ""
        if self.tag == "en":
            minutes = f"oh {minutes}" if 0 < minute < 10 else minutes or ("" if half else "o'clock")
            ends = m[0].endswith(".") and not m.string[m.end() :].strip()
            return f"{hours} {minutes}{f' {half.upper()} M' if half else ''}".replace("  ", " ") + "." * ends
        if self.tag == "fr":
            return f"{'une' if hour == 1 else hours} heure{'s' * (hour > 1)} {minutes}".strip()
        if self.tag == "pt":
            hours = {1: "uma", 2: "duas"}.get(hour, hours) + (" hora" if hour == 1 else " horas")
        elif hour == 1:
            hours = "una"
        return f"{hours} {self.t['and']} {minutes}" if minutes else hours

    def _money(self, amount: str, sign: str, scale: str | None) -> str:
        one, many, cent, cents = self.t["money"][sign]
        whole, _, part = amount.partition(self.point)
        if scale:
            return f"{self.number(amount)} {self.t['scales'][scale]} {many}"
        value = int(self.group.sub("", whole))
        feminine = {"libra": "una", "livre": "une", "sterlina": "una"}
        unit = self._counted(value, one, many, feminine.get(one))
        if len(part) != 2:
            return unit if not part else f"{self.number(amount)} {many}"
        if not int(part):
            return unit
        rest = self._counted(int(part), cent, cents, None)
        return f"{unit} {self.t['and']} {rest}" if value else rest

    def _counted(self, value: int, one: str, many: str, feminine: str | None) -> str:
        """ "one dollar", "five dollars"; a numeral before a noun is "un" in Spanish and Italian."""
        words = self._in_words(value)
        if self.tag in ("es", "it"):
            words = re.sub(r"\buno$", "un", words)
            words = re.sub(r"veintiuno$", "veintiún", words)
        if value == 1 and feminine:
            words = feminine
        return f"{words} {one if value == 1 else many}"

    def _degrees(self, m: re.Match[str]) -> str:
        scale = {"C": " Celsius", "F": " Fahrenheit"}.get(m[2] or "", "")
        return f"{self.number(m[1])} {self.t['degrees']}{scale}"

    def _unit(self, m: re.Match[str]) -> str:
        one, many = self.t["units"][m[2]]
        if part := re.fullmatch(rf"(?:(\d+) ?)?({_FRACTION})", m[1]):
            return f"{self._fraction(part)} {many if part[1] else one}"
        if m[1].isdecimal() and len(m[1]) <= _LONGEST:
            return self._counted(int(m[1]), one, many, None)
        return f"{self.number(m[1])} {many}"

    def _ordinal(self, m: re.Match[str]) -> str:
        words = self._in_words(int(m[1]), "ordinal") if len(m[1]) < 5 else self.number(m[1])
        return re.sub(r"o$", "a", words) if m[0].endswith("ª") else words

    def _power(self, m: re.Match[str]) -> str:
        """ "10^6" and "10⁶"."""
        return f"{self.number(m[1])} {self.t['power']} {self.number(m[2] or unicodedata.normalize('NFKC', m[3]))}"

    def _fraction(self, m: re.Match[str]) -> str:
        """A simple fraction, alone or behind a whole number."""
        part = self.t["halves"].get(unicodedata.normalize("NFKC", m[2]).replace("⁄", "/"), "")
        return f"{self.number(m[1])} {self.t['and']} {part}" if m[1] and part else part

    def _over(self, m: re.Match[str]) -> str:
        """ "5/8" is five eighths in English; "24/7" and "50/50" are two numbers."""
        part, whole = int(m[1]), int(m[2])
        if self.tag == "en" and 0 < part < whole and whole in _PARTS:
            return f"{self.number(m[1])} {self._in_words(whole, 'ordinal')}{'s' * (part > 1)}"
        return f"{self.number(m[1])} {self.number(m[2])}"

    def _roman(self, m: re.Match[str]) -> str:
        """Behind the name of a ruler an ordinal where people say one, else a number ("World War II", "Louis XIV")."""
        value, last = _value(m[2]), {"en": 99, "it": 99, "es": 10, "pt": 10}.get(self.tag, 1)
        if m[1] not in self.t["rulers"].split() or value > last:
            return f"{m[1]} {self._in_words(value)}"
        return f"{m[1]} {'the ' * (self.tag == 'en')}{self._in_words(value, 'ordinal')}"

    def _century(self, m: re.Match[str]) -> str:
        """Its name or nothing, and a numeral: an ordinal in French and Italian."""
        before, value = next((m[i], _value(m[i + 1])) for i in range(1, len(m.groups()), 2) if m[i + 1])
        said = self._in_words(value, "ordinal" if self.tag in ("fr", "it") else "cardinal")
        first = {"Ire": "première", "Ier": "premier", "Iers": "premiers"}.get(m[0], said)
        return before + first

    def _range(self, m: re.Match[str]) -> str:
        if self.tag == "en" and all(re.fullmatch(r"1[1-9]\d\d|20\d\d", x) for x in m.groups()):
            return f"{self._in_words(int(m[1]), 'year')} to {self._in_words(int(m[2]), 'year')}"
        return f"{self.number(m[1])} {self.t['to']} {self.number(m[2])}"

    def _initials(self, m: re.Match[str]) -> str:
        """Letters one by one where they make no syllables."""
        if re.search("[AEIOUY]", m[0][1:]) and len(m[0]) > 2:
            return m[0].lower()
        names = self.t["letters"].split()
        letters = unicodedata.normalize("NFD", m[0])
        return " ".join(names[ord(c) - ord("A")].replace("-", " ") for c in letters if "A" <= c <= "Z")

    def _abbreviation(self, m: re.Match[str]) -> str:
        """Some stand before a number or a name only; one at the end of a text is its full stop too."""
        word, behind = m[1], m.string[m.end() :].lstrip()
        if word.casefold() in _BEFORE_NUMBERS and not behind[:1].isdigit():
            return ""
        if len(word) == 2 and word[-1] == "." and not behind[:1].isupper() and word not in _BEFORE_NUMBERS:
            return ""
        if word == "St." and self.tag == "en" and not behind[:1].isupper():
            return "Street" + "." * (not behind)
        return self.t["abbreviations"][word] + "." * (not behind)

    def _address(self, m: re.Match[str]) -> str:
        text = re.sub(r"^https?://", "", m[0]).rstrip("/")
        for mark, word in ((".", self.t["dot"]), ("/", self.t["slash"]), ("@", self.t["at"])):
            text = text.replace(mark, f" {word} ")
        return " ".join(text.replace("-", " ").replace("_", " ").split())


def _hanzi(value: int) -> str:
    """A number in Chinese, which num2words lacks; "one ten" is "ten" at its beginning."""
    return re.sub("^一十", "十", _places(value)) or "零"


def _places(value: int) -> str:
    """A number in Chinese with each of its digits, nothing for 0."""
    for base, name in ((10**8, "亿"), (10**4, "万")):
        if value >= base:
            head, rest = divmod(value, base)
            return _places(head) + name + "零" * (0 < rest < base // 10) + _places(rest)
    places = zip(str(value), ("千", "百", "十", "")[-len(str(value)) :], strict=True)
    said = "".join("零一二三四五六七八九"[int(d)] + unit * (d != "0") for d, unit in places)
    return re.sub("零+", "零", said).rstrip("零")


def _value(numeral: str) -> int:
    """Of a Roman numeral."""
    digits = [_ROMAN[c] for c in numeral]
    return sum(-one if one < max(digits[i:]) else one for i, one in enumerate(digits))


def _beginnings(names: Sequence[str]) -> list[str]:
    """Of three to five letters, by which names can be told apart, the longer ones first."""
    cut = [name[:n] for n in (5, 4, 3) for name in names if n < len(name)]
    return [part for part in cut if sum(name.startswith(part) for name in names) == 1]


def _alternatives(words: Mapping[str, Any]) -> str:
    return "|".join(re.escape(w) for w in sorted(words, key=len, reverse=True))
