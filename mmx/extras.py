"""Packages of the optional extras that are not simply imported."""

import importlib
import importlib.util
import sys
import types
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

from mmx.errors import InputError, MmxWarning


def import_torchaudio() -> ModuleType:
    """torchaudio; its Python part where the compiled one does not load.

    Its wheels for Linux are linked to CUDA's libraries, which a machine without a GPU does not have. What only its
    compiled part can do (forced alignment, the RNN-T loss) then says so when it is called.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module("torchaudio")
    except ImportError as e:
        raise InputError("expected torchaudio to be installed, got none: pip install 'mmx[torchaudio]'") from e
    except OSError as e:
        warnings.warn(f"torchaudio's compiled part does not load here ({e}); its Python part is used", MmxWarning, 2)
    for name in [n for n in sys.modules if n.partition(".")[0] == "torchaudio"]:
        del sys.modules[name]
    sys.modules["torchaudio._extension"] = _no_extension()
    return importlib.import_module("torchaudio")


def _no_extension() -> ModuleType:
    """In place of torchaudio's loader of its compiled part: nothing is there."""

    def refuse(function: Callable[..., Any]) -> Callable[..., Any]:
        def refused(*args: Any, **options: Any) -> Any:
            raise InputError(f"expected torchaudio's compiled part for {function.__name__}, which does not load here")

        return refused

    module: Any = types.ModuleType("torchaudio._extension")
    module._IS_TORCHAUDIO_EXT_AVAILABLE = module._IS_ALIGN_AVAILABLE = False
    module.fail_if_no_align, module._check_cuda_version = refuse, lambda: None
    return module


def import_augmentation() -> ModuleType:
    """`speechbrain.augment.time_domain`. Raises `InputError` where speechbrain is not installed."""
    try:
        if importlib.util.find_spec("speechbrain") is None:
            raise ModuleNotFoundError("speechbrain")
        import_torchaudio()  # first: speechbrain imports it, and would fail as it does
        return importlib.import_module("speechbrain.augment.time_domain")
    except ImportError as e:
        raise InputError(
            f"expected speechbrain for speeds, got no module {e.name or e}: pip install 'mmx[speechbrain]'"
        ) from e


def import_extra(module: str, extra: str) -> Any:
    """A module of an optional package. Raises `InputError` that names the extra to install."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as e:
        package = module.partition(".")[0]
        raise InputError(f"expected {package} to be installed, got none: pip install 'mmx[{extra}]'") from e
