"""Pairs of a text and its translation: normalising, filtering, splitting into sentences and into held-out sets.

Nothing here knows a file format; the readers of the corpora yield `Pair` and everything after that is common to them.
"""

import hashlib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

HELD_OUT = ("test_other", "test", "valid")  # in the order of precedence
SPLITS = (*HELD_OUT, "train")

MAX_WORDS = 60
# A sentence of so few words ("Thank you.") belongs to the language and not to one corpus: see `without_leaks`.
COMMON_WORDS = 4
# Translations kept of one source text. Tatoeba has up to dozens for the commonest sentences.
MAX_TARGETS = 4

_QUOTES = str.maketrans({**dict.fromkeys("“”„«»‟″", '"'), **dict.fromkeys("‘’‚‛′`´", "'"), "…": "...", "\xad": ""})
_WORD = re.compile(r"[^\W\d_]+")
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
# What has no place in speech: placeholders (%s, $name, {x}, @x@), tags, entities, addresses, code.
_MARKUP = re.compile(r"%\s?[a-zA-Z(\d]|\$\w|\w+://|www\.|[<>{}\[\]|\\^~=_*@#•·→▸⌘]|&\w+;|--\w|(?<!\w)/\w|\w\.\w+\(")
_SENTENCE = re.compile(r"^[\"'(¿¡.-]*[^\W\d_].*[.!?:;][\"')]*$", re.DOTALL)
_BOUNDARY = re.compile(r"[.!?]+[\"')]*\s+(?=[\"'(¿¡-]*\s?[A-ZÁÉÍÓÚÜÑ])")
_ABBREVIATION = re.compile(
    r"(?:\b(?:Mr|Mrs|Ms|Dr|Dra|St|Sr|Sra|Srta|Sto|Sta|Ud|Uds|Vd|Prof|Gen|Capt|Lt|Jr|vs|etc|ej|EE|UU|e\.g|i\.e)"
    r"|\b[A-Z])\.\s+$"
)
# Frequent words of one language that the other does not have, by which a text's language shows.
_FREQUENT = {
    "en": frozenset(
        _WORD.findall(
            "the and of to is you that it was with this have are not your for they his her from what in on at by we"
            " she an be will can"
        )
    ),
    "es": frozenset(
        _WORD.findall(
            "el la de que los las un una es en y por con para su se lo del al como pero ser está este esta ha te mi tu"
        )
    ),
}


@dataclass(frozen=True)
class Pair:
    """A text, its translation, and where they are from.

    Attributes:
        source: The text.
        target: Its translation.
        origin: Name of the corpus.
        document: The part of the corpus (a book, a catalogue) that is held out only as a whole; "" where the
            corpus is a collection of unrelated sentences.
    """

    source: str
    target: str
    origin: str
    document: str = ""


def normalise(text: str) -> str:
    """Return the text in Unicode NFC, with straight quotes and single spaces."""
    return " ".join(unicodedata.normalize("NFC", text).translate(_QUOTES).split())


def key(text: str) -> str:
    """Return what near-duplicates share: letters without case, accents, spaces and punctuation; every digit as 0."""
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    kept = ("0" if c.isdigit() else c for c in decomposed if c.isalnum())
    return "".join(kept)


def bucket(text: str) -> float:
    """Return a number in [0, 1) that depends on nothing but the text: the same on every machine and run."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:8], "big") / 2**64


def sentences(text: str) -> list[str]:
    """Split a normalised text after `.`, `!` and `?` where a capital follows, but not after abbreviations."""
    parts, start = [], 0
    for found in _BOUNDARY.finditer(text):
        if not _ABBREVIATION.search(text[start : found.end()]):
            parts.append(text[start : found.end()].strip())
            start = found.end()
    return [*parts, text[start:].strip()]


def split_sentences(pair: Pair) -> list[Pair]:
    """Split a pair into sentences when both sides have equally many of fitting lengths; else return it whole."""
    left, right = sentences(pair.source), sentences(pair.target)
    fits = len(left) == len(right) and all(map(_lengths_fit, left, right))
    if len(left) == 1 or not fits:
        return [pair]
    return [replace(pair, source=s, target=t) for s, t in zip(left, right, strict=True)]


def _lengths_fit(source: str, target: str) -> bool:
    """Say whether one text can be the other's translation by its length; short texts get more room."""
    return 0.55 <= (len(target) + 8) / (len(source) + 8) <= 1.9


