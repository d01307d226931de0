"""The packages f5-tts and vocos for parity; `mmx.bench.f5_package` says how they are installed."""

from typing import Any

import pytest

from mmx.bench.f5_package import HOW, import_package
from mmx.errors import InputError

__all__ = ["HOW", "f5_tts", "vocos"]


def f5_tts() -> Any:
    """`f5_tts.model`: DiT, UNetT and CFM."""
    return _imported("f5_tts.model")


def vocos() -> Any:
    """The package vocos."""
    return _imported("vocos")


def _imported(name: str) -> Any:
    try:
        return import_package(name)
    except InputError:
        pytest.skip(f"needs {name.partition('.')[0]} with what it imports, as mmx/bench/f5_package.py says")
