"""Search for the best token sequence: one implementation for every `Decoder`.

Greedy, beam search with length penalty and patience, sampling at a temperature; batched over rows, prefixes forced,
tokens suppressed, n-grams kept from repeating. Caches live in a `State` that the search owns.

Letters: B rows (windows), K hypotheses of a row, R = B*K, P prefix tokens, U tokens written so far, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from mmx.interfaces import Decoder
from mmx.seq import Seq
from mmx.state import State, reorder


class Filter(Protocol):
    """Forbids tokens: sets their entries of `logits` `(R, V)` to -inf in place, given what was written `(R, U)`."""

    def __call__(self, logits: Tensor, written: Tensor) -> None: ...


class Rescorer(Protocol):
    """Judges the next token with the decoder, as a CTC head does: gains `(R, V)` in the place of its log-probabilities.

    Given those `(R, V)`, what was written `(R, U)`, and the row of each hypothesis.
    """

    def __call__(self, log_probs: Tensor, written: Tensor, owner: Sequence[int], /) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """How to search.

    Attributes:
        beam_size: hypotheses kept; 1 is greedy. Ignored when sampling.
        patience: the search of a row ends with `round(beam_size * patience)` finished hypotheses (Kasai et al. 2022).
        length_penalty: None ranks by mean log-probability; alpha divides by ((5 + length) / 6) ** alpha (Wu et al.
            2016, equation 14).
        temperature: 0 searches; above it, `best_of` sequences are sampled and the most probable one is kept.
        max_tokens: written tokens after which a hypothesis is cut.
        no_repeat_ngram: forbid a token that would complete an n-gram of this length that was written before; 0 allows.
        seed: of the sampling; a row's samples do not depend on the rows beside it.
    """

    beam_size: int = 5
    patience: float = 1.0
    length_penalty: float | None = None
    temperature: float = 0.0
    best_of: int = 5
    max_tokens: int = 224
    no_repeat_ngram: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("beam_size", "best_of", "max_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} >= 1, got {getattr(self, name)}")
        if self.temperature < 0:
            raise ValueError(f"expected temperature >= 0, got {self.temperature}")


@dataclass(frozen=True)
class Hypothesis:
    """A sequence.

    Attributes:
        tokens: without prefix and end token.
        log_prob: sum over the tokens and the end token.
        ended: whether it came to its end token.
        kept_going: tokens after which its end was likeliest, and first refused; None where it never was.
    """

    tokens: tuple[int, ...]
    log_prob: float
    ended: bool
    kept_going: int | None = None

    @property
    def avg_log_prob(self) -> float:
        """Mean over the tokens and the end token."""
        return self.log_prob / (len(self.tokens) + 1)


@dataclass(frozen=True)
class SearchResult:
    """Hypotheses of each row, best first, and the prefix's logits `(B, len(at), V)` where they were asked for."""

    rows: list[list[Hypothesis]]
    prefix_logits: Tensor


MayEnd = Callable[[Sequence[int]], bool]
"""Whether a hypothesis of these tokens may end."""


class Suppress:
    """Forbids some tokens everywhere."""

    def __init__(self, tokens: Sequence[int]):
        self.tokens = torch.tensor(sorted(set(tokens)), dtype=torch.int64)

    def __call__(self, logits: Tensor, written: Tensor) -> None:
        logits.index_fill_(1, self.tokens.to(logits.device), -torch.inf)


class SuppressFirst(Suppress):
    """Forbids some tokens at the first position, so that an answer is never empty or a lone space."""

    def __call__(self, logits: Tensor, written: Tensor) -> None:
        if written.shape[1] == 0:
            super().__call__(logits, written)


class NoRepeatNGram:
    """Forbids completing an n-gram that the hypothesis already holds."""

    def __init__(self, n: int):
        self.n = n

    def __call__(self, logits: Tensor, written: Tensor) -> None:
        if written.shape[1] < self.n:
            return
        for row, tokens in enumerate(written.tolist()):
            tail = tokens[len(tokens) - self.n + 1 :]
            starts = range(len(tokens) - self.n + 1)
            banned = [tokens[i + self.n - 1] for i in starts if tokens[i : i + self.n - 1] == tail]
            logits[row, banned] = -torch.inf


