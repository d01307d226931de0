"""Spanish by the rules of piper-plus-g2p (MIT); French, Italian and Portuguese by g2p2's models (MIT or Apache-2.0).

These give words by themselves, without stress: it is put where the spelling says, as is French liaison.
"""

import importlib.resources
import logging
import lzma
import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import Protocol

from mmx.extras import import_extra
from mmx.text.phonemes.symbols import PUNCTUATION, SYMBOLS

_VOWELS = "aeiouyøɐɑɔəɛɜɨɪœʊæ"
_TIES = {"t͡ʃ": "ʧ", "d͡ʒ": "ʤ", "t͡s": "ʦ", "d͡z": "ʣ", "tʃ": "ʧ", "dʒ": "ʤ", "ts": "ʦ", "dz": "ʣ", "g": "ɡ"}
_MARKS = {"«": "“", "»": "”", "„": "“", "–": "—", "‘": "", "’": "", "¿": "", "¡": "", "[": "(", "]": ")"}
_BRAZILIAN = {"ʁ": "x", "χ": "x", "ɹ": "ɾ", "ɫ": "l", "ɒ": "ɔ"}
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


class _Model(Protocol):
    """A model of g2p2."""

    def phonemize(self, word: str) -> str: ...


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


def _words(text: str, tag: str, model: _Model) -> list[tuple[str, str]]:
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
    return "".join(s for s in ipa if s in SYMBOLS and s not in PUNCTUATION)


def _stressed(symbols: str, from_end: int) -> str:
    """With the mark of stress before the vowel that is so many syllables from the end (1 is the last)."""
    places = [i for i, s in enumerate(symbols) if s in _VOWELS]  # a vowel is a syllable: glides are j, w and ɥ
    if not places or (len(places) < 2 and len(symbols) < 3):
        return symbols
    at = places[-min(from_end, len(places))]
    return f"{symbols[:at]}ˈ{symbols[at:]}"


def _french(word: str, following: str, model: _Model) -> str:
    lower = word.lower().replace("’", "'")
    head, _, rest = lower.partition("'")
    elided = _ELIDED.get(head, "") if rest and lower not in _IRREGULAR else ""
    core = (rest if elided else lower).removeprefix("h")
    symbols = elided + _symbols(_IRREGULAR.get(lower) or model.phonemize(core or lower))
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
    "ou": "u", "où": "u", "eu": "y", "ils": "il", "elles": "ɛl", "six": "sis", "dix": "dis", "vend": "vɑ̃",
}  # fmt: skip


def _italian(word: str, following: str, model: _Model) -> str:
    parts = [p for p in word.lower().replace("’", "'").split("'") if p]
    # The model knows final vowels better without their accents; è and é are other vowels.
    symbols = "".join(_symbols(model.phonemize(re.sub(r"(?<=..)[àòìù]$", _plain, p))) for p in parts)
    symbols = symbols.replace("ː", "").replace("h", "")
    if parts[0] == "c" and len(parts) > 1:
        symbols = "ʧ" + symbols.removeprefix("k").removeprefix("ʧ")
    if parts[-1][-1] in "àèéìíòóùú":
        return _stressed(symbols, 1)
    early = re.search(_EARLY_STRESS, parts[-1]) and not re.fullmatch(r"n?e?amic\w+|antic\w+|fatic\w+", parts[-1])
    return _stressed(symbols, 3 if early else 2)


_EARLY_STRESS = r"(ic[oaie]|ich[ei]|ssim[oaie]|[aeiu]bil[ei]|ccol[oaie]|ol[ao]g[oi]|graf[oi]|metr[oi]|isol[ae])$"
"""Endings of Italian words that are stressed on the last syllable but two."""


def _plain(match: re.Match[str]) -> str:
    return unicodedata.normalize("NFD", match[0])[0]


def _portuguese(word: str, following: str, model: _Model) -> str:
    lower = word.lower()
    symbols = _in_brazil(_symbols(model.phonemize(lower), _BRAZILIAN), lower)
    accented = [m.start() for m in re.finditer("[áâéêíóôúãõ]", lower)]
    if accented:
        behind = len(re.findall(r"[aeiouáâéêíóôúãõ]+", lower[accented[-1] + 1 :].lstrip("eoiu")))
        return _stressed(symbols, 1 + behind)
    return _stressed(symbols, 2 if re.search(r"([aeo]s?|[ae]m|ens)$", lower) else 1)


def _in_brazil(symbols: str, word: str) -> str:
    """As it is spoken in Brazil: vowels not reduced, a clear l, s for ʃ at the end of a syllable, ti and di palatal."""
    if not re.search("x|ch", word):
        symbols = symbols.replace("ʃ", "z" if re.search(r"(?<![s\W])s[aeiouáéíóúâêô]", word[1:]) else "s")
    symbols = re.sub(r"[ʃʒz](?=$|[ptkfbdɡvmnlɾx])", "s", symbols)
    symbols = re.sub(rf"l(?![{_VOWELS}jw])", "w", symbols)
    symbols = re.sub(r"ɨ(?=s?$)", "i", symbols).replace("ɨ", "e")
    symbols = re.sub(r"ɐ(?!\u0303|s?$)", "a", symbols)
    if re.search("e[mn]", word):
        symbols = re.sub("[ɐa]\u0303?j\u0303?(?=s?$)", "e\u0303j", symbols)
    if "ei" in word and "ai" not in word:
        symbols = symbols.replace("aj", "ej")
    if not re.search("[uú]", word):
        symbols = re.sub(r"u(?!\u0303|s?$)", "o", symbols)
    return re.sub(r"t(?=i)", "ʧ", re.sub(r"d(?=i)", "ʤ", symbols))


_SPOKEN = {"fr": _french, "it": _italian, "pt": _portuguese}
