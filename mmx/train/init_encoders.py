"""A new model's experts begun with what other models have learned, one each."""

from collections.abc import Mapping

import torch

from mmx import api
from mmx.errors import InputError, nearest
from mmx.model import Model, tensors

STAGES = ("front", "encoders", "adapters")


def init_encoders(model: Model, sources: Mapping[str, str]) -> None:
    """Copy the weights of one modality's front end, encoder and adapter out of each of several models.

    Args:
        model: new, which is changed.
        sources: by modality of `model`, what `mmx.load` takes; of it the modality of the same name is taken, or the
            only one that it reads.

    Raises:
        InputError: the model has no such modality, or the other's parts have other weights.
        ModelNotFoundError: see `mmx.load`.
    """
    for name, source in sources.items():
        known = list(model.encoders)
        if name not in known:
            raise InputError(
                f"expected modalities of the new model in init_encoders, {', '.join(known)}, got {name!r}."
                f"{nearest(name, known)}"
            )
        other = api.load(source, device="cpu", dtype="float32")
        theirs = name if name in other.encoders else next(iter(other.encoders))
        if name not in other.encoders and len(other.encoders) > 1:
            raise InputError(
                f"expected a model that reads {name}, or one thing alone, for init_encoders.{name}, got {source!r}, "
                f"which reads {', '.join(other.encoders)}"
            )
        for stage in STAGES:
            _copy(model, f"{stage}.{name}.", other, f"{stage}.{theirs}.", source)


@torch.no_grad()
def _copy(model: Model, to: str, other: Model, start: str, source: str) -> None:
    ours, theirs = (
        {key.removeprefix(prefix): value for key, value in tensors(of).items() if key.startswith(prefix)}
        for of, prefix in ((model, to), (other, start))
    )
    if odd := [key for key in ours.keys() | theirs.keys() if _shape(ours, key) != _shape(theirs, key)]:
        key = min(odd)
        raise InputError(
            f"expected {to}{key} of shape {_shape(ours, key)} in {source!r}, got {_shape(theirs, key)}: give the new "
            "model's config the same numbers"
        )
    for key, value in theirs.items():
        ours[key].copy_(value)


def _shape(weights: Mapping[str, torch.Tensor], key: str) -> tuple[int, ...] | None:
    return tuple(weights[key].shape) if key in weights else None
