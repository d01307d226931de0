"""Reading published checkpoints lazily: OpenAI and fairseq2 `.pt`, (sharded) safetensors, CTranslate2 `model.bin`.

Nothing here executes code from a file: pickles are read with torch's weights-only unpickler, which gets inert stand-ins
for the settings that fairseq saves beside its tensors.
"""

import json
import math
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmx.errors import CheckpointError


class LazyTensors(Mapping[str, Tensor]):
    """Key to tensor, each read when asked for; `shapes` and `meta` need no reading.

    `path` is the file they are in, where it is one of several that a publisher names apart.
    """

    def __init__(
        self,
        shapes: dict[str, tuple[int, ...]],
        read: Callable[[str], Tensor],
        meta: dict[str, Any] | None = None,
        path: Path | None = None,
    ):
        self.shapes, self.meta, self._read, self.path = shapes, meta or {}, read, path

    def __getitem__(self, key: str) -> Tensor:
        if key not in self.shapes:
            raise KeyError(key)
        return self._read(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def open_checkpoint(path: Path, format: str) -> LazyTensors:
    """Open `path` (a file, or a folder for sharded files) in `format`: openai, fairseq2, fairseq, hf, mmx or ct2.

    Raises:
        CheckpointError: the file is damaged, truncated, of another format, or a pickle of more than tensors.
    """
    readers = {
        "openai": _open_pickle, "fairseq2": _open_fairseq2, "fairseq": _open_fairseq2, "hf": _open_hf,
        "mmx": _open_safetensors, "ct2": _open_ct2,
    }  # fmt: skip
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


SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
"""Hugging Face's names of a checkpoint in one file and of the index of one in several."""


def is_safetensors(path: Path) -> bool:
    """Whether a file is safetensors, or the index of several."""
    return path.suffix == ".safetensors" or path.name == SAFETENSORS[1]


_HEADER_ROOM = 1 << 20  # bytes; what is not needed is filled with spaces, as the format allows
_DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


def write_safetensors(path: Path, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Write a safetensors file while holding one tensor at a time, which the library's own writer cannot."""
    entries: dict[str, Any] = {}
    with path.open("wb") as f:
        f.seek(8 + _HEADER_ROOM)
        for name, value in tensors:
            start = f.tell() - 8 - _HEADER_ROOM
            f.write(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
            offsets = [start, f.tell() - 8 - _HEADER_ROOM]
            entries[name] = {"dtype": _DTYPES[value.dtype], "shape": list(value.shape), "data_offsets": offsets}
        header = json.dumps(entries, separators=(",", ":")).encode()
        if len(header) > _HEADER_ROOM:
            raise ValueError(f"expected names and shapes of at most {_HEADER_ROOM} bytes, got {len(header)}")
        f.seek(0)
        f.write(struct.pack("<Q", _HEADER_ROOM) + header.ljust(_HEADER_ROOM))


def pickle_format(path: Path) -> str:
    """Whose names a `.pt` file uses: fairseq2, fairseq or openai, which is also the answer for an unreadable one.

    fairseq2 keeps what comes before an encoder in a `..._frontend`; fairseq called its embeddings `embed_tokens`,
    and what follows its features `post_extract_proj`. I3D's flat files are opened as fairseq2's are.
    """
    try:
        keys = _state_dict(_unpickled(path)).keys()
    except (CheckpointError, OSError):
        return "openai"
    if any("frontend." in k or k.startswith("Conv3d_1a") for k in keys):
        return "fairseq2"
    theirs = ("coder.embed_tokens.weight", "post_extract_proj.weight")
    return "fairseq" if any(k.endswith(theirs) for k in keys) else "openai"


def _open_fairseq2(path: Path) -> LazyTensors:
    tensors = _state_dict(_unpickled(path))
    return LazyTensors({k: tuple(v.shape) for k, v in tensors.items()}, tensors.__getitem__, path=path)


def _state_dict(raw: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors among what a training framework saves beside them, without the prefix of data parallel training."""
    tensors = next(
        (raw[k] for k in ("model", "generator", "model_state_dict", "state_dict") if isinstance(raw.get(k), dict)), raw
    )
    bad = [k for k, v in tensors.items() if not isinstance(v, Tensor)]
    if bad:
        raise CheckpointError(f"expected only tensors, got others under {bad[:5]}")
    return {k.removeprefix("module."): v for k, v in tensors.items()}


def _unpickled(path: Path) -> dict[str, Any]:
    import pickle

    try:
        with torch.serialization.safe_globals(_settings(path)):
            raw = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError) as e:
        raise CheckpointError(
            f"expected a file of plain tensors at {path}, got one that is damaged or asks to run code; "
            "it was refused and nothing was executed. Use a file from the publisher"
        ) from e
    if not isinstance(raw, dict):
        raise CheckpointError(f"expected a dict of tensors at {path}, got {type(raw).__name__}")
    return raw


class _Inert:
    """Stands for an object of a training's settings: it takes whatever made the object and keeps none of it."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


SETTINGS = ("fairseq", "omegaconf", "argparse", "typing", "enum", "__builtin__", "builtins")
"""Packages whose objects fairseq saves beside the tensors: its settings and dictionaries. None is imported for them."""


def _settings(path: Path) -> list[Any]:
    """`_Inert` under the name of each object of `SETTINGS` that a file asks for."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # of whatever is no file of tensors: reading it says why
        return []
    return [(_Inert, name) for name in names if name.partition(".")[0] in SETTINGS]


def _open_pickle(path: Path) -> LazyTensors:
    raw = _unpickled(path)
    tensors = raw.get("model_state_dict", raw)
    bad = [k for k, v in tensors.items() if not isinstance(v, Tensor)]
    if bad:
        raise CheckpointError(f"expected only tensors at {path}, got others under {bad[:5]}")
    meta = {k: v for k, v in raw.items() if k != "model_state_dict"} if tensors is not raw else {}
    return LazyTensors({k: tuple(v.shape) for k, v in tensors.items()}, tensors.__getitem__, meta)


def _open_hf(path: Path) -> LazyTensors:
    """Safetensors, or the older `pytorch_model.bin`, which is a pickle of plain tensors."""
    if path.suffix != ".bin":
        return _open_safetensors(path)
    source = _open_pickle(path)
    return LazyTensors(source.shapes, source.__getitem__, _json(path.with_name("config.json")))


def _open_safetensors(path: Path) -> LazyTensors:
    from safetensors import safe_open

    folder = path if path.is_dir() else path.parent
    index = folder / "model.safetensors.index.json"
    if path == index or (path.is_dir() and index.exists()):
        where = json.loads(index.read_text())["weight_map"]
        files = sorted(set(where.values()))
    else:
        files = ["model.safetensors" if path.is_dir() else path.name]
        where = None
    missing = [f for f in files if not (folder / f).is_file()]
    if missing:
        raise CheckpointError(
            f"expected {', '.join(missing)} in {folder}, got no such file: download the checkpoint again"
        )
    handles = {f: safe_open(str(folder / f), framework="pt") for f in files}
    home = where or dict.fromkeys(handles[files[0]].keys(), files[0])
    shapes = {k: tuple(handles[f].get_slice(k).get_shape()) for k, f in home.items()}
    meta = _json(folder / "config.json")
    heads = _json(folder / "generation_config.json").get("alignment_heads")
    if heads:
        meta["alignment_heads"] = heads
    return LazyTensors(shapes, lambda k: handles[home[k]].get_tensor(k), meta, path)


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}


_CT2_DTYPES = {0: ("<f4", 4), 1: ("<i1", 1), 2: ("<i2", 2), 3: ("<i4", 4), 4: ("<f2", 2), 5: ("bf16", 2)}
"""Number in the file to NumPy's name and bytes."""


def _open_ct2(path: Path) -> LazyTensors:
    """CTranslate2's flat binary, version 6: header, (name, rank, dims, dtype id, bytes, data)s, aliases."""
    path = path / "model.bin" if path.is_dir() else path
    file = _Ct2File(path)
    (version,) = file.take("I")
    if version != 6:
        raise CheckpointError(f"expected CTranslate2 binary version 6 at {path}, got {version}: convert it again")
    spec = file.text()
    file.take("I")  # revision
    entries = dict(file.entry() for _ in range(*file.take("I")))
    # Of equal variables only the first is stored; the others are names for it.
    stored = {file.text(): file.text() for _ in range(*file.take("I"))}
    entries |= {alias: entries[name] for alias, name in stored.items()}

    def read(name: str) -> Tensor:
        value = file.tensor(entries[name])
        scale = entries.get(f"{stored.get(name, name)}_scale")
        if scale is None:
            return value
        # int8, one scale a row
        return value.float() / file.tensor(scale).float().reshape(-1, *[1] * (value.dim() - 1))

    meta: dict[str, Any] = {"spec": spec, **_json(path.with_name("config.json"))}
    meta |= {name: file.tensor(entry).item() for name, entry in entries.items() if entry.dims == ()}
    named = {name: entry.dims for name, entry in entries.items() if not name.endswith("_scale")}
    return LazyTensors(named, read, meta)


class _Ct2Entry(NamedTuple):
    """Where a variable stands in the file."""

    dims: tuple[int, ...]
    dtype: int
    start: int
    n_bytes: int


class _Ct2File:
    """A file of CTranslate2's, read from its start; its data stay on the disk."""

    def __init__(self, path: Path):
        self.path, self.data, self.at = path, np.memmap(path, dtype=np.uint8, mode="r"), 0

    def skip(self, n_bytes: int) -> int:
        """Pass over bytes; gives where they begin."""
        start, self.at = self.at, self.at + n_bytes
        if self.at > len(self.data):
            raise CheckpointError(f"expected {self.at} bytes or more in {self.path}, got {len(self.data)}: truncated")
        return start

    def take(self, fmt: str) -> tuple[int, ...]:
        start = self.skip(struct.calcsize("<" + fmt))
        return struct.unpack("<" + fmt, self.data[start : self.at].tobytes())

    def text(self) -> str:
        (n,) = self.take("H")
        start = self.skip(n)
        return self.data[start : self.at - 1].tobytes().decode()  # the last byte is a zero

    def entry(self) -> tuple[str, _Ct2Entry]:
        """The next variable: its name, and where it stands."""
        name = self.text()
        (rank,) = self.take("B")
        dims = self.take("I" * rank)
        dtype, n_bytes = self.take("BI")
        if dtype not in _CT2_DTYPES or n_bytes != math.prod(dims) * _CT2_DTYPES[dtype][1]:
            raise CheckpointError(
                f"expected data that fits its shape in {self.path}, "
                f"got {n_bytes} bytes of type {dtype} for {name!r} {dims}: damaged"
            )
        return name, _Ct2Entry(dims, dtype, self.skip(n_bytes), n_bytes)

    def tensor(self, entry: _Ct2Entry) -> Tensor:
        blob = np.array(self.data[entry.start : entry.start + entry.n_bytes])
        kind = _CT2_DTYPES[entry.dtype][0]
        if kind == "bf16":
            return torch.from_numpy(blob).view(torch.bfloat16).reshape(entry.dims)
        return torch.from_numpy(blob.view(kind)).reshape(entry.dims)
