"""Toy 3: text to features of sound by flow matching, with an objective of its own.

The velocity field is trained by conditional flow matching with optimal-transport paths (Lipman et al. 2023, arXiv
2210.02747, section 4.1, example II); a few steps of Euler's method take noise to features, and a bank of sines makes
them a waveform. Every token lasts four frames of 20 ms.

Letters: B rows, T tokens, M frames, N samples, F bands, D width.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from mmx.errors import InputError
from mmx.interfaces import Losses, Sound, Speech
from mmx.model import Model
from mmx.seq import Seq
from mmx.state import State, tensor
from mmx.text import byte_tokenizer
from mmx.text.translation_tokenizer import TranslationTokenizer
from mmx.train.batch import Batch
from mmx.train.objectives.flow import FlowLoss
from mmx.weights.convert import Rule
from toys.layers import ConvNorm, Stack
from toys.lips_with_speech import HOP, energies

MODEL_TYPES = ()
KEYS: Mapping[str, Sequence[Rule]] = {}
FRAMES = 4
"""For which a token is heard."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Numbers of the model: bands of the features, width, tokens of a text, Euler's steps."""

    vocab: int = byte_tokenizer.LANGUAGES + 1
    bands: int = 8
    width: int = 32
    ctx: int = 64
    steps: int = 8


class TextEncoder(nn.Module):
    """Embedding and two convolutions with batch norm: `(B, T)` tokens to `(B, T, D)`."""

    stride, lookahead = 1, 0

    def __init__(self, vocab: int, width: int, ctx: int):
        super().__init__()
        self.ctx = ctx
        self.token = nn.Embedding(vocab, width)
        self.layers = Stack(ConvNorm(width, width, 1), ConvNorm(width, width, 1))

    def init_state(self, batch: int, capacity: int = 0) -> State:
        """Of the convolutions."""
        return self.layers.init_state(batch, capacity)

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        """See above."""
        tokens_BT = seq.masked
        return self.layers(seq._replace(x=self.token(tokens_BT)), state)


