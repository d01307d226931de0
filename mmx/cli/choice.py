"""Which model reads recordings where none is named: the one that ships for what they hold."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mmx.cli.console import say
from mmx.errors import InputError
from mmx.tasks.options import Modality
from mmx.text.languages import find_language
from mmx.weights.card import cards
from mmx.weights.options import DEFAULT_MODEL, LoadOptions

LIPS: tuple[Modality, ...] = ("av", "video")
SUBJECTS = {"pose": "signing", "video": "lips"}
RECIPES = {"pose": "models/recipes/fingerspelling.toml", "video": "models/recipes/lips_and_sound.toml"}


def is_signed(files: Sequence[str], language: str | None) -> bool:
    """Whether recordings are of signing: their language is a signed one, or all are .pose files."""
    if language is not None:
        return find_language(language).signed
    from mmx.media.pose import POSE_FILE  # here, for it imports NumPy

    return bool(files) and all(Path(f).suffix.lower() == POSE_FILE for f in files)


def fitting(
    load: LoadOptions, files: Sequence[str], language: str | None, modality: Modality | None = None
) -> LoadOptions:
    """The models to load, with one that reads poses, or lips, in place of the default one where these are asked for.

    Raises:
        InputError: none ships.
    """
    medium = "pose" if is_signed(files, language) else "video" if modality in LIPS else ""
    if load.model != DEFAULT_MODEL or not medium:
        return load
    card = next((c for c in cards().values() if medium in c.default_for), None)
    if card is None:
        raise InputError(
            f"expected --model with {SUBJECTS[medium]}, got none: no model that reads it ships with mmx; train one by "
            f"{RECIPES[medium]}"
        )
    if medium == "video":
        say(f"{card.name} reads it: {card.summary}")
    return replace(load, model=card.name)
