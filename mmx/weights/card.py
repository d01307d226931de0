"""`Card`: where a model comes from, what it is good for and under which licence; one TOML file each."""

import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field
from dataclasses import fields as fields_of
from pathlib import Path
from typing import Any, get_type_hints

from mmx.checked import describe, fits
from mmx.errors import InputError, ModelNotFoundError, nearest

CARDS = Path(__file__).parents[1] / "models" / "cards"


@dataclass(frozen=True, kw_only=True)
class Weights:
    """One place that publishes a model's weights.

    Attributes:
        format: key of the family's conversion tables (openai, hf, ct2, mmx).
        folder: in `models/weights`, of weights that ship with mmx.
        packages: installed distributions whose `file` parts, joined in order, are the checkpoint.
        repo: Hugging Face repository, with `revision` and `file`.
        beside: other files of the repository that the reader needs: shards, the tokenizer's own settings.
        sha256: digest of the joined checkpoint file; empty when the publisher gives none.
    """

    format: str
    folder: str = ""
    packages: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    tokenizer: str = ""
    beside: tuple[str, ...] = ()
    extra: str = ""
    repo: str = ""
    revision: str = ""
    sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class Card:
    """What `mmx models` shows and `load` follows.

    Attributes:
        name: what users type.
        family: module in `models/` that builds it.
        config: the family's `Config` numbers.
        weights: sources in the order in which they are tried.
        license: SPDX identifier of the weights.
        commercial: whether the licence allows commercial use.
        trained_on: teachers and data of a voice, with their licences.
        writes: languages (BCP-47), and no others, that a text model has learned to write; it may serve as a second step
            unasked.
        default_for: media of which it reads recordings where no model is named.
        max_source: tokens past which a sentence to translate is cut into clauses; `mmx.tasks.translate.MAX_SOURCE`
            when 0.
        alignment_heads: (layer, head) pairs whose cross-attention follows the audio, for word times.
        voices: names of the voices that speak each language (a BCP-47 tag), its default first.
        streaming: stride and look-ahead in milliseconds.
        results: measured figures, each with the command that made it.
    """

    name: str
    family: str
    summary: str
    config: Mapping[str, Any]
    weights: tuple[Weights, ...]
    license: str
    commercial: bool
    source: str = ""
    trained_on: str = ""
    languages: str = ""
    tasks: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    default_for: tuple[str, ...] = ()
    max_source: int = 0
    parameters: int = 0
    alignment_heads: tuple[tuple[int, int], ...] = ()
    voices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    streaming: Mapping[str, Any] = field(default_factory=dict)
    results: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> "Card":
        """Read a parsed TOML table; unknown keys are an error: a typing slip never passes silently."""
        _check_fields(cls, raw, "card")
        fields = dict(raw)
        fields |= {k: tuple(raw[k]) for k in ("tasks", "writes", "default_for") if k in raw}
        fields["weights"] = tuple(_weights(w, raw["name"]) for w in raw["weights"])
        fields["alignment_heads"] = tuple((int(a), int(b)) for a, b in raw.get("alignment_heads", ()))
        fields["voices"] = {tag: tuple(names) for tag, names in raw.get("voices", {}).items()}
        fields["tasks"] = tuple(raw.get("tasks", ()))
        fields["results"] = tuple(raw.get("results", ()))
        return cls(**fields)


def _weights(raw: Mapping[str, Any], name: str) -> Weights:
    _check_fields(Weights, raw, f"weights of the card {name!r}")
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}
    return Weights(**fields)


def _check_fields(kind: type, raw: Mapping[str, Any], what: str) -> None:
    known = {f.name: f for f in fields_of(kind)}
    unknown = sorted(raw.keys() - known.keys())
    needed = {n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING}
    missing = sorted(needed - raw.keys())
    if unknown or missing:
        hint = nearest(unknown[0], sorted(known)) if unknown else ""
        raise InputError(
            f"expected {what} with fields {sorted(known)}, got unknown {unknown} and missing {missing}.{hint}"
        )
    for name, annotation in get_type_hints(kind).items():
        if name in raw and name != "weights" and not fits(raw[name], annotation):
            raise InputError(f"expected {what} with {name} = {describe(annotation)}, got {raw[name]!r}")


def cards() -> dict[str, Card]:
    """All cards that ship with mmx, by name, from small to large."""
    found = [Card.from_dict(tomllib.loads(p.read_text("utf-8"))) for p in CARDS.glob("*.toml")]
    return {c.name: c for c in sorted(found, key=lambda c: (c.family, c.parameters, c.name))}


def suggestion(task: str) -> str:
    """The remedy of an error: models that have a task, those first that need no download."""
    fitting = sorted((c for c in cards().values() if task in c.tasks), key=lambda c: not _is_packaged(c))
    return "use " + " or ".join(f"{c.name} ({c.languages})" for c in fitting[:2])


def _is_packaged(card: Card) -> bool:
    return any(w.folder or w.packages for w in card.weights)


def read_card(path: Path) -> Card:
    """The card in a TOML file."""
    try:
        return Card.from_dict(tomllib.loads(path.read_text("utf-8")))
    except (OSError, ValueError, KeyError) as e:
        raise InputError(f"expected a card in TOML at {path}, got something else ({e}): mend or remove it") from e


def find_card(name: str) -> Card:
    """The card called `name`; raises `ModelNotFoundError` with the nearest name."""
    path = CARDS / f"{name}.toml"
    if path.parent == CARDS and path.is_file():
        return Card.from_dict(tomllib.loads(path.read_text("utf-8")))
    known = list(cards())
    raise ModelNotFoundError(
        f"expected the name of a model or a path to one, got {name!r}.{nearest(name, known)} Known: {', '.join(known)}"
    )
