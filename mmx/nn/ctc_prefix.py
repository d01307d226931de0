"""Joint CTC and attention decoding: what a CTC head thinks of the next token of a text that a decoder writes.

Watanabe et al. 2017, "Hybrid CTC/Attention Architecture", section IV-C: a hypothesis of the beam is scored by
(1 - w) log p_decoder + w log p_CTC(prefix), where the latter is the probability of all texts that begin with it,
summed over their paths (algorithm 2 there, after Graves 2008). The recursion over frames is written as a cumulative
sum in logarithms, so that a step is a few operations however long the memory is.

Letters: B rows, R hypotheses of all rows, M memory frames, U tokens written, C candidates, V vocabulary.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

NEVER = -1e6
"""Log-probability, a frame, of what cannot be: large sums of it and of real ones stay exact in float64."""


class _Step(NamedTuple):
    """The prefixes one token longer than those of the last call: where a hypothesis finds itself among them."""

    rows: dict[tuple[int, tuple[int, ...]], int]
    candidates: Tensor  # (R, C)
    ends: Tensor  # (R, 2, C, M)
    log_prob: Tensor  # (R, C)


class CTCPrefix:
    """Scores of a beam's next tokens, for one search; see `mmx.generate.Rescorer`.

    Args:
        log_probs_BMV: of a CTC head, `(B, M, V + 1)`, the blank last.
        lengths_B: frames of each row.
        eot: the token that ends a text; CTC scores it by the whole text's probability.
        weight: w, above 0 and at most 1.
        candidates: the decoder's likeliest tokens, which alone are scored; the rest is dropped.
    """

    def __init__(self, log_probs_BMV: Tensor, lengths_B: Tensor, eot: int, weight: float, candidates: int = 40):
        if not 0 < weight <= 1:
            raise ValueError(f"expected a weight above 0 and at most 1, got {weight}")
        self.eot, self.weight, self.candidates = eot, weight, candidates
        x = log_probs_BMV.detach().cpu().double().clamp(min=NEVER)
        behind_BM = torch.arange(x.shape[1]) >= lengths_B.cpu()[:, None]
        x[behind_BM] = NEVER
        x[..., -1][behind_BM] = 0.0  # behind its end a row is blank for certain
        self._x_BVM = x.transpose(1, 2)
        self._last: _Step | None = None

    def __call__(self, log_probs_RV: Tensor, written_RU: Tensor, owner: Sequence[int]) -> Tensor:
        """Joint gains `(R, V)` of each next token.

        Args:
            log_probs_RV: the decoder's.
            written_RU: the hypotheses; each is one that this gave a gain in the last call, or empty.
            owner: the row of each.
        """
        if not self._x_BVM.shape[2]:
            return log_probs_RV
        keys = list(zip(owner, map(tuple, written_RU.tolist()), strict=True))
        ends_R2M, before_R = self._prefixes(keys)
        candidates_RC = log_probs_RV.topk(min(self.candidates, log_probs_RV.shape[1])).indices.cpu()
        x_RVM = self._x_BVM[list(owner)]
        x_RCM = x_RVM.gather(1, candidates_RC[:, :, None].expand(-1, -1, x_RVM.shape[2]))
        arrives_RCM = ends_R2M.logsumexp(1)[:, None].expand_as(x_RCM)
        if written_RU.shape[1]:  # a token again needs a blank between
            again_RC = candidates_RC == written_RU[:, -1:].cpu()
            arrives_RCM = torch.where(again_RC[..., None], ends_R2M[:, None, 1], arrives_RCM)
            first_RC = torch.full_like(x_RCM[..., 0], -torch.inf)
        else:
            first_RC = x_RCM[..., 0]
        token_RCM = _chain(first_RC, arrives_RCM, x_RCM)
        blank_RCM = _chain(torch.full_like(first_RC, -torch.inf), token_RCM, x_RVM[:, -1:].expand_as(x_RCM))
        begun_RCM = torch.cat([first_RC[..., None], arrives_RCM[..., :-1] + x_RCM[..., 1:]], -1)
        after_RC = begun_RCM.logsumexp(-1)
        after_RC = after_RC.masked_fill(after_RC < NEVER / 2, -torch.inf)
        self._last = _Step(
            {key: r for r, key in enumerate(keys)}, candidates_RC, torch.stack([token_RCM, blank_RCM], 1), after_RC
        )
        ended_RC = ends_R2M[..., -1].logsumexp(1)[:, None]
        gain_RC = torch.where(candidates_RC == self.eot, ended_RC, after_RC) - before_R[:, None]
        out_RV = torch.full(log_probs_RV.shape, -torch.inf, dtype=torch.float64)
        own_RC = log_probs_RV.cpu().double().gather(1, candidates_RC)
        own_RC = torch.where(own_RC > -torch.inf, (1 - self.weight) * own_RC, -torch.inf)
        out_RV.scatter_(1, candidates_RC, own_RC + self.weight * gain_RC)
        return out_RV.to(log_probs_RV)

    def _prefixes(self, keys: Sequence[tuple[int, tuple[int, ...]]]) -> tuple[Tensor, Tensor]:
        """Paths of each hypothesis that end in its last token and in a blank, `(R, 2, M)`; its probability `(R,)`."""
        if not keys[0][1]:
            blank_RM = self._x_BVM[[b for b, _ in keys], -1].cumsum(-1)
            return torch.stack([torch.full_like(blank_RM, -torch.inf), blank_RM], 1), torch.zeros(len(keys)).double()
        last = self._last
        assert last is not None, "expected hypotheses that grew one token a call"
        rows = [last.rows[b, tokens[:-1]] for b, tokens in keys]
        tokens_R1 = torch.tensor([[tokens[-1]] for _, tokens in keys])
        at_R = (last.candidates[rows] == tokens_R1).int().argmax(1)
        return last.ends[rows, :, at_R], last.log_prob[rows, at_R]


def _chain(first_X: Tensor, arrives_XM: Tensor, x_XM: Tensor) -> Tensor:
    """y[0] = first, y[m] = log(exp y[m - 1] + exp arrives[m - 1]) + x[m], along the last axis."""
    total_XM = x_XM.cumsum(-1)
    before_XM = (arrives_XM - total_XM)[..., :-1]
    return torch.cat([(first_X - x_XM[..., 0])[..., None], before_XM], -1).logcumsumexp(-1) + total_XM
