"""Which language is spoken, by Whisper's own first decoding step: in windows, in stretches of them, in short sounds."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F

from mmx.media.audio import SAMPLE_RATE as RATE
from mmx.model import Model
from mmx.models.whisper import other_language
from mmx.models.whisper.tokenizer import WhisperTokenizer
from mmx.seq import Seq
from mmx.state import State, leaves, subtree, tensor
from mmx.tasks.windows import require_aligner


class LanguageDetector:
    """Probabilities of languages; all results are `(N, L)`, in the order of `codes`.

    Args:
        model: Whisper's.
        tok: its tokenizer; of a model of English alone, English is sure.
    """

    def __init__(self, model: Model, tok: WhisperTokenizer):
        self.model, self.tok = model, tok
        self.decoder, _ = require_aligner(model)
        self.device = self.decoder.device
        window = model.window("speech")
        self.samples = window.frames
        self.frame_rate = RATE / window.stride  # of the memory, in Hz
        self.codes = list(tok.language_ids) if tok.multilingual else ["en"]

    def of_memory(self, memory: Seq, state: State | None = None) -> torch.Tensor:
        """Of each row of `(N, M, D)`; the decoding step fills `state`."""
        start = torch.full((len(memory.x), 1), self.tok.sot, device=self.device)
        state = self.decoder.init_state(len(memory.x), 1) if state is None else state
        logits = self.decoder.forward(start, memory, state)
        ids = [self.tok.language_ids[c] for c in self.codes] if self.tok.multilingual else [0]
        return logits[:, 0, ids].float().softmax(-1).cpu()

    def of_stretches(self, shared: State, row: int, spans: Sequence[tuple[float, float]]) -> torch.Tensor:
        """Of stretches of a window, in seconds on its clock, given the decoder's keys and values of the memory.

        Args:
            shared: `state["memory"]` of a decoding step over the memory: leaves `(B, H, M, C)`.
            row: of the window.
            spans: N of them.
        """
        frames = [(int(a * self.frame_rate), int(b * self.frame_rate)) for a, b in spans]
        n_pause = next(leaves(self._pause))[1].shape[2]
        lengths = torch.tensor([b - a + n_pause for a, b in frames], device=self.device)
        state = self.decoder.init_state(len(spans), 1)
        state["memory"] = _before_pause(shared, self._pause, row, frames, int(lengths.max()))
        unread = torch.zeros(len(spans), int(lengths.max()), 0, device=self.device)  # its keys and values are there
        return self.of_memory(Seq(unread, lengths, self.frame_rate), state)

    def of_sounds(self, waves: Sequence[np.ndarray]) -> torch.Tensor:
        """Of short pieces of sound, each followed by half a second of silence."""
        return self.of_memory(self.encode(waves, other_language.HEARD_S + 0.5))

    def encode(self, waves: Sequence[np.ndarray], seconds: float) -> Seq:
        """`(N, M, D)`: the memory of pieces of sound, each padded with silence to so many seconds or cut there."""
        n = min(round(seconds * RATE), self.samples)
        padded_BN = torch.zeros(len(waves), n)
        for row, wave in zip(padded_BN, waves, strict=True):
            row[: len(wave)] = torch.from_numpy(wave[:n])
        lengths = torch.full((len(waves),), n, device=self.device)
        return self.model.memory({"speech": Seq(padded_BN.to(self.device), lengths, RATE)})

    @cached_property
    def _pause(self) -> State:
        """The decoder's keys and values of a second of silence. Stretches that break off in speech look like no
        language."""
        state = self.decoder.init_state(1, 1)
        self.of_memory(self.encode([np.zeros(0, np.float32)], other_language.PAUSE_S), state)
        return subtree(state, "memory")


def _before_pause(held: State, pause: State, row: int, frames: Sequence[tuple[int, int]], longest: int) -> State:
    """Stretches of a row of keys or values, each before a pause, `(N, H, longest, C)`."""
    out: State = {}
    for key, value in held.items():
        if isinstance(value, dict):
            out[key] = _before_pause(value, subtree(pause, key), row, frames, longest)
            continue
        silent_HMC = tensor(pause, key)[0]
        rows = [torch.cat([value[row, :, a:b], silent_HMC], 1) for a, b in frames]
        out[key] = torch.stack([F.pad(x_HMC, (0, 0, 0, longest - x_HMC.shape[1])) for x_HMC in rows])
    return out
