"""A trained model as a folder that `mmx.load` opens: weights in our own names, numbers, card, tokenizer.

`config.json` holds the family's `Config` numbers under "config" and says `"format": "mmx"`, which tells it from a
folder of Hugging Face's. `card.toml` says what the model is, for people and for `mmx models`.
"""

import dataclasses
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tomli_w
import torch
from torch import Tensor

from mmx.errors import InputError, OutputError
from mmx.files import atomic_write
from mmx.model import Model
from mmx.text import piece_tokenizer
from mmx.weights import hub
from mmx.weights.card import Card
from mmx.weights.family import Family
from mmx.weights.formats import write_safetensors

BESIDE = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "sentencepiece.bpe.model", "bytes.json", "characters.json", "generation_config.json", "preprocessor_config.json",
    piece_tokenizer.FILE, piece_tokenizer.MODEL,
)  # fmt: skip
"""Files next to the weights that tokenizers and voices read."""


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
        weights = [{"format": "mmx", "files": ["model.safetensors"]}]
        atomic_write(folder / "card.toml", as_toml({**card, "family": family, "config": config, "weights": weights}))
        part = folder / ".part-model.safetensors"
        write_safetensors(part, ((name, _cast(value, dtype)) for name, value in tensors))
        part.replace(folder / "model.safetensors")
    except OSError as e:
        raise OutputError(f"expected to write the model into {folder}, got {e.strerror or e}: free some space") from e


def _cast(value: Tensor, dtype: torch.dtype | None) -> Tensor:
    return value.to(dtype) if dtype is not None and value.is_floating_point() else value


def as_toml(fields: Mapping[str, Any]) -> str:
    """A table as TOML. What is None is left out: TOML has no word for it."""
    try:
        return tomli_w.dumps(_without_none(fields))
    except TypeError as e:
        raise InputError(f"expected texts, numbers, lists and tables for the card, got something else: {e}") from e


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    return [_without_none(v) for v in value] if isinstance(value, list | tuple) else value


def copy_tokenizer(family: Family, found: hub.Found, folder: Path) -> None:
    """The tokenizer's files and those it reads, under the names that `mmx.load` looks for."""
    home = found.parts[0].parent
    for name in ("config.json", *BESIDE):
        if (home / name).is_file():
            shutil.copyfile(home / name, folder / name)
    if found.tokenizer is not None and family.PIECES:
        piece_tokenizer.copy(found.tokenizer, folder)
    elif found.tokenizer is not None:
        name = "tokenizer.json" if found.tokenizer.suffix == ".json" else "sentencepiece.bpe.model"
        name = found.tokenizer.name if found.tokenizer.name in hub.TOKENIZERS else name
        shutil.copyfile(found.tokenizer, folder / name)
    if found.format in ("fairseq2", "fairseq") and not (folder / "config.json").exists():
        (folder / "config.json").write_text(json.dumps(dict(family.TOKEN_IDS)), "utf-8")
    if found.languages and not (folder / "special_tokens_map.json").exists():
        tokens = [f"__{language}__" if "_" not in language else language for language in found.languages]
        (folder / "special_tokens_map.json").write_text(json.dumps({"additional_special_tokens": tokens}), "utf-8")


def card_fields(card: Card, model: Model) -> dict[str, Any]:
    """What of the card stays true of the folder; the family, the numbers and the weights are written apart."""
    own = {f.name: getattr(card, f.name) for f in dataclasses.fields(card)}
    kept = {k: v for k, v in own.items() if k not in ("family", "config", "weights", "results") and v}
    return {**kept, "commercial": card.commercial, "parameters": sum(p.numel() for p in model.parameters())}


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder that gets its name when all went well, and leaves nothing behind otherwise."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=out.parent, prefix=".making-"))
        try:
            yield made
            umask = os.umask(0)
            os.umask(umask)
            made.chmod(0o777 & ~umask)  # temporary folders are private
            made.rename(out)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    except OSError as e:
        remedy = "free some space or choose another disk" if e.errno == errno.ENOSPC else "choose another folder"
        raise OutputError(f"expected to write the folder {out}, got {e.strerror or e}: {remedy}") from e
