"""A signer's hands, mouth and body to text: an expert for each, fused frame by frame, any of them absent; and CTC.

| expert | reads | of |
|---|---|---|
| `spelling` | poses: the points of two hands | `mmx.models.fingerspelling`, whose shipped weights it takes |
| `signing` | poses: body and hands | the points of `mmx.models.gfslt` |
| `mouthing` | features: numbers of a mouth in each frame, all zero where it is not seen | such as blend shapes |

A model of one expert is trained alone; `init_encoders` of a recipe begins another with it (`mmx train --help`). All
look only back, at 25 frames a second.

Letters: B rows, T frames, F features, D width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import nn

from mmx.clip import EXTRACTOR
from mmx.model import Model
from mmx.models import fingerspelling
from mmx.models.gfslt.front import Features, Points
from mmx.nn.ctc import NAME, CTCHead
from mmx.nn.experts import Experts
from mmx.text import character_tokenizer
from mmx.text.translation_tokenizer import TranslationTokenizer
from mmx.weights.convert import Rule

MODEL_TYPES = ()
KEYS: Mapping[str, Sequence[Rule]] = {}
RATE = 25.0
Expert = Literal["spelling", "signing", "mouthing"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Numbers of the model.

    Attributes:
        vocab: letters and languages.
        experts: which there are.
        mouth: numbers of a mouth in each frame.
        width: D, of each expert and of the memory.
        dilations: frames between those that each layer of an expert sees.
        joined: the same of the layers behind the fusion.
        dropout: in the layers.
        drop: share of the rows in training that lose some of their experts.
        forget: share of the rows in training that are not told their language.
        extractor: what found the points.
    """

    vocab: int = 200
    experts: Sequence[Expert] = ("spelling", "mouthing")
    mouth: int = 7
    width: int = 192
    dilations: Sequence[int] = (1, 1, 2, 4, 8, 1)
    joined: Sequence[int] = (1, 2)
    dropout: float = 0.1
    drop: float = 0.4
    forget: float = 0.2
    extractor: str = EXTRACTOR

    def __post_init__(self) -> None:
        if not self.experts or len(set(self.experts)) != len(self.experts):
            raise ValueError(f"experts, each of them once, not {list(self.experts)}")


def build(config: Config) -> Model:
    """The model with random weights."""
    c = config
    layers = fingerspelling.Config(width=c.width, dilations=c.dilations, dropout=c.dropout)
    fronts: dict[str, tuple[nn.Module, int]] = {}
    for name in c.experts:
        if name == "spelling":
            fronts[name] = fingerspelling.HandFront(c.extractor), fingerspelling.HandFront.width
        elif name == "signing":
            fronts[name] = Points(c.extractor), Points.shape[0] * Points.shape[1]
        else:
            fronts[name] = Features(c.mouth), c.mouth
    behind = [fingerspelling.ConvBlock(c.width, d, c.dropout) for d in c.joined]
    return Model(
        front={name: front for name, (front, _) in fronts.items()},
        encoders={name: fingerspelling.Encoder(layers, width) for name, (_, width) in fronts.items()},
        fuse=Experts(dict.fromkeys(fronts, c.width), c.width, RATE, c.drop, behind),
        heads={NAME: CTCHead(c.width, c.vocab, 0, c.vocab, c.forget)},
    )


def tokenizer(file: Path, config: Config) -> TranslationTokenizer:
    """The letters of all texts."""
    return character_tokenizer.from_file(file, config.vocab)
