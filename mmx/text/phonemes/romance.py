"""Spanish by the rules of piper-plus-g2p (MIT); French, Italian and Portuguese by g2p2's models (MIT or Apache-2.0).

These give words by themselves, without stress: it is put where the spelling says, as is French liaison.
"""

import importlib.resources
import logging
import lzma
import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any

from mmx.extras import import_extra
from mmx.text.phonemes.symbols import PUNCTUATION, SYMBOLS

_VOWELS = "aeiouyøɐɑɔəɛɜɨɪœʊæ"
_TIES = {"t͡ʃ": "ʧ", "d͡ʒ": "ʤ", "t͡s": "ʦ", "d͡z": "ʣ", "tʃ": "ʧ", "dʒ": "ʤ", "ts": "ʦ", "dz": "ʣ", "g": "ɡ"}
_MARKS = {"«": "“", "»": "”", "„": "“", "–": "—", "‘": "", "’": "", "¿": "", "¡": "", "[": "(", "]": ")"}
_BRAZILIAN = {"ɫ": "w", "ʁ": "x", "ɨ": "i", "ɹ": "ɾ"}
_LIAISON = {"s": "z", "x": "z", "z": "z", "t": "t", "d": "t", "n": "n"}
_LINKING = """
    les des ces mes tes ses nos vos leurs aux un mon ton son on en nous vous ils elles deux trois six dix est sont ont
    très plus sans dans chez quand grand petit bon tout pas bien moins sous aucun quelques plusieurs certains
"""
_LINKS = frozenset(_LINKING.split())
_WEAK = """
    le la les un une des du de et ou à au aux en ne se ce je tu il elle on que qui dans par pour sur sans est
"""
_UNSTRESSED = frozenset(_WEAK.split())


def make(tag: str, region: str) -> Callable[[str], list[tuple[str, str]]]:
    """The phonemizer of a language."""
    if tag == "es":
        return _spanish()
    package = importlib.resources.files(import_extra("g2p2_group_romance", "voices"))
    model = import_extra("g2p2", "voices").Model.from_bytes(lzma.decompress((package / f"{tag}.g2p.xz").read_bytes()))
    return lambda text: _words(text, tag, model)


def _spanish() -> Callable[[str], list[tuple[str, str]]]:
    log = logging.getLogger("piper_plus_g2p.registry")
    quiet = log.disabled
    log.disabled = True  # its other languages need packages that are not asked for, which it reports
    try:
        phonemize = import_extra("piper_plus_g2p.spanish", "voices").phonemize_spanish
    finally:
        log.disabled = quiet

    def phonemes(text: str) -> list[tuple[str, str]]:
        return [(word, _marked(word, lambda core: _symbols("".join(phonemize(core))))) for word in text.split()]

    return phonemes


def _words(text: str, tag: str, model: Any) -> list[tuple[str, str]]:
    written = text.split()
    rows = []
    for i, word in enumerate(written):
        following = written[i + 1] if i + 1 < len(written) else ""
        rows.append((word, _marked(word, lambda core, n=following: _SPOKEN[tag](core, n, model))))
    return rows


def _marked(word: str, speak: Callable[[str], str]) -> str:
    """The phonemes of a word, between the marks around it; a hyphen or a dash within it is a space."""
    match = re.fullmatch(r"([^\w]*)(.*?)([^\w]*)", word, re.DOTALL)
    assert match is not None
    before, core, after = match.groups()
    spoken = " ".join(speak(part) for part in re.split(r"[-–—/]", core) if part)
    return _pause(before) + spoken + _pause(after)


def _pause(marks: str) -> str:
    marks = "".join(_MARKS.get(m, m) for m in marks.replace("...", "…"))
    return "".join(m for m in marks if m in PUNCTUATION)


def _symbols(ipa: str, changes: Mapping[str, str] | None = None) -> str:
    """IPA in the voices' symbols: affricates as one, nasal vowels as a vowel and a tilde."""
    ipa = unicodedata.normalize("NFD", ipa).replace("c\u0327", "ç")
    for old, new in _TIES.items():
        ipa = ipa.replace(old, new)
    for old, new in (changes or {}).items():
        ipa = ipa.replace(old, new)
    return "".join(s for s in ipa if s in SYMBOLS)


def _stressed(symbols: str, from_end: int) -> str:
    """With the mark of stress before the vowel that is so many syllables from the end (1 is the last)."""
    places = [i for i, s in enumerate(symbols) if s in _VOWELS]  # a vowel is a syllable: glides are j, w and ɥ
    if not places or (len(places) < 2 and len(symbols) < 3):
        return symbols
    at = places[-min(from_end, len(places))]
    return f"{symbols[:at]}ˈ{symbols[at:]}"


def _french(word: str, following: str, model: Any) -> str:
    lower = word.lower().replace("’", "'")
    head, _, rest = lower.partition("'")
    elided = _ELIDED.get(head, "") if rest and lower not in _IRREGULAR else ""
    symbols = elided + _symbols(_IRREGULAR.get(lower) or model.phonemize(rest if elided else lower))
    follows = re.sub(r"^\W+", "", following.lower())
    if lower in _LINKS and re.match(r"[aeiouyàâéèêëîïôûœh]", follows) and not follows.startswith(_ASPIRATED):
        linked = _LIAISON.get(lower[-1], "")
        symbols += "" if symbols.endswith(linked) and linked != "n" else linked
    return symbols if lower in _UNSTRESSED else _stressed(symbols, 1)


_ASPIRATED = ("haut", "héros", "hors", "huit", "hon", "ha", "hollan", "oui", "onze", "yaourt")
_ELIDED = {
    "l": "l", "d": "d", "j": "ʒ", "m": "m", "t": "t", "s": "s", "c": "s", "n": "n", "qu": "k", "jusqu": "ʒysk",
    "lorsqu": "lɔʁsk", "puisqu": "pɥisk",
}  # fmt: skip
_IRREGULAR = {
    "est": "ɛ", "c'est": "sɛ", "n'est": "nɛ", "s'est": "sɛ", "l'est": "lɛ", "à": "a", "a": "a", "y": "i", "et": "e",
    "ou": "u", "où": "u", "eu": "y", "ils": "il", "elles": "ɛl", "six": "sis", "dix": "dis",
}  # fmt: skip


def _italian(word: str, following: str, model: Any) -> str:
    lower = word.lower().replace("’", "'")
    symbols = _symbols("".join(model.phonemize(part) for part in lower.split("'") if part))
    return _stressed(symbols.replace("ː", ""), 1 if lower[-1] in "àèéìíòóùú" else 2)


def _portuguese(word: str, following: str, model: Any) -> str:
    lower = word.lower()
    symbols = _symbols(model.phonemize(lower), _BRAZILIAN)
    symbols = re.sub(r"[ʃʒ](?=$|[ptkfbdɡvmnlʁx])", "s", symbols) if re.search(r"[szx]", lower) else symbols
    symbols = re.sub(r"t(?=i)", "ʧ", re.sub(r"d(?=i)", "ʤ", symbols))
    accented = [m.start() for m in re.finditer("[áâéêíóôúãõ]", lower)]
    if accented:
        behind = len(re.findall(r"[aeiouáâéêíóôúãõ]+", lower[accented[-1] + 1 :].lstrip("eoiu")))
        return _stressed(symbols, 1 + behind)
    return _stressed(symbols, 2 if re.search(r"([aeo]s?|[ae]m|ens)$", lower) else 1)


_SPOKEN = {"fr": _french, "it": _italian, "pt": _portuguese}