def _foreign(text: str, language: str, other: str) -> bool:
    """Say whether frequent words show that a text is in `other` rather than in `language`."""
    words = [w.casefold() for w in _WORD.findall(text)]
    wrong = sum(w in _FREQUENT[other] for w in words)
    return wrong >= 2 and wrong > sum(w in _FREQUENT[language] for w in words)


def _unbalanced(text: str) -> bool:
    """Say whether a Spanish question or exclamation lacks its opening mark, or the reverse: a careless translation."""
    return any((opening in text) != (closing in text) for opening, closing in ("¿?", "¡!"))


def _numbers_differ(source: str, target: str) -> bool:
    """Say whether both texts have numbers, and not the same ones (1,000 and 1.000 are the same)."""
    left, right = (sorted(re.sub(r"\D", "", n) for n in _NUMBER.findall(t)) for t in (source, target))
    return bool(left and right) and left != right


def _shouted(text: str) -> bool:
    """Say whether a text of some length is mostly in capitals."""
    letters = [c for c in text if c.isalpha()]
    return len(letters) > 5 and sum(c.isupper() for c in letters) > 0.5 * len(letters)


def _closed(pair: Pair) -> Pair:
    """Return the pair without its quotation marks if a side has an odd one, as the parts of a longer quotation do."""
    if pair.source.count('"') % 2 == pair.target.count('"') % 2 == 0:
        return pair
    return replace(pair, source=pair.source.replace('"', ""), target=pair.target.replace('"', ""))


def flaw(pair: Pair, *, prose: bool) -> str | None:
    """Return why a normalised English-Spanish pair should not be used, or None when nothing speaks against it.

    Args:
        pair: The pair, normalised.
        prose: Whether to take only what reads as a sentence: at least three words, ended by punctuation on both
            sides. For catalogues, where most short texts are labels.

    Returns:
        A word for the flaw.
    """
    source, target = pair.source, pair.target
    words = _WORD.findall(source)
    checks: tuple[tuple[str, Callable[[], bool]], ...] = (
        ("empty", lambda: not words or not _WORD.search(target)),
        ("identical", lambda: key(source) == key(target) and len(words) > 1),
        ("markup", lambda: bool(_MARKUP.search(source) or _MARKUP.search(target))),
        ("long", lambda: max(len(source.split()), len(target.split())) > MAX_WORDS),
        ("label", lambda: prose and (len(words) < 3 or not (_SENTENCE.match(source) and _SENTENCE.match(target)))),
        ("letters", lambda: sum(map(len, words)) < 0.6 * len(source.replace(" ", ""))),
        ("capitals", lambda: _shouted(source) or _shouted(target)),
        ("length ratio", lambda: not _lengths_fit(source, target)),
        ("numbers", lambda: _numbers_differ(source, target)),
        ("language", lambda: _foreign(target, "es", "en") or _foreign(source, "en", "es")),
        ("punctuation", lambda: _unbalanced(target) or ("?" in source) != ("?" in target)),
    )
    return next((name for name, fails in checks if fails()), None)


def clean(pairs: Iterable[Pair], *, prose: bool, dropped: Counter[str]) -> Iterator[Pair]:
    """Normalise pairs, split them into sentences and drop the flawed ones.

    Args:
        pairs: The pairs of one corpus as read.
        prose: See `flaw`.
        dropped: Is added the number of dropped pairs by flaw.

    Yields:
        The good pairs.
    """
    for whole in normalised(pairs):
        for part in map(_closed, split_sentences(whole)):
            reason = flaw(part, prose=prose)
            if reason is None:
                yield part
            else:
                dropped[reason] += 1


def normalised(pairs: Iterable[Pair]) -> Iterator[Pair]:
    """Normalise pairs and change nothing else: for published test sets, whose figures are comparable only whole."""
    for pair in pairs:
        yield replace(pair, source=normalise(pair.source), target=normalise(pair.target))


def long_enough(pairs: Iterable[Pair], words: int) -> Iterator[Pair]:
    """Pass on the pairs that have so many words on both sides.

    Args:
        pairs: The pairs.
        words: The least number of words.

    Yields:
        The pairs that have them.
    """
    return (p for p in pairs if min(len(p.source.split()), len(p.target.split())) >= words)


def deduplicate(pairs: Iterable[Pair], dropped: Counter[str]) -> Iterator[Pair]:
    """Drop pairs whose both sides were seen (by `key`), and translations of one text beyond `MAX_TARGETS`.

    The first of its kind stays, so the order of the corpora decides whose copy it is.

    Args:
        pairs: The pairs of all corpora.
        dropped: Is added the number of dropped pairs.

    Yields:
        The pairs that stay.
    """
    seen: defaultdict[str, set[str]] = defaultdict(set)
    for pair in pairs:
        targets = seen[key(pair.source)]
        target = key(pair.target)
        if target in targets:
            dropped["duplicate"] += 1
        elif len(targets) >= MAX_TARGETS:
            dropped["many translations"] += 1
        else:
            targets.add(target)
            yield pair


