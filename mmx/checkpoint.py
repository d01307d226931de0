"""Reading published checkpoints lazily: OpenAI `.pt`, (sharded) safetensors, CTranslate2 `model.bin`.

Nothing here executes code from a file: pickles are read with torch's weights-only unpickler.
"""

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmx.errors import CheckpointError


class LazyTensors(Mapping[str, Tensor]):
    """Key to tensor, each read when asked for; `shapes` and `meta` need no reading."""

    def __init__(
        self, shapes: dict[str, tuple[int, ...]], read: Callable[[str], Tensor], meta: dict[str, Any] | None = None
    ):
        self.shapes, self.meta, self._read = shapes, meta or {}, read

    def __getitem__(self, key: str) -> Tensor:
        if key not in self.shapes:
            raise KeyError(key)
        return self._read(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def open_checkpoint(path: Path, format: str) -> LazyTensors:
    """Open `path` (a file, or a folder for sharded files) in `format`: openai, hf, mmx or ct2.

    Raises:
        CheckpointError: the file is damaged, truncated, of another format, or a pickle that is more than tensors.
    """
    readers = {"openai": _open_pickle, "hf": _open_safetensors, "mmx": _open_safetensors, "ct2": _open_ct2}
    if format not in readers:
        raise CheckpointError(f"expected a checkpoint format of {sorted(readers)}, got {format!r}")
    try:
        return readers[format](path)
    except CheckpointError:
        raise
    except FileNotFoundError as e:
        raise CheckpointError(f"expected a {format} checkpoint, got no file {e.filename or path}") from e
    except Exception as e:
        raise CheckpointError(
            f"expected a {format} checkpoint at {path}, got something that cannot be read as one "
            f"({type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}): download it again"
        ) from e


def _open_pickle(path: Path) -> LazyTensors:
    import pickle

    try:
        raw = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError) as e:
        raise CheckpointError(
            f"expected a file of plain tensors at {path}, got one that is damaged or asks to run code; "
            "it was refused and nothing was executed. Use a file from the publisher"
        ) from e
    if not isinstance(raw, dict):
        raise CheckpointError(f"expected a dict of tensors at {path}, got {type(raw).__name__}")
    tensors = raw.get("model_state_dict", raw)
    bad = [k for k, v in tensors.items() if not isinstance(v, Tensor)]
    if bad:
        raise CheckpointError(f"expected only tensors at {path}, got others under {bad[:5]}")
    meta = {k: v for k, v in raw.items() if k == "dims"}
    return LazyTensors({k: tuple(v.shape) for k, v in tensors.items()}, tensors.__getitem__, meta)


def _open_safetensors(path: Path) -> LazyTensors:
    from safetensors import safe_open

    folder = path if path.is_dir() else path.parent
    index = folder / "model.safetensors.index.json"
    if path.is_dir() and index.exists():
        where = json.loads(index.read_text())["weight_map"]
        files = sorted(set(where.values()))
    else:
        files = ["model.safetensors" if path.is_dir() else path.name]
        where = None
    handles = {f: safe_open(str(folder / f), framework="pt") for f in files}
    home = where or dict.fromkeys(handles[files[0]].keys(), files[0])
    shapes = {k: tuple(handles[f].get_slice(k).get_shape()) for k, f in home.items()}
    config = folder / "config.json"
    meta = json.loads(config.read_text()) if config.exists() else {}
    return LazyTensors(shapes, lambda k: handles[home[k]].get_tensor(k), meta)


_CT2_DTYPES = {0: "<f4", 1: "<i1", 2: "<i2", 3: "<i4", 4: "<f2", 5: "bf16"}


def _open_ct2(path: Path) -> LazyTensors:
    """CTranslate2's flat binary, version 6: header, then (name, rank, dims, dtype id, bytes, data), then aliases."""
    path = path / "model.bin" if path.is_dir() else path
    data = np.memmap(path, dtype=np.uint8, mode="r")
    at = 0

    def take(fmt: str) -> tuple[int, ...]:
        nonlocal at
        out = struct.unpack_from("<" + fmt, data, at)
        at += struct.calcsize("<" + fmt)
        return out

    def text() -> str:
        nonlocal at
        (n,) = take("H")
        at += n
        return bytes(data[at - n : at - 1]).decode()  # the last byte is a zero

    (version,) = take("I")
    if version != 6:
        raise CheckpointError(f"expected CTranslate2 binary version 6 at {path}, got {version}: convert it again")
    spec = text()
    take("I")  # revision
    entries: dict[str, tuple[tuple[int, ...], int, int, int]] = {}
    (count,) = take("I")
    for _ in range(count):
        name = text()
        (rank,) = take("B")
        dims = take("I" * rank)
        dtype, n_bytes = take("BI")
        if at + n_bytes > len(data):
            raise CheckpointError(f"expected {at + n_bytes} bytes or more in {path}, got {len(data)}: truncated")
        entries[name] = (dims, dtype, at, n_bytes)
        at += n_bytes

    def raw(name: str) -> Tensor:
        dims, dtype, start, n_bytes = entries[name]
        blob = data[start : start + n_bytes]
        if _CT2_DTYPES[dtype] == "bf16":
            return torch.from_numpy(np.array(blob)).view(torch.bfloat16).reshape(dims)
        return torch.from_numpy(np.array(blob).view(_CT2_DTYPES[dtype])).reshape(dims)

    def read(name: str) -> Tensor:
        value = raw(name)
        scale = f"{name}_scale"
        return value if scale not in entries else (value.float().T / raw(scale).float()).T  # int8, one scale a row

    meta: dict[str, Any] = {"spec": spec}
    meta |= {n: raw(n).item() for n, (dims, *_) in entries.items() if dims == ()}
    named = {n: dims for n, (dims, *_) in entries.items() if not n.endswith("_scale")}
    return LazyTensors(named, read, meta)
