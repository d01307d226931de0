"""Fingerspelling: letters of manual alphabets from the points of two hands, by causal convolutions and CTC.

The encoder looks only back, so that a word is read while it is spelled; how late it writes a letter it learns itself.

Letters: B rows, T frames, H hands (left, right), J points of a hand, C coordinates, D width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmx.clip import EXTRACTOR
from mmx.model import Model
from mmx.nn.adapters import gather_windows, new_wait
from mmx.nn.ctc import NAME, CTCHead
from mmx.seq import Seq
from mmx.state import State, tensor
from mmx.text import character_tokenizer
from mmx.text.translation_tokenizer import TranslationTokenizer
from mmx.weights.convert import Rule

MODEL_TYPES = ()
KEYS: Mapping[str, Sequence[Rule]] = {}
RATE = 25.0
POINTS = 21
WRIST, MIDDLE = 0, 9
"""Points of a hand as MediaPipe numbers them: the wrist, and where the middle finger begins."""
FARTHEST = 6.0
"""Palms from the wrist, past which a point is wrong."""
LEFT = 1.5
KERNEL = 3
SCALE = 10.0
"""Of the scores of a language's letters, so that they are learned soon."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Numbers of the model: tokens (letters and languages), width, frames between those that each layer sees, layers of
    the head, the share of the rows in training that are not told their language, and what found the points."""

    vocab: int = 200
    width: int = 192
    dilations: Sequence[int] = (1, 1, 2, 4, 8, 1)
    dropout: float = 0.1
    head_layers: int = 0
    forget: float = 0.2
    extractor: str = EXTRACTOR


class HandFront(nn.Module):
    """Points of two hands `(B, T, 42, 3)` to features `(B, T, 130)` that know no place, size or distance.

    Each hand is seen from its wrist, in palms: the mean length, so far, of wrist to middle finger of the hands that
    were found. Added are which hands are there, how each wrist moves, and where the wrists are to each other. A hand
    whose points are all zero was not found.

    Who spells with the left hand is seen in a mirror: wherever the left hand was found in more than `LEFT` times as
    many frames so far as the right one.
    """

    medium, rate, shape = "pose", RATE, (2 * POINTS, 3)
    points = tuple(f"{side}_HAND_LANDMARKS" for side in ("LEFT", "RIGHT"))
    stride, lookahead = 1, 0
    width = 2 * (POINTS - 1) * 3 + 2 + 4 + 2

    def __init__(self, extractor: str = EXTRACTOR):
        super().__init__()
        self.extractor = extractor

    def init_state(self, batch: int, capacity: int = 0) -> State:
        """Palms so far, and the last frame's wrists."""
        sums = {name: torch.zeros(batch, dtype=torch.float64) for name in ("palms", "hands")}
        return {
            **sums,
            "found": torch.zeros(batch, 2),
            "wrist": torch.zeros(batch, 2, 2),
            "present": torch.zeros(batch, 2),
        }

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        """See above."""
        state = self.init_state(len(seq.x)) if state is None else state
        x_BTHJC = seq.masked.float().unflatten(2, (2, POINTS))
        present_BTH = (x_BTHJC != 0).flatten(3).any(-1).float()
        wrist_BTHC = x_BTHJC[..., WRIST, :2]
        hand_BTHJC = (x_BTHJC - x_BTHJC[..., :1, :]) * present_BTH[..., None, None]
        palm_BT = self._palm(hand_BTHJC, present_BTH, state)
        moved_BTHC, apart_BTC = self._wrists(wrist_BTHC, present_BTH, seq, state)
        is_left_BT1 = self._is_left(present_BTH, state)[..., None]
        hand_BTHJC, moved_BTHC = _seen(hand_BTHJC, is_left_BT1), _seen(moved_BTHC, is_left_BT1)
        apart_BTC = torch.where(is_left_BT1, apart_BTC * apart_BTC.new_tensor([1.0, -1.0]), apart_BTC)
        present_BTH = torch.where(is_left_BT1, present_BTH.flip(2), present_BTH)
        size_BT11 = palm_BT[..., None, None]
        shapes = (hand_BTHJC[..., 1:, :] / size_BT11[..., None]).clamp(-FARTHEST, FARTHEST).flatten(2)
        moves = (moved_BTHC / size_BT11).clamp(-2, 2).flatten(2)
        apart = (apart_BTC / palm_BT[..., None]).clamp(-FARTHEST, FARTHEST) * 0.3
        out = torch.cat([shapes, present_BTH, moves, apart], -1)
        return seq._replace(x=out * seq.mask[..., None])

    @staticmethod
    def _is_left(present_BTH: Tensor, state: State) -> Tensor:
        """`(B, T)` whether the left hand spells, as far as is known by then."""
        found_BTH = tensor(state, "found")[:, None] + present_BTH.cumsum(1)
        if found_BTH.shape[1]:
            state["found"] = found_BTH[:, -1]
        return found_BTH[..., 0] > LEFT * found_BTH[..., 1]

    @staticmethod
    def _palm(hand_BTHJC: Tensor, present_BTH: Tensor, state: State) -> Tensor:
        """`(B, T)` mean length so far; 1 before a hand was found."""
        length_BTH = hand_BTHJC[..., MIDDLE, :].norm(dim=-1).double()
        palms_BT = tensor(state, "palms")[:, None] + (length_BTH * present_BTH).sum(-1).cumsum(1)
        hands_BT = tensor(state, "hands")[:, None] + present_BTH.double().sum(-1).cumsum(1)
        if palms_BT.shape[1]:
            state["palms"], state["hands"] = palms_BT[:, -1], hands_BT[:, -1]
        mean_BT = palms_BT / hands_BT.clamp(min=1)
        return torch.where(mean_BT > 0, mean_BT, 1.0).float()

    @staticmethod
    def _wrists(wrist_BTHC: Tensor, present_BTH: Tensor, seq: Seq, state: State) -> tuple[Tensor, Tensor]:
        """How far each wrist moved since the last frame, and from the right to the left one."""
        wrists = torch.cat([tensor(state, "wrist")[:, None], wrist_BTHC], 1)
        there = torch.cat([tensor(state, "present")[:, None], present_BTH], 1)
        both_BTH = (there[:, 1:] * there[:, :-1])[..., None]
        row, last = torch.arange(len(wrists), device=wrists.device), seq.lengths.to(wrists.device)
        state["wrist"], state["present"] = wrists[row, last], there[row, last]
        apart_BTC = (wrist_BTHC[:, :, 0] - wrist_BTHC[:, :, 1]) * present_BTH.prod(-1, keepdim=True)
        return (wrists[:, 1:] - wrists[:, :-1]) * both_BTH, apart_BTC


