"""mmx: what people say, mouth or sign, into text or speech in another language.

    import mmx
    print(mmx.load("whisper-base").transcribe("talk.mp4").text)

Names are imported when first used, so that `import mmx` costs nothing.
"""

from typing import TYPE_CHECKING, Any

from mmx._version import __version__

if TYPE_CHECKING:
    from mmx.api import load
    from mmx.card import Card, cards
    from mmx.composition import compose
    from mmx.errors import MmxError
    from mmx.model import Model
    from mmx.result import Note, Segment, Transcript, Word
    from mmx.seq import Seq
    from mmx.transcribe import Options

__all__ = [
    "Card", "MmxError", "Model", "Note", "Options", "Segment", "Seq", "Transcript", "Word", "__version__", "cards",
    "compose", "load",
]  # fmt: skip

_HOME = {
    "load": "api", "Card": "card", "cards": "card", "compose": "composition", "MmxError": "errors", "Model": "model",
    "Note": "result", "Segment": "result", "Transcript": "result", "Word": "result", "Seq": "seq",
    "Options": "transcribe",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mmx' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"mmx.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
