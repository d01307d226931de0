"""Toy 2: a speaker's lips at 25 frames a second and the sound at 16 kHz, fused, to text.

In training a modality is dropped by chance; at run time either may be absent.

Letters: B rows, T frames, N samples, F bands, H height, W width, D width, M memory frames.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmx.model import Model
from mmx.nn.adapters import gather_windows, new_wait
from mmx.seq import Seq, after, concat
from mmx.state import State, subtree, tensor
from mmx.text import byte_tokenizer
from mmx.text.translation_tokenizer import TranslationTokenizer
from mmx.weights.convert import Rule
from toys.layers import ConvNorm, Stack, text_decoder

MODEL_TYPES = ()
KEYS: Mapping[str, Sequence[Rule]] = {}
HOP = 320
"""Samples of a frame of features, of which there are 50 a second."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Numbers of the model: pixels of a side, bands of the sound, width, tokens of a text, share that is dropped."""

    vocab: int = byte_tokenizer.LANGUAGES + 1
    pixels: int = 16
    bands: int = 8
    width: int = 32
    ctx: int = 64
    drop: float = 0.3


class Crops(nn.Module):
    """Pictures `(B, T, H, W, 3)` of whole numbers to grey ones around 0, `(B, T, H, W)`."""

    medium, rate = "video", 25.0
    stride, lookahead = 1, 0

    def __init__(self, pixels: int):
        super().__init__()
        self.shape = (pixels, pixels, 3)

    def init_state(self, batch: int, capacity: int = 0) -> State:
        """Nothing is remembered."""
        return {}

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        """See above."""
        return seq._replace(x=seq.masked.float().mean(-1) / 255 - 0.5)


class Bands(nn.Module):
    """A waveform `(B, N)` at 16 kHz to the logarithms of its energy in a few bands, `(B, ceil(N / 320), F)`."""

    medium, rate = "audio", 16_000.0
    stride, lookahead = HOP, 0

    def __init__(self, bands: int):
        super().__init__()
        self.bands, self.shape = bands, ()

    def init_state(self, batch: int, capacity: int = 0) -> State:
        """The samples of an incomplete frame: none."""
        return new_wait(batch, 0, HOP, torch.zeros(1))

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        """See above."""
        state = self.init_state(len(seq.x)) if state is None else state
        made = gather_windows(seq._replace(x=seq.x[..., None]), state, HOP, HOP)
        if not made.x.shape[1]:
            return made._replace(x=made.x.new_zeros(len(made.x), 0, self.bands))
        return made._replace(x=energies(made.x[..., 0].unflatten(1, (-1, HOP)), self.bands))


