"""Text to phonemes, word by word, by one phonemizer for each language; none of them has parts under the GPL.

    phonemes("Good morning.", "en")    # [("Good", "ɡˈʊd"), ("morning.", "mˈɔɹnɪŋ.")]

All give the symbols of `mmx.text.phonemes.symbols`. Texts are as they are spoken: numbers in words (`mmx.text.spoken`).
"""

import importlib
import threading
from collections.abc import Callable
from functools import cache

from mmx.errors import InputError
from mmx.text.languages import find_language

Rows = list[tuple[str, str]]
"""The words of a text, in order, each with the symbols of its phonemes and of the marks around it."""

_HOMES = {"en": "english", "es": "romance", "fr": "romance", "it": "romance", "pt": "romance", "ja": "japanese",
          "zh": "chinese"}  # fmt: skip
"""The module of each language, by tag; each has `make(tag) -> Callable[[str], Rows]`."""
LANGUAGES = tuple(_HOMES)
_making = threading.Lock()


def phonemes(text: str, language: str) -> Rows:
    """The words of a text with their phonemes.

    Args:
        text: as it is spoken.
        language: BCP-47; the region chooses the accent ("en-GB").

    Raises:
        InputError: there is no phonemizer for the language, or its package is not installed.
    """
    tag = find_language(language).tag
    if tag not in _HOMES:
        raise InputError(f"expected a language with phonemes ({', '.join(LANGUAGES)}), got {language!r}")
    with _making:
        make = _phonemizer(tag, language.replace("_", "-").partition("-")[2].upper())
    return make(text)


@cache
def _phonemizer(tag: str, region: str) -> Callable[[str], Rows]:
    return importlib.import_module(f"{__name__}.{_HOMES[tag]}").make(tag, region)