def _seen(hands_BTH: Tensor, is_left_BT1: Tensor) -> Tensor:
    """Hands `(B, T, H, ..., C)` in a mirror where the left one spells: the two change places, and x its sign."""
    mirrored = torch.cat([-hands_BTH[..., :1], hands_BTH[..., 1:]], -1).flip(2)
    return torch.where(is_left_BT1.view(*is_left_BT1.shape[:2], *[1] * (hands_BTH.dim() - 2)), mirrored, hands_BTH)


class ConvBlock(nn.Module):
    """A dilated convolution that looks only back, beside what it is added to."""

    stride, lookahead = 1, 0

    def __init__(self, width: int, dilation: int, dropout: float):
        super().__init__()
        self.reach = (KERNEL - 1) * dilation
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(dropout)
        self.conv, self.out = nn.Conv1d(width, width, KERNEL, dilation=dilation), nn.Linear(width, width)

    def init_state(self, batch: int, capacity: int = 0) -> State:
        """Zeros stand before the first frame."""
        return new_wait(batch, self.reach, self.reach + 1, self.norm.weight)

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        """`(B, T, D)` to the same."""
        normed = seq._replace(x=self.norm(seq.x))
        made = gather_windows(normed, self.init_state(len(seq.x)) if state is None else state, self.reach + 1, 1)
        if not made.x.shape[1]:
            return seq
        h_BTD = F.gelu(self.conv(made.x.transpose(1, 2)).transpose(1, 2))
        return seq._replace(x=seq.x[:, : h_BTD.shape[1]] + self.dropout(self.out(h_BTD)))


class Encoder(nn.Module):
    """Features of two hands, or `width_in` others, to a memory with as many frames."""

    stride, lookahead = 1, 0

    def __init__(self, config: Config, width_in: int = HandFront.width):
        super().__init__()
        self.into = nn.Linear(width_in, config.width)
        self.blocks = nn.ModuleList(ConvBlock(config.width, d, config.dropout) for d in config.dilations)

    def init_state(self, batch: int, capacity: int = 0) -> State:
        """Of each block."""
        return {str(i): block.init_state(batch, capacity) for i, block in enumerate(self.blocks)}  # type: ignore[operator]

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        """`(B, T, F)` to `(B, T, D)`."""
        seq = seq._replace(x=F.gelu(self.into(seq.masked)))
        for i, block in enumerate(self.blocks):
            seq = block(seq, None if state is None else state[str(i)])
        return seq


class LetterHead(CTCHead):
    """A `CTCHead` with room for what differs between alphabets: a handshape is "a" in one of them and "t" in another.

    Layers that know the language, and a score of each letter in each language: most letters are not in its alphabet.
    """

    def __init__(self, width: int, vocab: int, layers: int, forget: float):
        super().__init__(width, vocab, 0, vocab, forget)
        self.letters = nn.Embedding(vocab + 1, vocab + 1)
        nn.init.zeros_(self.letters.weight)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
            for _ in range(layers)
        )

    def forward(self, x_BMD: Tensor, language_B: Tensor | None = None) -> Tensor:
        """As of `CTCHead`."""
        told_B = self.told(x_BMD, language_B)
        h_BMD = x_BMD + self.language(told_B)[:, None]
        for layer in self.layers:
            h_BMD = h_BMD + layer(h_BMD)
        return self.scores(h_BMD) + SCALE * self.letters(told_B)[:, None]


def build(config: Config) -> Model:
    """The model with random weights."""
    c = config
    head = (
        LetterHead(c.width, c.vocab, c.head_layers, c.forget)
        if c.head_layers
        else CTCHead(c.width, c.vocab, 0, c.vocab, c.forget)
    )
    return Model(front={"signs": HandFront(c.extractor)}, encoders={"signs": Encoder(config)}, heads={NAME: head})


def tokenizer(file: Path, config: Config) -> TranslationTokenizer:
    """The letters of all alphabets."""
    return character_tokenizer.from_file(file, config.vocab)
