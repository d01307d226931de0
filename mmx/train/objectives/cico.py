"""Signing near its text, token by token: the loss of CiCo (Cheng et al. 2023, arXiv 2303.12793, section 3.3).

Two similarities of every recording with every text of the batch, `mmx.nn.similarity.late_interaction`: signs to words,
and words to signs. The loss is the mean of both, each compared by softmax over the batch in both directions. At test
they are averaged (`mmx.search.similarity`). In training, two words change places in half of the texts that words to
signs is asked of, as in CiCo's code. With `restore`, masked texts are restored beside it, so that it is a first stage
of GFSLT-VLP in the place of `visual_language`.

Letters: B rows.
"""

from collections.abc import Mapping

from torch import Tensor

from mmx.interfaces import Losses, Needs
from mmx.model import Model
from mmx.nn.similarity import MOST, TAU, late_interaction
from mmx.seq import Seq
from mmx.train.batch import IGNORED, Batch
from mmx.train.objectives.pairs import (
    OtherRows,
    found,
    require_pairs,
    restored,
    similarity_of,
    softmax_contrast,
    swapped,
    texts,
)

NAME, RESTORED, FOUND = "cico", "restored", "found"


class CiCoLoss:
    """A row's recording and its text shall be more alike, token by token, than those of different rows.

    Args:
        modality: of the recordings; the one that the model records when None.
        tau: temperature of the weights that tokens have in each other's sums.
        swap: share of the texts in training of which two words change places, for words to signs alone.
        restore: weight of the masked text's loss, a mean over its tokens; 0 for none.
        mask: share of the tokens that are hidden from the text encoder then.
        hidden_as: the token that stands for them; 3 is what is unknown in all vocabularies of the NLLB family.
    """

    perplexity = False

    def __init__(
        self,
        modality: str | None = None,
        tau: float = TAU,
        swap: float = 0.5,
        restore: float = 0.0,
        mask: float = 0.15,
        hidden_as: int = 3,
    ):
        if not tau > 0 or not 0 <= swap <= 1:
            raise ValueError(f"tau above 0 and swap from 0 to 1, not {tau} and {swap}")
        if not 0 <= mask < 1 or restore < 0:
            raise ValueError(f"mask from 0 to below 1 and restore from 0, not {mask} and {restore}")
        self.modality, self.tau, self.swap = modality, tau, swap
        self.restore, self.mask, self.hidden_as = restore, mask, hidden_as
        self.others = OtherRows()

    def needs(self, model: Model) -> Needs:
        """A text; and of the model a text encoder, a similarity and, to restore texts, a decoder."""
        require_pairs(model, NAME, decoder=bool(self.restore))
        return Needs(modalities=(self._modality(model),))

    def count(self, batch: Batch) -> dict[str, int]:
        """Rows; and tokens of their texts, where these are restored."""
        rows = {NAME: len(batch.tasks), FOUND: len(batch.tasks)}
        return {**rows, RESTORED: int((batch.targets != IGNORED).sum())} if self.restore else rows

    def weights(self, counts: Mapping[str, int]) -> dict[str, float]:
        """Of means over rows and over tokens."""
        each = {NAME: 1 / max(1, counts.get(NAME, 0))}
        return {**each, RESTORED: self.restore / max(1, counts.get(RESTORED, 0))} if self.restore else each

    def __call__(self, model: Model, batch: Batch) -> Losses:
        """Reports the loss, how many recordings find their texts in the batch, and the restored tokens' loss.

        Raises:
            TrainingError: batches have one row each.
        """
        self.others.require(model, batch)
        name, text = self._modality(model), texts(batch)
        signs = model.embed_each({name: batch.inputs[name]}, batch.begin)
        scale = similarity_of(model).scale.clamp(max=MOST).exp()
        forth_BB, back_BB = (scale * x_BB for x_BB in self._both_ways(model, signs, text))
        total = {NAME: (softmax_contrast(forth_BB) + softmax_contrast(back_BB)) / 2}
        if self.restore:
            total[RESTORED] = restored(model, batch, text, self.mask, self.hidden_as)
        figures = {what: loss.detach() for what, loss in total.items()}
        return Losses(total, self.count(batch), figures | {FOUND: found(forth_BB + back_BB)})

    def _both_ways(self, model: Model, signs: Seq, text: Seq) -> tuple[Tensor, Tensor]:
        """`(B, B)` similarities of signs to words, and of words to signs."""
        forth_BB, back_BB = late_interaction(signs, model.embed_each({"text": text}), self.tau)
        if model.training and self.swap:
            others = swapped(text, model.require_tokenizer(), self.swap)
            back_BB = late_interaction(signs, model.embed_each({"text": others}), self.tau)[1]
        return forth_BB, back_BB

    def _modality(self, model: Model) -> str:
        return self.modality or next(iter(model.recorded))
