"""One space for two modalities: InfoNCE (van den Oord et al. 2018), in both directions as CLIP's (Radford et al. 2021).

Letters: B rows, D width.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmx.errors import InputError
from mmx.interfaces import Losses, Needs
from mmx.model import Model
from mmx.train.batch import Batch
from mmx.train.objectives.weigh import mean_of_each

NAME = "contrastive"


class ContrastiveLoss:
    """A row's two embeddings shall be nearer to each other than to those of the batch's other rows; a mean over rows.

    What a row is told apart from is its batch, of one process: several small batches are not one large one.

    Args:
        modalities: the two that are compared; those of the data when None.
        temperature: that similarities are divided by.
    """

    perplexity = False

    def __init__(self, modalities: Sequence[str] | None = None, temperature: float = 0.07):
        self.modalities, self.temperature = modalities, temperature

    def needs(self, model: Model) -> Needs:
        """Both modalities."""
        names = list(self.modalities or model.encoders)
        if len(names) != 2 or not model.encoders.keys() >= set(names):
            raise InputError(
                f"expected two modalities of {model.name} ({', '.join(model.encoders)}) for the objective contrastive, "
                f"got {names}: name two in objective_config"
            )
        return Needs(text=False, modalities=(names[0], names[1]))

    def count(self, batch: Batch) -> dict[str, int]:
        """Rows, in all and those that are found first among the others."""
        return {NAME: len(batch.tasks), "found": len(batch.tasks)}

    def weights(self, counts: Mapping[str, int]) -> dict[str, float]:
        """Of a mean."""
        return mean_of_each(counts)

    def __call__(self, model: Model, batch: Batch) -> Losses:
        """Reports the loss, and how many rows of the first modality find theirs of the second."""
        names = list(self.modalities or model.encoders)
        a_BD, b_BD = (model.embed({name: batch.inputs[name]}, batch.begin) for name in names)
        loss_B, found_B = info_nce(a_BD, b_BD, self.temperature)
        figures = {NAME: loss_B.detach().sum(), "found": found_B.sum()}
        return Losses({NAME: loss_B.sum()}, self.count(batch), figures)


def info_nce(a_BD: Tensor, b_BD: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The loss of each row, the mean of both directions, in nats; and whether its b is the nearest to its a.

    Args:
        a_BD: unit vectors.
        b_BD: unit vectors.
        temperature: that their products are divided by.
    """
    logits_BB = a_BD.float() @ b_BD.float().T / temperature
    right_B = torch.arange(len(logits_BB), device=logits_BB.device)
    ways = [F.cross_entropy(x, right_B, reduction="none") for x in (logits_BB, logits_BB.T)]
    return sum(ways, torch.zeros(())) / 2, logits_BB.argmax(1) == right_B
