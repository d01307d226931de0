"""Lips and sound to text, together or either alone, with one set of weights: a small Conformer and CTC.

Both become 25 frames a second before they are fused, as in AV-HuBERT (Shi et al. 2022, arXiv 2201.02184): sound as four
log-mel frames side by side (104 numbers), pictures through convolutions. What is absent, a modality or a frame of it,
is a frame of zeros there: black pictures, or silence of exact zeros. In training rows lose one of the two (modality
dropout, section 3.2 there), and some lose the face or the sound for a while.

It streams: the lips see one frame ahead, the fused frames `ahead` more, and all else looks back.

Letters: B rows, T frames, N samples, F features, H height, W width, C channels, D width of the model, M memory frames.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmx.media.kaldi import FLOOR, Fbank
from mmx.model import Model
from mmx.nn.adapters import gather_windows, new_wait
from mmx.nn.conformer import Attention, Convolution, EncoderLayer, RelativeKey, chunk_view
from mmx.nn.ctc import NAME, CTCHead
from mmx.seq import Seq, after, concat
from mmx.state import State, subtree, tensor
from mmx.text import byte_tokenizer
from mmx.text.translation_tokenizer import TranslationTokenizer
from mmx.weights.convert import Rule

MODEL_TYPES = ()
KEYS: Mapping[str, Sequence[Rule]] = {}
RATE = 25.0
LIPS, SOUND = "lips", "speech"
MELS, STACKED = 26, 2
"""Mels of a frame of 10 ms; `Fbank` puts two side by side, and we two of these."""
LONGEST_GAP = 50
"""Frames for which a row may lose its face or its sound in training."""
LONGEST_SHIFT = 12


@dataclass(frozen=True, kw_only=True)
class Config:
    """Numbers of the model.

    Attributes:
        vocab: tokens, bytes and languages.
        pixels: of a side of the pictures that are read.
        crop: of a side of what is seen of them; in training it is shifted and mirrored by chance.
        channels: of the convolutions over pictures.
        width: D.
        layers: of the Conformer.
        heads: of its attention.
        hidden: width inside its feed-forward parts.
        kernel: frames that its convolutions see.
        left: frames back that its attention sees.
        ahead: frames that the fused ones see ahead.
        dropout: of fused frames.
        only_lips: share of the rows in training that lose the sound.
        only_sound: share that lose the lips.
        misled: share whose lips do not fit the sound: they stand still, are up to `LONGEST_SHIFT` frames early or late,
            or are of another row.
        gaps: share of the rows of which those with both lose the face or the sound, as often, for a while.
    """

    vocab: int = byte_tokenizer.LANGUAGES + 1
    pixels: int = 48
    crop: int = 40
    channels: Sequence[int] = (16, 32, 64)
    width: int = 192
    layers: int = 3
    heads: int = 4
    hidden: int = 384
    kernel: int = 11
    left: int = 50
    ahead: int = 5
    dropout: float = 0.1
    only_lips: float = 0.35
    only_sound: float = 0.2
    misled: float = 0.0
    gaps: float = 0.1


class MouthFront(nn.Module):
    """Grey pictures of a mouth `(B, T, H, W)` to the same of zero mean and unit variance each; black ones stay 0."""

    medium, rate = "video", RATE
    shows: Literal["mouth"] = "mouth"
    stride, lookahead = 1, 0

    def __init__(self, pixels: int, crop: int):
        super().__init__()
        self.shape, self.crop = (pixels, pixels), crop

    def init_state(self, batch: int, capacity: int = 0) -> State:
        """Nothing is remembered."""
        return {}

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        """See above."""
        x_BTHW = self._cropped(seq.masked.float())
        mean = x_BTHW.mean((2, 3), keepdim=True)
        spread = x_BTHW.std((2, 3), keepdim=True)
        there = x_BTHW.flatten(2).any(-1)[..., None, None]
        return seq._replace(x=torch.where(there, (x_BTHW - mean) / (spread + 4), 0.0))

    def _cropped(self, x_BTHW: Tensor) -> Tensor:
        """The middle; in training another part for each row, and half of them mirrored."""
        room = self.shape[0] - self.crop
        if not self.training:
            at = room // 2
            return x_BTHW[:, :, at : at + self.crop, at : at + self.crop]
        tops, sides = torch.randint(0, room + 1, (2, len(x_BTHW))).tolist()
        mirrored = (torch.rand(len(x_BTHW)) < 0.5).tolist()
        rows = [
            x_THW[:, top : top + self.crop, side : side + self.crop].flip(2 if flip else ())
            for x_THW, top, side, flip in zip(x_BTHW, tops, sides, mirrored, strict=True)
        ]
        return torch.stack(rows) if rows else x_BTHW[:, :, : self.crop, : self.crop]


class SoundFront(nn.Module):
    """Samples `(B, N)` at 16 kHz to four log-mel frames side by side, `(B, T, 104)` at 25 Hz, each normalized.

    Silence of exact zeros becomes 0.
    """

    medium, rate, shape = "audio", 16_000.0, ()

    def __init__(self) -> None:
        super().__init__()
        self.fbank = Fbank(MELS, normalize=False)
        self.stride, self.lookahead = self.fbank.stride * STACKED, self.fbank.lookahead
        self.width = 2 * STACKED * MELS

    def init_state(self, batch: int, capacity: int = 0) -> State:
        """Samples of incomplete frames, and frames of an incomplete stack."""
        stack = new_wait(batch, 0, STACKED, self.fbank.filters.new_zeros(2 * MELS))
        return {"fbank": self.fbank.init_state(batch), "stack": stack}

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        """See above."""
        state = self.init_state(len(seq.x)) if state is None else state
        mel = self.fbank(seq, subtree(state, "fbank"))
        mel = mel._replace(x=mel.x - math.log(FLOOR))  # so that zeros behind the end are silence
        made = gather_windows(mel, subtree(state, "stack"), STACKED, STACKED)
        if not made.x.shape[1]:
            return made._replace(x=made.x.new_zeros(len(made.x), 0, self.width))
        x_BTF = made.x.unflatten(1, (-1, STACKED)).flatten(2)
        there_BT1 = (x_BTF > 1e-3).any(-1, keepdim=True)
        return made._replace(x=torch.where(there_BT1, F.layer_norm(x_BTF, x_BTF.shape[-1:]), 0.0))


class SoundEncoder(nn.Module):
    """Two linear layers, `(B, T, 104)` to `(B, T, D)`; frames of zeros stay 0."""

    stride, lookahead = 1, 0

    def __init__(self, width_in: int, width: int):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width_in, width), nn.SiLU(), nn.Linear(width, width), nn.LayerNorm(width))

    def init_state(self, batch: int, capacity: int = 0) -> State:
        """Nothing is remembered."""
        return {}

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        """See above."""
        x_BTF = seq.masked.to(_dtype(self))
        there_BT1 = x_BTF.any(-1, keepdim=True)
        return seq._replace(x=torch.where(there_BT1, self.layers(x_BTF).to(x_BTF.dtype), 0.0))


class LipEncoder(nn.Module):
    """Convolutions with batch norm over a picture and its two neighbours, `(B, T, H, W)` to `(B, T, D)`.

    Frames whose own picture is all zeros are 0. In training the statistics are of the pictures that there are.
    """

    stride, lookahead = 1, 1

    def __init__(self, crop: int, channels: Sequence[int], width: int):
        super().__init__()
        self.crop, layers, before, side = crop, [], 3, crop
        for i, after_ in enumerate(channels):
            kernel = 5 if i == 0 else 3
            conv = nn.Conv2d(before, after_, kernel, 2, kernel // 2, bias=False)
            layers += [conv, nn.BatchNorm2d(after_), nn.ReLU()]
            before, side = after_, (side + 1) // 2
        self.convs = nn.Sequential(*layers)
        self.project = nn.Sequential(nn.Linear(before * side * side, width), nn.LayerNorm(width))

    def init_state(self, batch: int, capacity: int = 0) -> State:
        """The last two pictures; a black one stands before the first."""
        return new_wait(batch, 1, 2, torch.zeros(self.crop**2, dtype=_dtype(self), device=_device(self)))

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        """See above."""
        state = self.init_state(len(seq.x)) if state is None else state
        made = windows_ahead(seq._replace(x=seq.x.flatten(2).to(_dtype(self))), state, 1, 1)
        width = int(self.project[0].out_features)  # type: ignore[arg-type]
        n = made.x.shape[1] - 2
        if n <= 0:
            return made._replace(x=made.x.new_zeros(len(made.x), 0, width))
        three_BTCHW = torch.stack([made.x[:, i : i + n] for i in range(3)], 2).unflatten(3, (self.crop, self.crop))
        there_BT = three_BTCHW[:, :, 1].flatten(2).any(-1) & made._replace(x=three_BTCHW).mask
        pictures = three_BTCHW[there_BT].contiguous(memory_format=torch.channels_last)
        out_BTD = made.x.new_zeros(*there_BT.shape, width)
        if len(pictures):
            seen = self.project(self.convs(pictures).flatten(1)).to(out_BTD.dtype)
            out_BTD = out_BTD.masked_scatter(there_BT[..., None], seen)
        return made._replace(x=out_BTD)


def windows_ahead(seq: Seq, state: State, before: int, ahead: int) -> Seq:
    """The frames that are complete with `before` and `ahead` frames around them: zeros stand around the whole.

    `state` is of `new_wait` with `before` zeros ahead and room for `before + ahead`.

    Returns:
        `(B, T + before + ahead, D)`, or no frame where no row has a window; its lengths are those of T.
    """
    around, final = before + ahead, seq.final
    seq = concat(Seq(tensor(state, "rest"), tensor(state, "n_rest")), seq._replace(x=seq.masked))
    if final:
        behind = seq.x.new_zeros(len(seq.x), ahead, *seq.x.shape[2:])
        seq = concat(seq, seq._replace(x=behind, lengths=torch.full_like(seq.lengths, ahead)))
    made_B = (seq.lengths - around).clamp(min=0)
    rest = after(seq, made_B, around)
    state["rest"], state["n_rest"] = rest.x, rest.lengths
    n_made = int(made_B.max()) if len(made_B) else 0
    return seq._replace(x=seq.masked[:, : n_made + around if n_made else 0], lengths=made_B)


class Fusion(nn.Module):
    """Lips and sound frame by frame, a Conformer over them, and two memory frames of each, 50 a second.

    Frames of zeros, of which a modality that is not there consists, become a vector that is learned. A stream is told
    by the keys of its first call which modalities it has; it gives frames that all of them have come to. At the end,
    the rest of the longer one goes on alone.
    """

    rate = RATE

    def __init__(self, config: Config):
        super().__init__()
        c = self.config = config
        self.absent = nn.ParameterDict({name: nn.Parameter(0.02 * torch.randn(c.width)) for name in (LIPS, SOUND)})
        self.join, self.dropout = nn.Linear(2 * c.width, c.width), nn.Dropout(c.dropout)
        self.ahead_ln = nn.LayerNorm(c.width)
        self.ahead = nn.Conv1d(c.width, 2 * c.width, 1 + c.ahead)
        self.layers = nn.ModuleList(_layer(c) for _ in range(c.layers))
        self.up = nn.Linear(c.width, 2 * c.width)

    def init_state(self, batch: int, capacity: int = 0) -> State:
        """Frames that wait for the other modality or for those ahead, and what each layer looks back on."""
        c, like = self.config, self.ahead_ln.weight
        past = {"k": c.left, "v": c.left, "conv": c.kernel - 1}
        return {
            "waiting": {name: new_wait(batch, 0, 0, like) for name in (LIPS, SOUND)},
            "ahead": new_wait(batch, 0, c.ahead, like),
            "filled": torch.zeros(batch, dtype=torch.int64, device=like.device),
            "layers": {
                str(i): {key: like.new_zeros(batch, n, c.width) for key, n in past.items()} for i in range(c.layers)
            },
        }

    def forward(self, memories: Mapping[str, Seq], state: State | None = None) -> Seq:
        """By modality `(B, T, D)` to `(B, M, D)`."""
        whole = state is None
        state = self.init_state(len(next(iter(memories.values())).x)) if state is None else state
        joined = self._joined(memories, state)
        made = windows_ahead(joined, subtree(state, "ahead"), 0, self.config.ahead)
        if not made.x.shape[1]:
            return made._replace(rate=2 * RATE)
        seen_BTD = F.glu(self.ahead(made.x.transpose(1, 2)).transpose(1, 2), -1)
        seq = made._replace(x=made.x[:, : seen_BTD.shape[1]] + seen_BTD)
        past, filled_B = (0 if whole else self.config.left), tensor(state, "filled")
        view = chunk_view(seq, filled_B, past, 1, self.config.left)
        x_BTD = seq.x
        for i, layer in enumerate(self.layers):
            x_BTD = layer(x_BTD, view, None if whole else subtree(subtree(state, "layers"), str(i)))
        state["filled"] = (filled_B + seq.lengths).clamp(max=self.config.left)
        two_BMD = self.up(x_BTD).unflatten(2, (2, -1)).flatten(1, 2)
        return Seq(two_BMD, 2 * seq.lengths, 2 * RATE, seq.final)

    def _joined(self, memories: Mapping[str, Seq], state: State) -> Seq:
        """The frames that all modalities have come to, fused."""
        final = next(iter(memories.values())).final
        waiting = subtree(state, "waiting")
        parts = {name: self._arrived(memories[name], subtree(waiting, name)) for name in memories}
        counts = torch.stack([part.lengths for part in parts.values()])
        made_B = counts.amax(0) if final else counts.amin(0)
        n = int(made_B.max()) if len(made_B) else 0
        for name, part in parts.items():
            rest = after(part, made_B.minimum(part.lengths), int((part.lengths - made_B).clamp(min=0).max()))
            waiting[name] = {"rest": rest.x, "n_rest": rest.lengths}
        kept, like = self._kept(len(made_B), n), self.ahead_ln.weight
        both = []
        for name in (LIPS, SOUND):
            if name in parts:
                x_BMD = F.pad(parts[name].masked, (0, 0, 0, max(0, n - parts[name].x.shape[1])))[:, :n]
                if name == LIPS and SOUND in parts:
                    x_BMD = self._misleading(x_BMD, kept["misled"])
                x_BMD = (x_BMD * kept[name] if len(parts) == 2 else x_BMD).to(like.dtype)  # of one, all is kept
            else:
                x_BMD = like.new_zeros(len(made_B), n, len(like))
            both.append(torch.where(x_BMD.any(-1, keepdim=True), x_BMD, self.absent[name].to(like.dtype)))
        x_BMD = self.dropout(self.ahead_ln(self.join(torch.cat(both, -1))))
        return Seq(x_BMD, made_B, RATE, final)

    @staticmethod
    def _arrived(memory: Seq, wait: State) -> Seq:
        """The frames of a modality that are not given yet."""
        before = Seq(tensor(wait, "rest"), tensor(wait, "n_rest"))
        return concat(before, memory) if before.x.shape[1] else memory

    def _kept(self, n_rows: int, n_frames: int) -> dict[str, Tensor]:
        """`(B, M, 1)` by modality, 0 where it is lost: in training rows lose one, or one for a while.

        "misled": `(B,)`, rows that keep both, of which the lips are to be made wrong.
        """
        c, device = self.config, self.ahead_ln.weight.device
        lips, sound = torch.ones(2, n_rows, n_frames, 1, device=device)
        misled_B = torch.zeros(n_rows, dtype=torch.bool, device=device)
        if self.training:
            drawn_B = torch.rand(n_rows, device=device)
            sound[drawn_B < c.only_lips] = 0
            alone_B = (drawn_B >= c.only_lips) & (drawn_B < c.only_lips + c.only_sound)
            lips[alone_B] = 0
            both = c.only_lips + c.only_sound
            misled_B = (drawn_B >= both) & (drawn_B < both + c.misled)
            at_M = torch.arange(n_frames, device=device)
            start_B, length_B = torch.randint(0, max(1, n_frames), (n_rows,)), torch.randint(1, LONGEST_GAP, (n_rows,))
            gap_BM = (at_M >= start_B[:, None].to(device)) & (at_M < (start_B + length_B)[:, None].to(device))
            gap_BM &= (drawn_B >= max(both, 1 - c.gaps))[:, None]
            of_lips_B = (torch.rand(n_rows, device=device) < 0.5)[:, None]
            lips = lips.masked_fill((gap_BM & of_lips_B)[..., None], 0)
            sound = sound.masked_fill((gap_BM & ~of_lips_B)[..., None], 0)
        return {LIPS: lips, SOUND: sound, "misled": misled_B}

    @staticmethod
    def _misleading(lips_BMD: Tensor, misled_B: Tensor) -> Tensor:
        """The lips, in rows of the mask such as do not fit the sound: a film may freeze, be dubbed, or out of step.

        Without such rows a model that has lips believes them, and writes less with a frozen face than with none.
        """
        if not (misled_B.any() and lips_BMD.shape[1]):
            return lips_BMD
        out, n = lips_BMD.clone(), lips_BMD.shape[1]
        for b in misled_B.nonzero().flatten().tolist():
            kind, at, shift = (
                int(torch.randint(3, ())),
                int(torch.randint(n, ())),
                int(torch.randint(3, LONGEST_SHIFT + 1, ())),
            )
            if kind == 0:
                out[b] = lips_BMD[b, at]
            elif kind == 1:
                out[b] = lips_BMD[b].roll(shift if at % 2 else -shift, 0)
            else:
                out[b] = lips_BMD[(b + 1) % len(lips_BMD)]
        return out


def _layer(c: Config) -> EncoderLayer:
    attention = Attention(c.width, c.heads, RelativeKey(c.left, 0, c.width // c.heads))
    return EncoderLayer(attention, Convolution(c.width, c.kernel, True, nn.LayerNorm(c.width)), c.width, c.hidden)


def _dtype(module: nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


def build(config: Config) -> Model:
    """The model with random weights."""
    c, front = config, SoundFront()
    head = CTCHead(c.width, c.vocab, byte_tokenizer.LANGUAGES, c.vocab - byte_tokenizer.LANGUAGES)
    return Model(
        front={LIPS: MouthFront(c.pixels, c.crop), SOUND: front},
        encoders={LIPS: LipEncoder(c.crop, c.channels, c.width), SOUND: SoundEncoder(front.width, c.width)},
        fuse=Fusion(c),
        heads={NAME: head},
    )


def tokenizer(file: Path, config: Config) -> TranslationTokenizer:
    """Bytes, whatever the script."""
    return byte_tokenizer.from_file(file, config.vocab)
