"""When may a token be written? Each policy is a function of a `View` to how many tokens of the hypothesis to commit.

A policy knows nothing of models: any encoder and decoder that fill a `View` can be driven by any of them. What the
sound does not speak for is no part of the hypothesis that a policy sees (`mmx.streaming.guards`).
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import TypeAlias

from mmx.errors import InputError, nearest


@dataclass(frozen=True, slots=True)
class View:
    """What a policy sees each time the model has looked at the source.

    All times are seconds since the start of the window that `committed` and `hypothesis` describe.

    Attributes:
        source_s: source heard.
        finished: whether no more will come (of this sentence, of the session).
        committed: tokens that are written and will not change.
        hypothesis: what the model would write after them, given the source so far, as far as it may be believed.
        previous: what it would have written after them at its last look.
        scores: natural log-probability of each token of the hypothesis.
        align_s: where in the source the model looks when it writes each token of the hypothesis; None without
            cross-attention that follows the source.
        p_choose: monotonic attention's probability, of each token of the hypothesis, that the source suffices to write
            it; None in models without.
    """

    source_s: float
    finished: bool
    committed: Sequence[int]
    hypothesis: Sequence[int]
    previous: Sequence[int] = ()
    scores: Sequence[float] = ()
    align_s: Sequence[float] | None = None
    p_choose: Sequence[float] | None = None


Policy: TypeAlias = Callable[[View], int]


def wait_k(view: View, k: float = 3, step_s: float = 0.32) -> int:
    """Write one token for each `step_s` of source, `k` steps behind it (Ma et al. 2019, arXiv 1810.08398; for speech
    with a fixed pre-decision, Ma et al. 2020, arXiv 2011.02048). Where people speak more slowly it writes guesses."""
    allowed = int(view.source_s / step_s + 1e-6) - round(k) + 1 - len(view.committed)
    return _at_most(view, allowed)


def hold_n(view: View, n: float = 3) -> int:
    """Write all but the last `n` tokens (Liu et al. 2020, arXiv 2005.11185). A guess of more tokens is written, too."""
    return _at_most(view, len(view.hypothesis) - round(n))


def local_agreement(view: View) -> int:
    """Write what two looks in a row agree on (Polák et al. 2022; LocalAgreement-2 of Macháček et al. 2023)."""
    pairs = zip(view.hypothesis, view.previous, strict=False)
    return _at_most(view, _run(a == b for a, b in pairs))


def alignatt(view: View, margin_s: float = 0.5) -> int:
    """Write until a token looks at the last `margin_s` of the source (Papi et al. 2023, arXiv 2305.11408)."""
    if view.align_s is None:
        raise InputError("expected a model whose cross-attention follows the source: use policy local-agreement")
    return _at_most(view, _run(t < view.source_s - margin_s for t in view.align_s))


def emma(view: View, threshold: float = 0.5) -> int:
    """Write while monotonic attention is sure that the source suffices (Ma et al. 2023, arXiv 2312.04515)."""
    if view.p_choose is None:
        raise InputError("expected a model with monotonic attention (p_choose), got one without: use policy alignatt")
    return _at_most(view, _run(p >= threshold for p in view.p_choose))


def _at_most(view: View, count: int) -> int:
    """All of a finished source; of any other no less than nothing and no more than there is."""
    return len(view.hypothesis) if view.finished else min(max(count, 0), len(view.hypothesis))


def _run(holds: Iterable[bool]) -> int:
    """How many of the first in a row are true."""
    return sum(1 for _ in takewhile(bool, holds))


POLICIES: dict[str, Callable[..., int]] = {
    "alignatt": alignatt,
    "local-agreement": local_agreement,
    "wait-k": wait_k,
    "hold-n": hold_n,
    "emma": emma,
}


KNOBS: dict[str, tuple[str, float, float, bool]] = {
    "alignatt": ("margin_s", 0.0, 30.0, False),
    "wait-k": ("k", 1, 100, True),
    "hold-n": ("n", 0, 100, True),
    "emma": ("threshold", 0.0, 1.0, False),
}
"""What the number after the colon is, its range, and whether it is whole."""


def find_policy(name: str) -> Policy:
    """The policy of a name, with its threshold after a colon where it has one: alignatt, alignatt:0.3, wait-k:5.

    Raises:
        InputError: there is no such policy, it has no threshold, or that is out of range.
    """
    word, colon, value = name.partition(":")
    if word not in POLICIES:
        raise InputError(f"expected a policy among {', '.join(POLICIES)}, got {word!r}.{nearest(word, list(POLICIES))}")
    if not colon:
        return POLICIES[word]
    if word not in KNOBS:
        raise InputError(f"expected {word} alone, which has no threshold, got {name!r}")
    knob, least, most, whole = KNOBS[word]
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not least <= number <= most or (whole and number % 1):
        kind = "a whole number" if whole else "a number"
        raise InputError(f"expected {word}:N with {kind} from {least:g} to {most:g}, got {name!r}")
    return partial(POLICIES[word], **{knob: number})
