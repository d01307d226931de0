"""The loss of every token of a text, and of what adapters learn beside it.

Letters: B rows, U tokens, N tokens that count, V vocabulary.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmx.errors import InputError
from mmx.interfaces import Losses, Needs
from mmx.model import Model
from mmx.nn.adapters import has_loss, teach
from mmx.seq import Seq
from mmx.train.batch import IGNORED, Batch

NLL, QUANTITY = "nll", "quantity"


class TokenLoss:
    """Cross-entropy of the next token, in which tasks count by their weights and not by their lengths.

    Args:
        smoothing: share of the target that is spread over the vocabulary.
        task_weights: of the tasks; 1 where absent.
        quantity_weight: of what adapters learn besides (CIF's number of tokens), a mean over rows.
    """

    perplexity = True

    def __init__(
        self, smoothing: float = 0.0, task_weights: Mapping[str, float] | None = None, quantity_weight: float = 1.0
    ):
        self.smoothing, self.task_weights, self.quantity_weight = smoothing, dict(task_weights or {}), quantity_weight

    def needs(self, model: Model) -> Needs:
        """A text; and of the model a decoder, and what `quantity_weight` is of."""
        model.require_decoder()
        if self.quantity_weight != 1 and not any(map(has_loss, model.adapters.values())):
            raise InputError(
                f"expected quantity_weight for a model with an adapter of the kind cif, got it for {model.name}, which "
                "has none: remove it"
            )
        return Needs()

    def count(self, batch: Batch) -> Counter[str]:
        """Tokens, in all and by task, and the rows that have any."""
        tokens_B = (batch.targets != IGNORED).sum(1)
        found = Counter({NLL: int(tokens_B.sum()), QUANTITY: int((tokens_B > 0).sum())})
        for task, n in zip(batch.tasks, tokens_B.tolist(), strict=True):
            found[_of(task)] += n
        return found

    def weights(self, counts: Mapping[str, int]) -> dict[str, float]:
        """See `task_weights`."""
        by_task = {_task(name): n for name, n in counts.items() if _task(name)}
        found = {_of(task): weight for task, weight in task_weights(by_task, self.task_weights).items()}
        return found | {QUANTITY: self.quantity_weight / max(1, counts.get(QUANTITY, 0))}

    def __call__(self, model: Model, batch: Batch) -> Losses:
        """Reports the negative log-likelihood in nats, without smoothing."""
        losses = token_losses(model, batch, self.smoothing)
        total = {_of(task): sum_N for task, sum_N in _by_task(losses, batch.tasks).items()}
        if losses.adapters is not None:
            total[QUANTITY] = losses.adapters
        return Losses(total, self.count(batch), {NLL: losses.nll.sum()})


def _of(task: str) -> str:
    return f"{NLL} of {task}"


def _task(name: str) -> str:
    return name.removeprefix(_of("")) if name.startswith(_of("")) else ""


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
    decoder, memory = model.require_decoder(), model.memory(_adapted(model, encoded, lengths_B), "fuse")
    hidden_BUD = decoder.hidden(batch.tokens, memory)
    log_probs_NV = decoder.head(hidden_BUD[counts_BU]).float().log_softmax(-1)
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


def task_weights(counts: Mapping[str, int], weights: Mapping[str, float] | None = None) -> dict[str, float]:
    """Weight of one token of each task, such that tasks count by their weights and not by their lengths.

    `L = sum_t w_t (sum of t's token losses / t's tokens) / sum_t w_t` over the tasks t that are there, which is
    MFTCoder's (Liu et al. 2023, arXiv 2311.02303, section 3). As `counts` is of all micro-batches of an update,
    several small ones give the gradient of one large one.

    Args:
        counts: tokens by task.
        weights: w by task; 1 where absent.
    """
    present = {task: (weights or {}).get(task, 1.0) for task, n in counts.items() if n}
    total = sum(present.values())
    return {task: w / total / counts[task] for task, w in present.items()}


def _by_task(losses: TokenLosses, tasks: tuple[str, ...]) -> dict[str, Tensor]:
    """The sum of each task's tokens."""
    names = list(dict.fromkeys(tasks))
    if len(names) == 1:
        return {names[0]: losses.smoothed.sum()}
    of_row = torch.tensor([names.index(task) for task in tasks], device=losses.rows.device)
    return {name: losses.smoothed[of_row[losses.rows] == i].sum() for i, name in enumerate(names)}
