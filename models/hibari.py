"""hibari-tts: an English voice of 6 M parameters as an ONNX file, with its signal processing (Apache-2.0).

The network makes five spectra and F0 of each frame of 12.5 ms; the package's own `hibari.dsp` makes them sound.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mmx.errors import InputError
from mmx.extras import import_extra
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

MODEL_TYPES = ()
SPECTRA = ("lh", "theta", "ln", "lr", "phi")
FRAMES = "/Clip_output_0"
"""Frames of `FRAME_S` of each symbol."""
FRAME_S = 0.025
VOICED_HZ = 40.0
"""F0 above which a frame is voiced."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is not in the file.

    Attributes:
        voice: name of the one voice.
    """

    voice: str = "heart"


class Hibari(nn.Module):
    """An `mmx.interfaces.Synth` of one English voice."""

    rate = 24_000.0
    reads: Literal["text", "encoder", "decoder"] = "text"
    lookahead = math.inf

    def __init__(self, graph: OnnxGraph, voice: str):
        super().__init__()
        self.graph, self.voice = graph, voice

    def voices(self, language: str) -> Sequence[str]:
        """One, American."""
        if find_language(language).tag != "en":
            raise InputError(f"expected en, the only language of this voice, got {language!r}")
        return (self.voice,)

    def init_state(self, batch: int, capacity: int) -> State:
        """Nothing: a text is spoken as a whole."""
        return {}

    def speak(self, speech: Speech, state: State | None = None) -> Sound:
        """See `mmx.interfaces.Synth`."""
        find_voice(self.voices(speech.language), speech.voice)
        rows = [phonemes(text, "en-US") for text in speech.texts]
        said = [self._sound(numbers(joined(row)), speech) for row in rows]
        words = [word_times(row, frames, FRAME_S) for row, (_, frames) in zip(rows, said, strict=True)]
        return Sound(pad([torch.from_numpy(wave) for wave, _ in said], self.rate), words)

    def stream(self, speech: Speech, block_s: float) -> Iterator[Sound]:
        """One block: it is a hundred times as fast as speech."""
        yield self.speak(speech)

    def _sound(self, symbols: list[int], speech: Speech) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The waveform of a text's symbols, and the frames of each with those of its edges."""
        if not symbols:
            return np.zeros(0, np.float32), np.zeros(2, np.float32)
        inputs = {"ids": np.array([[0, *symbols, 0]]), "speed": np.array([speech.speed], np.float32)}
        *spectra, f0_hz, frames = self.graph((*SPECTRA, "f0", FRAMES), inputs)
        noise = np.random.default_rng(speech.seed)
        pitch_hz = _moved(f0_hz[0], speech)
        wave = import_extra("hibari.dsp", "voices").synth(*(s[0] for s in spectra), pitch_hz, noise)
        return np.clip(wave, -1, 1).astype(np.float32), frames


def _moved(f0_hz: NDArray[np.float32], speech: Speech) -> NDArray[np.float32]:
    """F0 with the pitch and the range that are asked for; frames without voice, below `VOICED_HZ`, stay so."""
    voiced = f0_hz > VOICED_HZ
    if not voiced.any():
        return f0_hz
    log = np.log(f0_hz[voiced])
    moved = f0_hz.copy()
    moved[voiced] = np.exp(log.mean() + speech.range * (log - log.mean())) * 2 ** (speech.pitch / 12)
    return moved


def from_file(file: Path, config: Config) -> Model:
    """The model of an ONNX file."""
    graph = OnnxGraph(file.read_bytes(), [FRAMES], torch.get_num_threads())
    return Model(front={}, encoders={}, synth=Hibari(graph, config.voice))
