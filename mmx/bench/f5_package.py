"""The packages f5-tts and vocos as a baseline: their networks, without what they bring for training and files.

With their dependencies they are 3 GB (gradio, wandb, bitsandbytes), and torchaudio, of which they take the mels only,
does not load beside a CPU build of torch. So `HOW` installs the packages alone, and what is missing is replaced, while
they are imported, by modules that hold nothing.
"""

import importlib
import importlib.util
import sys
import types
from types import ModuleType
from typing import Any

from mmx.errors import InputError

HOW = (
    "pip install --no-deps f5-tts vocos x_transformers torchdiffeq einops einx frozendict loguru torch-einops-utils "
    "rjieba pypinyin"
)
ABSENT = {
    "torchaudio": (), "torchaudio.functional": (), "torchaudio.functional.functional": ("_hz_to_mel", "_mel_to_hz"),
    "librosa": (), "librosa.filters": ("mel",), "scipy": (), "scipy.integrate": ("solve_ivp",),
    "encodec": ("EncodecModel",),
}  # fmt: skip
"""What the packages import and their networks do not need, with the names that they import of it."""
UNUSED = {"f5_tts.model.trainer": ("Trainer",)}
"""A part of f5-tts that is not looked at: it needs accelerate, wandb and datasets."""


def import_package(name: str) -> Any:
    """A module of the packages: "f5_tts.model", "vocos". Raises `InputError` where it is not installed."""
    missing = {n: names for n, names in ABSENT.items() if importlib.util.find_spec(n.partition(".")[0]) is None}
    stubs = {stub: _stub(stub, names) for stub, names in (missing | UNUSED).items() if stub not in sys.modules}
    sys.modules.update(stubs)
    try:
        return importlib.import_module(name)
    except ImportError as e:
        raise InputError(f"expected {name.partition('.')[0]} as the baseline, got no {e.name or e}: {HOW}") from e
    finally:
        for stub in stubs:  # others ask whether a package is there by whether it is imported
            sys.modules.pop(stub, None)


def _stub(name: str, names: tuple[str, ...]) -> ModuleType:
    module: Any = types.ModuleType(name)
    module.__path__ = []
    for attribute in names:
        setattr(module, attribute, None)
    return module
