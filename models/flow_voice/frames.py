"""What a frame of 25 ms holds, of sound and, in training, of what is said in it.

Letters: B rows, M frames, F features, U symbols.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmx.seq import Seq, pad

RATE_HZ = 40.0
"""Frames a second."""
FRAME_S = 1 / RATE_HZ
LATENT = 128
"""Channels of the latent."""
SOUND = LATENT + 4
"""The latent, two values of standardized log F0 and two of voicing (1 or -1): F0 is given 80 times a second."""
ASKED = 3
"""Of prosody: pitch in octaves, F0's range and speed as binary logarithms; 0 is the voice's own."""
COLUMNS = SOUND + 4 + ASKED
"""In a file of training data: the sound; place and number of the frame's symbol, voice, language; what was asked."""
VOICED_HZ = 40.0
"""F0 above which a frame is voiced."""


class Lesson(NamedTuple):
    """A batch of training data, taken apart.

    Attributes:
        sound: `(B, M, SOUND)`.
        symbols: `(B, U)` their numbers.
        frames: `(B, U)` int64, how many frames each symbol lasts.
        voice: `(B,)` int64.
        language: `(B,)` int64.
        asked: `(B, ASKED)`.
    """

    sound: Seq
    symbols: Seq
    frames: Tensor
    voice: Tensor
    language: Tensor
    asked: Tensor


def columns(
    sound_MF: NDArray[np.float32],
    frames: Sequence[int],
    symbols: Sequence[int],
    who: Sequence[int],
    asked: Sequence[float],
) -> NDArray[np.float16]:
    """`(M, COLUMNS)`: a sentence for a file of training data, from which `lesson` reads it.

    Args:
        sound_MF: of the sentence.
        frames: of each symbol, in sum M.
        symbols: their numbers.
        who: numbers of voice and language.
        asked: see `ASKED`.
    """
    place_M = np.repeat(np.arange(len(symbols)), frames)
    constant = np.tile(np.array([*who, *asked], np.float32), (len(place_M), 1))
    said_M2 = np.stack([place_M, np.asarray(symbols)[place_M]], 1).astype(np.float32)
    return np.concatenate([sound_MF, said_M2, constant], 1).astype(np.float16)


def lesson(features: Seq) -> Lesson:
    """Features `(B, M, COLUMNS)` taken apart."""
    x, device = features.masked, features.x.device
    who, asked = x[:, 0, SOUND + 2 : SOUND + 4].round().long(), x[:, 0, SOUND + 4 :]
    symbols, frames = [], []
    for row, n in zip(x, features.lengths.tolist(), strict=True):
        said = row[:n, SOUND : SOUND + 2].round().long()
        places, counts = torch.unique_consecutive(said[:, 0], return_counts=True)
        symbols.append(said[counts.cumsum(0) - 1, 1].to(device))
        frames.append(counts)
        assert len(places), "a sentence of no frames"
    durations_BU = pad(frames).x
    sound = Seq(x[..., :SOUND].float(), features.lengths, RATE_HZ)
    return Lesson(sound, pad(symbols), durations_BU, who[:, 0], who[:, 1], asked.float())


def with_pitch(
    latent_MF: NDArray[np.float32], f0_hz: NDArray[np.float32], mean: float, deviation: float
) -> NDArray[np.float32]:
    """`(M, SOUND)` of a latent `(M, LATENT)` and F0 `(2M,)` in Hz.

    Its logarithm is standardized, and drawn straight through what is unvoiced.
    """
    voiced = f0_hz > VOICED_HZ
    at = np.flatnonzero(voiced)
    known = np.log(f0_hz[at]) if len(at) else np.array([mean])
    log = (np.interp(np.arange(len(f0_hz)), at if len(at) else [0], known) - mean) / deviation
    pitch_M4 = np.concatenate([log.reshape(-1, 2), voiced.reshape(-1, 2) * 2.0 - 1], 1)
    return np.concatenate([latent_MF, pitch_M4], 1).astype(np.float32)
