"""Signing near its text, token by token: the loss of CiCo (Cheng et al. 2023, arXiv 2303.12793, section 3.3).

Two similarities of every recording with every text of the batch, `mmx.nn.similarity.late_interaction`: signs to words,
and words to signs. The loss is the mean of both, each compared by softmax over the batch in both directions. At test
they are averaged (`mmx.search.similarity`). What CiCo does to texts in training (words change places) is not done.

Letters: B rows.
"""

from collections.abc import Mapping

from mmx.interfaces import Losses, Needs
from mmx.model import Model
from mmx.nn.similarity import MOST, TAU, late_interaction
from mmx.train.batch import Batch
from mmx.train.objectives.pairs import OtherRows, found, require_pairs, similarity_of, softmax_contrast, texts

NAME, FOUND = "cico", "found"


class CiCoLoss:
    """A row's recording and its text shall be more alike, token by token, than those of different rows.

    Args:
        modality: of the recordings; the one that the model records when None.
        tau: temperature of the weights that tokens have in each other's sums.
    """

    perplexity = False

    def __init__(self, modality: str | None = None, tau: float = TAU):
        if not tau > 0:
            raise ValueError(f"tau above 0, not {tau}")
        self.modality, self.tau = modality, tau
        self.others = OtherRows()

    def needs(self, model: Model) -> Needs:
        """A text; and of the model a text encoder and a similarity."""
        require_pairs(model, NAME)
        return Needs(modalities=(self._modality(model),))

    def count(self, batch: Batch) -> dict[str, int]:
        """Rows."""
        return {NAME: len(batch.tasks), FOUND: len(batch.tasks)}

    def weights(self, counts: Mapping[str, int]) -> dict[str, float]:
        """Of a mean over rows."""
        return {NAME: 1 / max(1, counts.get(NAME, 0))}

    def __call__(self, model: Model, batch: Batch) -> Losses:
        """Reports the loss, and how many recordings find their texts in the batch.

        Raises:
            TrainingError: batches have one row each.
        """
        self.others.require(model, batch)
        name = self._modality(model)
        signs = model.embed_each({name: batch.inputs[name]}, batch.begin)
        words = model.embed_each({"text": texts(batch)})
        scale = similarity_of(model).scale.clamp(max=MOST).exp()
        forth_BB, back_BB = (scale * x_BB for x_BB in late_interaction(signs, words, self.tau))
        loss = (softmax_contrast(forth_BB) + softmax_contrast(back_BB)) / 2
        return Losses({NAME: loss}, self.count(batch), {NAME: loss.detach(), FOUND: found(forth_BB + back_BB)})

    def _modality(self, model: Model) -> str:
        return self.modality or next(iter(model.recorded))
