"""How late a live text is: the measures of simultaneous translation, with the definitions that SimulEval uses.

All take `Timed` words in milliseconds. `delays_ms[i]` is how much of the source had been heard when word i was written;
`elapsed_ms[i]` is that and the time that computing took, so the same functions give the computation-aware figures.

Letters in formulas: d_i delay of target word i (from 1), |X| length of the source, |Y| of the text, |Y*| of its
reference.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mmx.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Timed:
    """One recording's text with the time of each word.

    Attributes:
        words: what was written.
        delays_ms: source heard when each was written; never falls.
        elapsed_ms: the same and the time of computation.
        source_ms: length of the source.
        reference: what should have been written; empty when nobody knows.
    """

    words: Sequence[str]
    delays_ms: Sequence[float]
    elapsed_ms: Sequence[float] = ()
    source_ms: float
    reference: Sequence[str] = ()

    def __post_init__(self) -> None:
        if len(self.words) != len(self.delays_ms):
            raise InputError(f"expected a delay for each of {len(self.words)} words, got {len(self.delays_ms)}")
        if self.elapsed_ms and len(self.elapsed_ms) != len(self.words):
            raise InputError(f"expected {len(self.words)} times of computation, got {len(self.elapsed_ms)}")
        if self.source_ms <= 0:
            raise InputError(f"expected a source longer than 0 ms, got {self.source_ms}")

    @property
    def computation_aware(self) -> "Timed":
        """The same text with `elapsed_ms` as its delays."""
        return replace(self, delays_ms=self.elapsed_ms or self.delays_ms)


def al(timed: Timed) -> float:
    """Average lagging (Ma et al. 2019, equation 8; for speech Ma et al. 2020): how far behind an ideal writer.

    Mean over the words up to the first one that had all of the source, of d_i - (i - 1) |X| / |Y*|.
    """
    return _lagging(timed, len(timed.reference) or len(timed.words))


def laal(timed: Timed) -> float:
    """Length-adaptive average lagging (Papi et al. 2022, arXiv 2206.05807): AL over max(|Y|, |Y*|), so that writing too
    much is not rewarded."""
    return _lagging(timed, max(len(timed.reference), len(timed.words)))


def _lagging(timed: Timed, target_length: int) -> float:
    if timed.delays_ms[0] > timed.source_ms:
        return timed.delays_ms[0]
    total = 0.0
    for i, d in enumerate(timed.delays_ms):
        total += d - i * timed.source_ms / target_length
        if d >= timed.source_ms:
            return total / (i + 1)
    return total / len(timed.delays_ms)


def ap(timed: Timed) -> float:
    """Average proportion (Cho and Esipova 2016, arXiv 1606.02012): sum of d_i over |X| |Y*|; a share, not a time."""
    return sum(timed.delays_ms) / (timed.source_ms * (len(timed.reference) or len(timed.words)))


def dal(timed: Timed) -> float:
    """Differentiable average lagging (Cherry and Foster 2019, arXiv 1906.00048): each word costs at least |X| / |Y|."""
    pace = timed.source_ms / len(timed.words)
    total = 0.0
    held = -pace
    for i, d in enumerate(timed.delays_ms):
        held = max(d, held + pace)
        total += held - i * pace
    return total / len(timed.words)


SOURCE_TOKEN_MS = 300.0
"""Length that the average token delay gives to a word of speech."""


def atd(timed: Timed, aware: bool = False) -> float:
    """Average token delay (Kano et al. 2023, arXiv 2211.13173): of each word, when it ends less when the piece of
    source that it stands for ended.

    The source between two writings is cut into pieces of 300 ms; word t stands for piece t, less the words by which
    the text was ahead of the source before, and at the latest for the last piece heard.

    Args:
        timed: the words.
        aware: add the time of computation of each word.
    """
    ends = [0.0]  # of the pieces of source, in ms
    heard_ms, pieces, written = 0.0, 0, 0  # before the chunk at hand
    out: list[float] = []
    when, computed = 0.0, 0.0
    total = len(timed.words)
    for t, d in enumerate(timed.delays_ms, 1):
        if t == 1 or d != timed.delays_ms[t - 2]:
            pieces, written = len(ends) - 1, t - 1
            while heard_ms + SOURCE_TOKEN_MS < d - 1e-6:
                heard_ms += SOURCE_TOKEN_MS
                ends.append(heard_ms)
            if d > heard_ms:
                ends.append(d)
            heard_ms = d
        piece = min(t - max(0, written - pieces), len(ends) - 1)
        spent = 0.0
        if aware and timed.elapsed_ms:
            behind = timed.elapsed_ms[t - 1] - d
            spent, computed = behind - computed, behind
        when = max(d, when) + spent
        out.append(when - ends[piece])
    return sum(out) / total


def start_offset(timed: Timed) -> float:
    """Source heard before the first word."""
    return timed.delays_ms[0]


def end_offset(timed: Timed) -> float:
    """From the end of the source to the last word."""
    return timed.delays_ms[-1] - timed.source_ms


MEASURES: dict[str, Callable[[Timed], float]] = {
    "AL": al, "LAAL": laal, "AP": ap, "DAL": dal, "ATD": atd, "StartOffset": start_offset, "EndOffset": end_offset,
}  # fmt: skip


def latency(texts: Sequence[Timed]) -> dict[str, float]:
    """Every measure, averaged over the recordings that have any text, also computation-aware (`_CA`) where each has
    the times of its computation."""
    spoken = [t for t in texts if t.words]
    if not spoken:
        return {}
    out = {name: statistics.fmean(f(t) for t in spoken) for name, f in MEASURES.items()}
    if all(t.elapsed_ms for t in spoken):
        out |= {f"{n}_CA": statistics.fmean(f(t.computation_aware) for t in spoken) for n, f in MEASURES.items()}
        out["ATD_CA"] = statistics.fmean(atd(t, aware=True) for t in spoken)
    return out


# -------------------- long recordings


@dataclass(frozen=True)
class Sentence:
    """A sentence of the reference of a long recording and the stretch of source that says it."""

    words: Sequence[str]
    start_ms: float
    end_ms: float


def stream_laal(timed: Timed, sentences: Sequence[Sentence]) -> float:
    """StreamLAAL (Papi et al. 2024, arXiv 2406.06097): the text of a long recording is cut to the sentences of the
    reference; mean LAAL of those, each on its own clock. Sentences that nothing was written for do not count."""
    lags = [laal(part) for part in resegment(timed, sentences) if part.words]
    if not lags:
        raise InputError("expected some text to measure, got none")
    return statistics.fmean(lags)


def resegment(timed: Timed, sentences: Sequence[Sentence]) -> list[Timed]:
    """Cut a text where its best alignment with the sentences of the reference says, on each sentence's own clock.

    The cut of the fewest word errors over all (Matusov et al. 2005, the method of mwerSegmenter).
    """
    reference = [w for s in sentences for w in s.words]
    owner = np.repeat(np.arange(len(sentences)), [len(s.words) for s in sentences])
    of_word = _owners(_moves(_keys(reference), _keys(timed.words)), owner, len(timed.words))
    out = []
    for i, s in enumerate(sentences):
        mine = [j for j, o in enumerate(of_word) if o == i]
        out.append(
            Timed(
                words=[timed.words[j] for j in mine],
                delays_ms=[timed.delays_ms[j] - s.start_ms for j in mine],
                elapsed_ms=[timed.elapsed_ms[j] - s.start_ms for j in mine] if timed.elapsed_ms else (),
                source_ms=s.end_ms - s.start_ms,
                reference=list(s.words),
            )
        )
    return out


def _keys(words: Sequence[str]) -> np.ndarray:
    """Words without case and marks, for comparison."""
    return np.array(["".join(c for c in w.casefold() if c.isalnum()) or w for w in words], dtype=object)


def _moves(reference: np.ndarray, text: np.ndarray) -> np.ndarray:
    """Last move of the cheapest alignment of each pair of prefixes: 0 both, 1 reference only, 2 text only."""
    n, m = len(reference), len(text)
    steps = np.arange(m + 1)
    cost = steps.copy()
    moves = np.full((n + 1, m + 1), 2, np.int8)
    moves[1:, 0] = 1
    for i in range(1, n + 1):
        both = np.concatenate([[n + m + 1], cost[:-1] + (text != reference[i - 1])])
        only = cost + 1
        best = np.minimum(both, only)
        new = np.minimum.accumulate(best - steps) + steps  # a run of text without reference costs its length
        moves[i] = np.where(new == both, 0, np.where(new == only, 1, 2))
        cost = new
    return moves


def _owners(moves: np.ndarray, owner: np.ndarray, count: int) -> list[int]:
    """The sentence of each word of the text; what aligns with nothing goes with the word before it."""
    i, j = len(moves) - 1, count
    out = [0] * count
    while j > 0:
        move = moves[i, j]
        if move != 1:
            out[j - 1] = int(owner[max(i - 1, 0)]) if len(owner) else 0
        i, j = i - (move != 2), j - (move != 1)
    return out
