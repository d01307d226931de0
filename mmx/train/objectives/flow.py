"""Flow matching: a field that carries noise to features (Lipman et al. 2023, arXiv 2210.02747).

Letters: B rows, M frames, F features.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from mmx.errors import InputError
from mmx.interfaces import Losses, Needs
from mmx.model import Model
from mmx.seq import Seq
from mmx.train.batch import Batch
from mmx.train.objectives.weigh import mean_of_each

NAME = "flow"


class Velocity(Protocol):
    """A field, whatever it depends on."""

    def velocity(self, x_BMF: Tensor, time_B: Tensor, condition: Seq, /) -> Tensor:
        """`(B, M, F)` where the points `x` of the paths go at times in [0, 1]."""
        ...


@runtime_checkable
class Field(Velocity, Protocol):
    """A synth that is trained by flow matching.

    Attributes:
        medium: what it makes, and is shown in training: "audio".
    """

    medium: str

    def features(self, target: Seq, /) -> Seq:
        """What the field is over, `(B, M, F)`, of a target as it is read: a waveform `(B, N)`."""
        ...

    def condition(self, memory: Seq, /) -> Seq:
        """What it depends on, at the features' rate."""
        ...


class FlowLoss:
    """Conditional flow matching on straight paths from noise to features (section 4.1, example II); a mean over frames.

    Noise and time of a row are drawn from its key: they are the same in whatever batch it is.

    Args:
        sigma: deviation that is left at the end of a path.
    """

    perplexity = False

    def __init__(self, sigma: float = 1e-4):
        self.sigma = sigma

    def needs(self, model: Model) -> Needs:
        """What is to be made; and of the model a synth that is a field."""
        if not isinstance(model.synth, Field):
            raise InputError(
                f"expected a model with a synth that has features, condition and velocity for the objective flow, got "
                f"{model.name}: choose another objective"
            )
        return Needs(text=False, makes=model.synth.medium)

    def count(self, batch: Batch) -> dict[str, int]:
        """Rows, of which each counts by the mean over its frames."""
        return {NAME: len(batch.tasks)}

    def weights(self, counts: Mapping[str, int]) -> dict[str, float]:
        """Of a mean."""
        return mean_of_each(counts)

    def __call__(self, model: Model, batch: Batch) -> Losses:
        """Reports the same."""
        field: Any = model.synth
        condition = field.condition(model.memory(batch.inputs, batch.begin))
        loss_B = flow_losses(field, field.features(batch.outputs[field.medium]), condition, batch.keys, self.sigma)
        return Losses({NAME: loss_B.sum()}, self.count(batch), {NAME: loss_B.detach().sum()})


def flow_losses(
    field: Velocity,
    target: Seq,
    condition: Seq,
    keys: Sequence[str] = (),
    sigma: float = 1e-4,
    counted_BM: Tensor | None = None,
) -> Tensor:
    """`(B,)`: of each row, the mean over frames and features of the squared error of the velocity at one random point.

    Args:
        field: whose velocity is learned.
        target: features `(B, M, F)`, the ends of the paths.
        condition: `(B, M, D)`; what is longer than the other of the two is cut off.
        keys: of the rows, from which noise and time are drawn; torch's own generator draws without.
        sigma: see `FlowLoss`.
        counted_BM: the frames that the mean is over; all of a row when None.
    """
    lengths_B = torch.minimum(target.lengths, condition.lengths)
    n_frames = int(lengths_B.max())
    end = Seq(target.x[:, :n_frames], lengths_B)
    end_BMF = end.masked.float()
    noise_BMF, time_B = draw(end_BMF, lengths_B, keys)
    time_B11 = time_B[:, None, None]
    at_BMF = (1 - (1 - sigma) * time_B11) * noise_BMF + time_B11 * end_BMF
    found_BMF = field.velocity(at_BMF, time_B, Seq(condition.x[:, :n_frames], lengths_B, condition.rate))
    error_BMF = found_BMF.float() - (end_BMF - (1 - sigma) * noise_BMF)
    error_BM = end._replace(x=error_BMF.square()).masked.mean(2)
    if counted_BM is None:
        return error_BM.sum(1) / lengths_B.clamp(min=1)
    counted_BM = counted_BM[:, :n_frames] & end.mask
    return error_BM.where(counted_BM, 0.0).sum(1) / counted_BM.sum(1).clamp(min=1)


def draw(like_BMF: Tensor, lengths_B: Tensor, keys: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Noise of a shape, and a time for each row. A row's own do not depend on how long the others are."""
    if not keys:
        return torch.randn_like(like_BMF), torch.rand(len(like_BMF), device=like_BMF.device)
    noise_BMF, times = torch.zeros_like(like_BMF), []
    for row, n, key in zip(noise_BMF, lengths_B.tolist(), keys, strict=True):
        seed = int.from_bytes(hashlib.sha256(f"flow/{key}".encode()).digest()[:7], "big")
        generator = torch.Generator().manual_seed(seed)
        times.append(torch.rand((), generator=generator))
        row[:n] = torch.randn(n, row.shape[1], generator=generator)
    return noise_BMF, torch.stack(times).to(like_BMF.device)
