"""`Model`: the one concrete class; every task is a composition of the parts it holds."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from mmx.clip import SPEECH, Input
from mmx.errors import InputError
from mmx.interfaces import (
    Block,
    CroppedFront,
    Decoder,
    Front,
    Fuse,
    LandmarkFront,
    PoseFront,
    SourceTokenizer,
    Synth,
    Tokenizer,
)
from mmx.seq import Seq
from mmx.state import State, subtree

if TYPE_CHECKING:
    from mmx.weights.card import Card

Stage = Literal["front", "encoders", "adapters", "fuse"]
"""What an input passes on its way to the decoder, in order."""


Side = Literal["front", "encoder", "decoder", "synth"]
"""What a part belongs to, when a precision or a device is chosen."""


LONGEST_S = 30.0
"""Of an input at once, where the encoder does not say."""


class InputWindow(NamedTuple):
    """How a model takes one of its modalities.

    Attributes:
        frames: samples or frames of the longest input.
        padded: whether shorter ones are filled up with zeros (silence) by the caller.
        stride: samples or frames for each frame of its memory.
        seconds: of the longest input.
    """

    frames: int
    padded: bool
    stride: int
    seconds: float


class Part(NamedTuple):
    """A part of a model.

    Attributes:
        name: its attribute, with the modality after a dot where there is one for each: "encoders.speech".
        module: the part.
        side: what it belongs to.
    """

    name: str
    module: nn.Module
    side: Side


class Model(nn.Module):
    """Encoders by modality plug into one decoder.

    As a whole, from inputs by modality to the memory, it is a block: `init_state` and `memory(inputs, state)` stream
    wherever each part does.

    Attributes:
        front: feature extractor of each modality (waveform to log-mels, frames to crops).
        encoders: encoder of each modality.
        adapters: what fits an encoder's output to the decoder, where they differ.
        fuse: makes one memory of those of all modalities. Where a model has one it always runs, also with a single
            modality: what is absent (dropped in training, a face that is lost) is its business.
        heads: projects the pooled memory `(B, D)` of a modality to the space that `embed` compares in.
        decoder: writes text; None in a model that only encodes.
        synth: says text aloud.
        tokenizer: text to tokens and back, of a model that writes, reads or says text.
        card: where the model came from.
    """

    if TYPE_CHECKING:  # verbs are tasks, which stand above the model: `mmx.api` gives them to every model
        from mmx.api import speak_text as speak
        from mmx.api import stream_speech, transcribe, transcribe_many, translate_text

    def __init__(
        self,
        *,
        front: Mapping[str, nn.Module],
        encoders: Mapping[str, nn.Module],
        decoder: Decoder | None = None,
        adapters: Mapping[str, nn.Module] | None = None,
        fuse: nn.Module | None = None,
        heads: Mapping[str, nn.Module] | None = None,
        synth: Synth | None = None,
    ):
        super().__init__()
        self.front = nn.ModuleDict(front)
        self.encoders = nn.ModuleDict(encoders)
        self.adapters = nn.ModuleDict(adapters or {})
        self.heads = nn.ModuleDict(heads or {})
        self.fuse, self.decoder, self.synth = fuse, decoder, synth
        self.tokenizer: Tokenizer | None = None
        self.card: Card | None = None

    @property
    def name(self) -> str:
        """The card's name."""
        if self.card:
            return self.card.name
        part = next(p.module for p in self.parts() if p.side != "front") if self.decoder is None else self.decoder
        return type(part).__module__.rpartition(".")[2]

    @property
    def inputs(self) -> dict[str, Input]:
        """What each modality reads, as its front end (without one, its encoder) says by `medium`, `rate` and `shape`.

        Where neither says it, speech is sound at 16 kHz, and text is text.

        Raises:
            InputError: a modality of which nobody says it.
        """
        fronts = dict(self.front.items())
        return {name: _input(name, fronts.get(name, part)) for name, part in self.encoders.items()}

    @property
    def recorded(self) -> dict[str, Input]:
        """What is read of a recording: all but text where modalities are fused, else speech or the first of them."""
        recorded = {name: what for name, what in self.inputs.items() if what.medium != "text"}
        if self.fuse is not None or not recorded:
            return recorded
        name = SPEECH if SPEECH in recorded else next(iter(recorded))
        return {name: recorded[name]}

    def stages(self, modality: str) -> tuple[Block, Block]:
        """The front end and the encoder of a modality."""
        return self.front[modality], self.encoders[modality]  # type: ignore[return-value]

    def window(self, modality: str) -> InputWindow:
        """How the model takes a modality that is recorded.

        An encoder that was trained on windows of one length says `whole_windows = True` and has their `ctx`, in frames
        of its memory. One that prefers shorter inputs than `LONGEST_S` has `window_s`; with both, it fills them up
        itself.
        """
        rate, encoder = float(self.inputs[modality].rate or 1), self.encoders[modality]
        front = dict(self.front.items()).get(modality)
        stride = int(getattr(front, "stride", 1) or 1) * int(getattr(encoder, "stride", 1) or 1)  # type: ignore[arg-type]
        own_s: float | None = getattr(encoder, "window_s", None)  # type: ignore[assignment]
        if getattr(encoder, "whole_windows", False) and own_s is None:
            frames = int(encoder.ctx) * stride  # type: ignore[arg-type]
            return InputWindow(frames, True, stride, frames / rate)
        longest_s = LONGEST_S if own_s is None else own_s
        return InputWindow(round(longest_s * rate), False, stride, longest_s)

    def parts(self) -> Iterator[Part]:
        """Every part, in the order that an input passes them: the one list of what a model consists of."""
        for stage in get_args(Stage)[:-1]:
            for modality, module in getattr(self, stage).items():
                yield Part(f"{stage}.{modality}", module, "front" if stage == "front" else "encoder")
        for modality, module in self.heads.items():
            yield Part(f"heads.{modality}", module, "encoder")
        sides: dict[str, Side] = {"fuse": "encoder", "decoder": "decoder", "synth": "synth"}
        for name, side in sides.items():
            if (module := getattr(self, name)) is not None:
                yield Part(name, module, side)

    def init_state(self, batch: int, capacity: int) -> State:
        """The state of `batch` streams from inputs to the memory, by part ("encoders/speech"): those that remember.

        `capacity` is in frames of the input.
        """
        out: State = {}
        for name, module, _ in self.parts():
            if name.partition(".")[0] in get_args(Stage):
                if not isinstance(module, Block | Fuse):
                    raise TypeError(f"expected {name} to be a `Block` or a `Fuse`, got {type(module).__name__}")
                if own := module.init_state(batch, capacity):
                    out[name.replace(".", "/")] = own  # a dot would be another level to `mmx.state.save`
        return out

    def memory(self, inputs: Mapping[str, Seq], begin: Stage = "front", state: State | None = None) -> Seq:
        """Encode inputs by modality to what the decoder reads, `(B, M, D)`.

        Args:
            inputs: raw (`{"speech": Seq (B, N)}`), or what a stage made of them.
            begin: the first stage that they have yet to pass: with "encoders" they are features.
            state: of `init_state`, which goes on with each call; None takes the inputs as whole. Each call gives the
                same modalities, those that have nothing new as frames of length 0.

        Returns:
            The memory in the decoder's precision; see `for_decoder`.
        """
        unknown = inputs.keys() - self.encoders.keys()
        if unknown or not inputs:
            raise InputError(f"expected inputs among {sorted(self.encoders)}, got {sorted(inputs)}")
        memories = {name: self.encode(name, seq, begin, state=state) for name, seq in inputs.items()}
        if self.fuse is not None:
            return self.for_decoder(_advanced(self.fuse, "fuse", memories, state))
        if len(memories) > 1:
            raise InputError(f"expected one modality, got {sorted(inputs)}: this model has no part that fuses them")
        return self.for_decoder(next(iter(memories.values())))

    def for_decoder(self, memory: Seq) -> Seq:
        """A memory in the decoder's precision, which may be another than the encoder's (see `mmx.api.Precision`)."""
        return memory if self.decoder is None else memory.to(self.decoder.dtype)

    def encode(
        self, modality: str, seq: Seq, begin: Stage = "front", end: Stage = "fuse", state: State | None = None
    ) -> Seq:
        """The input of one modality through its stages from `begin` to the one before `end`.

        Each stage after the front end gets it in the precision of its own weights: a family need not cast.
        """
        names = get_args(Stage)
        for name in names[names.index(begin) : names.index(end)]:
            stage = getattr(self, name)
            if modality in stage:
                seq = seq if name == "front" else _narrowed(seq, stage[modality])
                seq = _advanced(stage[modality], f"{name}/{modality}", seq, state)
        return seq

    def forward(self, inputs: Mapping[str, Seq], tokens: Tensor) -> Tensor:
        """Logits `(B, U, V)` of the next token after each of `tokens` `(B, U)`."""
        return self.require_decoder().forward(tokens, self.memory(inputs))

    def require_decoder(self) -> Decoder:
        """The decoder. Raises `InputError` in a model that only encodes."""
        if self.decoder is None:
            raise InputError(f"expected a model that writes text, got {self.name}, which has no decoder: use `embed`")
        return self.decoder

    def require_tokenizer(self) -> Tokenizer:
        """The tokenizer. Raises `InputError` in a model that has none."""
        if self.tokenizer is None:
            raise InputError(f"expected a model with a tokenizer, got {self.name}: put its file next to the weights")
        return self.tokenizer

    def require_source_tokenizer(self) -> SourceTokenizer:
        """The tokenizer of a model that reads text. Raises `InputError` in one that does not."""
        if "text" not in self.encoders or not isinstance(self.tokenizer, SourceTokenizer):
            raise InputError(f"expected a model that translates text, got {self.name}: choose one of `mmx models`")
        return self.tokenizer

    def require_synth(self) -> Synth:
        """The synth. Raises `InputError` in a model that does not speak."""
        if self.synth is None:
            raise InputError(f"expected a model with a voice, got {self.name}: choose one of `mmx models`")
        return self.synth

    def embed(self, inputs: Mapping[str, Seq], begin: Stage = "front") -> Tensor:
        """Unit vectors `(B, D)`: the mean of the memory's valid frames, through the modality's head where it has one.

        Several modalities that are fused share the head "fuse". The arguments are those of `memory`.
        """
        memory = self.memory(inputs, begin)
        mean_BD = memory.masked.sum(1) / memory.lengths.clamp(min=1)[:, None]
        head = next(iter(inputs)) if len(inputs) == 1 else "fuse"
        return F.normalize(self.heads[head](mean_BD) if head in self.heads else mean_BD, dim=-1)

    def embed_each(self, inputs: Mapping[str, Seq], begin: Stage = "front") -> Seq:
        """The memory's frames `(B, M, D)` in the space of `embed`: each through the head that their mean passes."""
        memory = self.memory(inputs, begin)
        head = next(iter(inputs)) if len(inputs) == 1 else "fuse"
        return memory._replace(x=self.heads[head](memory.x)) if head in self.heads else memory


