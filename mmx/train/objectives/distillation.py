"""Distillation: a model learns what another one would write next (Hinton et al. 2015, arXiv 1503.02531).

Letters: B rows, U tokens, N tokens that count, V vocabulary.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from mmx.errors import InputError
from mmx.interfaces import Losses, Needs
from mmx.model import Model
from mmx.train.batch import IGNORED, Batch
from mmx.train.objectives.weigh import mean_of_each

NLL, KL = "nll", "kl"


class DistillationLoss:
    """The divergence of the model's next token from the teacher's, and the text's own loss; a mean over tokens.

    The teacher is given the inputs that it has encoders for: where the data have both, a model of lips can learn from
    one of speech.

    Args:
        teacher: name or path of a model with the same vocabulary, or the model.
        temperature: that both sides' logits are divided by.
        share: of the divergence in the loss; the rest is the text's own, without smoothing.
    """

    perplexity = True

    def __init__(self, teacher: str | Model, temperature: float = 1.0, share: float = 0.8):
        self.teacher = teacher if isinstance(teacher, Model) else _loaded(teacher)
        self.teacher.eval().requires_grad_(False)
        self.temperature, self.share = temperature, share

    def needs(self, model: Model) -> Needs:
        """A text, and inputs as they are read: the teacher reads them too."""
        model.require_decoder()
        self.teacher.require_decoder()
        return Needs(raw=True)

    def count(self, batch: Batch) -> dict[str, int]:
        """Tokens, for both."""
        n_tokens = int((batch.targets != IGNORED).sum())
        return {NLL: n_tokens, KL: n_tokens}

    def weights(self, counts: Mapping[str, int]) -> dict[str, float]:
        """Their shares of a mean."""
        shares = {NLL: 1 - self.share, KL: self.share}
        return {name: shares[name] * weight for name, weight in mean_of_each(counts).items()}

    def __call__(self, model: Model, batch: Batch) -> Losses:
        """Reports both in nats: first the text's."""
        own_NV, wanted_N = _logits(model, batch), batch.targets[batch.targets != IGNORED]
        with torch.no_grad():
            taught_NV = _logits(self._teacher(own_NV.device, batch), batch)
        if taught_NV.shape != own_NV.shape:
            raise InputError(
                f"expected a teacher with {model.name}'s vocabulary of {own_NV.shape[1]}, got {self.teacher.name} with "
                f"{taught_NV.shape[1]}: choose one of the same family"
            )
        nll = F.cross_entropy(own_NV, wanted_N, reduction="sum")
        kl = divergence(taught_NV, own_NV, self.temperature)
        return Losses({NLL: nll, KL: kl}, self.count(batch), {NLL: nll.detach(), KL: kl.detach()})

    def _teacher(self, device: torch.device, batch: Batch) -> Model:
        if not batch.inputs.keys() & self.teacher.encoders.keys():
            raise InputError(
                f"expected a teacher that takes {' or '.join(batch.inputs)}, got {self.teacher.name}: choose another"
            )
        return self.teacher.to(device)


def _loaded(name: str) -> Model:
    from mmx.api import load

    return load(name, device="cpu", dtype="float32")


def _logits(model: Model, batch: Batch) -> Tensor:
    """`(N, V)`"""
    inputs = {name: seq for name, seq in batch.inputs.items() if name in model.encoders}
    decoder = model.require_decoder()
    hidden_BUD = decoder.hidden(batch.tokens, model.memory(inputs, batch.begin))
    return decoder.head(hidden_BUD[batch.targets != IGNORED]).float()


def divergence(taught_NV: Tensor, own_NV: Tensor, temperature: float) -> Tensor:
    """Kullback and Leibler's, in nats, of the own distributions from the taught ones, summed over N; times the squared
    temperature, which leaves the gradient's size (section 2)."""
    own, taught = (x.div(temperature).log_softmax(-1) for x in (own_NV, taught_NV))
    return F.kl_div(own, taught, reduction="sum", log_target=True) * temperature**2
