"""Bible modules of the SWORD project: two translations in compressed text (zText), aligned by chapter and verse.

Format: a testament has three files. `.bzs` has a record (offset, size, unpacked size) per block, `.bzz` the blocks,
each packed with zlib, and `.bzv` a record (block, offset, length) per place: headings of module, testament, book and
chapter, then the chapter's verses. Which verses a chapter has depends on the module's versification, so that places
of two modules do not correspond by number; chapter and verse do.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from mmx.datasets.parallel import Pair
from mmx.errors import InputError

_BLOCK = struct.Struct("<III")
_PLACE = struct.Struct("<IIH")
_CHAPTER = re.compile(r'<chapter [^>]*osisID="([^"]+)" sID=')
_ASIDE = re.compile(r"<(note|title)\b.*?</\1>", re.DOTALL)  # footnotes and headings are not part of the verse
_WORD_TAG = re.compile(r"</?(?:w|transChange)\b[^>]*>")  # inside a line; a pronoun may follow its verb with no space
_TAG = re.compile(r"<[^>]*>")
_QUOTE = re.compile(r"[“”‘]|(?<!\w)’|’(?!\w)")  # the Spanish text marks no speech

# Spanish as printed in 1909: á, é, ó, ú as words, accents on monosyllables, a first word in capitals.
_OLD_SPELLING = (
    (re.compile(r"\b([áéóúÁÉÓÚ])\b"), lambda m: m[1].translate(str.maketrans("áéóúÁÉÓÚ", "aeouAEOU"))),
    (re.compile(r"\b([Ff])(ué|uí)\b"), lambda m: m[1] + {"ué": "ue", "uí": "ui"}[m[2]]),
    (re.compile(r"\b([DdVv])(ió)\b"), lambda m: m[1] + "io"),
    (re.compile(r"^[A-ZÁÉÍÓÚÑ]{2,}\b"), lambda m: m[0].capitalize()),
    (re.compile(r"^([YEAO] )([A-ZÁÉÍÓÚÑ]{2,})\b"), lambda m: m[1] + m[2].lower()),
)
# Pronouns after a past tense ("díjole", "tomáronlo") are out of use; there is no modern spelling, only other grammar.
_OLD_GRAMMAR = re.compile(
    r"(?!\b[Ss][óo]l[oa]s?\b)\b\w+(?:ó|í|ía|ían|aba|aban|ába|ában|aron|eron|áron|éron|rá|rán|ré|jo|zo|so)(?:le|lo|la|se|me|te|nos|os)s?\b"
)


def read_verses(folder: Path) -> dict[tuple[str, int], str]:
    """Read a module's verses.

    Args:
        folder: The module's folder, with `ot.bzs`, `ot.bzv`, `ot.bzz` and the same for `nt`.

    Returns:
        The verses as plain text by chapter ("Gen.1") and number, without notes and headings.

    Raises:
        InputError: A file is missing or damaged.
    """
    verses = {}
    for testament in ("ot", "nt"):
        chapter, number = "", 0
        for text in _places(folder / testament):
            if found := _CHAPTER.search(text):
                chapter, number = found[1], 0
                continue
            number += 1
            plain = _QUOTE.sub("", _TAG.sub(" ", _WORD_TAG.sub("", _ASIDE.sub(" ", text))))
            plain = re.sub(r"([¿¡(]) | (?=[,.;:!?)])", r"\1", " ".join(plain.split()))
            if chapter and plain:
                verses[chapter, number] = plain
            if "<chapter eID=" in text:
                chapter = ""
    return verses


def _places(stem: Path) -> list[str]:
    """Return the text at every place of a testament."""
    try:
        blocks, places, packed = (stem.with_suffix(ending).read_bytes() for ending in (".bzs", ".bzv", ".bzz"))
        unpacked = [zlib.decompress(packed[at : at + size]) for at, size, _ in _BLOCK.iter_unpack(blocks)]
        return [
            unpacked[b][at : at + size].decode("utf-8") if size else "" for b, at, size in _PLACE.iter_unpack(places)
        ]
    except (OSError, struct.error, zlib.error, IndexError, UnicodeDecodeError) as error:
        raise InputError(f"Expected a SWORD testament in zText at {str(stem)!r}: {error}.") from error


def modern_spanish(verse: str) -> str | None:
    """Return a verse of 1909 in today's spelling, or None when its grammar is not today's."""
    if _OLD_GRAMMAR.search(verse):
        return None
    for pattern, spelling in _OLD_SPELLING:
        verse = pattern.sub(spelling, verse)
    return verse


def read_pairs(source: Path, target: Path, origin: str) -> Iterator[Pair]:
    """Read two modules' common verses, the target's in today's Spanish.

    Args:
        source: Folder of the module to translate from.
        target: Folder of the Spanish module.
        origin: Name of the corpus.

    Yields:
        The verses; the document is the book ("Gen").

    Raises:
        InputError: A module cannot be read.
    """
    translated = read_verses(target)
    for (chapter, number), verse in read_verses(source).items():
        spanish = modern_spanish(translated.get((chapter, number), ""))
        if spanish:
            yield Pair(verse, spanish, origin, chapter.split(".")[0])
