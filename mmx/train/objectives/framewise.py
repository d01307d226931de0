"""CTC with a warm start by frames, for corpora that know which token is spoken when.

Pure CTC may write nothing for hundreds of updates before it finds an alignment. Where times are known, as of synthetic
speech, the path that they make through the frames is one of those whose sum CTC maximizes; its cross-entropy leads
there, and its weight falls to nothing over the first passes through the data.

Letters: B rows, M memory frames, U tokens, V vocabulary.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from mmx.interfaces import Losses, Needs
from mmx.model import Model
from mmx.seq import Seq, pad
from mmx.train.batch import IGNORED, Batch
from mmx.train.objectives.ctc import HEAD, CTCLoss, ctc_loss, head_of, texts
from mmx.train.objectives.weigh import mean_of_each

FRAMES = "frames"
LABELS = "features"
"""The medium of the labels: `target_features` holds, in each frame, the place in the text of the token that is spoken
there, and -1 where there is none."""


class FramewiseCTCLoss(CTCLoss):
    """CTC (see `CTCLoss`) and the cross-entropy of the path that is known.

    A token is a character: the tokenizer is one of bytes or characters.

    Args:
        frames: weight of the cross-entropy, a mean over frames, in the first pass.
        passes: through the data until it is 0; 0 for the same weight always.
        rate: memory frames a second, which are those of the labels.
    """

    def __init__(self, frames: float = 3.0, passes: int = 0, rate: float = 50.0):
        self.frames, self.passes, self.rate = frames, passes, rate

    def needs(self, model: Model) -> Needs:
        """A text, and the labels; of the model the head."""
        super().needs(model)
        return Needs(makes=LABELS, rate=self.rate)

    def count(self, batch: Batch) -> dict[str, int]:
        """Tokens, and frames."""
        return {**super().count(batch), FRAMES: int(batch.outputs[LABELS].lengths.sum())}

    def weights(self, counts: Mapping[str, int]) -> dict[str, float]:
        """Of a mean of each."""
        return mean_of_each(counts)

    def __call__(self, model: Model, batch: Batch) -> Losses:
        """Reports both in nats."""
        memory = model.memory(batch.inputs, batch.begin)
        logits_BMV = head_of(model, batch)(memory.masked).float()
        loss, framewise = ctc_loss(lambda _: logits_BMV, memory, texts(batch)), frame_loss(logits_BMV, memory, batch)
        figures = {HEAD: loss.detach(), FRAMES: framewise.detach()}
        total = {HEAD: loss, FRAMES: framewise * faded(self.frames, batch, self.passes)}
        return Losses(total, self.count(batch), figures)


def known_path(batch: Batch, blank: int) -> Tensor:
    """`(B, M)` the token spoken in each frame; the blank where there is none, and between two that are alike."""
    labels = batch.outputs[LABELS]
    ids_BU = F.pad(pad(texts(batch)).x, (0, 1))  # a batch that only waits has no text
    place_BM = labels.x[..., 0].long()
    spoken_BM = ids_BU.gather(1, place_BM.clamp(min=0, max=ids_BU.shape[1] - 1))
    next_BM = (place_BM[:, 1:] != place_BM[:, :-1]) & (place_BM[:, :-1] >= 0)
    doubled_BM = F.pad((spoken_BM[:, 1:] == spoken_BM[:, :-1]) & next_BM, (1, 0))
    return torch.where((place_BM < 0) | doubled_BM, blank, spoken_BM)


def frame_loss(logits_BMV: Tensor, memory: Seq, batch: Batch) -> Tensor:
    """Cross-entropy of the known path, a sum over the frames that have a label, in nats."""
    n, labels = logits_BMV.shape[1], batch.outputs[LABELS]
    path_BM = known_path(batch, logits_BMV.shape[-1] - 1)
    wanted_BM = F.pad(path_BM.masked_fill(~labels.mask, IGNORED), (0, max(0, n - path_BM.shape[1])), value=IGNORED)[
        :, :n
    ]
    wanted_BM = wanted_BM.masked_fill(~memory.mask, IGNORED)
    return F.cross_entropy(logits_BMV.flatten(0, 1), wanted_BM.flatten(), ignore_index=IGNORED, reduction="sum")


def epoch_of(batch: Batch) -> int:
    """Passes through the data before this batch, which the keys of its rows tell ("seed/epoch/example")."""
    return int(batch.keys[0].split("/")[1]) if batch.keys else 0


def faded(weight: float, batch: Batch, passes: int) -> float:
    """A weight that falls linearly to 0 over some passes; the same always where these are 0."""
    return weight * max(0.0, 1 - epoch_of(batch) / passes) if passes else weight
