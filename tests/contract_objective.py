"""The law that every `Objective` keeps: `verify_objective` measures it and names the check that an objective breaks."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from contract import ContractError
from contract_decoder import watched
from torch import Tensor

from mmx.interfaces import Losses, Needs
from mmx.model import Model
from mmx.train.batch import Batch


def verify_objective(objective: Any, model: Model, whole: Batch, parts: Sequence[Batch] = (), **near: float) -> None:
    """Raise `ContractError` unless `objective` keeps the law.

    Args:
        objective: to be measured.
        model: that it trains, in evaluation mode.
        whole: a batch of at least two rows.
        parts: batches of its rows, in order, whose gradients add up to that of the whole; none where rows are compared
            with each other, so that they cannot.
        near: `rtol` and `atol` for gradients.
    """
    law = _ObjectiveLaw(objective, model, near or {"rtol": 1e-4, "atol": 1e-6})
    for check in (law.members, law.counted, law.reported, law.again, law.waits, law.nothing):
        check(whole)
    if parts:
        law.adds_up(whole, parts)


class _ObjectiveLaw:
    def __init__(self, objective: Any, model: Model, near: dict[str, float]):
        self.objective, self.model, self.near = objective, model, near

    def members(self, whole: Batch) -> None:
        """What the loop asks before it begins."""
        found = self.objective.needs(self.model)
        self.demand("members", isinstance(found, Needs), f"expected Needs, got {found!r}")
        perplexity = self.objective.perplexity
        self.demand("members", isinstance(perplexity, bool), f"perplexity is {perplexity!r}")

    def counted(self, whole: Batch) -> None:
        """Counts are known before the model is run, and each loss has a weight."""
        before = dict(self.objective.count(whole))
        found = self.losses(whole)
        self.demand("counted", dict(found.counts) == before, f"{before} before the model is run, then {found.counts}")
        self.demand("counted", all(n >= 0 for n in before.values()), f"counts {before}")
        weights = self.objective.weights(before)
        known = [name for name in found.total if name in weights]
        self.demand("counted", bool(known), f"no weight for any of {sorted(found.total)}, only for {sorted(weights)}")
        self.demand("counted", all(w >= 0 for w in weights.values()), f"weights {dict(weights)}")

    def reported(self, whole: Batch) -> None:
        """Losses are finite sums to be learned from; the first figure, of which one is known, is a plain number."""
        found = self.losses(whole)
        for name, loss in found.total.items():
            self.demand("reported", loss.ndim == 0 and bool(loss.isfinite()), f"{name} is {loss}")
        self.demand("reported", any(x.requires_grad for x in found.total.values()), "nothing to be learned from")
        self.demand("reported", bool(found.figures), "no figure to be reported")
        for name, figure in found.figures.items():
            self.demand("reported", not figure.requires_grad, f"the figure {name} keeps its graph")
            self.demand("reported", bool(torch.isfinite(figure)), f"the figure {name} is {figure}")

    def again(self, whole: Batch) -> None:
        """The same batch gives the same losses; nothing is written to the model meanwhile."""
        with watched(self.model) as written:
            first, second = self.losses(whole), self.losses(whole)
        self.demand("again", not written, f"wrote {sorted(written)[:5]} to the model")
        for name, loss in first.total.items():
            other = second.total[name]
            self.demand("again", torch.equal(loss.detach(), other.detach()), f"{name}: {loss}, then {other}")

    def waits(self, whole: Batch) -> None:
        """A batch that is there only to wait for other processes can be run, and nothing of it is not a number."""
        found = self.losses(whole.waiting())
        for name, loss in found.total.items():
            self.demand("waits", bool(loss.isfinite()), f"{name} is {loss} of a batch that only waits")

    def nothing(self, whole: Batch) -> None:
        """An update in which nothing counts has weights that are numbers."""
        weights = self.objective.weights(dict.fromkeys(self.objective.count(whole), 0))
        self.demand("nothing", all(w == w and w < float("inf") for w in weights.values()), f"weights {dict(weights)}")

    def adds_up(self, whole: Batch, parts: Sequence[Batch]) -> None:
        """Several small batches give the gradient of a large one."""
        one, several = self.gradient([whole]), self.gradient(parts)
        self.demand("adds_up", float(one.abs().max()) > 1e-6, "the whole has no gradient")
        off = float((one - several).abs().max())
        close = torch.allclose(several, one, **self.near)
        self.demand("adds_up", close, f"the gradient of the parts is off by {off:g} of {float(one.abs().max()):g}")

    # -------------------- details

    def losses(self, batch: Batch) -> Losses:
        torch.manual_seed(0)  # as the loop does for each update
        return self.objective(self.model, batch)

    def gradient(self, batches: Sequence[Batch]) -> Tensor:
        """Of an update, as the loop adds it up."""
        self.model.zero_grad()
        weights = self.objective.weights(sum((Counter(self.objective.count(b)) for b in batches), Counter()))
        for batch in batches:
            losses = self.losses(batch).total
            sum((x * weights.get(name, 0.0) for name, x in losses.items()), torch.zeros(())).backward()
        found = [p.grad.flatten() for p in self.model.parameters() if p.grad is not None]
        self.model.zero_grad()
        return torch.cat(found) if found else torch.zeros(1)

    def demand(self, check: str, fulfilled: bool, message: str) -> None:
        if not fulfilled:
            raise ContractError(check, message)
