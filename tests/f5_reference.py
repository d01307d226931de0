"""The packages f5-tts and vocos, for parity: their networks without what they bring for training and files.

    pip install --no-deps f5-tts vocos x_transformers torchdiffeq einops einx frozendict loguru torch-einops-utils \
        rjieba pypinyin

With their own dependencies they are 3 GB (gradio, wandb, bitsandbytes), and torchaudio, of which they take the mels
only, does not load beside a CPU build of torch: what is not installed is a module here that has nothing in it.
"""

import importlib
import importlib.util
import sys
import types
from types import ModuleType
from typing import Any

import pytest

HOW = "pip install --no-deps " + " ".join(
    line for line in (__doc__ or "").partition("--no-deps")[2].partition("\n\n")[0].replace("\\", " ").split()
)
ABSENT = {
    "torchaudio": (), "torchaudio.functional": (), "torchaudio.functional.functional": ("_hz_to_mel", "_mel_to_hz"),
    "librosa": (), "librosa.filters": ("mel",), "scipy": (), "scipy.integrate": ("solve_ivp",),
    "encodec": ("EncodecModel",),
}  # fmt: skip
"""What the packages import and parity does not need, with the names that they import of it."""
UNUSED = {"f5_tts.model.trainer": ("Trainer",)}
"""A part of f5-tts that is not looked at: it needs accelerate, wandb and datasets."""


def f5_tts() -> Any:
    """`f5_tts.model`: DiT, UNetT and CFM."""
    return _imported("f5_tts.model")


def vocos() -> Any:
    """The package vocos."""
    return _imported("vocos")


def _imported(name: str) -> ModuleType:
    package = name.partition(".")[0]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"needs {package}, as tests/f5_reference.py says")
    missing = {n: names for n, names in ABSENT.items() if importlib.util.find_spec(n.partition(".")[0]) is None}
    stubs = {name: _stub(name, names) for name, names in (missing | UNUSED).items() if name not in sys.modules}
    sys.modules.update(stubs)
    try:
        return importlib.import_module(name)
    except ImportError:
        pytest.skip(f"needs {package} with what it imports, as tests/f5_reference.py says")
    finally:
        for stub in stubs:  # others ask whether a package is there by whether it is imported
            sys.modules.pop(stub, None)


def _stub(name: str, names: tuple[str, ...]) -> ModuleType:
    module: Any = types.ModuleType(name)
    module.__path__ = []
    for attribute in names:
        setattr(module, attribute, None)
    return module
