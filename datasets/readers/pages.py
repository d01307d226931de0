"""Translated manuals in HTML or DocBook: pages whose paragraphs are paired by their place in the structure."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from html.parser import HTMLParser
from pathlib import Path

from mmx.datasets.parallel import Pair

_BLOCKS = frozenset(
    (
        *("p", "li", "dt", "dd", "td", "th", "h1", "h2", "h3", "h4", "h5", "h6", "div", "section"),
        *("title", "para", "simpara", "term", "entry"),
    )
)
_SKIPPED = frozenset(
    ("script", "style", "pre", "nav", "header", "footer", "screen", "programlisting", "literallayout", "synopsis")
)
_EMPTY = frozenset(("br", "img", "hr", "input", "meta", "link"))
# Blocks in a row that must correspond before they are trusted: a lone match between changed parts is often chance.
RUN = 3


@dataclass
class _Block:
    """A paragraph: its element and inline elements, which a translation keeps, and its text."""

    tag: str
    name: str = ""
    inline: list[str] = field(default_factory=list)
    text: str = ""

    def signature(self) -> tuple[str, ...]:
        """Return what a paragraph and its translation share: the identifier where it has one, else the elements."""
        return (self.tag, self.name) if self.name else (self.tag, *self.inline)


class _Page(HTMLParser):
    """Collects a page's blocks. The lenient parser of HTML reads DocBook too, whose entities need no declaration."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: list[_Block] = []
        self._open = _Block("")
        self._skip: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _SKIPPED or self._skip:
            if tag not in _EMPTY:
                self._skip.append(tag)
        elif tag in _BLOCKS:
            self._begin(tag, dict(attrs).get("id") or "")
        else:
            self._open.inline.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._skip:
            if tag in self._skip:
                del self._skip[self._skip.index(tag) :]
        elif tag in _BLOCKS:
            self._begin("", "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if not self._skip and tag not in _BLOCKS:
            self._open.inline.append(tag)

    def handle_data(self, data: str) -> None:
        if not self._skip:
            self._open.text += data

    def _begin(self, tag: str, name: str) -> None:
        """End the open block and begin another."""
        self._open.text = " ".join(self._open.text.split())
        if self._open.text:
            self.blocks.append(self._open)
        self._open = _Block(tag, name)


def _blocks(path: Path) -> list[_Block]:
    """Return the blocks of a page that have text."""
    page = _Page()
    page.feed(re.sub(r"<\?.*?\?>|<!DOCTYPE.*?\]>", "", path.read_text("utf-8", errors="replace"), flags=re.DOTALL))
    page.handle_endtag("p")
    return page.blocks


def read_pages(source: Path, target: Path, origin: str) -> Iterator[Pair]:
    """Read a page and its translation.

    Paragraphs correspond where their elements do, or their identifiers (as in LibreOffice's help); what one page has
    more than the other, being of another version, is passed over.

    Args:
        source: A page in HTML or DocBook.
        target: The same page in the other language.
        origin: Name of the corpus.

    Yields:
        The pairs, unfiltered; the document is the page's folder and name.
    """
    left, right = _blocks(source), _blocks(target)
    keys = [b.signature() for b in left], [b.signature() for b in right]
    document = f"{source.parent.name}/{source.name.split('.')[0]}"
    for at, other, size in SequenceMatcher(None, *keys, autojunk=False).get_matching_blocks():
        for s, t in zip(left[at : at + size], right[other : other + size], strict=True):
            if size >= RUN or s.name:
                yield Pair(s.text, t.text, origin, document)
