"""The weighted mean of the weights of models of one family and one config, as a model folder.

    python -m mmx.make.average OUT MODEL=SHARE MODEL=SHARE ...

A model and one that was trained further from it lie in one valley, where what is between them may be better than
either (model soups, Wortsman et al. 2022, arXiv 2203.05482; WiSE-FT, arXiv 2109.01903). The tokenizer and the card are
the first one's.
"""

import argparse
import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from mmx import api
from mmx.errors import InputError, prints_errors
from mmx.model import tensors
from mmx.weights.family import import_family
from mmx.weights.folder import card_fields, copy_tokenizer, new_folder, write_model


def average(shares: Mapping[str, float], out: Path) -> Path:
    """Write the mean; whole numbers (counters) are the first one's.

    Args:
        shares: of each model, as `mmx.load` takes it; they add up to 1.
        out: a folder that does not exist.

    Raises:
        InputError: the shares do not add up to 1, or the models are not of one family and config.
        ModelNotFoundError: see `mmx.load`.
    """
    if len(shares) < 2 or not math.isclose(sum(shares.values()), 1, abs_tol=1e-6):
        raise InputError(f"expected shares of two models or more that add up to 1, got {dict(shares)}")
    if out.exists():
        raise InputError(f"expected a new folder, got {out}, which exists: choose another name or remove it")
    card, found = api.locate(next(iter(shares)))
    models = {name: api.load(name, device="cpu", dtype="float32") for name in shares}
    first, *others = ({key: (value.dtype, value.shape) for key, value in tensors(m).items()} for m in models.values())
    for name, other in zip(list(shares)[1:], others, strict=True):
        if api.locate(name)[0].family != card.family or first != other:
            raise InputError(f"expected models of one family and config, got {next(iter(shares))!r} and {name!r}")
    weights = [tensors(m) for m in models.values()]
    mean = dict(weights[0])
    for key in (key for key, value in mean.items() if value.is_floating_point()):
        mean[key] = torch.stack([share * w[key] for share, w in zip(shares.values(), weights, strict=True)]).sum(0)
    family, model = import_family(card.family), next(iter(models.values()))
    with new_folder(out) as folder, tempfile.TemporaryDirectory(prefix="mmx-") as files:
        copy_tokenizer(family, found, Path(files))
        fields = {**card_fields(card, model), "name": out.name}
        write_model(folder, mean.items(), family=card.family, config=card.config, card=fields, tokenizer=Path(files))
    return out


@prints_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("models", nargs="+", metavar="MODEL=SHARE")
    given = parser.parse_args(arguments)
    pairs = [text.rpartition("=") for text in given.models]
    try:
        shares = {name: float(share) for name, _, share in pairs}
    except ValueError as e:
        raise InputError(f"expected MODEL=SHARE such as runs/a/model=0.7, got {given.models}") from e
    print(average(shares, given.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