class FlowSynth(nn.Module):
    """A velocity field over features `(B, M, F)` and what makes them sound; an `mmx.interfaces.Synth` that streams.

    Attributes:
        rate: samples a second.
        medium: what it makes.
    """

    rate, medium = 16_000.0, "audio"
    reads: Literal["text", "encoder", "decoder"] = "encoder"
    lookahead = 0

    def __init__(self, bands: int, width: int, steps: int, ctx: int = 64):
        super().__init__()
        noise_MF = torch.randn(ctx * FRAMES, bands, generator=torch.Generator().manual_seed(0), device="cpu")
        self.register_buffer("noise", noise_MF, persistent=False)
        self.noise: Tensor
        self.bands, self.steps, self.width = bands, steps, width
        self.noisy, self.memory, self.time = nn.Linear(bands, width), nn.Linear(width, width), nn.Linear(16, width)
        self.hidden = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))
        self.out = nn.Linear(width, bands)

    def voices(self, language: str) -> Sequence[str]:
        """One."""
        if language != "eng_Latn":
            raise InputError(f"expected eng_Latn, got {language!r}")
        return ("sines",)

    def init_state(self, batch: int, capacity: int) -> State:
        """How many tokens were said."""
        return {"said": torch.zeros(batch, dtype=torch.int64)}

    @torch.no_grad()
    def speak(self, speech: Speech, state: State | None = None) -> Sound:
        """See `mmx.interfaces.Synth`; every token is said at once."""
        memory = speech.encoded
        assert memory is not None, "it reads what the encoder made"
        state = self.init_state(len(memory.x), 0) if state is None else state
        said_B = tensor(state, "said")
        at_BM = said_B[:, None] * FRAMES + torch.arange(memory.x.shape[1] * FRAMES, device=memory.x.device)
        state["said"] = said_B + memory.lengths
        wave = self.sound(self.draw(memory, self.noise[at_BM.clamp(max=len(self.noise) - 1)]))
        return Sound(wave._replace(x=wave.x.clamp(-1, 1), final=speech.final))

    def stream(self, speech: Speech, block_s: float) -> Iterator[Sound]:
        """As many tokens at a time as fill a block."""
        memory = speech.encoded
        assert memory is not None and len(memory.x) == 1, "it streams one text that the encoder has read"
        n, state = max(1, round(block_s * self.rate / (FRAMES * HOP))), self.init_state(1, 0)
        ends = range(n, int(memory.lengths[0]) + n, n)
        for end in ends:
            piece_BTD = memory.x[:, end - n : min(end, int(memory.lengths[0]))]
            encoded = Seq(piece_BTD, torch.tensor([piece_BTD.shape[1]]), memory.rate)
            yield self.speak(replace(speech, encoded=encoded, final=end == ends[-1]), state)

    def features(self, wave: Seq) -> Seq:
        """A waveform `(B, N)` to what the field is over, `(B, M, F)`."""
        n = wave.x.shape[1] // HOP * HOP
        lengths = wave.lengths // HOP
        frames_BMN = wave.masked[:, :n].unflatten(1, (-1, HOP))
        return Seq(energies(frames_BMN, self.bands), lengths, self.rate / HOP)

    def condition(self, memory: Seq) -> Seq:
        """The memory at the features' rate: each token's frames."""
        return Seq(memory.x.repeat_interleave(FRAMES, 1), memory.lengths * FRAMES, self.rate / HOP)

    def velocity(self, x_BMF: Tensor, time_B: Tensor, condition: Seq) -> Tensor:
        """`(B, M, F)` where points of the paths go at a time in [0, 1]."""
        waves = time_B[:, None] * torch.arange(1, 9, device=time_B.device)
        clock_B1D = self.time(torch.cat([waves.sin(), waves.cos()], 1))[:, None]
        h = self.noisy(x_BMF) + self.memory(condition.x) + clock_B1D
        return self.out(h + self.hidden(h))

    @torch.no_grad()
    def draw(self, memory: Seq, noise_BMF: Tensor | None = None) -> Seq:
        """Features `(B, M, F)` for a memory, from the same noise each time unless some is given."""
        condition = self.condition(memory)
        x = (
            self.noise[: condition.x.shape[1]].expand_as(condition.x[..., : self.bands])
            if noise_BMF is None
            else noise_BMF
        )
        for i in range(self.steps):
            x = x + self.velocity(x, torch.full((len(x),), i / self.steps).to(x), condition) / self.steps
        return condition._replace(x=x)

    @torch.no_grad()
    def sound(self, features: Seq) -> Seq:
        """Features to a waveform `(B, N)`: a sine in the middle of each band."""
        power = 10 ** (2 * features.masked) - 1e-3
        loud = (power.clamp(min=0) * (HOP // 4 // self.bands)).sqrt() * 2 / HOP
        loud_BNF = loud.repeat_interleave(HOP, 1)
        at_N1 = torch.arange(loud_BNF.shape[1], device=loud_BNF.device)[:, None] % HOP / self.rate
        wave_BN = (loud_BNF * torch.sin(2 * torch.pi * at_N1 * self.pitches.to(at_N1))).sum(-1)
        return Seq(wave_BN, features.lengths * HOP, self.rate)

    @property
    def pitches(self) -> Tensor:
        """`(F,)` Hz of each band's sine: whole periods in a frame."""
        width = HOP // 4 // self.bands
        return (torch.arange(self.bands) * width + width // 2) * (self.rate / HOP)


class Objective(FlowLoss):
    """Flow matching, and beside it the loudness of each row: what the field at its start says of the mean feature."""

    def weights(self, counts: Mapping[str, int]) -> dict[str, float]:
        """A tenth of the loudness."""
        return {name: w * (0.1 if name == "loudness" else 1.0) for name, w in super().weights(counts).items()}

    def count(self, batch: Batch) -> dict[str, int]:
        """Rows, for both."""
        n_rows = len(batch.tasks)
        return {**super().count(batch), "loudness": n_rows}

    def __call__(self, model: Model, batch: Batch) -> Losses:
        """Flow matching's losses and one more."""
        found, synth = super().__call__(model, batch), model.synth
        assert isinstance(synth, FlowSynth)
        target = synth.features(batch.outputs["audio"])
        condition = synth.condition(model.memory(batch.inputs, batch.begin))
        start_BMF = torch.zeros(*condition.x.shape[:2], synth.bands)
        moved = synth.velocity(start_BMF, torch.zeros(len(start_BMF)), condition)
        loud_B = (mean(condition._replace(x=moved)) - mean(target)).square()
        total = {**found.total, "loudness": loud_B.sum()}
        return Losses(total, self.count(batch), {**found.figures, "loudness": loud_B.detach().sum()})


def mean(features: Seq) -> Tensor:
    """`(B,)` mean of the frames that count."""
    return features.masked.mean(2).sum(1) / features.lengths.clamp(min=1)


def build(config: Config) -> Model:
    """The model with random weights."""
    c = config
    return Model(
        front={},
        encoders={"text": TextEncoder(c.vocab, c.width, c.ctx)},
        synth=FlowSynth(c.bands, c.width, c.steps, c.ctx),
    )


def tokenizer(file: Path, config: Config) -> TranslationTokenizer:
    """Bytes."""
    return byte_tokenizer.from_file(file, config.vocab)
