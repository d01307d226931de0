"""The voices that cards name, and which of them speaks a language."""

from collections.abc import Sequence
from dataclasses import dataclass

from mmx.errors import InputError, ModelNotFoundError, nearest
from mmx.tasks import reference
from mmx.text.languages import find_language
from mmx.weights.card import Card, cards
from mmx.weights.hub import locate

CLONE = "clone"
"""Task of a card whose model speaks in the voice of a recording."""
FIRST = ("hibari", "kokoro")
"""Cards in the order in which a voice is looked for; the others come behind."""


@dataclass(frozen=True)
class KnownVoice:
    """A voice of a card.

    Attributes:
        name: what users type; behind the card's name and a slash where two cards have it.
        languages: that it speaks, as BCP-47 tags.
        card: the model that has it.
    """

    name: str
    languages: tuple[str, ...]
    card: Card


def voices() -> list[KnownVoice]:
    """All voices that the cards name, those that are chosen by default first."""
    known = cards()
    order = [*(known[name] for name in FIRST if name in known), *(c for n, c in known.items() if n not in FIRST)]
    out = []
    for card in order:
        names = dict.fromkeys(name for names in card.voices.values() for name in names)
        out += [KnownVoice(n, tuple(t for t, names in card.voices.items() if n in names), card) for n in names]
    return out


def added() -> list[KnownVoice]:
    """The voices that the user added, with a model that speaks in the voice of a recording: the one that is here."""
    models = [card for card in cards().values() if CLONE in card.tasks]
    model = next((card for card in models if is_here(card)), models[-1])
    return [KnownVoice(name, ("en", "zh"), model) for name in reference.names()]


def choose(voice: str = "", language: str | None = None, model: str = "") -> KnownVoice:
    """The first voice of a name, or that speaks a language (English if none is given), and whose weights are here.

    Where a model is named, those of its card alone.

    Raises:
        InputError: there is no such voice, or none for the language, or this one does not speak it.
    """
    every = [v for v in voices() if model in ("", v.card.name)]
    if voice:
        every += [v for v in added() if model in ("", v.card.name)]
        named = [v for v in every if voice in (v.name, f"{v.card.name}/{v.name}")]
        if not named:
            hint = nearest(voice, [v.name for v in every])
            raise InputError(f"expected a voice that `mmx voices` lists, got {voice!r}.{hint}")
        if language is None:
            return _first_here(named)
        fitting = [v for v in named if speaks(v.languages, language)]
        if not fitting:
            tags = ", ".join(named[0].languages)
            raise InputError(f"expected a voice for {find_language(language)}, got {voice}, which speaks {tags}")
        return _first_here(fitting)
    fitting = [v for v in every if speaks(v.languages, language or "en")]
    if not fitting:
        tags = sorted({t for v in every for t in v.languages})
        raise InputError(
            f"expected a language that a voice speaks ({', '.join(tags)}), got {find_language(language or 'en')}: "
            "give a model that speaks it with --model"
        )
    return _first_here(fitting)


def _first_here(found: Sequence[KnownVoice]) -> KnownVoice:
    return next((v for v in found if is_here(v.card)), found[0])


def speaks(languages: Sequence[str], language: str) -> bool:
    """Whether a voice of some languages (BCP-47 tags) speaks one; a region asks for that accent ("en-GB")."""
    wanted = find_language(language).tag
    region = language.replace("_", "-").partition("-")[2].upper()
    same = [t for t in languages if find_language(t).tag == wanted]
    regions = {t.partition("-")[2] for t in same} - {""}
    return bool(same) and (len(region) != 2 or not regions or region in regions)


def is_here(card: Card) -> bool:
    """Whether the weights of a card are on this machine."""
    try:
        locate(card, download=False)
    except ModelNotFoundError:
        return False
    return True
