"""Translated documents whose parts correspond one to one: help pages, storybooks, dialogue, captions."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

from mmx.datasets.parallel import Pair
from mmx.errors import InputError

_BLOCKS = ("title", "desc", "p")
_DIALOGUE = re.compile(
    r'dialogId\(\s*"[^"]*"\s*,\s*"[^"]*"\s*,\s*"((?:[^"\\]|\\.)*)"\s*\)\s*dialogStr\(\s*"((?:[^"\\]|\\.)*)"\s*\)'
)


def read_mallard(source: Path, target: Path, origin: str) -> Iterator[Pair]:
    """Read a help page of GNOME and its translation.

    The translation is made from the page's own structure, so its titles, descriptions and paragraphs correspond in
    order. Pages with unequal numbers of them are of different versions and give nothing.

    Args:
        source: A .page file (http://projectmallard.org).
        target: The same page in the other language.
        origin: Name of the corpus.

    Yields:
        The pairs; the document is the page's name.

    Raises:
        InputError: A page is not well-formed XML.
    """
    left, right = _blocks(source), _blocks(target)
    if len(left) == len(right):
        for s, t in zip(left, right, strict=True):
            yield Pair(s, t, origin, source.stem)


def _blocks(path: Path) -> list[str]:
    """Return the text of each title, description and paragraph of a page, in order."""
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise InputError(f"Expected a Mallard page (XML), got {str(path)!r}: {error}.") from error
    named = (e for e in root.iter() if isinstance(e.tag, str) and e.tag.rpartition("}")[2] in _BLOCKS)
    return [" ".join("".join(e.itertext()).split()) for e in named]


class _Storybook(HTMLParser):
    """Collects the text of the columns of class `def` (the page's language) and `l1` (English)."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: dict[str, list[str]] = {"def": [], "l1": []}
        self._inside: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        classes = (dict(attrs).get("class") or "").split()
        if tag == "div" and "column" in classes:
            self._inside = next((name for name in self.texts if name in classes), None)
            if self._inside:
                self.texts[self._inside].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "div":
            self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.texts[self._inside][-1] += data


def read_storybook(path: Path, origin: str) -> Iterator[Pair]:
    """Read a page of the Global Storybooks sites, which has each of a story's pages in two languages.

    Args:
        path: The story's `index.html` in the target language, in a folder named by the story.
        origin: Name of the corpus.

    Yields:
        English and the page's language; the document is the story.

    Raises:
        InputError: The two languages have unequal numbers of pages.
    """
    reader = _Storybook()
    reader.feed(path.read_text("utf-8"))
    english, other = reader.texts["l1"], reader.texts["def"]
    if len(english) != len(other):
        raise InputError(
            f"Expected as many pages in both languages of {str(path)!r}, got {len(english)}, {len(other)}."
        )
    for s, t in zip(english, other, strict=True):
        yield Pair(s, t, origin, path.parent.name)


def read_dialogue(path: Path, origin: str) -> Iterator[Pair]:
    """Read the translated lines of one level of Fish Fillets NG (`dialogs_LANGUAGE.lua`), each with its English.

    Args:
        path: The file, in a folder named by the level.
        origin: Name of the corpus.

    Yields:
        The pairs; the document is the level.
    """
    for found in _DIALOGUE.finditer(path.read_text("utf-8", errors="replace")):
        s, t = (re.sub(r"\\(.)", r"\1", text) for text in found.groups())
        yield Pair(s, t, origin, path.parent.name)


def read_properties(source: Path, target: Path, origin: str) -> Iterator[Pair]:
    """Read two Java property files in UTF-8, whose lines are `name=text`.

    Args:
        source: The file of texts.
        target: The file of their translations; names that only one file has are left out.
        origin: Name of the corpus.

    Yields:
        The pairs, in the order of the translation.
    """
    texts = dict(_properties(source))
    for name, text in _properties(target):
        if name in texts:
            yield Pair(texts[name], text, origin)


def _properties(path: Path) -> Iterator[tuple[str, str]]:
    """Yield name and text of each property; escapes are undone, lines that start with `#` are comments."""
    for line in path.read_text("utf-8").splitlines():
        name, found, text = line.partition("=")
        if found and not line.startswith("#"):
            plain = re.sub(r"\\u([0-9a-fA-F]{4})", lambda code: chr(int(code[1], 16)), text)
            yield name.strip(), re.sub(r"\\[nt]", " ", plain).strip()


def read_stamp(path: Path, origin: str, language: str = "es") -> Iterator[Pair]:
    """Read the captions of one of Tux Paint's stamps: English in the first line, then `LANGUAGE.utf8=caption`.

    Args:
        path: The .txt file beside the picture.
        origin: Name of the corpus.
        language: Code of the target language.

    Yields:
        One pair, or none.
    """
    english, *others = path.read_text("utf-8", errors="replace").splitlines() or [""]
    for line in others:
        if line.startswith(f"{language}.utf8="):
            yield Pair(english, line.partition("=")[2], origin)
