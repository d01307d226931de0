"""`Model`: the one concrete class; every task is a composition of the parts it holds."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from mmx.errors import InputError
from mmx.seq import Seq

if TYPE_CHECKING:
    from mmx.card import Card
    from mmx.media import Source
    from mmx.result import Transcript
    from mmx.translate import Translation

Stage = Literal["front", "encoders", "adapters", "fuse"]
"""What an input passes on its way to the decoder, in order."""


class Model(nn.Module):
    """Encoders by modality plug into one decoder.

    Attributes:
        front: feature extractor of each modality (waveform to log-mels, frames to crops).
        encoders: encoder of each modality.
        adapters: what fits an encoder's output to the decoder, where they differ.
        fuse: joins the memories of several modalities; needed only when more than one is given at once.
        decoder: see `mmx.block.Decoder`; None in a model that only encodes.
        synth: speaks what the decoder wrote.
        tokenizer: text to tokens and back.
        card: where the model came from.
    """

    decoder: Any  # a `Decoder` that is also an nn.Module; families add what their verbs need (`ctx`, `cross_weights`)

    def __init__(
        self,
        *,
        front: Mapping[str, nn.Module],
        encoders: Mapping[str, nn.Module],
        decoder: nn.Module | None = None,
        adapters: Mapping[str, nn.Module] | None = None,
        fuse: nn.Module | None = None,
        synth: nn.Module | None = None,
    ):
        super().__init__()
        self.front = nn.ModuleDict(front)
        self.encoders = nn.ModuleDict(encoders)
        self.adapters = nn.ModuleDict(adapters or {})
        self.fuse, self.decoder, self.synth = fuse, decoder, synth
        self.tokenizer: Any = None
        self.card: Card | None = None

    @property
    def name(self) -> str:
        """The card's name."""
        part = next(iter(self.encoders.values())) if self.decoder is None else self.decoder
        return self.card.name if self.card else type(part).__module__.rpartition(".")[2]

    def stages(self, modality: str) -> tuple[Any, Any]:
        """The front end and the encoder of a modality, with whatever attributes their family gives them."""
        return self.front[modality], self.encoders[modality]

    def memory(self, inputs: Mapping[str, Seq], begin: Stage = "front") -> Seq:
        """Encode inputs by modality to what the decoder reads, `(B, M, D)`.

        Args:
            inputs: raw (`{"speech": Seq (B, N)}`), or what a stage made of them.
            begin: the first stage that they have yet to pass: with "encoders" they are features.

        Returns:
            The memory in the decoder's precision; see `for_decoder`.
        """
        unknown = inputs.keys() - self.encoders.keys()
        if unknown or not inputs:
            raise InputError(f"expected inputs among {sorted(self.encoders)}, got {sorted(inputs)}")
        memories = {name: self.encode(name, seq, begin) for name, seq in inputs.items()}
        if len(memories) == 1:
            return self.for_decoder(next(iter(memories.values())))
        if self.fuse is None:
            raise InputError(f"expected one modality, got {sorted(inputs)}: this model has no part that fuses them")
        return self.for_decoder(self.fuse(memories))

    def for_decoder(self, memory: Seq) -> Seq:
        """A memory in the decoder's precision, which may be another than the encoder's (see `mmx.api.Precision`)."""
        weights = () if self.decoder is None else self.decoder.parameters()
        dtype = next((w.dtype for w in weights if w.is_floating_point()), memory.x.dtype)
        return memory.to(dtype)

    def encode(self, modality: str, seq: Seq, begin: Stage = "front", end: Stage = "fuse") -> Seq:
        """The input of one modality through its stages from `begin` to the one before `end`."""
        names = get_args(Stage)
        for name in names[names.index(begin) : names.index(end)]:
            stage = getattr(self, name)
            if modality in stage:
                seq = stage[modality](seq)
        return seq

    def forward(self, inputs: Mapping[str, Seq], tokens: Tensor) -> Tensor:
        """Logits `(B, U, V)` of the next token after each of `tokens` `(B, U)`."""
        self.require_decoder()
        return self.decoder(tokens, self.memory(inputs))

    def require_decoder(self) -> None:
        """Raise `InputError` in a model that only encodes."""
        if self.decoder is None:
            raise InputError(f"expected a model that writes text, got {self.name}, which has no decoder: use `embed`")

    def embed(self, inputs: Mapping[str, Seq]) -> Tensor:
        """Unit vectors `(B, D)`: the mean of the memory's valid frames."""
        memory = self.memory(inputs)
        return F.normalize(memory.masked.sum(1) / memory.lengths.clamp(min=1)[:, None], dim=-1)

    def transcribe(self, source: "Source", **options: Any) -> "Transcript":
        """The text of a recording; the options are those of `mmx.transcribe.Options`."""
        from mmx.transcribe import Options, transcribe

        return next(iter(transcribe(self, [source], Options(**options))))

    def transcribe_many(self, sources: "list[Source]", **options: Any) -> "Iterator[Transcript]":
        """Transcripts of several recordings, in order, decoded in batches across them."""
        from mmx.transcribe import Options, transcribe

        return transcribe(self, sources, Options(**options))

    def translate_text(self, texts: "Sequence[str]", *, src: str, to: str, **options: Any) -> "list[Translation]":
        """Texts in another language; the options are those of `mmx.translate.translate_text`."""
        from mmx.translate import translate_text

        return translate_text(self, texts, src=src, to=to, **options)
