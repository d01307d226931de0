"""What objectives share that bring a recording near its text, among the other rows of a batch.

Letters: B rows.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmx.errors import InputError, TrainingError
from mmx.model import Model
from mmx.nn.similarity import SIMILARITY, Similarity
from mmx.seq import Seq, pad
from mmx.train.batch import IGNORED, Batch

MOST_ALONE = 3
"""Batches of one row in turn, from which on they are no end of an epoch."""


class OtherRows:
    """Refuses batches in which a recording has nothing to be told apart from; an epoch may end in one."""

    def __init__(self) -> None:
        self.alone = 0

    def require(self, model: Model, batch: Batch) -> None:
        """Raise `TrainingError` at the third batch of one row in turn."""
        self.alone = self.alone + 1 if len(batch.tasks) == 1 and model.training and not batch.waits else 0
        if self.alone >= MOST_ALONE:
            raise TrainingError(
                "expected batches of several rows, got one row each: a recording is told apart from those beside it, "
                "and alone its loss is 0 whatever the model does. Raise batch_tokens, with chunk in objective_config "
                "where memory does not allow it; accumulate does not help"
            )


def require_pairs(model: Model, objective: str, decoder: bool = False) -> None:
    """Raise `InputError` for a model that cannot compare recordings with texts, or write these."""
    there = {
        "text encoder": "text" in model.encoders,
        "similarity": SIMILARITY in model.heads,
        "decoder": not decoder or model.decoder is not None,
    }
    if lacking := [name for name, found in there.items() if not found]:
        raise InputError(
            f"expected a model with {', '.join(there)} for the objective {objective}, got {model.name} without "
            f"a {' and a '.join(lacking)}: give its config layers for texts"
        )


def similarity_of(model: Model) -> Similarity:
    """The trained scale of products."""
    found = model.heads[SIMILARITY]
    assert isinstance(found, Similarity)
    return found


def texts(batch: Batch) -> Seq:
    """What the decoder is to write of each row, as the text encoder reads it: text and end, without the prompt."""
    return pad([row[row != IGNORED] for row in batch.targets])


def softmax_contrast(logits_BB: Tensor) -> Tensor:
    """The sum over rows, in nats: the mean of both directions (CLIP), where row i belongs to column i."""
    right_B = torch.arange(len(logits_BB), device=logits_BB.device)
    ways = [F.cross_entropy(x, right_B, reduction="sum") for x in (logits_BB, logits_BB.T)]
    return (ways[0] + ways[1]) / 2


def found(logits_BB: Tensor) -> Tensor:
    """How many rows are nearest to their own column."""
    return (logits_BB.argmax(1) == torch.arange(len(logits_BB), device=logits_BB.device)).sum()
