"""Pickles of annotations, read without running anything that is in them.

Corpora of signing are published as pickles of dicts, lists and texts (GFSLT, CSL-Daily) and of tensors (neccam/slt). A
pickle is a program; here the only names that it may call are those that tensors and bytes are made of, and all but
OrderedDict are our own.
"""

import gzip
import io
import math
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmx.errors import InputError

MOST_BYTES = 2**33
"""That a compressed pickle may unpack to."""


def read_plain_pickle(path: Path) -> Any:
    """The dicts, lists, texts and numbers of a pickle, which may be gzipped; its tensors are arrays.

    Raises:
        InputError: there is no such file, it is damaged or too large, or it asks for anything else.
    """
    try:
        return _Reader(io.BytesIO(_unpacked(path))).load()
    except _RefusedError as e:
        raise InputError(
            f"expected a pickle of plain data at {path}, got one that asks for {e}: it was refused and nothing was "
            "executed. Use the publisher's file"
        ) from e
    except OSError as e:
        raise InputError(f"expected a pickle at {path}, got {e.strerror or e}") from e
    except Exception as e:  # what a damaged pickle raises can be anything
        raise InputError(f"expected a pickle at {path}, got a damaged one ({type(e).__name__}): copy it again") from e


def _unpacked(path: Path) -> bytes:
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if packed:
            with gzip.open(file) as content:
                data = content.read(MOST_BYTES + 1)
        else:
            data = file.read()
    if len(data) > MOST_BYTES:
        raise InputError(f"expected at most {MOST_BYTES >> 30} GiB in {path}, got more: it is no annotation")
    return data


class _RefusedError(Exception):
    """A name that the pickle would have called."""


class _Storage:
    """The numbers that tensors are views of."""

    def __init__(self, data: bytes):
        import torch

        held = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        self.x = torch.as_tensor([], dtype=held.dtype).set_(held).numpy()  # a view of the whole storage


def _tensor(storage: _Storage, offset: int, size: Sequence[int], stride: Sequence[int], *_: object) -> np.ndarray:
    """The array that a tensor was. Raises `ValueError` for one that is not inside its storage."""
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if min([offset, *size, *stride]) < 0 or (math.prod(size) and last >= len(storage.x)):
        raise ValueError("a tensor outside of its storage")
    step = storage.x.itemsize
    view = np.lib.stride_tricks.as_strided(storage.x[offset:], tuple(size), tuple(step * s for s in stride))
    return view.copy()


def _bytes(text: str, encoding: str) -> bytes:
    """How bytes stand in pickles that Python 2 can read."""
    if encoding != "latin1":
        raise ValueError(f"bytes as {encoding}")
    return text.encode("latin1")


_ALLOWED: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch.storage", "_load_from_bytes"): _Storage,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _bytes,
}


class _Reader(pickle.Unpickler):
    """The unpickler that knows these names alone."""

    def find_class(self, module: str, name: str) -> Any:
        """The one place where a pickle gets anything to call."""
        if (module, name) not in _ALLOWED:
            raise _RefusedError(f"{module}.{name}")
        return _ALLOWED[module, name]
