"""What the mark is: signs over frequency and time, drawn from a key.

The level of each cell of B bands times S slots goes up or down by a little, by the sign that the key draws for it: a
spread-spectrum mark in the manner of Kirovski and Malvar, "Spread-spectrum watermarking of audio signals" (IEEE
Transactions on Signal Processing 51(4), 2003). The cells of a second are a tile. Four tiles of different signs follow
each other, four times, as they are or turned around (`TURNS`): sound that repeats itself, such as a beat, does not add
up to a mark. A quarter of the cells carries the payload, as one of 16 sets of signs.

All cells are below 4 kHz, which telephones and the lowest rates of codecs keep, and each is narrower than a critical
band of hearing. Levels change by `DEPTH * loudness(f)`: the more cells a critical band has, the more of their changes
cancel in what is heard, and the more each of them may change.

Letters: B bands, S slots of a tile.
"""

import hashlib
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

KEY = "mmx"
"""The key of everything that mmx marks unless asked otherwise. It is no secret: the mark tells, it does not prove."""
LOW_HZ, WIDTH_HZ, BANDS = 400.0, 50.0, 68
SLOT_S, SLOTS = 0.04, 25
TILE_S = SLOT_S * SLOTS
DEPTH = 0.06
"""Change of level, in nepers, of a cell as wide as a critical band."""
PAYLOADS = 16
TURNS = np.array([1, 1, -1, -1, 1, -1, -1, 1, -1, -1, 1, 1, -1, 1, 1, -1], np.float32)
"""How the tiles are turned, 16 of them again and again; the first, fifth and so on have the same signs otherwise."""
TILES = 4


@dataclass(frozen=True)
class Pattern:
    """Signs `(4, S, B)` of the cells that every mark has, and `(16, S, B)` of those for each payload; else 0."""

    mark: NDArray[np.float32]
    payloads: NDArray[np.float32]

    def tiles(self, payload: int) -> NDArray[np.float32]:
        """Signs `(16, S, B)` of the tiles that carry a payload, in their order."""
        signs = np.tile(self.mark + self.payloads[payload], (len(TURNS) // TILES, 1, 1))
        return TURNS[:, None, None] * signs


@cache
def pattern(key: str) -> Pattern:
    """The signs that a key draws (SHAKE-256 of its name)."""
    s, b = np.mgrid[:SLOTS, :BANDS]
    carries = (s + b) % 4 == 3
    return Pattern(
        np.stack([_signs(f"{key}/mark/{number}") * ~carries for number in range(TILES)]),
        np.stack([_signs(f"{key}/payload/{number}") * carries for number in range(PAYLOADS)]),
    )


def _signs(seed: str) -> NDArray[np.float32]:
    drawn = hashlib.shake_256(seed.encode()).digest(-(-SLOTS * BANDS // 8))
    bits = np.unpackbits(np.frombuffer(drawn, np.uint8))[: SLOTS * BANDS]
    return (2.0 * bits - 1).astype(np.float32).reshape(SLOTS, BANDS)


def band_of(hz: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """Band of each frequency; below 0 or above the last for what carries no mark."""
    return np.floor((hz - LOW_HZ) / WIDTH_HZ).astype(np.int64)


def loudness(hz: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """By how much more than `DEPTH` a cell may change: the root of the number of cells in its critical band.

    Width of critical bands: Zwicker and Terhardt, "Analytical expressions for critical-band rate and critical
    bandwidth as a function of frequency" (JASA 68, 1980), equation 2.
    """
    critical_hz = 25 + 75 * (1 + 1.4 * (hz / 1000) ** 2) ** 0.69
    return np.sqrt(np.maximum(critical_hz / WIDTH_HZ, 1.0))