def split(
    pairs: Iterable[Pair], documents: Mapping[str, str], origins: Mapping[str, str], share: float
) -> dict[str, list[Pair]]:
    """Split pairs into training and held-out sets so that no held-out text is trained on.

    A whole origin or document that is named goes to the set named for it. Other pairs with a document are trained
    on. A pair without one goes to `test` or `valid` by the hash of its source's `key`, so that all translations of
    one text stay together. `without_leaks` then removes what two sets share.

    Args:
        pairs: The pairs.
        documents: Set by document.
        origins: Set by origin; decides before `documents`.
        share: The part of the pairs without a document that goes to each of `test` and `valid`.

    Returns:
        The pairs by set, for each name in `SPLITS`.
    """
    sets: dict[str, list[Pair]] = {name: [] for name in SPLITS}
    for pair in pairs:
        name = origins.get(pair.origin) or documents.get(pair.document)
        if name is None:
            place = 1.0 if pair.document else bucket(key(pair.source))
            name = "test" if place < share else "valid" if place < 2 * share else "train"
        sets[name].append(pair)
    return without_leaks(sets)


def without_texts(pairs: Iterable[Pair], others: Iterable[Pair]) -> list[Pair]:
    """Take away pairs of which the source or the target (by `key`) is in other pairs.

    Args:
        pairs: The pairs.
        others: The pairs to keep apart from.

    Returns:
        The pairs that stay.
    """
    barred = {key(text) for other in others for text in (other.source, other.target)}
    return [p for p in pairs if key(p.source) not in barred and key(p.target) not in barred]


def capped(pairs: Sequence[Pair], origins: Collection[str], share: float) -> list[Pair]:
    """Take fewer of some origins, until together they are no more than a share of the whole.

    Args:
        pairs: The pairs.
        origins: The origins to take fewer of.
        share: Their greatest share, below 1.

    Returns:
        The pairs that stay, in order; which ones stay depends on their texts only.
    """
    places = sorted(bucket(p.source + p.target) for p in pairs if p.origin in origins)
    room = round((len(pairs) - len(places)) * share / (1 - share))
    if room >= len(places):
        return list(pairs)
    return [p for p in pairs if p.origin not in origins or bucket(p.source + p.target) < places[room]]


def follow(sets: Mapping[str, list[Pair]], former: Mapping[str, Iterable[str]]) -> dict[str, list[Pair]]:
    """Remove what would contradict a former split, so that a model trained on that can be trained further on this.

    Args:
        sets: The pairs for each name in `SPLITS`.
        former: The texts of both languages that the former split had, for each name in `SPLITS`.

    Returns:
        The sets without training pairs of which the former split held a text out, and without held-out pairs of
        which it trained on a text.
    """
    held = {key(text) for name in HELD_OUT for text in former[name]}
    trained = {key(text) for text in former["train"]}
    barred = {name: held if name == "train" else trained for name in SPLITS}
    return {
        name: [p for p in pairs if key(p.source) not in barred[name] and key(p.target) not in barred[name]]
        for name, pairs in sets.items()
    }


def without_leaks(sets: Mapping[str, list[Pair]]) -> dict[str, list[Pair]]:
    """Remove pairs until no two sets share a source or a target (by `key`).

    Where a held-out pair and a later set's share a text, the later set loses its pair; unless the text is one of
    `COMMON_WORDS` words or fewer, which is common property: then the held-out set loses it.

    Args:
        sets: The pairs for each name in `SPLITS`.

    Returns:
        The same sets, smaller.
    """
    keyed = {name: [(key(p.source), key(p.target), p) for p in sets[name]] for name in SPLITS}
    for rank, name in enumerate(HELD_OUT):
        later = SPLITS[rank + 1 :]
        elsewhere = {k for other in later for s, t, _ in keyed[other] for k in (s, t)}
        keyed[name] = [
            (s, t, p)
            for s, t, p in keyed[name]
            if len(p.source.split()) > COMMON_WORDS or not (s in elsewhere or t in elsewhere)
        ]
        mine = {k for s, t, _ in keyed[name] for k in (s, t)}
        for other in later:
            keyed[other] = [(s, t, p) for s, t, p in keyed[other] if s not in mine and t not in mine]
    return {name: [p for _, _, p in keyed[name]] for name in SPLITS}