@torch.inference_mode()
def search(
    decoder: Decoder,
    memory: Seq,
    prefix: Tensor,
    eot: int,
    options: SearchOptions = SearchOptions(),
    filters: Sequence[Filter] = (),
    shared: State | None = None,
    at: Sequence[int] = (-1,),
    may_end: Sequence[MayEnd] | None = None,
    rescore: Rescorer | None = None,
) -> SearchResult:
    """Write the best continuation of `prefix` in every row.

    Args:
        decoder: scores tokens.
        memory: `(B, M, D)`.
        prefix: `(B, P)` int64 forced tokens.
        eot: token that ends a sequence.
        options: see `SearchOptions`.
        filters: applied in order to every distribution.
        shared: what the decoder derived from the memory in an earlier call (`state["memory"]`), to save its cost.
        at: prefix positions whose logits the result shall hold; the last one must be -1.
        may_end: for each row, which hypotheses may end; all when None. Samples may always.
        rescore: judges with the decoder what the beam keeps; samples are the decoder's own.
    """
    if prefix.shape[1] == 0:
        raise ValueError("expected at least one prefix token to start from, got none")
    k = options.best_of if options.temperature else options.beam_size
    state = decoder.init_state(len(prefix), prefix.shape[1] + options.max_tokens, k)
    if shared is not None:
        state["memory"] = shared
    logits_BAV = decoder.forward(prefix, memory, state, at=at)
    if options.no_repeat_ngram:
        filters = [*filters, NoRepeatNGram(options.no_repeat_ngram)]
    rows = [_Row(k, eot, options, may_end[b] if may_end else None) for b in range(len(prefix))]
    owner, logits_RV = list(range(len(prefix))), logits_BAV[:, -1]
    for n in range(options.max_tokens):
        _advance(rows, owner, logits_RV.float(), filters, k, rescore)
        owner = [b for b, row in enumerate(rows) for _ in row.live]
        if not owner or n + 1 == options.max_tokens:
            break
        parents = [row.parents + [0] * (k - len(row.parents)) for row in rows]
        state = reorder(state, torch.tensor(parents, device=prefix.device))
        last = torch.tensor([[h.tokens[-1]] for row in rows for h in row.live], device=prefix.device)
        logits_RV = decoder.forward(last, memory, state, owner=owner)[:, 0]
    return SearchResult([row.result() for row in rows], logits_BAV)


def _advance(
    rows: "list[_Row]",
    owner: Sequence[int],
    logits_RV: Tensor,
    filters: Sequence[Filter],
    k: int,
    rescore: Rescorer | None,
) -> None:
    """Extend the live hypotheses of every row by one token."""
    live = [h for row in rows for h in row.live]
    written = torch.tensor([h.tokens for h in live], dtype=torch.int64, device=logits_RV.device).view(len(live), -1)
    for f in filters:
        f(logits_RV, written)
    counts = [owner.count(b) for b in range(len(rows))]
    if rows[0].options.temperature:
        parts = zip(rows, logits_RV.split(counts), logits_RV.logsumexp(-1).split(counts), strict=True)
        for row, logits, lse in parts:
            if row.live:
                row.sample(logits, lse)
        return
    scores_RV = logits_RV.log_softmax(-1)
    if rescore is not None:
        scores_RV = rescore(scores_RV, written, owner)
    gains, tokens = (part.split(counts) for part in best(scores_RV, k + 1))
    for row, gain, token in zip(rows, gains, tokens, strict=True):
        if row.live:
            row.extend(gain.tolist(), token.tolist())


BLOCK = 128
"""Entries whose maximum is taken before the best are looked for."""


