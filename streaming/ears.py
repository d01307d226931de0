"""From sound to the memory that a decoder reads, for one live session: two kinds of encoder, two kinds of ears.

`Rehearing` serves encoders that must see their whole input: it keeps the window's sound and encodes it anew each time.
`Hearing` serves those with a finite look-ahead: each sample is encoded once, and what is kept does not grow.

Letters: N samples, M memory frames, D width.
"""

import math
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmx.model import Model
from mmx.seq import Seq
from mmx.state import State, leaves
from mmx.tasks.windows import RATE


class Ears(Protocol):
    """The window of a session, from sample `begin` to sample `covered` of it."""

    @property
    def begin(self) -> int:
        """Sample of the session with which the window begins."""
        ...

    @property
    def covered(self) -> int:
        """Sample of the session up to which `memory` tells of the sound."""
        ...

    def hear(self, samples: NDArray[np.float32], final: bool) -> None:
        """Take the next samples at 16 kHz."""
        ...

    def drop(self, before: int) -> None:
        """Forget the sound before a sample of the session, or a little less."""
        ...

    def memory(self) -> Seq:
        """`(1, M, D)` of the window; frames after `covered` are of the silence it was padded with."""
        ...

    def saved(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and plain values that `restore` needs."""
        ...

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Go on from what `saved` gave."""
        ...


def ears(model: Model) -> Ears:
    """The ears that a model's encoder allows."""
    return Hearing(model) if streams(model) else Rehearing(model)


def streams(model: Model) -> bool:
    """Whether all that lies between the sound and the decoder has a finite look-ahead."""
    return all(math.isfinite(stage.lookahead) for stage in _stages(model))


def _stages(model: Model) -> list[Any]:
    return [part["speech"] for part in (model.front, model.encoders, model.adapters) if "speech" in part]


class Rehearing:
    """Keeps the sound of the window; see `Ears`.

    Whisper was trained on 30 s, padded with silence, and the encoder's cost goes with its length. With 2 s of silence
    after a short window the decoder writes no capitals and stops, and repeats itself; with 8 s it writes what it writes
    with 26 (docs/experiments/live.md).
    """

    AFTER_S = 8.0

    def __init__(self, model: Model):
        self.model = model
        self.audio = np.zeros(0, np.float32)
        self.begin = 0
        front, encoder = model.stages("speech")
        ctx = getattr(encoder, "ctx", None)
        self.most = None if ctx is None else ctx * encoder.stride * front.stride
        self.device = next(model.decoder.parameters()).device

    @property
    def covered(self) -> int:
        """All that was heard."""
        return self.begin + len(self.audio)

    def hear(self, samples: NDArray[np.float32], final: bool) -> None:
        """Take the next samples."""
        self.audio = np.concatenate([self.audio, samples])

    def drop(self, before: int) -> None:
        """Forget the sound before a sample of the session."""
        count = min(max(0, before - self.begin), len(self.audio))
        self.audio, self.begin = self.audio[count:], self.begin + count

    @torch.inference_mode()
    def memory(self) -> Seq:
        """Encode the window."""
        n = len(self.audio)
        if self.most is not None:
            n = min(self.most, math.ceil(n / RATE + self.AFTER_S) * RATE)
        x_1N = torch.zeros(1, n)
        x_1N[0, : min(n, len(self.audio))] = torch.from_numpy(self.audio[:n])  # what is beyond the longest window waits
        seq = Seq(x_1N.to(self.device), torch.tensor([n], device=self.device), RATE)
        return self.model.memory({"speech": seq})

    def saved(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The sound of the window."""
        return {"audio": torch.from_numpy(self.audio.copy())}, {"begin": self.begin}

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Go on from what `saved` gave."""
        self.audio, self.begin = tensors["audio"].numpy(), values["begin"]


class Hearing:
    """Encodes each sample once and keeps the memory of the window; see `Ears`.

    Each stage has a `State`, whose size does not depend on how long the session is.
    """

    def __init__(self, model: Model):
        self.model, self.stages = model, _stages(model)
        self.device = next(model.decoder.parameters()).device
        self.stride = math.prod(stage.stride for stage in self.stages)
        self.states: State = {str(i): stage.init_state(1, 0) for i, stage in enumerate(self.stages)}
        self.frames: Seq | None = None
        self.first = 0  # frame of the session with which `frames` begins

    @property
    def begin(self) -> int:
        """Sample with which the window begins."""
        return self.first * self.stride

    @property
    def covered(self) -> int:
        """Up to the last frame that is encoded: sound that waits for its chunk to fill is not."""
        return self.begin + (0 if self.frames is None else self.frames.x.shape[1] * self.stride)

    @torch.inference_mode()
    def hear(self, samples: NDArray[np.float32], final: bool) -> None:
        """Encode the next samples, as far as the look-ahead allows."""
        x_1N = torch.from_numpy(samples)[None].to(self.device)
        seq = Seq(x_1N, torch.tensor([len(samples)], device=self.device), RATE, final)
        for i, stage in enumerate(self.stages):
            state = self.states[str(i)]
            assert isinstance(state, dict)
            seq = stage(seq, state)
        new_1MD = seq.x[:, : int(seq.lengths[0])]
        joined = new_1MD if self.frames is None else torch.cat([self.frames.x, new_1MD], dim=1)
        self.frames = Seq(joined, torch.tensor([joined.shape[1]], device=self.device), seq.rate)

    def drop(self, before: int) -> None:
        """Forget the frames that lie before a sample of the session."""
        if self.frames is None:
            return
        count = min(max(0, before // self.stride - self.first), self.frames.x.shape[1])
        kept_1MD = self.frames.x[:, count:].clone()  # not a view, which would hold on to what is dropped
        self.frames = self.frames._replace(x=kept_1MD, lengths=self.frames.lengths - count)
        self.first += count

    def memory(self) -> Seq:
        """The frames of the window."""
        assert self.frames is not None, "nothing was heard"
        return self.model.for_decoder(self.frames)

    def saved(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The state of each stage and the frames of the window."""
        held = {f"state.{k}": v for k, v in leaves(self.states)}
        if self.frames is None:
            return held, {"first": self.first, "rate": None}
        return {**held, "frames": self.frames.x}, {"first": self.first, "rate": self.frames.rate}

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Go on from what `saved` gave."""
        for path, value in tensors.items():
            if not path.startswith("state."):
                continue
            *parents, leaf = path.split(".")[1:]
            node = self.states
            for name in parents:
                child = node[name]
                assert isinstance(child, dict)
                node = child
            node[leaf] = value.to(self.device)
        self.first = values["first"]
        if "frames" in tensors:
            x_1MD = tensors["frames"].to(self.device)
            self.frames = Seq(x_1MD, torch.tensor([x_1MD.shape[1]], device=self.device), values["rate"])
