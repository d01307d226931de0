"""Connectionist temporal classification (Graves et al. 2006): text from frames, without a decoder.

Letters: B rows, M memory frames, D width, V vocabulary.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from mmx.errors import InputError
from mmx.interfaces import Losses, Needs
from mmx.model import Model
from mmx.nn.ctc import NAME as HEAD
from mmx.nn.ctc import CTCHead
from mmx.seq import Seq, pad
from mmx.train.batch import IGNORED, Batch
from mmx.train.objectives.weigh import mean_of_each


class CTCLoss:
    """The negative log-likelihood of a text over all its alignments with the memory, a mean over tokens.

    The model has a head "ctc", `(D,)` to `(V + 1,)`, whose last entry is the blank; a `CTCHead` is told the language of
    each row. The decoder's prompt and the token that ends a text are no part of the text here. A row with fewer frames
    than its text needs has no alignment and teaches nothing.
    """

    perplexity = False

    def needs(self, model: Model) -> Needs:
        """A text; and of the model the head."""
        if HEAD not in model.heads:
            raise InputError(
                f"expected a model with a head {HEAD!r} for the objective ctc, got {model.name} with "
                f"{', '.join(model.heads) or 'none'}: choose another objective"
            )
        return Needs()

    def count(self, batch: Batch) -> dict[str, int]:
        """Tokens."""
        return {HEAD: sum(map(len, texts(batch)))}

    def weights(self, counts: Mapping[str, int]) -> dict[str, float]:
        """Of a mean."""
        return mean_of_each(counts)

    def __call__(self, model: Model, batch: Batch) -> Losses:
        """Reports the same in nats."""
        memory = model.memory(batch.inputs, batch.begin)
        loss = ctc_loss(head_of(model, batch), memory, texts(batch))
        return Losses({HEAD: loss}, self.count(batch), {HEAD: loss.detach()})


def head_of(model: Model, batch: Batch) -> Callable[[Tensor], Tensor]:
    """The head of a model, told the languages of a batch where it takes them."""
    head = model.heads[HEAD]
    return partial(head, language_B=languages(batch)) if isinstance(head, CTCHead) else head


def texts(batch: Batch) -> list[Tensor]:
    """The tokens of each row's text, without prompt and end."""
    return [row[row != IGNORED][:-1] for row in batch.targets]


def languages(batch: Batch) -> Tensor:
    """`(B,)` the last token of each row's prompt, which names the language that it is to write."""
    first_B = (batch.targets != IGNORED).int().argmax(1, keepdim=True)
    return batch.tokens.gather(1, first_B)[:, 0]


def ctc_loss(head: Callable[[Tensor], Tensor], memory: Seq, targets: Sequence[Tensor]) -> Tensor:
    """The sum over rows, in nats; 0 for those without an alignment."""
    logits_BMV = head(memory.masked).float()
    lengths = [len(t) for t in targets]
    wanted = pad(list(targets)).x
    return F.ctc_loss(
        logits_BMV.log_softmax(-1).transpose(0, 1), wanted, memory.lengths, torch.tensor(lengths),
        blank=logits_BMV.shape[-1] - 1, reduction="sum", zero_infinity=True,
    )  # fmt: skip
