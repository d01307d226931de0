"""Families: the modules that build models.

A family is a module with a `Config` and `build(config) -> Model`, or, where a model is no set of tensors (an ONNX
file), `from_file(file, config) -> Model`; what else it may declare, each only where it needs it, stands in `Family`.
Those of `mmx.models` have short names; one of any other package is named with dots, in a card, a written folder or a
recipe, and needs nothing outside of its own module.
"""

import importlib
import importlib.machinery
import pkgutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from torch import Tensor

from mmx.errors import CheckpointError, InputError, nearest
from mmx.weights.card import Card
from mmx.weights.convert import Rule
from mmx.weights.formats import LazyTensors

if TYPE_CHECKING:
    from mmx.model import Model

HOME = "mmx.models"


def _is_file(config: Any) -> "Model":
    raise InputError("expected a family whose models are made of tensors, got one whose models are files: name another")


def _no_numbers(format: str, meta: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    raise CheckpointError("expected weights that mmx wrote, since the family is published by none else, got others")


def _as_it_is(format: str, source: LazyTensors) -> LazyTensors:
    return source


@dataclass(frozen=True)
class Family:
    """What the module of a family declares, and what holds where it declares nothing.

    Attributes:
        name: as a card gives it.
        Config: class of the numbers of a model.
        build: a model of its numbers, with random weights; raises `InputError` where `from_file` makes them.
        from_file: a model of a file and its numbers, where a model is no set of tensors.
        MODEL_TYPES: names in published `config.json`s.
        KEYS: conversion table of each published format.
        config_from: the numbers of a file: of its format, what stands beside its tensors, and their shapes.
        sniff: whether a checkpoint whose format records no name is of the family.
        files_beside: files that a checkpoint needs beside it.
        prepare_source: the checkpoint as `KEYS` expects it.
        tokenizer: of a file and the numbers; None for models without one.
        TOKENIZER_OF: the card that lends one.
        PIECES: pattern of the lists of pieces (`mmx.text.piece_tokenizer`) that publishers put beside weights which are
            of use without a tokenizer, too.
        TOKEN_IDS: what a `config.json` says for the tokenizer of a checkpoint that came without.
        finish: what else a loaded model needs from its folder.
        hf_config: Hugging Face's `config.json` of the numbers; None where there is no such shape.
        hf_fixed: tensors that Hugging Face's shape has and ours computes.
        hf_files: contents, by name, of what transformers reads beside the weights.
    """

    name: str
    Config: Callable[..., Any]
    build: "Callable[[Any], Model]" = _is_file
    from_file: "Callable[[Path, Any], Model] | None" = None
    MODEL_TYPES: Sequence[str] = ()
    KEYS: Mapping[str, Sequence[Rule]] = field(default_factory=dict)
    config_from: Callable[[str, Mapping[str, Any], Mapping[str, tuple[int, ...]]], dict[str, Any]] = _no_numbers
    sniff: Callable[[str, LazyTensors], bool] = lambda format, source: False
    files_beside: Callable[[Path], Iterable[Path]] = lambda path: ()
    prepare_source: Callable[[str, LazyTensors], LazyTensors] = _as_it_is
    tokenizer: Callable[[Path, Any], Any] | None = None
    TOKENIZER_OF: str = ""
    PIECES: str = ""
    TOKEN_IDS: Mapping[str, int] = field(default_factory=dict)
    finish: "Callable[[Model, Path], None]" = lambda model, folder: None
    hf_config: Callable[[Any], dict[str, Any]] | None = None
    hf_fixed: Callable[[Any], Mapping[str, Tensor]] = lambda config: {}
    hf_files: Callable[[Any, Any, Card, Path], Mapping[str, str]] = lambda config, tokenizer, card, folder: {}


def families() -> dict[str, Family]:
    """The families of `mmx.models`, by name; imported when asked for."""
    home = importlib.import_module(HOME)
    found = {m.name: importlib.import_module(f"{HOME}.{m.name}") for m in pkgutil.iter_modules(home.__path__)}
    return {name: _declared(name, module) for name, module in sorted(found.items()) if _is_family(module)}


def import_family(name: str) -> Family:
    """A family: one of `mmx.models`, or by its dotted name one of any package that Python finds.

    A folder of weights names its family: a file that merely lies in the current folder is never imported for it.

    Raises:
        InputError: there is none of that name, or it builds no models.
    """
    path = name if "." in name else f"{HOME}.{name}"
    module = None
    if all(map(str.isidentifier, name.split("."))) and _is_installed(path.partition(".")[0]):
        try:
            module = importlib.import_module(path)
        except ModuleNotFoundError as e:
            if e.name is None or not f"{path}.".startswith(f"{e.name}."):
                raise  # the family is there, and what it needs is not
    if module is None or not _is_family(module):
        known = list(families())
        raise InputError(
            f"expected a family among {', '.join(known)}, or the dotted name of a module with Config and build, got "
            f"{name!r}.{nearest(name, known)}"
        )
    return _declared(name, module)


def model_types() -> dict[str, str]:
    """The family of each model type that published checkpoints name."""
    return {t: name for name, family in families().items() for t in family.MODEL_TYPES}


def _declared(name: str, module: ModuleType) -> Family:
    own = {"MODEL_TYPES": (name,), **vars(module)}
    return Family(name, **{f.name: own[f.name] for f in fields(Family) if f.name != "name" and f.name in own})


def _is_installed(package: str) -> bool:
    """Whether a package is imported already, or found elsewhere than in the current folder, where `python -m` looks."""
    if package in sys.modules:
        return True
    here = sys.path[:1] if sys.path and Path(sys.path[0]).resolve() == Path.cwd() else []
    paths = sys.path[len(here) :]
    finder = importlib.machinery.PathFinder
    found = (f.find_spec(package, paths if f is finder else None) for f in sys.meta_path)
    return any(spec is not None for spec in found)


def _is_family(module: ModuleType) -> bool:
    own = vars(module)
    return "Config" in own and ("build" in own or "from_file" in own)
