"""Any encoder with any decoder: parts of two families around an adapter of `mmx.nn.adapters`.

The families build their whole models, of which the parts are taken; on the meta device the rest costs nothing.

Letters: B rows, N samples, T frames, M memory frames, D width.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmx.clip import Input
from mmx.errors import InputError, nearest
from mmx.model import Model
from mmx.nn import adapters
from mmx.seq import Seq
from mmx.state import State
from mmx.weights.family import import_family

MODEL_TYPES = ()
"""None of Hugging Face's."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A model of which a part is taken: its family and the numbers of the family's `Config`."""

    family: str
    config: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """An adapter: its kind and the numbers that `mmx.nn.adapters.build` takes."""

    kind: str
    numbers: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is composed; a card gives the parts as tables.

    Attributes:
        modality: of the encoder model's inputs, the one that is kept.
        encoder: model whose front end, encoder and own adapter are taken.
        adapter: new one behind them.
        decoder: model whose decoder is taken.
    """

    modality: str
    encoder: Part
    adapter: Adapter
    decoder: Part

    def __post_init__(self) -> None:
        for name, kind in (("encoder", Part), ("adapter", Adapter), ("decoder", Part)):
            value = getattr(self, name)
            if isinstance(value, Mapping):
                object.__setattr__(self, name, kind(**value))


class PaddedFront(nn.Module):
    """A front end that is shown silence behind the sound, up to a window; goes with `WindowEncoder`.

    Args:
        front: waveform to features, or whatever it takes: zeros are nothing to it.
        frames: of its input, that make a window: samples of a waveform.
        what: it reads, which is said for it.
    """

    lookahead = math.inf

    def __init__(self, front: nn.Module, frames: int, what: Input):
        super().__init__()
        self.front, self.frames, self.stride = front, frames, front.stride
        self.medium, self.rate, self.shape = what.medium, what.rate, what.shape

    def init_state(self, batch: int, capacity: int = 0) -> State:
        """Nothing is remembered."""
        return {}

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        """`(B, N, *)`, samples of a waveform, to the features of the whole window `(B, T, F)`, and lengths of what was
        there."""
        if seq.x.shape[1] > self.frames:
            raise ValueError(f"expected at most {self.frames} input frames, got {seq.x.shape[1]}: cut into windows")
        x = seq.masked
        x = torch.cat([x, x.new_zeros(len(x), self.frames - x.shape[1], *x.shape[2:])], dim=1)
        made = self.front(seq._replace(x=x, lengths=(seq.lengths * 0) + self.frames))
        return made._replace(lengths=-(-seq.lengths // self.stride))  # type: ignore[operator]


class WindowEncoder(nn.Module):
    """An encoder of windows of one length (Whisper's): it hears the silence too, and the memory is of the sound alone.

    So neither the adapter nor the decoder works on silence, and what a row gives does not depend on its neighbours.

    Args:
        encoder: has `ctx`, the memory frames of a window, and says `whole_windows = True`.
        window_s: seconds of the window.
    """

    lookahead = math.inf
    whole_windows = True

    def __init__(self, encoder: nn.Module, window_s: float):
        super().__init__()
        self.encoder, self.window_s = encoder, window_s
        self.ctx, self.stride, self.width = encoder.ctx, encoder.stride, width_of(encoder)

    def init_state(self, batch: int, capacity: int = 0) -> State:
        """Nothing is remembered."""
        return {}

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        """`(B, T, F)` features of whole windows, from `PaddedFront`, to `(B, M, D)`."""
        whole = self.encoder(seq._replace(lengths=(seq.lengths * 0) + seq.x.shape[1]))
        return whole._replace(lengths=-(-seq.lengths // self.stride))  # type: ignore[operator]


def build(config: Config) -> Model:
    """The model without weights; call it under `torch.device("meta")` to allocate nothing."""
    return compose(config, _built(config.encoder), _built(config.decoder))


def compose(config: Config, encoder: Model, decoder: Model) -> Model:
    """The model around parts of two models, which it takes as they are, and a new adapter.

    Raises:
        InputError: a model does not have the part that is wanted.
    """
    _require_parts(config, encoder, decoder)
    name = config.modality
    heard, front = encoder.encoders[name], {k: v for k, v in encoder.front.items() if k == name}
    own = dict(encoder.adapters.items()).get(name)
    width = getattr(own, "width", None) or width_of(heard)  # one that says nothing keeps the encoder's
    writer = decoder.require_decoder()
    adapter = adapters.build(config.adapter.kind, config.adapter.numbers, width, writer.width)
    if own is not None:
        adapter = adapters.Chain(own, adapter)
    if front and (window := encoder.window(name)).padded:
        front[name] = PaddedFront(front[name], window.frames, encoder.inputs[name])
        heard = WindowEncoder(heard, window.seconds)
    return Model(front=front, encoders={name: heard}, adapters={name: adapter}, decoder=writer)


def width_of(encoder: nn.Module) -> int:
    """D of what an encoder gives: its `width`, else that of its last norm, `ln`."""
    width = getattr(encoder, "width", None)
    if width is None:
        shape = getattr(getattr(encoder, "ln", None), "normalized_shape", None)
        width = shape[0] if shape else None
    if not isinstance(width, int):
        raise InputError(f"expected an encoder that states its width, got {type(encoder).__name__}: give it `width`")
    return width


def _require_parts(config: Config, encoder: Model, decoder: Model) -> None:
    if not encoder.encoders:
        raise InputError(
            f"expected a model with an encoder, got one of the family {config.encoder.family}, which only writes: "
            "name it as the decoder, and as the encoder one for speech or text, such as whisper-base"
        )
    if config.modality not in encoder.encoders:
        known = list(encoder.encoders)
        raise InputError(
            f"expected a modality that the encoder model has, {', '.join(known)}, got {config.modality!r}."
            f"{nearest(config.modality, known)}"
        )
    if decoder.decoder is None:
        raise InputError(
            f"expected a model that writes text as the decoder, got one of the family {config.decoder.family}, which "
            "only encodes: name it as the encoder, and as the decoder one that writes, such as nllb-200-distilled-600m"
        )


def _built(part: Part) -> Model:
    family = import_family(part.family)
    return family.build(family.Config(**part.config))


def tokenizer(file: Path, config: Config) -> Any:
    """The tokenizer of the decoder's family."""
    family = import_family(config.decoder.family)
    return None if family.tokenizer is None else family.tokenizer(file, family.Config(**config.decoder.config))
