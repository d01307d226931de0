"""From the clips of one live session to the memory that a decoder reads: two kinds of encoding, by what a model allows.

`WindowEncoder` serves models that must see their whole input: it keeps the window and encodes it anew each time.
`IncrementalEncoder` serves those with a finite look-ahead: each frame is encoded once, and what is kept does not grow.
Both go through `Model.memory` with every modality that comes, also what fuses them. The clock of a session is that of
speech: its places are samples at 16 kHz, also where a model reads no sound.

Letters: N samples, M memory frames, D width.
"""

import math
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmx.clip import SPEECH, Clip, Input, Rolling
from mmx.errors import InputError
from mmx.media.audio import SAMPLE_RATE as RATE
from mmx.model import Model
from mmx.seq import Seq
from mmx.state import State, leaves, put


class StreamEncoder(Protocol):
    """The window of a session, from sample `begin` to sample `covered` of it."""

    @property
    def begin(self) -> int:
        """Sample of the session with which the window begins."""
        ...

    @property
    def covered(self) -> int:
        """Sample of the session up to which `memory` tells of the recording."""
        ...

    def push(self, samples: NDArray[np.float32], final: bool, others: Clip | None = None) -> None:
        """Take the next samples at 16 kHz, and what other modalities have in the same time."""
        ...

    def drop(self, before: int) -> None:
        """Forget what lies before a sample of the session, or a little less."""
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


def stream_encoder(model: Model, inputs: Mapping[str, Input] | None = None) -> StreamEncoder:
    """The encoder of a session that a model allows; `inputs` are those of `Model.recorded` that the session has."""
    return IncrementalEncoder(model, inputs) if streams(model, inputs) else WindowEncoder(model, inputs)


def streams(model: Model, inputs: Mapping[str, Input] | None = None) -> bool:
    """Whether all that lies between a recording and the memory has a finite look-ahead."""
    fuses = model.fuse is None or hasattr(model.fuse, "init_state")
    return fuses and all(math.isfinite(stage.lookahead) for stage in _stages(model, inputs or model.recorded))


def _stages(model: Model, inputs: Mapping[str, Input]) -> list[Any]:
    """The parts that what is read of a recording passes, in order, up to where modalities are fused."""
    return [part[n] for n in inputs for part in (model.front, model.encoders, model.adapters) if n in part]


def _device(model: Model) -> torch.device:
    """Where a model computes."""
    return next(model.parameters()).device


