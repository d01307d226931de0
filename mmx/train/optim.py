"""The learning rate and the parameters that are trained."""

import math
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from mmx.errors import InputError
from mmx.model import Model, tensors
from mmx.train.options import Schedule


def learning_rate(
    update: int, *, peak: float, warmup: int, total: int, schedule: Schedule = "inverse_sqrt", cooldown: int = 0
) -> float:
    """The rate of an update, counted from 1.

    Linear from 0 to `peak` over `warmup` updates, then `peak * sqrt(warmup / update)` (Vaswani et al. 2017) or half a
    cosine down to 0 at `total`. Over the last `cooldown` updates it goes linearly to 0 instead. With `inverse_sqrt` all
    that precedes the cooldown does not depend on `total`, so that a running training can be given another end.
    """
    if update <= warmup:
        return peak * update / warmup
    start = max(total - cooldown, warmup)
    if cooldown and update > start:
        at = learning_rate(start, peak=peak, warmup=warmup, total=total, schedule=schedule)
        return at * max(0.0, (total + 1 - update) / (total + 1 - start))
    if schedule == "inverse_sqrt":
        return peak * math.sqrt(max(warmup, 1) / update)
    done = min(1.0, (update - warmup) / max(1, total - warmup))
    return peak * 0.5 * (1 + math.cos(math.pi * done))


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Train all parameters but those whose names match a pattern (`encoders.*`, `decoder.layers.0.*`).

    Raises:
        InputError: a pattern matches nothing, or nothing is left to train.
    """
    names = [name for name, _ in model.named_parameters()]
    idle = [p for p in patterns if not any(fnmatchcase(n, p) for n in names)]
    if idle:
        raise InputError(f"expected patterns of parameter names to freeze, got {idle}, which match none of {names[:5]}")
    for name, p in model.named_parameters():
        p.requires_grad_(not any(fnmatchcase(name, pattern) for pattern in patterns))
    if not any(p.requires_grad for p in model.parameters()):
        raise InputError(f"expected something left to train, got everything frozen by {list(patterns)}")


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """What AdamW is given: matrices decay, biases and norms do not."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]


def initialize(model: nn.Module) -> None:
    """Weights of a new model: Xavier for matrices, a deviation of `D^-0.5` for embeddings, which are scaled up."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in model.modules():  # after the others: the output projection is an embedding
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)


def train_mode(model: Model) -> None:
    """Training mode for all but frozen parts before the decoder, which stay as they are used: no dropout.

    The decoder's dropout is there even when it is frozen: what is trained then is what it reads. Statistics that belong
    to frozen layers (batch norm's) stay as they are, wherever the layers are.
    """
    model.train()
    for part in model.parts():
        if part.side in ("front", "encoder"):
            part.module.train(any(p.requires_grad for p in part.module.parameters()))
    for module in _frozen_statistics(model):
        module.training = False  # of this one alone: what it holds may be trained


def trained_tensors(model: Model) -> dict[str, Tensor]:
    """All that training changes, by name: parameters that are not frozen, and buffers of layers that are not."""
    frozen = {id(b) for module in _frozen_statistics(model) for b in module.buffers(recurse=False)}
    return {
        name: value
        for name, value in tensors(model).items()
        if (value.requires_grad if isinstance(value, nn.Parameter) else id(value) not in frozen)
    }


def _frozen_statistics(model: Model) -> Iterator[nn.Module]:
    """Modules with persistent buffers of their own in which nothing is trained."""
    for part in model.parts():
        for name, module in part.module.named_modules():
            if module._buffers.keys() - module._non_persistent_buffers_set and not _is_trained(part.module, name):
                yield module


def _is_trained(part: nn.Module, name: str) -> bool:
    """Whether any parameter of a module within a part is trained; one without any goes with what it is in."""
    wanted = [p.requires_grad for p in part.get_submodule(name).parameters()]
    return any(wanted) if wanted or not name else _is_trained(part, name.rpartition(".")[0])


def set_dropout(model: nn.Module, share: float) -> None:
    """Give every layer that has a `dropout` the same one."""
    for module in model.modules():
        if isinstance(getattr(module, "dropout", None), float):
            setattr(module, "dropout", share)  # noqa: B010 - nn.Module declares its attributes as tensors
