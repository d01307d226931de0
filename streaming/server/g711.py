"""Telephony's sound, ITU-T G.711: one byte for each sample, at 8000 Hz."""

from functools import cache

import numpy as np
from numpy.typing import NDArray


@cache
def table(law: str) -> NDArray[np.int16]:
    """The 256 samples of a law, "mu" or "a", at 16 bits."""
    code = np.arange(256)
    code = code ^ (0xFF if law == "mu" else 0x55)
    exponent, mantissa = (code >> 4) & 7, code & 15
    if law == "mu":
        level = (((mantissa << 3) + 132) << exponent) - 132
        negative = code & 0x80
        return np.where(negative, -level, level).astype(np.int16)
    level = np.where(exponent > 0, ((mantissa << 4) + 264) << np.maximum(exponent - 1, 0), (mantissa << 4) + 8)
    return np.where(code & 0x80, level, -level).astype(np.int16)


def decoded(data: bytes, law: str) -> bytes:
    """Its bytes as 16-bit little-endian samples."""
    return table(law)[np.frombuffer(data, np.uint8)].astype("<i2").tobytes()
