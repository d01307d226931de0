"""Search for the best token sequence: one implementation for every `Decoder`.

Greedy, beam search with length penalty and patience, sampling at a temperature; batched over rows, prefixes forced,
tokens suppressed, n-grams kept from repeating. Caches live in a `State` that the search owns.

Letters: B rows (windows), K hypotheses of a row, R = B*K, P prefix tokens, U tokens written so far, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from mmx.block import Decoder
from mmx.seq import Seq
from mmx.state import State, reorder, select


class Filter(Protocol):
    """Forbids tokens: sets their entries of `logits` `(R, V)` to -inf in place, given what was written `(R, U)`."""

    def __call__(self, logits: Tensor, written: Tensor) -> None: ...


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
    """A finished sequence: its tokens without prefix and end token, and the sum of their log-probabilities."""

    tokens: tuple[int, ...]
    log_prob: float
    ended: bool

    @property
    def avg_log_prob(self) -> float:
        """Mean over the tokens and the end token."""
        return self.log_prob / (len(self.tokens) + 1)


@dataclass(frozen=True)
class SearchResult:
    """Hypotheses of each row, best first, and the prefix's logits `(B, len(at), V)` where they were asked for."""

    rows: list[list[Hypothesis]]
    prefix_logits: Tensor


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
    """
    if prefix.shape[1] == 0:
        raise ValueError("expected at least one prefix token to start from, got none")
    k = options.best_of if options.temperature else options.beam_size
    state = decoder.init_state(len(prefix), prefix.shape[1] + min(options.max_tokens, 96), k)
    if shared is not None:
        state["memory"] = shared
    logits_BAV = decoder.forward(prefix, memory, state, at=at)
    if options.no_repeat_ngram:
        filters = [*filters, NoRepeatNGram(options.no_repeat_ngram)]
    run = _Run(len(prefix), k, eot, options, filters, prefix.device)
    run.first(logits_BAV[:, -1])
    while run.active and run.n_written < options.max_tokens:
        keep = run.compact()
        if keep is not None:
            state, memory = select(state, keep), memory.rows(keep)
        state = reorder(state, run.parents_BK)
        logits_RV = decoder.forward(run.last_BK.flatten()[:, None], memory, state)[:, 0]
        run.step(logits_RV)
    return SearchResult(run.finish(), logits_BAV)


class _Run:
    """The bookkeeping of one search: what each hypothesis wrote, its score, and what is finished."""

    def __init__(
        self, batch: int, k: int, eot: int, options: SearchOptions, filters: Sequence[Filter], device: torch.device
    ):
        self.k, self.eot, self.options, self.filters, self.device = k, eot, options, filters, device
        self.enough = max(1, round(k * options.patience))
        self.done: list[list[Hypothesis]] = [[] for _ in range(batch)]
        self.ids = list(range(batch))  # window of each row still in the tensors
        self.over = [False] * batch  # by window
        self.scores_BK = torch.zeros(batch, k, device=device)
        self.written_BKU = torch.zeros(batch, k, 0, dtype=torch.int64, device=device)
        self.parents_BK = torch.zeros(batch, k, dtype=torch.int64, device=device)
        self.rngs = [torch.Generator(device).manual_seed(options.seed) for _ in range(batch)]

    @property
    def active(self) -> bool:
        return not all(self.over)

    @property
    def n_written(self) -> int:
        return self.written_BKU.shape[2]

    @property
    def last_BK(self) -> Tensor:
        return self.written_BKU[:, :, -1]

    def compact(self) -> Tensor | None:
        """Rows to keep when enough are finished that copying the others pays; None to leave all."""
        keep = [i for i, w in enumerate(self.ids) if not self.over[w]]
        if len(keep) > 0.75 * len(self.ids):
            return None
        index = torch.tensor(keep, device=self.device)
        self.ids = [self.ids[i] for i in keep]
        self.scores_BK, self.written_BKU = self.scores_BK[index], self.written_BKU[index]
        self.parents_BK = self.parents_BK[index]
        return index

    def first(self, logits_BV: Tensor) -> None:
        """Open K hypotheses from the prefix's one distribution."""
        logits = logits_BV.float().clone()
        written = self.written_BKU[:, 0]
        for f in self.filters:
            f(logits, written)
        if self.options.temperature:
            wide = logits[:, None].expand(-1, self.k, -1).flatten(0, 1)
            self._sample(wide, torch.zeros_like(self.scores_BK))
        else:
            self._beam(logits[:, None], self.scores_BK[:, :1])

    def step(self, logits_RV: Tensor) -> None:
        """Extend every hypothesis by one token."""
        logits = logits_RV.float()
        written = self.written_BKU.flatten(0, 1)
        for f in self.filters:
            f(logits, written)
        if self.options.temperature:
            self._sample(logits, self.scores_BK)
        else:
            self._beam(logits.unflatten(0, (-1, self.k)), self.scores_BK)

    def _beam(self, logits_BKV: Tensor, scores_BK: Tensor) -> None:
        top, token = logits_BKV.topk(self.k + 1, dim=-1)
        score_BKC = scores_BK[..., None] + top - logits_BKV.logsumexp(-1, keepdim=True)
        flat, order = score_BKC.flatten(1).sort(dim=1, descending=True, stable=True)
        parent = order // (self.k + 1)
        token_BN = token.flatten(1).gather(1, order)
        n = flat.shape[1]
        rows = zip(self.ids, flat.tolist(), parent.tolist(), token_BN.tolist(), strict=True)
        chosen = [self._choose(w, s, p, t, n) for w, s, p, t in rows]
        self._advance(*(torch.tensor(part, device=self.device) for part in zip(*chosen, strict=True)))

    def _choose(
        self, window: int, scores: list[float], parents: list[int], tokens: list[int], n: int
    ) -> tuple[list[int], list[int], list[float]]:
        """The K best candidates that go on; those that ended before K were found are finished."""
        live: list[int] = []
        for i in range(n):
            if scores[i] == -torch.inf or len(live) == self.k:
                break
            if tokens[i] != self.eot:
                live.append(i)
            elif not self.over[window] and len(self.done[window]) < self.enough:
                row = self.ids.index(window)
                text = tuple(self.written_BKU[row, parents[i]].tolist())
                self.done[window].append(Hypothesis(text, scores[i], True))
        if len(self.done[window]) >= self.enough or not live:
            self.over[window] = True
        live += [live[-1] if live else 0] * (self.k - len(live))
        seen = set()
        rank = [-torch.inf if i in seen or seen.add(i) else scores[i] for i in live]
        return [parents[i] for i in live], [tokens[i] for i in live], rank

    def _sample(self, logits_RV: Tensor, scores_BK: Tensor) -> None:
        log_probs = logits_RV.log_softmax(-1)
        probs = (logits_RV / self.options.temperature).softmax(-1).unflatten(0, (-1, self.k))
        drawn = [torch.multinomial(p, 1, generator=self.rngs[w])[:, 0] for p, w in zip(probs, self.ids, strict=True)]
        token_BK = torch.stack(drawn)
        gain_BK = log_probs.gather(1, token_BK.flatten()[:, None]).view_as(token_BK)
        written = self.written_BKU
        ended = (written == self.eot).any(-1) if self.n_written else torch.zeros_like(token_BK, dtype=torch.bool)
        token_BK = torch.where(ended, self.eot, token_BK)
        score = scores_BK + torch.where(ended, 0.0, gain_BK)
        parent = torch.arange(self.k, device=self.device).expand_as(token_BK)
        self._advance(parent, token_BK, score)
        for row, window in enumerate(self.ids):
            if bool((token_BK[row] == self.eot).all()):
                self.over[window] = True
                self.done[window] = self._cut(row)

    def _advance(self, parents: Tensor, tokens: Tensor, scores: Tensor) -> None:
        self.parents_BK, self.scores_BK = parents, scores
        rows = torch.arange(len(parents), device=self.device)[:, None]
        self.written_BKU = torch.cat([self.written_BKU[rows, parents], tokens[..., None]], dim=2)

    def _cut(self, row: int) -> list[Hypothesis]:
        """The row's hypotheses as they stand."""
        out = []
        for tokens, score in zip(self.written_BKU[row].tolist(), self.scores_BK[row].tolist(), strict=True):
            end = tokens.index(self.eot) if self.eot in tokens else len(tokens)
            if score > -torch.inf:
                out.append(Hypothesis(tuple(tokens[:end]), score, end < len(tokens)))
        return out

    def finish(self) -> list[list[Hypothesis]]:
        """All hypotheses, best first; a row that ran out of room gives what it has."""
        for row, window in enumerate(self.ids):
            if not self.over[window]:
                self.done[window] += self._cut(row)[: max(self.enough, 1)]
        return [sorted(found, key=self._rank, reverse=True) for found in self.done]

    def _rank(self, h: Hypothesis) -> float:
        length = max(len(h.tokens), 1)
        alpha = self.options.length_penalty
        return h.log_prob / (length if alpha is None else ((5 + length) / 6) ** alpha)
