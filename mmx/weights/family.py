"""Families by name: a card, a written folder and a recipe say which one a model is of."""

import importlib
from types import ModuleType


def import_family(name: str) -> ModuleType:
    """The module of a family: one of `mmx.models`, or by its dotted name one of any package that Python finds.

    Raises:
        ModuleNotFoundError: there is none.
    """
    return importlib.import_module(name if "." in name else f"mmx.models.{name}")
