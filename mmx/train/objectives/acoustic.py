"""What an acoustic model with known durations learns: a flow from noise to frames, a prior mean, and durations.

Letters: B rows, M frames, F features, U symbols.
"""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from mmx.errors import InputError
from mmx.interfaces import Losses, Needs
from mmx.model import Model
from mmx.seq import Seq
from mmx.train.batch import Batch
from mmx.train.objectives.flow import draw
from mmx.train.objectives.weigh import mean_of_each

FLOW, PRIOR, DURATION = "flow", "prior", "duration"


@runtime_checkable
class AcousticField(Protocol):
    """A synth that is trained on frames whose text and durations are known.

    Attributes:
        medium: of the training data, which also say what is spoken when.
        medium_rate: frames of it a second.
    """

    medium: str
    medium_rate: float

    def weight(self) -> Tensor:
        """`(F,)`: what an error of each feature counts."""
        ...

    def taught(self, features: Seq, /) -> Any:
        """Of training data: `target` Seq `(B, M, F)`, `prior` of the same shape, the logarithm `log_frames` of the mean
        duration of each of `symbols`, and the `frames` that it lasts."""
        ...

    def velocity(self, x_BMF: Tensor, time_B: Tensor, taught: Any, /) -> Tensor:
        """`(B, M, F)` where the points `x` of the paths go at times in [0, 1]."""
        ...


class AcousticLoss:
    """The sum of three means over rows, each over a row's frames or symbols.

    - flow: the weighted squared error of the velocity at one point of the straight path from noise to the frames
      (Lipman et al. 2023, arXiv 2210.02747), at a time that is uniform: few steps begin at 0, which a time whose logit
      is normal (Esser et al. 2024, arXiv 2403.03206) all but never is;
    - prior: that of the prior mean (Popov et al. 2021, arXiv 2105.06337);
    - duration: Poisson's negative log likelihood of the frames of a symbol, whose minimum is at their mean: the mean of
      logarithms, which is usual, makes speech too fast.

    Args:
        prior: weight of the prior's error.
        duration: weight of the durations'.
    """

    perplexity = False

    def __init__(self, prior: float = 0.5, duration: float = 0.05):
        self.parts = {FLOW: 1.0, PRIOR: prior, DURATION: duration}

    def needs(self, model: Model) -> Needs:
        """What is to be made; and of the model a synth that can say what it is taught."""
        if not isinstance(model.synth, AcousticField):
            raise InputError(
                f"expected a model with an acoustic synth for the objective acoustic, got {model.name}: choose another"
            )
        return Needs(text=False, makes=model.synth.medium, rate=model.synth.medium_rate)

    def count(self, batch: Batch) -> dict[str, int]:
        """Rows, for each."""
        return dict.fromkeys(self.parts, len(batch.tasks))

    def weights(self, counts: Mapping[str, int]) -> dict[str, float]:
        """Of means."""
        return {name: self.parts[name] * w for name, w in mean_of_each(counts).items()}

    def __call__(self, model: Model, batch: Batch) -> Losses:
        """Reports the same."""
        synth = model.synth
        assert isinstance(synth, AcousticField), "expected what `needs` asks for"
        taught = synth.taught(batch.outputs[synth.medium])
        end, weight_F = taught.target, synth.weight().to(taught.target.x.device)
        end_BMF = end.masked.float()
        noise_BMF, time_B = draw(end_BMF, end.lengths, batch.keys)
        time_B11 = time_B[:, None, None]
        found_BMF = synth.velocity((1 - time_B11) * noise_BMF + time_B11 * end_BMF, time_B, taught)
        rows = {
            FLOW: _error(end, found_BMF, end_BMF - noise_BMF, weight_F),
            PRIOR: _error(end, taught.prior, end_BMF, weight_F),
            DURATION: _poisson(taught.symbols, taught.log_frames, taught.frames),
        }
        total = {name: row_B.sum() for name, row_B in rows.items()}
        return Losses(total, self.count(batch), {name: x.detach() for name, x in total.items()})


def _error(like: Seq, found_BMF: Tensor, wanted_BMF: Tensor, weight_F: Tensor) -> Tensor:
    """`(B,)`: the mean over a row's frames and features of the weighted squared error."""
    square_BMF = (found_BMF.float() - wanted_BMF).square() * (weight_F / weight_F.mean())
    return like._replace(x=square_BMF).masked.mean(2).sum(1) / like.lengths.clamp(min=1)


def _poisson(symbols: Seq, log_BU: Tensor, frames_BU: Tensor) -> Tensor:
    """`(B,)`: the mean over a row's symbols of the deviance of Poisson's distribution, 0 where the mean is what is."""
    n = frames_BU.float()
    deviance_BU = log_BU.exp() - n - n * (log_BU - n.clamp(min=1).log())
    return symbols._replace(x=deviance_BU).masked.sum(1) / symbols.lengths.clamp(min=1)
