"""The pieces inside a SentencePiece `.model`, which is a protocol buffer: read, and written anew.

Only the list of pieces is touched; normalization and all else stays byte for byte. The format is that of
`sentencepiece_model.proto`: field 1 of the file, repeated, is a piece, whose fields are its text (1), its score (2) and
its kind (3).
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum

from mmx.errors import CheckpointError


class Kind(IntEnum):
    """What a piece is for."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Piece:
    """One entry of the vocabulary.

    Attributes:
        text: as it is spelled, with "▁" for a space.
        score: log-probability (unigram), or minus the rank of the merge that makes it (BPE).
        kind: see `Kind`.
    """

    text: str
    score: float
    kind: Kind = Kind.NORMAL


def read_pieces(model: bytes) -> list[Piece]:
    """The pieces in the order of their ids.

    Raises:
        CheckpointError: it is no SentencePiece model.
    """
    try:
        return [_piece(value) for number, value, _ in _fields(model) if number == 1]
    except (ValueError, TypeError, IndexError, struct.error) as e:
        raise CheckpointError(f"expected a SentencePiece model, got something else ({e})") from e


def with_pieces(model: bytes, pieces: Iterable[Piece]) -> bytes:
    """The same model with other pieces."""
    return b"".join(map(_encoded, pieces)) + b"".join(raw for number, _, raw in _fields(model) if number != 1)


def is_bpe(model: bytes) -> bool:
    """Whether pieces are made by merges; else they are chosen by their probabilities."""
    trainer = next((value for number, value, _ in _fields(model) if number == 2), b"")
    return isinstance(trainer, bytes) and any(n == 3 and value == 2 for n, value, _ in _fields(trainer))


def normalization(model: bytes) -> bytes:
    """The compiled table by which a text is normalized first; empty where there is none."""
    spec = next((value for number, value, _ in _fields(model) if number == 3), b"")
    table = next((v for n, v, _ in _fields(spec) if n == 2), b"") if isinstance(spec, bytes) else b""
    return table if isinstance(table, bytes) else b""


# -------------------- protocol buffers


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes, bytes]]:
    """Number, value and raw bytes of each field; fixed-width values come as bytes."""
    at = 0
    while at < len(data):
        start = at
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(data, at)
        elif wire in (1, 2, 5):
            size, at = _varint(data, at) if wire == 2 else ({1: 8, 5: 4}[wire], at)
            value, at = data[at : at + size], at + size
        else:
            raise ValueError(f"wire type {wire}")
        if at > len(data):
            raise ValueError("it is cut short")
        yield number, value, data[start:at]


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, lowest first, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        value, shift, at = value | (byte & 0x7F) << shift, shift + 7, at + 1
        if byte < 0x80:
            return value, at


def _piece(value: int | bytes) -> Piece:
    if not isinstance(value, bytes):
        raise TypeError("a piece that is a number")
    fields = {number: v for number, v, _ in _fields(value)}
    text, score = fields.get(1, b""), fields.get(2, bytes(4))
    if not isinstance(text, bytes) or not isinstance(score, bytes):
        raise TypeError("a piece without text")
    return Piece(text.decode("utf-8"), struct.unpack("<f", score)[0], Kind(fields.get(3, 1)))


def _encoded(piece: Piece) -> bytes:
    text = piece.text.encode("utf-8")
    kind = b"" if piece.kind == Kind.NORMAL else b"\x18" + bytes([piece.kind])
    body = b"\x0a" + _as_varint(len(text)) + text + b"\x15" + struct.pack("<f", piece.score) + kind
    return b"\x0a" + _as_varint(len(body)) + body


def _as_varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
