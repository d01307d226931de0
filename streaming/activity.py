"""Whether somebody speaks, from moment to moment: the voice activity model with its memory for one stream."""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmx.media.audio import SAMPLE_RATE as RATE
from mmx.media.gain import FRAME, Gain
from mmx.seq import Seq
from mmx.state import State, leaves, put
from mmx.tasks.segment import Vad


class SpeechActivity:
    """Follows one stream.

    Speech starts at a frame of at least `START` and goes on until frames stay below `STOP`; quiet sound is amplified
    for the model, which misses it else.

    Args:
        vad: `mmx.media.silero_vad.SileroVad`, or None to hear everything as speech.

    Attributes:
        heard: samples so far, in whole frames of the model.
        speaking: whether somebody speaks.
        spans: first sample and end of each stretch of speech, so far; `forget` drops those that are done with.
    """

    START, STOP = 0.5, 0.35
    NEAR_S = 0.2  # by which the times of words are wrong

    def __init__(self, vad: Vad | None):
        self.vad = vad
        self.state: State = {} if vad is None else vad.init_state(1)
        self.heard = 0
        self.speaking = vad is None
        self.spans: list[list[int]] = [[0, 0]] if vad is None else []
        self.gain = Gain()

    def push(self, samples: NDArray[np.float32], final: bool = False) -> None:
        """Take the next samples, at 16 kHz."""
        if self.vad is None:
            self.heard += len(samples)
            self.spans[-1][1] = self.heard
            return
        with torch.inference_mode():
            x_1N = torch.from_numpy(self.gain.apply(samples))[None]
            out = self.vad.forward(Seq(x_1N, torch.tensor([len(samples)]), RATE, final), self.state)
        # A detector that fails must not lose speech.
        for p in out.x[0, : int(out.lengths[0])].nan_to_num(nan=1.0).tolist():
            if p >= self.START and not self.speaking:
                self.speaking = True
                self.spans.append([self.heard, self.heard])
            self.heard += FRAME
            if self.speaking and p >= self.STOP:
                self.spans[-1][1] = self.heard
            elif p < self.STOP:
                self.speaking = False

    @property
    def speech_until(self) -> int:
        """Sample at which the latest speech ended, so far."""
        return self.spans[-1][1] if self.spans else 0

    def onset(self, since: int) -> int:
        """Sample, no earlier than `since`, from which there is speech; `heard` where there is none."""
        return next((max(begin, since) for begin, end in self.spans if end > since), self.heard)

    def after_pause(self, since: int, pause_s: float) -> int:
        """Sample after `since` with which speech began after a pause; `heard` where none did."""
        ends = [0, *(end for _, end in self.spans)]
        pairs = zip(self.spans, ends, strict=False)
        return next((begin for (begin, _), end in pairs if begin > since and begin - end >= pause_s * RATE), self.heard)

    def speech_within(self, since: int, until: float = math.inf) -> float:
        """Seconds of speech after a sample, and before another."""
        return sum(max(0, min(end, until) - max(begin, since)) for begin, end in self.spans) / RATE

    def stretches(self, pause_s: float) -> list[tuple[int, int]]:
        """First sample and end of each stretch of speech, shorter pauses within it."""
        out: list[tuple[int, int]] = []
        for begin, end in self.spans:
            if out and begin - out[-1][1] < pause_s * RATE:
                out[-1] = (out[-1][0], end)
            else:
                out.append((begin, end))
        return out

    def pauses(self, at: int, pause_s: float) -> bool:
        """Whether a pause of that length, between two stretches of speech, holds a sample or is near to it."""
        near, runs = round(self.NEAR_S * RATE), self.stretches(pause_s)
        return any(end - near <= at <= begin + near for (_, end), (begin, _) in pairwise(runs))

    def forget(self, before: int) -> None:
        """Forget the speech that ended before a sample, all but the latest."""
        self.spans = [s for s in self.spans[:-1] if s[1] > before] + self.spans[-1:]

    @property
    def quiet_s(self) -> float:
        """Seconds since the latest speech."""
        return 0.0 if self.speaking else (self.heard - self.speech_until) / RATE

    def saved(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The memory, to be written to a file."""
        values = {"heard": self.heard, "speaking": self.speaking, "spans": self.spans}
        return dict(leaves(self.state)), {**values, "level": self.gain.level, "gain": self.gain.last}

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Go on from what `saved` gave."""
        put(self.state, tensors)
        self.heard, self.speaking, self.spans = values["heard"], values["speaking"], values["spans"]
        self.gain.level, self.gain.last = values["level"], values["gain"]
