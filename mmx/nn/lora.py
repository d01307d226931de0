"""LoRA: a large model is adapted by training small matrices beside its own (Hu et al. 2021, arXiv 2106.09685).

A transform of a model that is built: no family knows of it, and after `merge_lora` nothing is left of it but other
weights.

Letters: D input width, E output width, R rank.
"""

import math
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmx.errors import InputError


class LoRALinear(nn.Module):
    """`W x + b + (alpha / R) up down x`, where only `down` and `up` are trained.

    Args:
        base: the layer that is adapted; its parameters are shared, not copied.
        rank: R.
        alpha: scale of the change; with `alpha = 2 R`, learning rates carry over from rank to rank.
        dropout: share of the input of `down` that is dropped; in training only.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float, dropout: float = 0.0):
        super().__init__()
        self.base, self.scale, self.dropout = base, alpha / rank, dropout
        self.in_features, self.out_features = base.in_features, base.out_features
        like = base.weight
        self.down = nn.Parameter(torch.empty(rank, base.in_features, dtype=like.dtype, device=like.device))
        self.up = nn.Parameter(torch.zeros(base.out_features, rank, dtype=like.dtype, device=like.device))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """`(*, D)` to `(*, E)`."""
        change = F.linear(F.linear(F.dropout(x, self.dropout, self.training), self.down), self.up)
        return self.base(x) + self.scale * change

    def merged(self) -> nn.Linear:
        """The layer with the change in its weight."""
        change_ED = self.scale * (self.up.double() @ self.down.double())
        weight = (self.base.weight.double() + change_ED).to(self.base.weight.dtype)
        self.base.weight = nn.Parameter(weight.detach(), requires_grad=self.base.weight.requires_grad)
        return self.base


def add_lora(
    model: nn.Module, rank: int = 8, alpha: float = 16.0, targets: Sequence[str] = ("*",), dropout: float = 0.0
) -> list[str]:
    """Give linear layers a trainable change, which is zero at first, and freeze everything else.

    Args:
        model: is changed in place.
        rank: R.
        alpha: see `LoRALinear`.
        targets: patterns of the layers' names (`decoder.layers.*`, `*.query`). Layers whose weight another part of
            the model also uses, as an output projection may that is the token embedding, are left as they are.
        dropout: see `LoRALinear`.

    Returns:
        The names of the layers.

    Raises:
        InputError: a pattern matches no linear layer (those of a model loaded in int8 are none), or LoRA is there.
    """
    if rank < 1:
        raise InputError(f"expected a rank of LoRA of 1 or more, got {rank}")
    if any(isinstance(m, LoRALinear) for m in model.modules()):
        raise InputError("expected a model without LoRA, got one with it: merge it first, with merge_lora")
    shared = _shared_weights(model)
    linears = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and id(m.weight) not in shared}
    idle = [t for t in targets if not any(fnmatchcase(n, t) for n in linears)]
    if idle or not targets:
        raise InputError(
            f"expected patterns of linear layers for LoRA, got {idle or 'none'}, which match none of "
            f"{list(linears)[:5]} ...: correct them, or load the model with dtype float32 if it has int8 layers"
        )
    for p in model.parameters():
        p.requires_grad_(False)
    chosen = [name for name in linears if any(fnmatchcase(name, t) for t in targets)]
    for name in chosen:
        parent, attribute = _place(model, name)
        setattr(parent, attribute, LoRALinear(linears[name], rank, alpha, dropout))
    return chosen


def merge_lora(model: nn.Module) -> nn.Module:
    """Put the changes into the weights, in place: the model has its old names and no LoRA. Returns the model."""
    for name, module in list(_adapted(model)):
        parent, attribute = _place(model, name)
        setattr(parent, attribute, module.merged())
    return model


def _adapted(model: nn.Module) -> Iterator[tuple[str, LoRALinear]]:
    return ((name, m) for name, m in model.named_modules() if isinstance(m, LoRALinear))


def _shared_weights(model: nn.Module) -> set[int]:
    """Identities of the parameters that stand in several places."""
    places: dict[int, int] = {}
    for module in model.modules():
        for p in module._parameters.values():
            places[id(p)] = places.get(id(p), 0) + 1
    return {key for key, count in places.items() if count > 1}


def _place(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    parent, _, attribute = name.rpartition(".")
    return model.get_submodule(parent), attribute