_KNOWN = {SPEECH: Input("audio", 16_000.0), "text": Input("text", None)}


def _input(modality: str, part: nn.Module) -> Input:
    if isinstance(part, Front):
        points = tuple(part.points) if isinstance(part, PoseFront) else ()
        extractor = part.extractor if isinstance(part, LandmarkFront) else ""
        shows = part.shows if isinstance(part, CroppedFront) else ""
        return Input(part.medium, part.rate, tuple(part.shape), points, extractor, shows)
    if modality not in _KNOWN:
        raise InputError(
            f"expected a front end that states what it reads, got {type(part).__name__} for {modality}: "
            "give it `medium` (audio, video, pose, features), `rate` and `shape`"
        )
    return _KNOWN[modality]


def _narrowed(seq: Seq, part: nn.Module) -> Seq:
    """Features, which a front end makes in float32, in the precision of the part that reads them; ids as they are."""
    weight = next((p for p in part.parameters() if p.is_floating_point()), None)
    if weight is None or not seq.x.is_floating_point() or seq.x.dtype == weight.dtype:
        return seq
    return seq.to(weight.dtype)


def _advanced(part: nn.Module, name: str, inputs: Seq | Mapping[str, Seq], state: State | None) -> Seq:
    """What a part makes of its inputs; one that remembers goes on from its state."""
    return part(inputs) if state is None or name not in state else part(inputs, subtree(state, name))


def tensors(module: nn.Module) -> dict[str, Tensor]:
    """What a file of weights holds: parameters and persistent buffers (BatchNorm's) by name, each tied one once."""
    passing = {f"{prefix}.{name}" if prefix else name
               for prefix, m in module.named_modules() for name in m._non_persistent_buffers_set}  # fmt: skip
    buffers = {name: value for name, value in module.named_buffers() if name not in passing}
    return {**dict(module.named_parameters()), **buffers}