def energies(frames_BTN: Tensor, bands: int) -> Tensor:
    """Logarithms of the energies of frames of samples in bands of equal width up to 4 kHz."""
    power = torch.fft.rfft(frames_BTN).abs().square()[..., : HOP // 4]
    return (power.unflatten(-1, (bands, -1)).mean(-1) + 1e-3).log10() / 2


class LipEncoder(nn.Module):
    """A convolution over the frame and two before it, batch norm, ReLU, pooling: `(B, T, H, W)` to `(B, T, D)`."""

    stride, lookahead, kernel = 1, 0, 3

    def __init__(self, pixels: int, width: int):
        super().__init__()
        self.shape = (pixels, pixels)
        self.conv = nn.Conv3d(1, 8, (self.kernel, 5, 5), stride=(1, 2, 2), padding=(0, 2, 2))
        self.norm = nn.BatchNorm3d(8)
        self.project = nn.Linear(8 * (pixels // 4) ** 2, width)

    def init_state(self, batch: int, capacity: int = 0) -> State:
        """Black pictures stand before the first one."""
        pixels = self.shape[0] * self.shape[1]
        return new_wait(batch, self.kernel - 1, self.kernel, self.conv.weight.new_zeros(pixels))

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        """See above."""
        state = self.init_state(len(seq.x)) if state is None else state
        made = gather_windows(seq._replace(x=seq.x.flatten(2)), state, self.kernel, 1)
        if not made.x.shape[1]:
            return made._replace(x=made.x.new_zeros(len(made.x), 0, self.project.out_features))
        maps = self.conv(made.x.unflatten(2, self.shape)[:, None]).transpose(1, 2)  # (B, T, channels, H / 2, W / 2)
        mask_BT = made._replace(x=maps).mask
        counted = self.norm(maps[mask_BT].transpose(0, 1)[None])[0].transpose(0, 1)  # the norm of frames that count
        pooled = F.avg_pool2d(F.relu(counted), 2).flatten(1)
        x_BTD = maps.new_zeros(*mask_BT.shape, self.project.out_features)
        return made._replace(x=x_BTD.masked_scatter(mask_BT[..., None], self.project(pooled)))


class Fuse(nn.Module):
    """Lips at 25 frames a second and speech at 50, added up at 25; a modality that is absent has a vector of its own.

    A stream is told by the keys of its first call which modalities it has; it gives the frames that all of them have
    come to. Of inputs of unequal length, the rest of the longer one goes on alone.
    """

    rate = 25.0

    def __init__(self, width: int, drop: float):
        super().__init__()
        self.drop, self.strides = drop, {"lips": 1, "speech": 2}
        self.absent = nn.ParameterDict({name: nn.Parameter(torch.zeros(width)) for name in self.strides})
        self.project = nn.ModuleDict({name: nn.Linear(s * width, width) for name, s in self.strides.items()})
        self.norm = nn.LayerNorm(width)

    def init_state(self, batch: int, capacity: int = 0) -> State:
        """No frames wait."""
        like = self.norm.weight
        stacks: State = {name: new_wait(batch, 0, s, like) for name, s in self.strides.items()}
        return {"stacks": stacks, "waiting": {name: new_wait(batch, 0, 0, like) for name in self.strides}}

    def forward(self, memories: Mapping[str, Seq], state: State | None = None) -> Seq:
        """By modality `(B, T, D)` to `(B, M, D)`."""
        n_rows, final = next((len(m.x), m.final) for m in memories.values())
        state = self.init_state(n_rows) if state is None else state
        parts = {name: self._waiting(name, memories[name], state) for name in memories}
        counts = torch.stack([part.lengths for part in parts.values()])
        made_B = counts.amax(0) if final else counts.amin(0)
        kept = self._kept(n_rows, list(memories))
        x_BMD = self.norm.weight.new_zeros(n_rows, int(made_B.max()), len(self.norm.weight))
        for name, absent_D in self.absent.items():
            x_BMD = x_BMD + (self._placed(parts[name], x_BMD, absent_D, kept[name]) if name in parts else absent_D)
        for name, part in parts.items():
            rest = after(part, made_B.clamp(max=part.lengths), int((part.lengths - made_B).clamp(min=0).max()))
            state["waiting"][name] = {"rest": rest.x, "n_rest": rest.lengths}  # type: ignore[index, call-overload]
        return Seq(self.norm(x_BMD), made_B, self.rate, final)

    def _waiting(self, name: str, memory: Seq, state: State) -> Seq:
        """The frames of a modality that are not given yet, at the common rate and width."""
        stride = self.strides[name]
        made = gather_windows(memory, subtree(subtree(state, "stacks"), name), stride, stride)
        stacked = (
            made.x.unflatten(1, (-1, stride)).flatten(2) if made.x.shape[1] else made.x.new_zeros(len(made.x), 0, 1)
        )
        x = self.project[name](stacked) if stacked.shape[1] else made.x[:, :0]
        wait = subtree(subtree(state, "waiting"), name)
        before = Seq(tensor(wait, "rest"), tensor(wait, "n_rest"))
        return concat(before, made._replace(x=x)) if before.x.shape[1] else made._replace(x=x)

    def _kept(self, n_rows: int, present: Sequence[str]) -> dict[str, Tensor]:
        """Which rows keep each modality: in training some lose one, none loses both."""
        device = self.norm.weight.device
        if not self.training or len(present) < 2:
            return dict.fromkeys(present, torch.ones(n_rows, dtype=torch.bool, device=device))
        drawn_B = torch.rand(n_rows, device=device)
        return {"lips": drawn_B >= self.drop / 2, "speech": (drawn_B < self.drop / 2) | (drawn_B >= self.drop)}

    def _placed(self, part: Seq, like: Tensor, absent_D: Tensor, kept_B: Tensor) -> Tensor:
        """Frames in the places of `like`; where there are none, and in rows that lose them, what stands for them."""
        n = like.shape[1]
        x_BMD = F.pad(part.x, (0, 0, 0, max(0, n - part.x.shape[1])))[:, :n]
        there_BM = (torch.arange(n, device=like.device) < part.lengths[:, None]) & kept_B[:, None]
        return torch.where(there_BM[..., None], x_BMD, absent_D)


def build(config: Config) -> Model:
    """The model with random weights."""
    c = config
    return Model(
        front={"lips": Crops(c.pixels), "speech": Bands(c.bands)},
        encoders={"lips": LipEncoder(c.pixels, c.width), "speech": Stack(ConvNorm(c.bands, c.width))},
        fuse=Fuse(c.width, c.drop),
        heads={name: nn.Linear(c.width, 16) for name in ("lips", "speech", "fuse")},
        decoder=text_decoder(c.vocab, c.width, c.ctx),
    )


def tokenizer(file: Path, config: Config) -> TranslationTokenizer:
    """Bytes."""
    return byte_tokenizer.from_file(file, config.vocab)
