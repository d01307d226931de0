"""Any encoder with any decoder: parts of two families around an adapter of `mmx.adapters`.

The families build their whole models, of which the parts are taken; on the meta device the rest costs nothing.

Letters: B rows, N samples, T frames, M memory frames, D width.
"""

import importlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch.nn.functional as F
from torch import nn

from mmx import adapters
from mmx.errors import InputError, nearest
from mmx.model import Model
from mmx.seq import Seq
from mmx.state import State

MODEL_TYPES = ()
"""None of Hugging Face's."""

RATE = 16_000


@dataclass(frozen=True, kw_only=True)
class Part:
    """A model of which a part is taken: its family and the numbers of the family's `Config`."""

    family: str
    config: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """An adapter: its kind and the numbers that `mmx.adapters.build` takes."""

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
        front: waveform to features.
        samples: of the window.
    """

    lookahead = math.inf

    def __init__(self, front: nn.Module, samples: int):
        super().__init__()
        self.front, self.samples, self.stride = front, samples, front.stride

    def init_state(self, batch: int, capacity: int = 0) -> State:
        """Nothing is remembered."""
        return {}

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        """`(B, N)` samples to the features of the whole window `(B, T, F)`, and lengths of what was sound."""
        if seq.x.shape[1] > self.samples:
            raise ValueError(f"expected at most {self.samples} samples, got {seq.x.shape[1]}: cut into windows")
        x_BN = F.pad(seq.masked, (0, self.samples - seq.x.shape[1]))
        made = self.front(seq._replace(x=x_BN, lengths=(seq.lengths * 0) + self.samples))
        return made._replace(lengths=-(-seq.lengths // self.stride))  # type: ignore[operator]


class WindowEncoder(nn.Module):
    """An encoder of windows of one length (Whisper's): it hears the silence too, and the memory is of the sound alone.

    So neither the adapter nor the decoder works on silence, and what a row gives does not depend on its neighbours.

    Args:
        encoder: has `ctx`, the memory frames of a window.
        window_s: seconds of the window.
    """

    lookahead = math.inf

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
    width = getattr(own, "width", width_of(heard))  # one that says nothing keeps the encoder's
    adapter = adapters.build(config.adapter.kind, config.adapter.numbers, width, decoder.decoder.token.embedding_dim)
    if own is not None:
        adapter = adapters.Chain(own, adapter)
    if front and hasattr(heard, "ctx"):
        samples = int(heard.ctx * heard.stride * front[name].stride)  # type: ignore[operator]
        front[name], heard = PaddedFront(front[name], samples), WindowEncoder(heard, samples / RATE)
    return Model(front=front, encoders={name: heard}, adapters={name: adapter}, decoder=decoder.decoder)


def width_of(encoder: nn.Module) -> int:
    """D of what an encoder gives: its `width`, else that of its last norm, `ln`."""
    width = getattr(encoder, "width", None)
    if width is None:
        shape = getattr(getattr(encoder, "ln", None), "normalized_shape", None)
        width = shape[0] if shape else None
    if not isinstance(width, int):
        raise InputError(f"expected an encoder that says its width, got {type(encoder).__name__}: give it `width`")
    return width


def _require_parts(config: Config, encoder: Model, decoder: Model) -> None:
    if not encoder.encoders:
        raise InputError(
            f"expected a model with an encoder, got one of the family {config.encoder.family}, which only writes: "
            "name it as the decoder, and as the encoder one that hears or reads, such as whisper-base"
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
    family = _family(part)
    return family.build(family.Config(**part.config))


def _family(part: Part) -> ModuleType:
    known = sorted(p.stem for p in Path(__file__).parent.glob("*.py"))
    if part.family not in known:
        raise InputError(
            f"expected a family among {', '.join(known)}, got {part.family!r}.{nearest(part.family, known)}"
        )
    return importlib.import_module(f"mmx.models.{part.family}")


def tokenizer(file: Path, config: Config) -> Any:
    """The tokenizer of the decoder's family."""
    family = _family(config.decoder)
    return family.tokenizer(file, family.Config(**config.decoder.config))
