"""Compiled catalogues of Qt (.qm), read into pairs of source text and translation.

Format: Qt's QTranslator ("qtranslator.cpp"): a magic number, then sections of a tag byte, a big-endian 32-bit length
and the content. The section of messages is a row of tagged fields; an end tag closes each message.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

from mmx.datasets.parallel import Pair
from mmx.datasets.readers.gettext import clean_message
from mmx.errors import InputError

_MAGIC = bytes.fromhex("3cb86418caef9c95cd211cbf60a1bddd")
_MESSAGES = 0x69
_END, _TRANSLATION, _OBSOLETE, _SOURCE = 1, 3, 5, 6


def read_qm(path: Path, origin: str) -> Iterator[Pair]:
    """Read a compiled catalogue of Qt.

    Args:
        path: A .qm file made with its source texts, as `lrelease` does unless told to leave them out.
        origin: Name of the corpus.

    Yields:
        Source and first translated form; messages without a translation are left out.

    Raises:
        InputError: The file is not a .qm file or is cut off.
    """
    data = path.read_bytes()
    if not data.startswith(_MAGIC):
        raise InputError(f"Expected a compiled catalogue of Qt (.qm), got {str(path)!r}, which starts otherwise.")
    try:
        for source, target in _messages(_section(data, _MESSAGES)):
            if source and target:
                yield Pair(clean_message(source), clean_message(target), origin)
    except (struct.error, UnicodeDecodeError) as error:
        raise InputError(f"Catalogue {str(path)!r} is damaged ({error}). What to do: get the file again.") from error


def _section(data: bytes, wanted: int) -> bytes:
    """Return the content of a section; empty when there is none."""
    at = len(_MAGIC)
    while at < len(data):
        tag, length = struct.unpack_from(">BI", data, at)
        at += 5
        if at + length > len(data):
            raise struct.error(f"section {tag:#x} ends past the end of the file")
        if tag == wanted:
            return data[at : at + length]
        at += length
    return b""


def _messages(data: bytes) -> Iterator[tuple[str, str]]:
    """Yield source and first translation of each message of a section."""
    at, source, target = 0, "", ""
    while at < len(data):
        tag = data[at]
        at += 1
        if tag == _END:
            yield source, target
            source = target = ""
        elif tag == _OBSOLETE:
            at += 4
        else:
            (length,) = struct.unpack_from(">I", data, at)
            at += 4
            length = 0 if length == 0xFFFFFFFF else length
            if tag == _TRANSLATION:
                target = target or data[at : at + length].decode("utf-16-be")
            elif tag == _SOURCE:
                source = data[at : at + length].decode("utf-8")
            at += length
