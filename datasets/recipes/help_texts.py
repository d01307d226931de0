"""Sentences of LibreOffice's help in languages other than English, from Debian packages `libreoffice-help-*`.

The texts are licensed under the MPL 2.0. They are of one kind, instructions, in long and short sentences, with the
words of any such text; so sentences are chosen that bring words that are still rare among the chosen ones.
"""

import html
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from mmx.datasets.debian import fetch
from mmx.errors import InputError

PACKAGES = {
    "es": "libreoffice-help-es",
    "fr": "libreoffice-help-fr",
    "it": "libreoffice-help-it",
    "pt": "libreoffice-help-pt-br",
}
"""By language. Portuguese is that of Brazil, as the voices are."""
PAGES = "*/help/*.html"
WORDS = (3, 30)
"""Fewest and most of a sentence."""
NEW, OFTEN = 2, 3
"""How many words of a sentence must have been chosen fewer times than so many."""
_PARAGRAPH = re.compile(r'<p [^>]*class="(?:paragraph|listitem|tip|note|warning)"[^>]*>(.*?)</p>', re.DOTALL)
_MARKUP = re.compile(r"<[^>]+>")
_SENTENCE = re.compile(r"[¿¡]?[A-ZÀ-Þ][^\W\d_A-ZÀ-Þ]*(?:[ ,;:'’—¿¡-]+[^\W\d_][^\W\d_A-ZÀ-Þ]*)* ?[.!?]")
"""Words with no more than their first letter a capital, and marks between them."""
_ENGLISH = re.compile(r"\b(?:the|and|of|is|you|this)\b|LibreOffice", re.IGNORECASE)
"""Some pages are not translated; and a name that is spoken otherwise."""


def sentences(language: str, raw: Path) -> list[str]:
    """All usable sentences of a language, each once, in a fixed order.

    Args:
        language: of `PACKAGES`.
        raw: folder for the packages, which are got unless they are there.

    Raises:
        InputError: the language has no package here, or it cannot be had.
    """
    if language not in PACKAGES:
        raise InputError(f"expected a language of {', '.join(PACKAGES)}, got {language!r}")
    fetch(PACKAGES[language], [PAGES], raw)
    pages = sorted((raw / PACKAGES[language]).rglob("*.html"))
    return sorted({s for page in pages for s in of_page(page.read_text("utf-8", "ignore"))})


def of_page(page: str) -> Iterator[str]:
    """Usable sentences of a page of HTML; a paragraph that is hidden or has parts that are is left out."""
    for paragraph in _PARAGRAPH.findall(page):
        if "hidden" in paragraph:
            continue
        text = re.sub(r"\s+", " ", html.unescape(_MARKUP.sub("", paragraph))).strip()
        for sentence in re.split(r"(?<=[.!?])\s+(?=[¿¡A-ZÀ-Þ])", text):
            n_words = len(sentence.split())
            if WORDS[0] <= n_words <= WORDS[1] and _SENTENCE.fullmatch(sentence) and not _ENGLISH.search(sentence):
                yield sentence


def varied(found: Iterable[str], count: int, seed: int = 0) -> list[str]:
    """Up to `count` of the sentences in random order, each with words that are still rare in those before it."""
    pool, seen, out = list(found), Counter[str](), list[str]()
    random.Random(seed).shuffle(pool)
    for sentence in pool:
        words = {w.lower() for w in re.findall(r"[^\W\d_]+", sentence)}
        if sum(seen[w] < OFTEN for w in words) >= NEW:
            seen.update(words)
            out.append(sentence)
        if len(out) == count:
            break
    return out
