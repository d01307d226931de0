"""A trained model as a folder that `mmx.load` opens: weights in our own names, numbers, card, tokenizer.

`config.json` holds the family's `Config` numbers under "config" and says `"format": "mmx"`, which tells it from a
folder of Hugging Face's. `card.toml` says what the model is, for people and for `mmx models`.
"""

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmx.errors import InputError, OutputError
from mmx.files import atomic_write
from mmx.weights.formats import write_safetensors


def write_model(
    folder: Path,
    tensors: Iterable[tuple[str, Tensor]],
    *,
    family: str,
    config: Mapping[str, Any],
    card: Mapping[str, Any],
    tokenizer: Path | None = None,
    dtype: torch.dtype | None = torch.float32,
) -> None:
    """Write a model folder; weights last, so that a folder with weights is complete.

    Args:
        folder: where; made when it is not there.
        tensors: weights and buffers, by name.
        family: module in `models/`.
        config: the numbers of the family's `Config`.
        card: fields of `mmx.weights.card.Card` but `family`, `config` and `weights`, which are known here.
        tokenizer: folder with the tokenizer's files, whose `config.json` is kept in ours.
        dtype: of the weights in the file; as they come when None. Whole numbers (counters) stay what they are.

    Raises:
        OutputError: the folder cannot be written.
    """
    files = [] if tokenizer is None else sorted(p for p in tokenizer.iterdir() if p.is_file())
    beside = next((json.loads(p.read_text("utf-8")) for p in files if p.name == "config.json"), {})
    numbers = {**beside, "format": "mmx", "model_type": family, "config": dict(config)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in files:
            if file.name != "config.json":
                shutil.copyfile(file, folder / file.name)
        atomic_write(folder / "config.json", json.dumps(numbers, indent=1))
        fields = {**card, "family": family}
        tables = toml_table("config", config) + "\n[[weights]]\n" + 'format = "mmx"\nfiles = ["model.safetensors"]\n'
        atomic_write(folder / "card.toml", toml_fields(fields) + tables)
        part = folder / ".part-model.safetensors"
        write_safetensors(part, ((name, _cast(value, dtype)) for name, value in tensors))
        part.replace(folder / "model.safetensors")
    except OSError as e:
        raise OutputError(f"expected to write the model into {folder}, got {e.strerror or e}: free some space") from e


def _cast(value: Tensor, dtype: torch.dtype | None) -> Tensor:
    return value.to(dtype) if dtype is not None and value.is_floating_point() else value


def toml_fields(fields: Mapping[str, Any]) -> str:
    """`name = value` lines. JSON's texts, numbers and lists are TOML's too."""
    bad = [name for name, value in fields.items() if isinstance(value, Mapping) or value is None]
    if bad:
        raise InputError(f"expected texts, numbers and lists for the card, got something else in {bad}")
    return "".join(f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in fields.items())


def toml_table(name: str, fields: Mapping[str, Any]) -> str:
    """A table of `toml_fields`, and the tables in it. What is None is left out: TOML has no word for it."""
    known = {k: v for k, v in fields.items() if v is not None}
    plain = {k: v for k, v in known.items() if not isinstance(v, Mapping)}
    inner = "".join(toml_table(f"{name}.{k}", v) for k, v in known.items() if isinstance(v, Mapping))
    return f"\n[{name}]\n{toml_fields(plain)}{inner}"
