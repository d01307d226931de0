"""Speech infilling: a voice learns to say what is missing of a recording, from its text and the rest of it.

Voicebox (Le et al. 2023, arXiv 2306.15687, section 3.1), E2-TTS (arXiv 2406.18009) and F5-TTS (arXiv 2410.06885).

Letters: B rows, U tokens, M frames, F features.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from mmx.errors import InputError
from mmx.interfaces import Losses, Needs
from mmx.model import Model
from mmx.seq import Seq
from mmx.train.batch import Batch
from mmx.train.objectives.flow import flow_losses
from mmx.train.objectives.weigh import mean_of_each

NAME = "infill"


@runtime_checkable
class InfillField(Protocol):
    """A synth that fills in features.

    Attributes:
        medium: what it makes, and is shown in training: "audio".
    """

    medium: str

    def features(self, target: Seq, /) -> Seq:
        """What the field is over, `(B, M, F)`, of a waveform `(B, N)`."""
        ...

    def told(self, memory: Seq, known: Seq, drop: Tensor, /) -> Seq:
        """What the velocity depends on: a text, features `(B, M, F)` that are zero where they are to be found, and
        which rows `(B,)` are told nothing."""
        ...

    def velocity(self, x_BMF: Tensor, time_B: Tensor, condition: Seq, /) -> Tensor:
        """`(B, M, F)` where the points `x` of the paths go at times in [0, 1]."""
        ...


class Holes(NamedTuple):
    """What is hidden of each row.

    Attributes:
        span: `(B, M)` bool, the frames to be found.
        alone: `(B,)` bool, rows of which no features are known.
        nothing: `(B,)` bool, rows of which no text is known either: so guidance is learned.
    """

    span: Tensor
    alone: Tensor
    nothing: Tensor


class InfillLoss:
    """Flow matching inside one hidden span of each row; a mean over its frames.

    What is drawn for a row is drawn from its key: it is the same in whatever batch it is.

    Args:
        least: share of a recording that is hidden at least; at most all of it is.
        drop_features: probability that none of its features are known.
        drop_all: probability that its text is not known either.
        sigma: see `mmx.train.objectives.flow.FlowLoss`.
    """

    perplexity = False

    def __init__(self, least: float = 0.7, drop_features: float = 0.3, drop_all: float = 0.2, sigma: float = 0.0):
        for name, value in (("least", least), ("drop_features", drop_features), ("drop_all", drop_all)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} from 0 to 1, not {value}")
        self.least, self.drop_features, self.drop_all, self.sigma = least, drop_features, drop_all, sigma

    def needs(self, model: Model) -> Needs:
        """A text for each recording; and of the model a synth that fills in."""
        if not isinstance(model.synth, InfillField):
            raise InputError(
                f"expected a model with a synth that has features, told and velocity for the objective {NAME}, got "
                f"{model.name}: choose another objective"
            )
        return Needs(text=False, makes=model.synth.medium)

    def count(self, batch: Batch) -> dict[str, int]:
        """Rows, of which each counts by the mean over its hidden frames."""
        return {NAME: len(batch.tasks)}

    def weights(self, counts: Mapping[str, int]) -> dict[str, float]:
        """Of a mean."""
        return mean_of_each(counts)

    def __call__(self, model: Model, batch: Batch) -> Losses:
        """Reports the same."""
        field: Any = model.synth
        target = field.features(batch.outputs[field.medium])
        holes = self.holes(target, batch.keys)
        hidden_BM = holes.span | (holes.alone | holes.nothing)[:, None]
        known = target._replace(x=torch.where(hidden_BM[..., None], 0.0, target.masked))
        condition = field.told(model.memory(batch.inputs, batch.begin), known, holes.nothing)
        loss_B = flow_losses(field, target, condition, batch.keys, self.sigma, holes.span)
        return Losses({NAME: loss_B.sum()}, self.count(batch), {NAME: loss_B.detach().sum()})

    def holes(self, target: Seq, keys: Sequence[str]) -> Holes:
        """Draw what is hidden of each row, from its key; from torch's own generator without keys."""
        draws = torch.stack([self._draw(key) for key in keys]) if keys else torch.rand(len(target.x), 4)
        share_B, place_B, features_B, all_B = draws.to(target.x.device).unbind(1)
        size_B = ((self.least + (1 - self.least) * share_B) * target.lengths).long().clamp(min=1)
        first_B = ((target.lengths - size_B) * place_B).long()
        at_M = torch.arange(target.x.shape[1], device=target.x.device)
        span_BM = (at_M >= first_B[:, None]) & (at_M < (first_B + size_B)[:, None])
        return Holes(span_BM, features_B < self.drop_features, all_B < self.drop_all)

    def _draw(self, key: str) -> Tensor:
        seed = int.from_bytes(hashlib.sha256(f"infill/{key}".encode()).digest()[:7], "big")
        return torch.rand(4, generator=torch.Generator().manual_seed(seed))
