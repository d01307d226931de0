"""fairseq2's asset cards: small YAML files that say where a checkpoint is and which numbers it was built with.

A file holds one card or several; a card may build on another (`base`) of the same file or folder. Only what names
files of this machine is followed: nothing is downloaded.
"""

import importlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from mmx.errors import InputError, ModelNotFoundError, nearest

_NUMBERS = ("model_config", "model_config_overrides")
"""Fields of a card's own numbers, whose name changed between versions of fairseq2."""


@dataclass(frozen=True, kw_only=True)
class Asset:
    """A card whose files are here.

    Attributes:
        name: what fairseq2 calls it.
        checkpoint: the weights.
        tokenizer: the SentencePiece model, where the card names one.
        numbers: the card's own numbers, whatever tables they stand in, by their names in fairseq2.
        languages: in the order of their tokens.
    """

    name: str
    checkpoint: Path
    tokenizer: Path | None
    numbers: Mapping[str, Any]
    languages: tuple[str, ...]


def read(path: Path) -> Asset:
    """The first card of a YAML file that names a checkpoint.

    Raises:
        InputError: the file holds no such card, or one that builds on a card which is not there.
        ModelNotFoundError: its checkpoint or tokenizer is not on this machine.
    """
    known: dict[str, dict[str, Any]] = {}
    for file in sorted({*path.parent.glob("*.yaml"), *path.parent.glob("*.yml")} - {path}):
        known |= {card["name"]: card for card in _cards(file, strict=False)}
    own = _cards(path, strict=True)
    known |= {card["name"]: card for card in own}
    for card in own:
        fields = _with_bases(card, known)
        if "checkpoint" in fields:
            return _asset(fields, path.parent)
    raise InputError(f"expected a card with a checkpoint in {path}, got {[c['name'] for c in own] or 'none'}")


def find(name: str) -> Asset:
    """A card by its name, from the asset store of fairseq2.

    Raises:
        ModelNotFoundError: fairseq2 is not installed, does not know the name, or its files are not here.
    """
    try:
        fairseq2, errors, assets = (importlib.import_module(f"fairseq2{part}") for part in ("", ".error", ".assets"))
    except ImportError as e:
        raise ModelNotFoundError(
            f"expected fairseq2 to find its card {name!r}, got none installed: give the path of the card's YAML file"
        ) from e
    with suppress(errors.InvalidOperationError):  # the program that we are in has done it
        fairseq2.init_fairseq2()
    store = assets.get_asset_store()
    card = store.maybe_retrieve_card(name)
    if card is None:
        known = sorted(n.partition("@")[0] for n in store.asset_names)
        raise ModelNotFoundError(f"expected an asset card of fairseq2's, got {name!r}.{nearest(name, known)}")
    fields: dict[str, Any] = {}
    while card is not None:
        fields = {**card.metadata, **fields}
        card = card.base
    return _asset({**fields, "name": name}, Path.cwd())


def _cards(path: Path, strict: bool) -> list[dict[str, Any]]:
    """The cards of a file; of one that others may build on, only what can be read."""
    import yaml

    try:
        documents = list(yaml.safe_load_all(path.read_text("utf-8")))
    except (OSError, ValueError, yaml.YAMLError) as e:
        if not strict:
            return []
        raise InputError(f"expected an asset card in YAML at {path}, got something else ({e})") from e
    return [d for d in documents if isinstance(d, dict) and isinstance(d.get("name"), str)]


def _with_bases(card: Mapping[str, Any], known: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A card's fields with those of what it builds on; the own ones win."""
    fields, seen = dict(card), {card["name"]}
    while base := fields.pop("base", None):
        if base in seen or base not in known:
            raise InputError(
                f"expected the card {base!r}, which {card['name']!r} builds on, in a YAML file beside it, got "
                + ("a circle" if base in seen else "none")
            )
        seen.add(base)
        fields = {**known[base], **fields}
        fields["base"] = known[base].get("base")
    return fields


def _asset(fields: Mapping[str, Any], folder: Path) -> Asset:
    numbers: dict[str, Any] = {}
    for name in _NUMBERS:
        numbers |= _leaves(fields.get(name) or {})
    settings = fields.get("tokenizer_config_overrides") or fields.get("tokenizer_config") or {}
    tokenizer = fields.get("tokenizer")
    return Asset(
        name=fields["name"],
        checkpoint=_local(fields["checkpoint"], folder, fields["name"], "checkpoint"),
        tokenizer=_local(tokenizer, folder, fields["name"], "tokenizer") if tokenizer else None,
        numbers=numbers,
        languages=tuple(fields.get("langs") or settings.get("langs") or ()),
    )


def _leaves(table: Mapping[str, Any]) -> dict[str, Any]:
    """All numbers of nested tables; fairseq2 marks how tables merge by keys such as `_set_`, which add a level."""
    out: dict[str, Any] = {}
    for key, value in table.items():
        out |= _leaves(value) if isinstance(value, Mapping) else {key: value}
    return out


def _local(address: Any, folder: Path, name: str, what: str) -> Path:
    """The file that an address names: a path, relative ones to the card's folder, or a `file://` address."""
    parsed = urlparse(str(address))
    path = Path(unquote(parsed.path) if parsed.scheme == "file" else str(address)).expanduser()
    if parsed.scheme in ("", "file") and (folder / path).is_file():
        return folder / path
    remedy = f"download it, and give a copy of the card that has its path as {what}"
    if parsed.scheme in ("", "file"):
        remedy = "correct the path"
    raise ModelNotFoundError(f"expected the {what} of the asset card {name!r} on this machine, got {address}: {remedy}")
