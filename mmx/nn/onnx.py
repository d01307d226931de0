"""Networks as ONNX files, run by ONNX Runtime on the CPU."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmx.extras import import_extra

_GRAPH, _OUTPUT, _NAME = 7, 12, 1
"""Numbers of protobuf fields: `ModelProto.graph`, `GraphProto.output`, `ValueInfoProto.name` (onnx/onnx.proto)."""


class OnnxGraph:
    """A network of an ONNX file; several threads may call it.

    Args:
        model: the file's bytes.
        inner: names of tensors within it that are to be given out too.
        threads: that one call uses.
    """

    def __init__(self, model: bytes, inner: Sequence[str] = (), threads: int = 1):
        runtime = import_extra("onnxruntime", "voices")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = threads
        options.log_severity_level = 3
        self._session: Any = runtime.InferenceSession(
            with_outputs(model, inner), options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, wanted: Sequence[str], inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """The tensors named `wanted`."""
        return [np.asarray(found) for found in self._session.run(list(wanted), dict(inputs))]


def with_outputs(model: bytes, names: Sequence[str]) -> bytes:
    """An ONNX file that gives out inner tensors too.

    Protobuf merges a message that is written twice: a second `graph` with outputs alone adds them to the first.
    """
    return model + b"".join(_field(_GRAPH, _field(_OUTPUT, _field(_NAME, name.encode()))) for name in names)


def _field(number: int, data: bytes) -> bytes:
    """A length-delimited field of protobuf."""
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])
