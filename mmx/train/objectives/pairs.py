"""What objectives share that bring a recording near its text, among the other rows of a batch.

Letters: B rows, U tokens, D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmx.errors import InputError, TrainingError
from mmx.interfaces import Tokenizer
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


def swapped(text: Seq, tokenizer: Tokenizer, share: float) -> Seq:
    """Texts of which a share have two words changed in their places, drawn at random (EDA, Wei and Zou 2019).

    Words stand between spaces: where a script writes none, or a text has one word, nothing changes.
    """
    rows = []
    for ids, drawn in zip(
        (x[:n] for x, n in zip(text.x, text.lengths, strict=True)), torch.rand(len(text.x)).tolist(), strict=True
    ):
        words = tokenizer.decode(ids[:-1].tolist()).split()
        if drawn < share and len(words) > 1:
            a, b = torch.randperm(len(words))[:2].tolist()
            words[a], words[b] = words[b], words[a]
            ids = torch.cat([ids.new_tensor(tokenizer.encode(" ".join(words))), ids[-1:]])
        rows.append(ids)
    return pad(rows)


def restored(model: Model, batch: Batch, text: Seq, mask: float, hidden_as: int) -> Tensor:
    """The loss of texts that the decoder restores from those with hidden tokens, a sum over tokens, in nats.

    The text encoder learns nothing of it, as published (GFSLT-VLP).

    Args:
        model: with a text encoder and a decoder.
        batch: whose targets are restored.
        text: of `texts`.
        mask: share of the tokens that are hidden from the text encoder.
        hidden_as: the token that stands for them.
    """
    counts_BU, decoder = batch.targets != IGNORED, model.require_decoder()
    hide_BU = (torch.rand(text.x.shape, device=text.x.device) < mask) & text.mask
    with torch.no_grad():
        memory = model.memory({"text": text._replace(x=text.x.masked_fill(hide_BU, hidden_as))})
    hidden_BUD = decoder.hidden(batch.tokens, memory)
    return F.cross_entropy(decoder.head(hidden_BUD[counts_BU]).float(), batch.targets[counts_BU], reduction="sum")


def softmax_contrast(logits_BB: Tensor) -> Tensor:
    """The sum over rows, in nats: the mean of both directions (CLIP), where row i belongs to column i."""
    right_B = torch.arange(len(logits_BB), device=logits_BB.device)
    ways = [F.cross_entropy(x, right_B, reduction="sum") for x in (logits_BB, logits_BB.T)]
    return (ways[0] + ways[1]) / 2


def found(logits_BB: Tensor) -> Tensor:
    """How many rows are nearest to their own column."""
    return (logits_BB.argmax(1) == torch.arange(len(logits_BB), device=logits_BB.device)).sum()
