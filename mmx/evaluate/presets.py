"""Protocols under which translations of signing are published: what is done to texts before they are compared.

A full stop is worth 0.8 BLEU on PHOENIX-2014T, and tokenizer and case up to 3.7 on How2Sign, so a figure without its
protocol compares with nothing.

| preset | what it is |
|---|---|
| `phoenix-dot` | every text ends in " .", as in neccam's files; BLEU's tokenizer 13a, which changes nothing here |
| `phoenix-nodot` | no text does, as in GFSLT's files |
| `how2sign-13a` | texts as they are, tokenizer 13a |
| `how2sign-13a-lc` | the same in lower case |
| `csl-char` | single characters without spaces, full-width punctuation as its ASCII |
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mmx.errors import InputError, nearest

METRICS = ("bleu-1", "bleu-2", "bleu-3", "bleu", "chrf", "rouge-l-coco", "rouge-l-f1")
"""That are reported under a preset."""


@dataclass(frozen=True)
class Preset:
    """A protocol.

    Attributes:
        clean: what is done to hypotheses and references alike.
        tokenize: sacrebleu's tokenizer of BLEU.
        lowercase: whether case counts for nothing.
        tokens: of a cleaned text, for ROUGE.
    """

    clean: Callable[[str], str]
    tokenize: str = "13a"
    lowercase: bool = False
    tokens: Callable[[str], Sequence[str]] = str.split


def without_dot(text: str) -> str:
    """The text without full stops at its end."""
    return " ".join(text.split()).rstrip(" .")


def with_dot(text: str) -> str:
    """The text with one full stop, apart, at its end."""
    return f"{without_dot(text)} ."


_NARROW = {ord(wide): narrow for wide, narrow in zip("\uff0c\uff1f\uff01\u3002\uff1a\uff1b", ",?!.:;", strict=True)}


def characters(text: str) -> str:
    """Without spaces, and with the punctuation of ASCII."""
    return "".join(text.translate(_NARROW).split())


PRESETS: Mapping[str, Preset] = {
    "phoenix-dot": Preset(with_dot),
    "phoenix-nodot": Preset(without_dot),
    "how2sign-13a": Preset(str.strip),
    "how2sign-13a-lc": Preset(str.strip, lowercase=True),
    "csl-char": Preset(characters, tokenize="char", tokens=list),
}


def find_preset(name: str) -> Preset:
    """The preset of a name. Raises `InputError` where there is none."""
    if name not in PRESETS:
        known = tuple(PRESETS)
        raise InputError(f"expected a preset among {', '.join(known)}, got {name!r}.{nearest(name, known)}")
    return PRESETS[name]
