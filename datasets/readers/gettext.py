"""Gettext catalogues: compiled (.mo) and source (.po) files, read into pairs of source text and translation.

Formats: the GNU gettext manual, "The Format of GNU MO Files" and "The Format of PO Files".
"""

import ast
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mmx.datasets.parallel import Pair
from mmx.errors import InputError

_MO_MAGIC = 0x950412DE
_CONTEXT_END = "\x04"  # separates a message's context from its text in a .mo file
_PLURAL_END = "\0"
# Tags that only style the text around them. Any other tag stands for text of its own (`<npcname>`), so it stays, and
# the filter of parallel.py drops the message.
_STYLE_TAG = re.compile(
    r"</?(?:b|i|u|s|em|strong|bold|italic|big|small|tt|br|p|font|span|header|format|good|bad|neutral|info|color\w*)"
    r"(?:[ =][^<>]*)?/?>"
)
_ACCELERATOR = re.compile(r"(?<![\w_&])[_&](?=[^\W_])")
_HINT = re.compile(r"^[\w .,:/-]{1,60}\^")  # "female^Well done!": a note to the translator, in the source only
_FIELD = re.compile(r'(msgctxt|msgid_plural|msgid|msgstr(?:\[\d+\])?)\s+(".*")$')


@dataclass(frozen=True)
class Message:
    """One translated entry of a catalogue.

    Attributes:
        sources: The text, followed by its plural where it has one.
        targets: The translations, one per plural form of the target language.
        context: The text's context (msgctxt), "" for none.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    context: str = ""


def read_mo(path: Path) -> Iterator[Message]:
    """Read a compiled catalogue.

    Args:
        path: A .mo file of either byte order.

    Yields:
        The translated messages; the header and untranslated entries are left out.

    Raises:
        InputError: The file is not a .mo file, is cut off, or is not in the character set that it names.
    """
    data = path.read_bytes()
    order = next((o for o in "<>" if data[:4] == struct.pack(f"{o}I", _MO_MAGIC)), None)
    if order is None:
        raise InputError(f"Expected a compiled gettext catalogue (.mo), got {str(path)!r}, which starts otherwise.")
    try:
        _, count, sources_at, targets_at = struct.unpack_from(f"{order}4I", data, 4)
        entries = [(_entry(data, order, sources_at, i), _entry(data, order, targets_at, i)) for i in range(count)]
        charset = _charset(dict(entries).get(b"", b"").decode("latin-1"))
        decoded = [(s.decode(charset), t.decode(charset)) for s, t in entries]
    except (struct.error, UnicodeDecodeError, LookupError) as error:
        raise InputError(f"Catalogue {str(path)!r} is damaged ({error}). What to do: get the file again.") from error
    for source, target in decoded:
        context, found, text = source.rpartition(_CONTEXT_END)
        if text and target:
            yield Message(tuple(text.split(_PLURAL_END)), tuple(target.split(_PLURAL_END)), context if found else "")


def _entry(data: bytes, order: str, table: int, index: int) -> bytes:
    """Return one string of a .mo file's table of (length, offset) records."""
    length, offset = struct.unpack_from(f"{order}2I", data, table + 8 * index)
    if offset + length > len(data):
        raise struct.error(f"text {index} ends past the end of the file")
    return data[offset : offset + length]


def _charset(header: str) -> str:
    """Return the character set that a catalogue's header names; UTF-8 when it names none."""
    found = re.search(r"charset=([\w-]+)", header)
    return found[1] if found and found[1] != "CHARSET" else "utf-8"


@dataclass
class _Draft:
    """The entry of a .po file that is being read."""

    fields: dict[str, str] = field(default_factory=dict)
    last: str = ""
    fuzzy: bool = False

    def message(self) -> Message | None:
        """Return the finished message, or None for a header, a fuzzy or an untranslated entry."""
        targets = tuple(text for name, text in self.fields.items() if name.startswith("msgstr"))
        if self.fuzzy or not self.fields.get("msgid") or not targets or not all(targets):
            return None
        sources = tuple(self.fields[name] for name in ("msgid", "msgid_plural") if name in self.fields)
        return Message(sources, targets, self.fields.get("msgctxt", ""))


def read_po(path: Path) -> Iterator[Message]:
    """Read a source catalogue.

    Args:
        path: A .po file in UTF-8.

    Yields:
        The translated messages; the header, obsolete, fuzzy and untranslated entries are left out.

    Raises:
        InputError: The file is not UTF-8, or a line is none that a .po file can have; the message has its number.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"Catalogue {str(path)!r} is not UTF-8 ({error}). What to do: convert it.") from error
    draft = _Draft()
    for number, line in enumerate(map(str.strip, [*lines, ""]), 1):
        starts_anew = "msgstr" in draft.last and (line.startswith(("#", "msgctxt", "msgid")) or not line)
        if starts_anew:
            if message := draft.message():
                yield message
            draft = _Draft()
        if line.startswith("#,"):
            draft.fuzzy = draft.fuzzy or "fuzzy" in line
        elif line and not line.startswith("#"):
            _add_line(draft, line, f"{path}:{number}")


def _add_line(draft: _Draft, line: str, where: str) -> None:
    """Add a keyword line or a continuation line to the draft."""
    keyword = _FIELD.match(line)
    try:
        if keyword:
            draft.last = keyword[1]
            draft.fields[draft.last] = ast.literal_eval(keyword[2])
        else:
            draft.fields[draft.last] += ast.literal_eval(line)
    except (SyntaxError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{where}: expected a line of a .po file, got {line[:60]!r}.") from error


def clean_message(text: str) -> str:
    """Return a message as a person would read it: no style tags, no accelerator marks (`_Open`, `&Open`)."""
    return _ACCELERATOR.sub("", _STYLE_TAG.sub("", text)).replace("\xad", "")


def read_pairs(path: Path, origin: str, document: str = "") -> Iterator[Pair]:
    """Read a catalogue's messages as pairs, one per paragraph where both sides have equally many.

    The singular goes with the first translated form and the plural with the second; further forms have no source.

    Args:
        path: A .mo or .po file.
        origin: Name of the corpus.
        document: Name of the part of the corpus that this catalogue is.

    Yields:
        Pairs with style tags, accelerators and translators' hints removed; nothing else is filtered.

    Raises:
        InputError: The file cannot be read as its ending says.
    """
    messages = read_mo(path) if path.suffix == ".mo" else read_po(path)
    for message in messages:
        for source, target in zip(message.sources, message.targets, strict=False):
            left = re.split(r"\n\s*\n", clean_message(_HINT.sub("", source)).strip())
            right = re.split(r"\n\s*\n", clean_message(target).strip())
            if len(left) != len(right):
                left, right = [" ".join(left)], [" ".join(right)]
            for s, t in zip(left, right, strict=True):
                yield Pair(s, t, origin, document)
