"""`mmx convert`: any model that mmx can load, written as a folder of safetensors in mmx's or Hugging Face's shape.

The folder appears in one rename when it is complete. Tensors are read and written one at a time.
"""

import dataclasses
import importlib.util
import json
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmx import api
from mmx.errors import InputError, MmxWarning, ModelNotFoundError, OutputError, nearest
from mmx.files import atomic_write
from mmx.model import Model, tensors
from mmx.weights import fairseq2 as asset_card
from mmx.weights import hub
from mmx.weights.card import Card
from mmx.weights.convert import inverted
from mmx.weights.family import Family, import_family
from mmx.weights.folder import card_fields, copy_tokenizer, new_folder, write_model
from mmx.weights.formats import write_safetensors

SHAPES = ("mmx", "hf")
_ROOM = 1.02  # of the weights' size: headers and the small files


def convert_model(source: str | Path, out: str | Path, to: str = "mmx") -> Path:
    """Write a model as a folder.

    Args:
        source: what `mmx.load` takes; also the name of an asset card of fairseq2, where that is installed.
        out: the folder, which must not exist.
        to: `mmx`, which `mmx.load` opens, or `hf`, which transformers opens too.

    Returns:
        The folder.

    Raises:
        InputError: an unknown shape, or a folder that exists.
        ModelNotFoundError: no source has the weights.
        CheckpointError: the weights do not fit, or this model has no shape of Hugging Face's.
        OutputError: the folder cannot be written.
    """
    out = Path(out).expanduser()
    if to not in SHAPES:
        raise InputError(f"expected --to among {', '.join(SHAPES)}, got {to!r}.{nearest(to, SHAPES)}")
    if out.exists():
        raise InputError(f"expected a new folder, got {out}, which exists: choose another name or remove it")
    card, found = _located(source)
    family = import_family(card.family)
    config = family.Config(**card.config)
    with torch.device("meta"):
        model = family.build(config)
    with new_folder(out) as folder, tempfile.TemporaryDirectory(prefix="mmx-") as settings:
        _require_room(folder, found)
        copy_tokenizer(family, found, Path(settings))
        if family.PIECES and found.tokenizer is None and model.decoder is not None:
            warnings.warn(
                f"{source}: expected a list of pieces ({family.PIECES}) next to the weights, got none: what is written "
                "gives no text; put the publisher's there and convert again",
                MmxWarning,
                2,
            )
        weights = _noting_odd_numbers(api.converted(model, family, found), source)
        if to == "hf":
            _write_hf(folder, model, family, config, weights, Path(settings))
            _write_beside(folder, family, config, card, found)
        else:
            fields = card_fields(card, model)
            numbers = dataclasses.asdict(config)
            tokenizer = Path(settings)
            write_model(
                folder, weights, family=card.family, config=numbers, card=fields, tokenizer=tokenizer, dtype=None
            )
    return out


def _noting_odd_numbers(weights: Iterator[tuple[str, Tensor]], source: str | Path) -> Iterator[tuple[str, Tensor]]:
    """The same weights; a warning at the end where some hold NaN or infinity, which makes what is written nonsense."""
    odd = []
    for name, value in weights:
        if value.is_floating_point() and not value.isfinite().all():
            odd.append(name)
        yield name, value
    if odd:
        warnings.warn(
            f"{source} holds NaN or infinity in {len(odd)} of its tensors ({', '.join(odd[:3])}), and so does what is "
            "written: it is damaged, or its training failed",
            MmxWarning,
            2,
        )


def _located(source: str | Path) -> tuple[Card, hub.Found]:
    """As `api.locate`, and by the name of an asset card of fairseq2 where no card of ours has it."""
    try:
        return api.locate(source)
    except ModelNotFoundError:
        if isinstance(source, Path) or len(Path(source).parts) != 1 or not importlib.util.find_spec("fairseq2"):
            raise
    asset = asset_card.find(str(source))
    return api.describe(hub.of_asset(asset), Path(asset.name))


def _require_room(folder: Path, found: hub.Found) -> None:
    """Say that the disk is too full before minutes are spent on it."""
    shards = list(found.parts[0].parent.glob("*.safetensors")) if found.parts[0].suffix == ".json" else []
    need = sum(p.stat().st_size for p in (*found.parts, *shards)) * _ROOM
    free = shutil.disk_usage(folder).free
    if need > free:
        raise OutputError(
            f"expected {need / 1e9:.1f} GB of free space in {folder.parent}, got {free / 1e9:.1f}: "
            "the disk is too full; free some space or choose another disk"
        )


# -------------------- what stands next to the weights


# -------------------- Hugging Face's shape


def _write_hf(
    folder: Path,
    model: Model,
    family: Family,
    config: Any,
    weights: Iterator[tuple[str, Tensor]],
    settings: Path,
) -> None:
    """The same tensors under Hugging Face's names, and the settings that transformers builds the model from."""
    if family.hf_config is None:
        raise InputError(f"expected a model that has a shape of Hugging Face's, got {family.name}: use --to mmx")
    numbers = family.hf_config(config)
    names = inverted(tensors(model), family.KEYS["hf"])
    fixed = family.hf_fixed(config)

    def theirs() -> Iterator[tuple[str, Tensor]]:
        yield from ((names[key], value) for key, value in weights)
        yield from fixed.items()

    for file in settings.iterdir():
        if file.name != "config.json":
            shutil.copyfile(file, folder / file.name)
    atomic_write(folder / "config.json", json.dumps(numbers, indent=1))
    write_safetensors(folder / "model.safetensors", theirs())


def _write_beside(folder: Path, family: Family, config: Any, card: Card, found: hub.Found) -> None:
    """What transformers' processor, pipeline and `generate` read next to the weights, where the family knows it."""
    try:
        tokenizer = api.read_tokenizer(card, family, found)
    except ModelNotFoundError:  # the weights alone are of use too
        return
    for name, content in family.hf_files(config, tokenizer, card, folder).items():
        atomic_write(folder / name, content)
