"""Toy 1: points of a body at 25 frames a second to text, by convolutions with batch norm, an adapter, mmx's decoder.

Letters: B rows, T frames, J points, C coordinates, D width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from mmx.model import Model
from mmx.nn.adapters import Linear
from mmx.seq import Seq
from mmx.state import State
from mmx.text import byte_tokenizer
from mmx.text.translation_tokenizer import TranslationTokenizer
from mmx.weights.convert import Rule
from toys.layers import ConvNorm, Stack, text_decoder

MODEL_TYPES = ()
KEYS: Mapping[str, Sequence[Rule]] = {}
RATE = 25.0


@dataclass(frozen=True, kw_only=True)
class Config:
    """Numbers of the model: points and coordinates of a pose, width, and tokens of a text."""

    vocab: int = byte_tokenizer.LANGUAGES + 1
    points: int = 4
    coordinates: int = 2
    width: int = 32
    ctx: int = 64


class PoseFront(nn.Module):
    """Points `(B, T, J, C)` seen from the first one, in one row of numbers a frame: `(B, T, J * C)`."""

    medium, rate = "pose", RATE
    stride, lookahead = 1, 0

    def __init__(self, points: int, coordinates: int):
        super().__init__()
        self.shape = (points, coordinates)

    def init_state(self, batch: int, capacity: int = 0) -> State:
        """Nothing is remembered."""
        return {}

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        """See above."""
        x_BTJC = seq.masked.float()
        return seq._replace(x=(x_BTJC - x_BTJC[:, :, :1]).flatten(2))


def build(config: Config) -> Model:
    """The model with random weights."""
    c = config
    inputs = c.points * c.coordinates
    encoder = Stack(ConvNorm(inputs, c.width, 3, 1), ConvNorm(c.width, c.width, 4, 2))
    return Model(
        front={"pose": PoseFront(c.points, c.coordinates)},
        encoders={"pose": encoder},
        adapters={"pose": Linear(c.width, c.width, 2)},
        heads={"pose": nn.Linear(c.width, 16)},
        decoder=text_decoder(c.vocab, c.width, c.ctx),
    )


def tokenizer(file: Path, config: Config) -> TranslationTokenizer:
    """Bytes."""
    return byte_tokenizer.from_file(file, config.vocab)