class WindowEncoder:
    """Keeps what comes of the window; see `StreamEncoder`.

    Whisper was trained on 30 s, padded with silence, and the encoder's cost goes with its length. With 2 s of silence
    after a short window the decoder writes no capitals and stops, and repeats itself; with 8 s it writes what it writes
    with 26 (docs/experiments/live.md).
    """

    AFTER_S = 8.0

    def __init__(self, model: Model, inputs: Mapping[str, Input] | None = None):
        self.model = model
        self.audio = np.zeros(0, np.float32)
        self.others = Rolling()
        self.begin = 0
        self.sound = SPEECH in (inputs or model.recorded)
        self.most = None
        if self.sound:
            front, encoder = model.stages(SPEECH)
            ctx = getattr(encoder, "ctx", None)
            self.most = None if ctx is None else ctx * encoder.stride * front.stride
        self.device = _device(model)

    @property
    def covered(self) -> int:
        """All that came."""
        return self.begin + len(self.audio)

    def push(self, samples: NDArray[np.float32], final: bool, others: Clip | None = None) -> None:
        """Take what comes next."""
        self.audio = np.concatenate([self.audio, samples])
        self.others.append(others or {})

    def drop(self, before: int) -> None:
        """Forget what lies before a sample of the session."""
        count = min(max(0, before - self.begin), len(self.audio))
        self.audio, self.begin = self.audio[count:], self.begin + count
        self.others.drop(self.begin / RATE)

    @torch.inference_mode()
    def memory(self) -> Seq:
        """Encode the window."""
        n = len(self.audio)
        if self.most is not None:
            n = min(self.most, math.ceil(n / RATE + self.AFTER_S) * RATE)
        others = self.others.part(self.begin / RATE, self.covered / RATE)
        inputs = {name: seq.to(self.device) for name, seq in others.items() if int(seq.lengths[0])}
        if self.sound:
            x_1N = torch.zeros(1, n)
            x_1N[0, : min(n, len(self.audio))] = torch.from_numpy(self.audio[:n])  # beyond the longest window it waits
            inputs[SPEECH] = Seq(x_1N.to(self.device), torch.tensor([n], device=self.device), RATE)
        return self.model.memory(inputs)

    def saved(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What came of the window."""
        frames, places = self.others.saved()
        held = {f"others.{name}": x for name, x in frames.items()}
        return {"audio": torch.from_numpy(self.audio.copy()), **held}, {"begin": self.begin, "others": places}

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Go on from what `saved` gave."""
        self.audio, self.begin = tensors["audio"].numpy(), values["begin"]
        places = values.get("others", {})  # which a session of sound lacked in earlier versions
        self.others.restore({name: tensors[f"others.{name}"] for name in places}, places)


class IncrementalEncoder:
    """Encodes each frame once and keeps the memory of the window; see `StreamEncoder`.

    Each part of the model has a `State`, whose size does not depend on how long the session is. Every clip has the same
    modalities; see `Stream` for those that are lost for a while.
    """

    def __init__(self, model: Model, inputs: Mapping[str, Input] | None = None):
        self.model = model
        self.inputs = inputs or model.recorded
        self.device = _device(model)
        self.states = self._fresh()
        self.names: tuple[str, ...] = ()
        self.stride = 0
        if model.fuse is None:
            (name,) = self.inputs
            ratio = RATE / (self.inputs[name].rate or RATE)  # samples of the clock for a frame of the input
            self.stride = round(math.prod(stage.stride for stage in _stages(model, self.inputs)) * ratio)
        self.frames: Seq | None = None
        self.first = 0  # frame of the session with which `frames` begins

    def _fresh(self) -> State:
        unread = {n for n in self.model.encoders if n not in self.inputs}
        return {k: v for k, v in self.model.init_state(1, 0).items() if k.partition(".")[2] not in unread}

    def restart(self, at: int) -> None:
        """Begin anew at a sample of the session, with nothing before it: the window is empty."""
        self.states = self._fresh()
        self.first = round(at / self.stride) if self.stride else 0
        if self.frames is not None:
            self.frames = self.frames._replace(x=self.frames.x[:, :0].clone(), lengths=self.frames.lengths * 0)

    @property
    def begin(self) -> int:
        """Sample with which the window begins."""
        return self.first * self.stride

    @property
    def covered(self) -> int:
        """Up to the last frame that is encoded: what waits for its chunk to fill is not."""
        return self.begin + (0 if self.frames is None else self.frames.x.shape[1] * self.stride)

    @torch.inference_mode()
    def push(self, samples: NDArray[np.float32], final: bool, others: Clip | None = None) -> None:
        """Encode what comes next, as far as the look-ahead allows."""
        given = {n: s.to(self.device)._replace(final=final) for n, s in (others or {}).items()}
        if SPEECH in self.inputs:
            x_1N = torch.from_numpy(samples)[None].to(self.device)
            given[SPEECH] = Seq(x_1N, torch.tensor([len(samples)], device=self.device), RATE, final)
        self.names = self.names or tuple(given)
        if given.keys() != set(self.names):
            raise InputError(f"expected {', '.join(self.names)} in every clip of a session, got {', '.join(given)}")
        seq = self.model.memory(given, state=self.states)
        if not self.stride and seq.rate is not None:  # of fused modalities the memory has a rate of its own
            self.stride = round(RATE / seq.rate)
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
        assert self.frames is not None, "nothing was pushed"
        return self.frames

    def saved(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The state of each part and the frames of the window."""
        held = {f"state.{k}": v for k, v in leaves(self.states)}
        values = {"first": self.first, "names": self.names, "stride": self.stride, "rate": None}
        if self.frames is None:
            return held, values
        return {**held, "frames": self.frames.x}, {**values, "rate": self.frames.rate}

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Go on from what `saved` gave."""
        states = {k.removeprefix("state."): v for k, v in tensors.items() if k.startswith("state.")}
        put(self.states, states, self.device)
        self.names = tuple(values.get("names", self.names))
        self.stride = values.get("stride", self.stride)
        self.first = values["first"]
        if "frames" in tensors:
            x_1MD = tensors["frames"].to(self.device)
            self.frames = Seq(x_1MD, torch.tensor([x_1MD.shape[1]], device=self.device), values["rate"])
