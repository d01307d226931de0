"""CTC with a warm start: a second head says in each frame which token is spoken, for corpora that know it.

Pure CTC may write nothing for hundreds of updates before it finds an alignment. Where times are known, as of synthetic
speech, the cross-entropy of frames leads it there; its weight falls to nothing over the first passes through the data.

Letters: B rows, M memory frames, V vocabulary.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from mmx.errors import InputError
from mmx.interfaces import Losses, Needs
from mmx.model import Model
from mmx.seq import Seq
from mmx.train.batch import IGNORED, Batch
from mmx.train.objectives.ctc import CTCLoss, head_loss, texts
from mmx.train.objectives.weigh import mean_of_each

HEAD = "frames"
LABELS = "features"
"""The medium of the labels: `target_features` holds, in each frame, the place in the text of the token that is spoken
there, and -1 where there is none."""


class FramewiseCTCLoss(CTCLoss):
    """CTC (see `CTCLoss`) and the cross-entropy of frames.

    The model has a head "frames" besides, `(D,)` to `(V + 1,)`, whose last entry says that nothing is spoken. A token
    is a character: the tokenizer is one of bytes or characters.

    Args:
        frames: weight of the cross-entropy, a mean over frames, in the first pass.
        passes: through the data until it is 0; 0 for the same weight always.
        rate: memory frames a second, which are those of the labels.
    """

    def __init__(self, frames: float = 3.0, passes: int = 0, rate: float = 50.0):
        self.frames, self.passes, self.rate = frames, passes, rate

    def needs(self, model: Model) -> Needs:
        """A text, and the labels; of the model both heads."""
        super().needs(model)
        if HEAD not in model.heads:
            raise InputError(
                f"expected a model with a head {HEAD!r} for the objective framewise, got {model.name} with "
                f"{', '.join(model.heads)}: choose the objective ctc"
            )
        return Needs(makes=LABELS, rate=self.rate)

    def count(self, batch: Batch) -> dict[str, int]:
        """Tokens, and frames."""
        return {**super().count(batch), HEAD: int(batch.outputs[LABELS].lengths.sum())}

    def weights(self, counts: Mapping[str, int]) -> dict[str, float]:
        """Of a mean of each."""
        return mean_of_each(counts)

    def __call__(self, model: Model, batch: Batch) -> Losses:
        """Reports both in nats."""
        memory = model.memory(batch.inputs, batch.begin)
        loss, framewise = head_loss(model, memory, batch), frame_loss(model, memory, batch)
        weighed = framewise * faded(self.frames, batch, self.passes)
        figures = {"ctc": loss.detach(), HEAD: framewise.detach()}
        return Losses({"ctc": loss, HEAD: weighed}, self.count(batch), figures)


def frame_loss(model: Model, memory: Seq, batch: Batch) -> Tensor:
    """Cross-entropy of the token that is spoken in each frame, a sum, in nats; others teach nothing."""
    labels = batch.outputs[LABELS]
    logits_BMV = model.heads[HEAD](memory.masked).float()
    place_BM = F.pad(labels.x[..., 0].long(), (0, max(0, logits_BMV.shape[1] - labels.x.shape[1])), value=-1)
    place_BM = place_BM[:, : logits_BMV.shape[1]]
    rows = texts(batch)
    longest = max(1, *map(len, rows))
    ids_BU = torch.stack([F.pad(row, (0, longest - len(row))) for row in rows])
    spoken_BM = ids_BU.gather(1, place_BM.clamp(min=0, max=longest - 1))
    wanted_BM = torch.where(place_BM < 0, logits_BMV.shape[-1] - 1, spoken_BM)
    counted_BM = torch.arange(logits_BMV.shape[1], device=memory.x.device) < labels.lengths[:, None]
    wanted_BM = wanted_BM.masked_fill(~(counted_BM & memory.mask), IGNORED)
    return F.cross_entropy(logits_BMV.flatten(0, 1), wanted_BM.flatten(), ignore_index=IGNORED, reduction="sum")


def epoch_of(batch: Batch) -> int:
    """Passes through the data before this batch, which the keys of its rows tell ("seed/epoch/example")."""
    return int(batch.keys[0].split("/")[1]) if batch.keys else 0


def faded(weight: float, batch: Batch, passes: int) -> float:
    """A weight that falls linearly to 0 over some passes; the same always where these are 0."""
    return weight * max(0.0, 1 - epoch_of(batch) / passes) if passes else weight
