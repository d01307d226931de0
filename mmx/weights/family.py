"""Families: the modules that build models.

A family is a module with a `Config` and `build(config) -> Model`, or, where a model is no set of tensors (an ONNX
file), `from_file(file, config) -> Model`. Those of `mmx.models` have short names; one of any
other package is named with dots, in a card, a written folder or a recipe, and needs nothing outside of its own module.
It may also have, each only where it needs it:

- `KEYS`: conversion table of each published format, and `config_from(format, meta, shapes)`: the numbers of a file;
- `MODEL_TYPES`: names in published `config.json`s, its own name when absent;
- `sniff(format, source) -> bool`: whether a checkpoint whose format records no name is of the family;
- `files_beside(path)`: files that a checkpoint needs beside it, and `prepare_source(format, source)`, which joins them;
- `tokenizer(file, config)`, `TOKENIZER_OF`: the tokenizer, and the card that lends one;
- `finish(model, folder)`: what else a loaded model needs.
"""

import importlib
import importlib.machinery
import pkgutil
import sys
from pathlib import Path
from types import ModuleType

from mmx.errors import InputError, nearest

HOME = "mmx.models"


def families() -> dict[str, ModuleType]:
    """The families of `mmx.models`, by name; imported when asked for."""
    home = importlib.import_module(HOME)
    found = {m.name: importlib.import_module(f"{HOME}.{m.name}") for m in pkgutil.iter_modules(home.__path__)}
    return {name: module for name, module in sorted(found.items()) if _is_family(module)}


def import_family(name: str) -> ModuleType:
    """The module of a family: one of `mmx.models`, or by its dotted name one of any package that Python finds.

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
    return module


def model_types() -> dict[str, str]:
    """The family of each model type that published checkpoints name."""
    return {t: name for name, module in families().items() for t in getattr(module, "MODEL_TYPES", (name,))}


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
    return hasattr(module, "Config") and (hasattr(module, "build") or hasattr(module, "from_file"))
