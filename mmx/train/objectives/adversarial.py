"""What a vocoder learns beside spectra: sound that discriminators, which learn with it, take for recorded.

Least squares (Mao et al. 2017, arXiv 1611.04076) and feature matching (Larsen et al. 2016, arXiv 1512.09300), as Kong
et al. 2020, arXiv 2010.05646, section 2.4, use them for speech. The discriminators are a head of the model: the loop
trains, keeps and resumes them as it does the rest, and knows nothing of two sides. That each side learns from its own
loss alone is made here: the discriminators hear the made wave detached, and their weights are detached where the
vocoder learns from what they say. So both take one step at once, from the same judgement of the recorded wave.

Letters: B rows, N samples, R points that are judged.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmx.errors import InputError
from mmx.interfaces import Losses, Needs
from mmx.model import Model
from mmx.nn.discriminators import NAME as HEAD
from mmx.nn.discriminators import Judged
from mmx.train.batch import Batch
from mmx.train.objectives.spectral import NAME, SpectralLoss

FOOLED, MATCHED, TOLD = "adversarial", "matching", "discriminators"


class AdversarialLoss(SpectralLoss):
    """The spectral losses; what the discriminators say; how far what they see is from what they see of the recording.

    Args:
        rate: samples a second.
        seconds: length of the window that is heard of each row.
        edge_s: how much of it, at either end, is made and not compared.
        mel: weight of the mel term.
        spectral: weight of the other spectral term. Convergence wants noise too faint, as no noise is like another.
        adversarial: weight of what the discriminators say, a mean over them.
        matching: weight of the distance of what they see, relative to what is seen, a mean over layers.
        periodic: weight of the term of periodicity.
    """

    def __init__(
        self, rate: int = 24_000, seconds: float = 0.6, edge_s: float = 0.05, mel: float = 1.0,
        spectral: float = 0.3, adversarial: float = 0.3, matching: float = 1.0, periodic: float = 0.0,
    ):  # fmt: skip
        super().__init__(rate, seconds, edge_s, mel, periodic)
        self.parts |= {NAME: spectral, FOOLED: adversarial, MATCHED: matching, TOLD: 1.0}

    def needs(self, model: Model) -> Needs:
        """Those of the spectral losses; and of the model discriminators."""
        if HEAD not in model.heads:
            raise InputError(
                f"expected a model with a head {HEAD!r} for the objective {FOOLED}, got {model.name} with "
                f"{', '.join(model.heads) or 'none'}: choose another objective"
            )
        return super().needs(model)

    def __call__(self, model: Model, batch: Batch) -> Losses:
        """Reports the same: first of spectra, as what the discriminators say means something else in each update."""
        made_BN, wanted_BN = self.waves(model, batch)
        discriminators = model.heads[HEAD]
        real, fake = discriminators(wanted_BN), discriminators(made_BN.detach())
        fooled = detached(discriminators, made_BN)
        rows = self.compared(made_BN, wanted_BN) | {
            FOOLED: _mean([_near(j.score, 1.0) for j in fooled]),
            MATCHED: matching(fooled, real),
            TOLD: _mean([_near(j.score, 1.0) for j in real]) + _mean([_near(j.score, 0.0) for j in fake]),
        }
        total = {name: row_B.sum() for name, row_B in rows.items()}
        return Losses(total, self.count(batch), {name: loss.detach() for name, loss in total.items()})


def detached(discriminators: nn.Module, wave_BN: Tensor) -> list[Judged]:
    """What the discriminators find, such that a gradient reaches the wave and not them."""
    still = {name: p.detach() for name, p in discriminators.named_parameters()}
    return torch.func.functional_call(discriminators, still, (wave_BN,))


def _near(score_BR: Tensor, wanted: float) -> Tensor:
    """`(B,)`: the mean squared error of the scores of each row."""
    return (score_BR.float() - wanted).square().mean(1)


def matching(made: Sequence[Judged], wanted: Sequence[Judged]) -> Tensor:
    """`(B,)`: how far what each layer of each discriminator sees of one wave is from what it sees of the other."""
    pairs = [(a, b) for one, other in zip(made, wanted, strict=True) for a, b in zip(one.seen, other.seen, strict=True)]
    return _mean([_distance(a, b) for a, b in pairs])


def _distance(made: Tensor, wanted: Tensor) -> Tensor:
    """`(B,)`: the mean absolute difference of what a layer makes of both waves, over the mean size of the wanted."""
    made_BR, wanted_BR = (x.flatten(1).float() for x in (made, wanted.detach()))
    return (made_BR - wanted_BR).abs().mean(1) / wanted_BR.abs().mean(1).clamp(min=1e-3)


def _mean(parts: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(parts)).mean(0)
