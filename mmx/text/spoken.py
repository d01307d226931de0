"""A text as it is spoken: numbers, dates, money, abbreviations and initials in words."""

from typing import NamedTuple


class Spoken(NamedTuple):
    """A word as it is written, and the words that are spoken for it; none for what is not spoken (an emoji)."""

    written: str
    said: str


def spoken(text: str, language: str) -> list[Spoken]:
    """The words of a text as they are spoken in a language, in order."""
    return [Spoken(word, word) for word in text.split()]
