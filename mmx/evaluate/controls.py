"""Controls: recordings that do not say what is asked for, which catch a model that writes well without looking.

A decoder that knows the sentences of a corpus writes fluent ones from a black film, and BLEU gives it points for that.
What it scores on these is what its score is worth nothing above.
"""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmx.evaluate.options import Control

_ON: Mapping[Control, str] = {"blank": "blank", "shuffled": "shuffled frames", "swapped": "another's recording"}
CHANCE = 0.05


def control_name(system: str, control: Control) -> str:
    """What a system under a control is called in a report."""
    return f"{system} on {_ON[control]}"


def owner(system: str, systems: Sequence[str]) -> str | None:
    """The system that this one is the control of, if it is one."""
    return next((s for s in systems for c in _ON if system == control_name(s, c)), None)


def partners(texts: Sequence[str]) -> list[int]:
    """For each sentence, the next one that says something else: whose recording `swapped` gives it.

    A test set of one sentence has none; then it is its own.
    """
    count = len(texts)
    out = []
    for i, text in enumerate(texts):
        others = ((i + step) % count for step in range(1, count))
        out.append(next((j for j in others if texts[j] != text), i))
    return out


def controlled(source: Any, control: Control, key: str) -> Any:
    """A recording under a control: samples or frames `(N, *)`, or these by modality.

    Args:
        source: the recording.
        control: `blank` makes it black, silent, without points; `shuffled` puts its frames in a random order. `swapped`
            is no change of a recording but another one.
        key: what the order is drawn from.
    """
    if isinstance(source, Mapping):
        return {name: controlled(x, control, key) for name, x in source.items()}
    if control == "blank":
        return np.zeros_like(source)
    if control == "shuffled":
        order = np.random.default_rng(zlib.crc32(key.encode())).permutation(len(source))
        return np.ascontiguousarray(source[order])
    return source
