"""What training minimizes.

Letters: B rows, U tokens, N tokens that count, V vocabulary.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmx.model import Model
from mmx.nn.adapters import has_loss, teach
from mmx.seq import Seq
from mmx.train.text_data import IGNORED, Batch


class TokenLosses(NamedTuple):
    """Losses of single tokens.

    Attributes:
        smoothed: `(N,)` with label smoothing: what is minimized.
        nll: `(N,)` negative log-likelihood in nats: what is reported.
        rows: `(N,)` row of the batch that each token belongs to.
        adapters: what the model's adapters have to learn besides, the sum over the rows that have a token that counts,
            so that several batches add up to one; None where they have nothing.
    """

    smoothed: Tensor
    nll: Tensor
    rows: Tensor
    adapters: Tensor | None = None


def token_losses(model: Model, batch: Batch, smoothing: float = 0.0) -> TokenLosses:
    """Loss of every token that counts, with label smoothing (Szegedy et al. 2016, arXiv 1512.00567, section 7).

    The target distribution has `1 - smoothing` on the true token and `smoothing` shared evenly among all V.
    """
    encoded = {name: model.encode(name, seq, batch.begin, "adapters") for name, seq in batch.inputs.items()}
    counts_BU = batch.targets != IGNORED
    lengths_B = counts_BU.sum(1)
    hidden_BUD = model.decoder.teach(batch.tokens, model.memory(_adapted(model, encoded, lengths_B), "fuse"))
    log_probs_NV = model.decoder.head(hidden_BUD[counts_BU]).float().log_softmax(-1)
    nll_N = -log_probs_NV.gather(1, batch.targets[counts_BU][:, None])[:, 0]
    smoothed_N = (1 - smoothing) * nll_N - smoothing * log_probs_NV.mean(-1) if smoothing else nll_N
    rows_N = counts_BU.nonzero()[:, 0]
    return TokenLosses(smoothed_N, nll_N.detach(), rows_N, _adapter_loss(model, encoded, lengths_B))


def _adapted(model: Model, encoded: Mapping[str, Seq], target_lengths: Tensor) -> dict[str, Seq]:
    """What the adapters make of encodings; in training, of those that make use of the texts' lengths, knowing them."""
    adapters = dict(model.adapters.items())
    if not model.training:
        return {name: model.encode(name, seq, "adapters") for name, seq in encoded.items()}
    lengths_B = target_lengths.clamp(min=1)  # attention to no memory at all is not a number
    return {n: teach(adapters[n], seq, lengths_B) if n in adapters else seq for n, seq in encoded.items()}


def _adapter_loss(model: Model, encoded: Mapping[str, Seq], target_lengths: Tensor) -> Tensor | None:
    """What adapters offer as `loss(seq, target_lengths)`, `(B,)`: CIF has a number of tokens to learn.

    A row without a token that counts is there only to wait, and teaches nothing: not that there is nothing to say.
    """
    adapters: dict[str, Any] = {name: a for name, a in model.adapters.items() if name in encoded and has_loss(a)}
    offers_B = [a.loss(encoded[name], target_lengths) for name, a in adapters.items()]
    counts_B = target_lengths > 0
    return torch.stack([torch.where(counts_B, o, 0.0).sum() for o in offers_B]).sum() if offers_B else None


def teaching_rows(batches: Iterable[Batch]) -> int:
    """How many rows of these batches have a token that counts."""
    return sum(int((batch.targets != IGNORED).any(1).sum()) for batch in batches)


def tokens_by_task(batches: Iterable[Batch]) -> Counter[str]:
    """How many tokens count in these batches, by task."""
    found: Counter[str] = Counter()
    for batch in batches:
        for task, n in zip(batch.tasks, (batch.targets != IGNORED).sum(1).tolist(), strict=True):
            found[task] += n
    return found


def task_weights(counts: Mapping[str, int], weights: Mapping[str, float] | None = None) -> dict[str, float]:
    """Weight of one token of each task, such that tasks count by their weights and not by their lengths.

    `L = sum_t w_t (sum of t's token losses / t's tokens) / sum_t w_t` over the tasks t that are there, which is
    MFTCoder's (Liu et al. 2023, arXiv 2311.02303, section 3). As `counts` is of all micro-batches of an update,
    several small ones give the gradient of one large one.

    Args:
        counts: from `tokens_by_task`.
        weights: w by task; 1 where absent.
    """
    present = {task: (weights or {}).get(task, 1.0) for task, n in counts.items() if n}
    total = sum(present.values())
    return {task: w / total / counts[task] for task, w in present.items()}


def balanced_loss(losses: TokenLosses, batch: Batch, token_weights: Mapping[str, float]) -> Tensor:
    """This batch's part of the update's loss; the sum over the update's batches is the loss. See `task_weights`."""
    by_row = torch.tensor([token_weights.get(task, 0.0) for task in batch.tasks], device=losses.smoothed.device)
    return (losses.smoothed * by_row[losses.rows]).sum()
