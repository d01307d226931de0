"""Signing near its text, and masked text restored: the first stage of GFSLT-VLP (Zhou et al. 2023, arXiv 2307.14768).

Contrast is with the other rows of the batch: by softmax in both directions (CLIP), or of each pair by itself (SigLIP),
which asks less of a batch. A batch of one row has nothing to be told apart from: its softmax is 0 whatever the model
does. `chunk` makes batches larger than memory: rows are embedded a few at a time, and again when their gradients are
due (GradCache, Gao et al. 2021, arXiv 2101.06983), with the same result but for batch norm, which sees chunks.

Letters: B rows, D width.
"""

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mmx.interfaces import Losses, Needs
from mmx.model import Model
from mmx.train.batch import IGNORED, Batch
from mmx.train.objectives.pairs import (
    OtherRows,
    found,
    require_pairs,
    restored,
    similarity_of,
    softmax_contrast,
    texts,
)

NAME, RESTORED, FOUND = "contrastive", "restored", "found"


class VisualLanguageLoss:
    """A row's recording and its text shall be nearer than those of different rows; and the text is restored.

    Args:
        modality: of the recordings; the one that the model records when None.
        loss: `softmax` over the batch, or `sigmoid` of each pair.
        restore: weight of the masked text's loss, a mean over its tokens; 0 for none.
        mask: share of the tokens that are hidden from the text encoder.
        hidden_as: the token that stands for them; 3 is what is unknown in all vocabularies of the NLLB family.
        chunk: rows that are embedded at once; 0 for all.
    """

    perplexity = False

    def __init__(
        self,
        modality: str | None = None,
        loss: Literal["softmax", "sigmoid"] = "softmax",
        restore: float = 1.0,
        mask: float = 0.15,
        hidden_as: int = 3,
        chunk: int = 0,
    ):
        if loss not in ("softmax", "sigmoid"):
            raise ValueError(f"loss softmax or sigmoid, not {loss!r}")
        if not 0 <= mask < 1 or restore < 0 or chunk < 0:
            raise ValueError(f"mask from 0 to below 1, restore and chunk from 0, not {mask}, {restore}, {chunk}")
        self.modality, self.loss, self.restore = modality, loss, restore
        self.mask, self.hidden_as, self.chunk = mask, hidden_as, chunk
        self.others = OtherRows()

    def needs(self, model: Model) -> Needs:
        """A text; and of the model a text encoder, a similarity and, to restore texts, a decoder."""
        require_pairs(model, "visual_language", decoder=bool(self.restore))
        return Needs(modalities=(self._modality(model),))

    def count(self, batch: Batch) -> dict[str, int]:
        """Rows, and tokens of their texts."""
        rows = len(batch.tasks)
        return {NAME: rows, FOUND: rows, RESTORED: int((batch.targets != IGNORED).sum())}

    def weights(self, counts: Mapping[str, int]) -> dict[str, float]:
        """Of means over rows and over tokens."""
        return {NAME: 1 / max(1, counts.get(NAME, 0)), RESTORED: self.restore / max(1, counts.get(RESTORED, 0))}

    def __call__(self, model: Model, batch: Batch) -> Losses:
        """Reports the contrast, how many recordings find their texts in the batch, and the restored tokens' loss.

        Raises:
            TrainingError: batches have one row each.
        """
        self.others.require(model, batch)
        text = texts(batch)
        signs_BD = self._embedded(model, batch, self._modality(model))
        similarity = similarity_of(model)
        logits_BB = similarity(signs_BD, model.embed({"text": text}))
        contrast = self._contrast(logits_BB, similarity.bias)
        total = {NAME: contrast}
        if self.restore:
            total[RESTORED] = restored(model, batch, text, self.mask, self.hidden_as)
        figures = {name: value.detach() for name, value in total.items()}
        return Losses(total, self.count(batch), figures | {FOUND: found(logits_BB)})

    def _modality(self, model: Model) -> str:
        return self.modality or next(iter(model.recorded))

    def _embedded(self, model: Model, batch: Batch, name: str) -> Tensor:
        seq, rows = batch.inputs[name], len(batch.tasks)
        if not self.chunk or rows <= self.chunk or not torch.is_grad_enabled():
            return model.embed({name: seq}, batch.begin)

        def embed(x: Tensor, lengths: Tensor) -> Tensor:
            part = seq._replace(x=x[:, : int(lengths.max())], lengths=lengths)
            return model.embed({name: part}, batch.begin)

        pairs = zip(seq.x.split(self.chunk), seq.lengths.split(self.chunk), strict=True)
        parts = [checkpoint(embed, x, lengths, use_reentrant=False) for x, lengths in pairs]
        return torch.cat([part for part in parts if part is not None])

    def _contrast(self, logits_BB: Tensor, bias: Tensor) -> Tensor:
        """The sum over rows, in nats."""
        if self.loss == "softmax":
            return softmax_contrast(logits_BB)
        signs_BB = 2 * torch.eye(len(logits_BB), device=logits_BB.device) - 1
        return -F.logsigmoid(signs_BB * (logits_BB + bias)).sum()