def best(scores_RV: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k highest scores of each row, or all V where there are fewer, and where they stand: `(R, k)` twice.

    The k best lie in the k blocks with the highest maxima: `topk` over those takes a sixth of its time over all of a
    large vocabulary on a CPU.
    """
    v = scores_RV.shape[1]
    n = v // BLOCK
    if n <= 4 * k:
        return scores_RV.topk(min(k, v))
    blocks_RNC = scores_RV[:, : n * BLOCK].unflatten(1, (n, BLOCK))
    at_RK = blocks_RNC.amax(2).topk(k).indices
    few = torch.cat(
        [blocks_RNC.gather(1, at_RK[:, :, None].expand(-1, -1, BLOCK)).flatten(1), scores_RV[:, n * BLOCK :]], 1
    )
    scores_RK, index_RK = few.topk(k)
    starts = F.pad(at_RK * BLOCK, (0, 1), value=n * BLOCK)  # of the blocks in `few`, the rest of the row last
    block_RK = (index_RK // BLOCK).clamp(max=k)
    return scores_RK, starts.gather(1, block_RK) + index_RK - block_RK * BLOCK


class _Row:
    """The hypotheses of one row: those that go on (`live`, the i-th grown from slot `parents[i]`) and the finished."""

    def __init__(self, k: int, eot: int, options: SearchOptions, may_end: MayEnd | None = None):
        self.k, self.eot, self.options, self.may_end = k, eot, options, may_end
        self.enough = max(1, round(k * options.patience))
        self.live: list[Hypothesis] = [Hypothesis((), 0.0, False)]
        self.parents: list[int] = [0]
        self.finished: list[Hypothesis] = []
        self.rng: torch.Generator | None = None

    def extend(self, gains: list[list[float]], tokens: list[list[int]]) -> None:
        """Beam step: from each live hypothesis' best tokens keep the K best overall.

        A candidate that ends is finished if it ranks before the K-th that goes on. One that may not end goes on.
        """
        if self.may_end:
            self._refuse(gains, tokens, self.may_end)
        candidates = sorted(
            (
                (h.log_prob + gain, slot, token)
                for slot, h in enumerate(self.live)
                for gain, token in zip(gains[slot], tokens[slot], strict=True)
                if gain > -torch.inf
            ),
            key=lambda c: -c[0],
        )
        grown: list[Hypothesis] = []
        parents: list[int] = []
        for score, slot, token in candidates:
            if len(grown) == self.k:
                break
            h = self.live[slot]
            if token != self.eot:
                grown.append(replace(h, tokens=(*h.tokens, token), log_prob=score))
                parents.append(slot)
            elif len(self.finished) < self.enough:
                self.finished.append(replace(h, log_prob=score, ended=True))
        done = len(self.finished) >= self.enough
        self.live, self.parents = ([], []) if done else (grown, parents)

    def _refuse(self, gains: list[list[float]], tokens: list[list[int]], may_end: MayEnd) -> None:
        """Take the end token from what may follow the live hypotheses that may not end."""
        for slot, h in enumerate(self.live):
            if self.eot in tokens[slot] and not may_end(h.tokens):
                at = tokens[slot].index(self.eot)
                gains[slot][at] = -torch.inf
                if at == 0 and h.kept_going is None:
                    self.live[slot] = replace(h, kept_going=len(h.tokens))

    def sample(self, logits_KV: Tensor, lse_K: Tensor) -> None:
        """Draw one token for each of the `best_of` sequences that have not ended."""
        if self.rng is None:
            self.rng = torch.Generator(logits_KV.device).manual_seed(self.options.seed)
            self.live = self.live * self.k
            logits_KV, lse_K = logits_KV.expand(self.k, -1), lse_K.expand(self.k)
            slots = [0] * self.k
        else:
            slots = list(range(len(self.live)))
        probs = (logits_KV / self.options.temperature).softmax(-1)
        drawn = torch.multinomial(probs, 1, generator=self.rng)
        gains = (logits_KV.gather(1, drawn)[:, 0] - lse_K).tolist()
        grown, parents = [], []
        for slot, h, token, gain in zip(slots, self.live, drawn[:, 0].tolist(), gains, strict=True):
            if token == self.eot:
                self.finished.append(Hypothesis(h.tokens, h.log_prob + gain, True))
            else:
                grown.append(Hypothesis((*h.tokens, token), h.log_prob + gain, False))
                parents.append(slot)
        self.live, self.parents = grown, parents

    def result(self) -> list[Hypothesis]:
        """All hypotheses, best first; a row that ran out of room gives what it has."""
        return sorted(
            [*self.finished, *self.live][: max(self.enough, len(self.finished))], key=self._rank, reverse=True
        )

    def _rank(self, h: Hypothesis) -> float:
        length = max(len(h.tokens), 1)
        alpha = self.options.length_penalty
        return h.log_prob / (length if alpha is None else ((5 + length) / 6) ** alpha)
