"""Kokoro-82M: 54 voices of 9 languages as an ONNX file (hexgrad, Apache-2.0; the file kokoro-onnx's, MIT).

The network reads phonemes, a style vector that depends on the voice and on the length of the text, and a speed. Where
its package is installed, its file and ours with the styles are all that is needed.

Letters: V voices, L lengths, R rank, S style.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import soxr
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor, nn

from mmx.errors import InputError
from mmx.interfaces import Sound, Speech
from mmx.model import Model
from mmx.nn.onnx import OnnxGraph
from mmx.nn.voice import find_voice
from mmx.seq import pad
from mmx.state import State
from mmx.tasks.word_times import joined, word_times
from mmx.text.languages import find_language
from mmx.text.phonemes import phonemes
from mmx.text.phonemes.symbols import numbers
from mmx.weights.hub import SHIPPED

MODEL_TYPES = ()
FRAMES = "/encoder/Gather_output_0"
"""Frames of `FRAME_S` of each symbol."""
FRAME_S = 0.025
LONGEST = 508
"""Symbols that the network takes at once, without those of the edges."""
TAGS = {"a": "en-US", "b": "en-GB", "e": "es", "f": "fr", "h": "hi", "i": "it", "j": "ja", "p": "pt-BR", "z": "zh"}
"""The language of a voice by the first letter of its name."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is not in the file.

    Attributes:
        voices: the voices that are offered; the first of a language is its default.
        styles: file of their styles, in `models/weights`.
    """

    voices: Sequence[str]
    styles: str = "kokoro/voices.safetensors"


class Styles:
    """The style vectors of voices; see `mmx.datasets.recipes.kokoro_voices`."""

    def __init__(self, file: Path):
        with safe_open(str(file), "pt") as tensors:
            self.names: list[str] = tensors.metadata()["voices"].split(",")
            self.mean_VS, self.moves_VLR, self.directions_VRS = (
                tensors.get_tensor(name).float() for name in ("mean", "moves", "directions")
            )

    def __call__(self, name: str, length: int) -> Tensor:
        """`(S,)` for a text of so many symbols."""
        at = self.names.index(name)
        moved_S = self.moves_VLR[at, min(length, self.moves_VLR.shape[1] - 1)] @ self.directions_VRS[at]
        return self.mean_VS[at] + moved_S


class Kokoro(nn.Module):
    """An `mmx.interfaces.Synth` of many voices; each speaks its own language."""

    rate = 24_000.0
    reads: Literal["text", "encoder", "decoder"] = "text"
    lookahead = math.inf

    def __init__(self, graph: OnnxGraph, styles: Styles, names: Sequence[str]):
        super().__init__()
        self.graph, self.styles, self.names = graph, styles, names

    def voices(self, language: str) -> Sequence[str]:
        """Those of a language, or of an accent ("en-GB")."""
        tag = find_language(language).tag
        region = language.replace("_", "-").partition("-")[2].upper()
        found = [n for n in self.names if TAGS[n[0]].partition("-")[0] == tag]
        exact = [n for n in found if len(region) == 2 and TAGS[n[0]] == f"{tag}-{region}"]
        if not found:
            tags = sorted({TAGS[n[0]] for n in self.names})
            raise InputError(f"expected a language among {', '.join(tags)}, got {language!r}")
        return exact or found

    def init_state(self, batch: int, capacity: int) -> State:
        """Nothing: a text is spoken as a whole."""
        return {}

    def speak(self, speech: Speech, state: State | None = None) -> Sound:
        """See `mmx.interfaces.Synth`. Another pitch is made by resampling, which moves the timbre too."""
        if speech.range != 1:
            raise InputError(f"expected range 1, got {speech.range}: the range of these voices is their own")
        names = self.voices(speech.language)
        name = names[find_voice(names, speech.voice)]
        higher = 2 ** (speech.pitch / 12)
        rows = [phonemes(text, TAGS[name[0]]) for text in speech.texts]
        said = [self._long(numbers(joined(row)), name, speech.speed / higher) for row in rows]
        words = [word_times(row, frames, FRAME_S / higher) for row, (_, frames) in zip(rows, said, strict=True)]
        waves = [wave if higher == 1 else soxr.resample(wave, higher, 1.0) for wave, _ in said]
        return Sound(pad([torch.from_numpy(wave) for wave in waves], self.rate), words)

    def stream(self, speech: Speech, block_s: float) -> Iterator[Sound]:
        """One block: the network makes a text at once."""
        yield self.speak(speech)

    def _long(self, symbols: list[int], name: str, speed: float) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Of a text that is longer than the network takes, the parts one by one: the edges between them are one's."""
        parts = [symbols[at : at + LONGEST] for at in range(0, len(symbols), LONGEST)] or [[]]
        said = [self._sound(part, name, speed) for part in parts]
        frames = [said[0][1]]
        for _, more in said[1:]:
            frames[-1][-1] += more[0]
            last = frames[-1][-1:]
            frames[-1] = frames[-1][:-1]
            frames.append(np.concatenate([more[1:2] + last, more[2:]]))
        return np.concatenate([wave for wave, _ in said]), np.concatenate(frames)

    def _sound(self, symbols: list[int], name: str, speed: float) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The waveform of a text's symbols, and the frames of each with those of its edges."""
        if not symbols:
            return np.zeros(0, np.float32), np.zeros(2, np.int64)
        style = self.styles(name, len(symbols))[None].numpy()
        inputs = {"tokens": np.array([[0, *symbols, 0]]), "style": style, "speed": np.array([speed], np.float32)}
        wave, frames = self.graph(("audio", FRAMES), inputs)
        return np.clip(wave.reshape(-1), -1, 1).astype(np.float32), frames


def from_file(file: Path, config: Config) -> Model:
    """The model of an ONNX file and our file of styles."""
    graph = OnnxGraph(file.read_bytes(), [FRAMES], torch.get_num_threads())
    return Model(front={}, encoders={}, synth=Kokoro(graph, Styles(SHIPPED / config.styles), config.voices))
