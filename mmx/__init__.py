"""mmx: what people say, mouth or sign, into text or speech in another language.

    import mmx
    print(mmx.load("whisper-base").transcribe("talk.mp4").text)

Names are imported when first used, so that `import mmx` costs nothing.
"""

from typing import TYPE_CHECKING, Any

from mmx._version import __version__

if TYPE_CHECKING:
    from mmx.api import Model, load, speak
    from mmx.errors import MmxError
    from mmx.make.compose import compose
    from mmx.seq import Seq
    from mmx.tasks.options import Options, SpeakOptions
    from mmx.tasks.result import Note, Segment, SpokenSegment, Transcript, Word
    from mmx.weights.card import Card, cards

__all__ = [
    "Card", "MmxError", "Model", "Note", "Options", "Segment", "Seq", "SpeakOptions", "SpokenSegment", "Transcript",
    "Word", "__version__", "cards", "compose", "load", "speak",
]  # fmt: skip

_HOME = {
    "load": "api", "speak": "api", "SpeakOptions": "tasks.options", "SpokenSegment": "tasks.result",
    "Card": "weights.card", "cards": "weights.card", "compose": "make.compose",
    "MmxError": "errors", "Model": "api", "Note": "tasks.result", "Segment": "tasks.result",
    "Transcript": "tasks.result", "Word": "tasks.result", "Seq": "seq", "Options": "tasks.options",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mmx' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"mmx.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
