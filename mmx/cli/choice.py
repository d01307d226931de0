"""Which model reads recordings where none is named: the one that ships for what they hold."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mmx.errors import InputError
from mmx.text.languages import find_language
from mmx.weights.card import cards
from mmx.weights.options import DEFAULT_MODEL, LoadOptions


def is_signed(files: Sequence[str], language: str | None) -> bool:
    """Whether recordings are of signing: their language is a signed one, or all are .pose files."""
    if language is not None:
        return find_language(language).signed
    from mmx.media.pose import POSE_FILE  # here, for it imports NumPy

    return bool(files) and all(Path(f).suffix.lower() == POSE_FILE for f in files)


def fitting(load: LoadOptions, files: Sequence[str], language: str | None) -> LoadOptions:
    """The models to load, with the one that reads poses in place of the default one for recordings of signing.

    Raises:
        InputError: none ships.
    """
    if load.model != DEFAULT_MODEL or not is_signed(files, language):
        return load
    name = next((c.name for c in cards().values() if "pose" in c.default_for), None)
    if name is None:
        raise InputError(
            "expected --model with signing, got none: no model that reads it ships with mmx; train one by "
            "models/recipes/fingerspelling.toml"
        )
    return replace(load, model=name)
