"""From symbols of phonemes to frames of sound: text encoder, durations, prior, and a flow that carries noise to frames.

Conditional flow matching (Lipman et al. 2023, arXiv 2210.02747) with a prior mean beside the noise, as in Matcha-TTS
(Mehta et al. 2024, arXiv 2309.03199). The flow is made of convolutions alone (ConvNeXt, Liu et al. 2022, arXiv
2201.03545; modulated by the time as in PixArt's adaLN-single, Chen et al. 2023, arXiv 2310.00426), which remember their
last frames: it runs in blocks of any size with the same result. Attention is over the symbols of a sentence only.

What the network says is scaled as Karras et al. 2022 do (arXiv 2206.00364, section 5), here around the prior p. On the
path x = (1 - t) noise + t frames, with frames = p + r where r has the deviation s, the best linear guess of r from x is

    g = t s^2 (x - t p) / (t^2 s^2 + (1 - t)^2)

The network sees g / s and says f, of unit variance: what is known of r is d = g + c f, c = s (1 - t) / sqrt(t^2 s^2 +
(1 - t)^2), and the velocity is (p + d - x) / (1 - t), in which 1 - t cancels. So noise reaches frames by g alone, which
is 0 at time 0, and the last of Euler's steps ends at p + d.

Letters: B rows, U symbols, M frames, F features of a frame, D width, K kernel.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmx.models.flow_voice.frames import ASKED, SOUND
from mmx.models.flow_voice.vocoder import windows
from mmx.nn.adapters import new_wait
from mmx.nn.block import Attention, Linear
from mmx.seq import Seq, after, concat
from mmx.state import State, subtree, tensor

LONGEST = 40.0
"""Frames of a symbol beyond which the network is not told more."""
TIMES, FASTEST = 32, 30.0
"""Frequencies by which a time is told, and the highest in radians per unit of time: near times are told alike."""
RESIDUAL = 0.5
"""Deviation of the frames from their prior, of each feature, from which training starts."""


@dataclass(frozen=True, kw_only=True)
class AcousticConfig:
    """Numbers of the acoustic model.

    Attributes:
        symbols: that there are.
        voices: that it has.
        languages: that it has.
        features: F of a frame.
        text_width: D of the text encoder.
        text_blocks: of it.
        width: D of what works on frames.
        frame_blocks: convolutions on the condition, which see the whole sentence.
        flow_blocks: of the flow.
        kernel: frames that a block of the flow sees.
        ahead: how many of them lie ahead.
        hidden: width inside a block, in widths.
    """

    symbols: int = 178
    voices: int = 37
    languages: int = 6
    features: int = SOUND
    text_width: int = 192
    text_blocks: int = 4
    width: int = 256
    frame_blocks: int = 2
    flow_blocks: int = 8
    kernel: int = 7
    ahead: int = 2
    hidden: int = 3


class Said(NamedTuple):
    """What frames are made from.

    Attributes:
        condition: `(B, M, D)`.
        prior: `(B, M, F)`, the mean of the frames as far as the text says it.
    """

    condition: Seq
    prior: Tensor


class Block(nn.Module):
    """Depthwise convolution, norm, two linear layers with a SiLU between, added to what came in.

    Args:
        width: D.
        kernel: K.
        ahead: how many frames of the kernel lie ahead.
        hidden: between the linear layers.
        timed: whether norm and result are modulated from outside; else the result has a scale of its own.
    """

    table: Tensor
    scale: Tensor

    def __init__(self, width: int, kernel: int, ahead: int, hidden: int, timed: bool = False):
        super().__init__()
        self.kernel, self.lookahead = kernel, ahead
        # As a convolution in two dimensions it is several times faster on a CPU.
        self.conv = nn.Conv2d(width, width, (1, kernel), groups=width)
        self.norm = nn.LayerNorm(width, elementwise_affine=not timed)
        self.up, self.down = Linear(width, hidden), Linear(hidden, width)
        if timed:  # shift, scale and gate beside what the time says of them
            first = torch.randn(3, width) * width**-0.5
            self.table = nn.Parameter(first + torch.tensor([0.0, 0.0, 0.1])[:, None])
        else:
            self.scale = nn.Parameter(torch.full((width,), 0.1))

    def init_state(self, batch: int) -> State:
        """Zeros stand before the first frame."""
        return new_wait(batch, self.kernel - 1 - self.lookahead, self.kernel - 1, self.up.weight[0])

    def forward(self, seq: Seq, state: State | None = None, modulation_B3D: Tensor | None = None) -> Seq:
        """`(B, M, D)` to the same shape, less what waits for frames ahead."""
        made = windows(seq, state, self.kernel, self.lookahead)
        n = made.x.shape[1] - self.kernel + 1
        if n <= 0:
            return made._replace(x=made.x[:, :0])
        at = self.kernel - 1 - self.lookahead
        h_BMD = self.norm(self.conv(made.x.transpose(1, 2).unsqueeze(2)).squeeze(2).transpose(1, 2))
        if modulation_B3D is None:
            gate = self.scale
        else:
            shift, scale, gate = (modulation_B3D + self.table)[:, :, None].unbind(1)
            h_BMD = h_BMD * (1 + scale) + shift
        return made._replace(x=made.x[:, at : at + n] + gate * self.down(F.silu(self.up(h_BMD))))


class TextBlock(nn.Module):
    """A convolution for what is near and attention for the rest of the sentence."""

    def __init__(self, width: int, kernel: int = 5, heads: int = 4):
        super().__init__()
        self.near = Block(width, kernel, kernel // 2, 2 * width)
        self.norm, self.attention = nn.LayerNorm(width), Attention(width, heads)

    def forward(self, seq: Seq) -> Seq:
        """`(B, U, D)` to the same shape."""
        seq = self.near(seq)
        h_BUD = self.norm(seq.x)
        q, k, v = self.attention.queries_keys_values(h_BUD)
        score_BHUU = (q @ k.transpose(-1, -2)).float() * q.shape[-1] ** -0.5  # so it has a fast gradient in bfloat16
        weight_BHUU = score_BHUU.masked_fill(~seq.mask[:, None, None], -torch.inf).softmax(-1).to(v.dtype)
        return seq._replace(x=seq.x + self.attention.merged(weight_BHUU @ v))


class Acoustic(nn.Module):
    """All that lies between symbols and frames.

    Attributes:
        lookahead: frames past the current one that one evaluation of the velocity depends on.
    """

    def __init__(self, config: AcousticConfig):
        super().__init__()
        c = self.config = config
        self.symbol = nn.Embedding(c.symbols, c.text_width)
        self.voice, self.language = nn.Embedding(c.voices, c.text_width), nn.Embedding(c.languages, c.text_width)
        self.asked = Linear(ASKED, c.text_width)
        self.style = nn.Sequential(Linear(c.text_width, c.text_width), nn.SiLU())
        self.style_text, self.style_frames = Linear(c.text_width, c.text_width), Linear(c.text_width, c.width)
        self.text = nn.ModuleList(TextBlock(c.text_width) for _ in range(c.text_blocks))
        self.duration = nn.ModuleList(Block(c.text_width, 3, 1, c.text_width) for _ in range(2))
        self.duration_out = Linear(c.text_width, 1)
        self.place, self.to_frames = Linear(4, c.width), Linear(c.text_width, c.width)
        self.frames = nn.ModuleList(Block(c.width, 7, 3, 2 * c.width) for _ in range(c.frame_blocks))
        self.prior = Linear(c.width, c.features)
        self.time = nn.Sequential(Linear(2 * TIMES, c.width), nn.SiLU(), Linear(c.width, 3 * c.width))
        self.enter, self.given = Linear(2 * c.features, c.width), Linear(c.width, c.width)
        flow = (Block(c.width, c.kernel, c.ahead, c.hidden * c.width, timed=True) for _ in range(c.flow_blocks))
        self.flow = nn.ModuleList(flow)
        self.leave_norm, self.leave = nn.LayerNorm(c.width), Linear(c.width, c.features)
        self.gain = nn.Parameter(torch.zeros(c.features))
        self.log_residual = nn.Parameter(torch.full((c.features,), math.log(RESIDUAL)))  # s
        self.lookahead = c.flow_blocks * c.ahead

    # -------------------- the text

    def describe(self, voice_BD: Tensor, language_B: Tensor, asked_BA: Tensor) -> Tensor:
        """`(B, D)`: voice, language, and prosody that is asked for, `frames.ASKED` numbers."""
        root = self.config.text_width**0.5
        return self.style((voice_BD + self.language(language_B)) * root + self.asked(asked_BA.to(voice_BD.dtype)))

    def encode(self, symbols: Seq, style_BD: Tensor) -> Seq:
        """Numbers of symbols `(B, U)` to `(B, U, D)`."""
        x_BUD = self.symbol(symbols.masked) * self.config.text_width**0.5 + self.style_text(style_BD)[:, None]
        seq = symbols._replace(x=x_BUD)
        for block in self.text:
            seq = block(seq)
        return seq

    def log_frames(self, text: Seq) -> Tensor:
        """`(B, U)`: the logarithm of how many frames each symbol lasts on the average, at the voice's own speed."""
        seq = text._replace(x=text.x.detach())  # durations are learned from what the sound needs of the text
        for block in self.duration:
            seq = block(seq)
        return self.duration_out(seq.x)[..., 0].float() + 1.0

    # -------------------- its frames

    def spread(self, text: Seq, frames_BU: Tensor, style_BD: Tensor) -> Said:
        """Text `(B, U, D)` over the frames of its symbols."""
        end_BU = frames_BU.cumsum(1)
        frame_M = torch.arange(int(end_BU[:, -1].max()), device=end_BU.device)
        symbol_BM = torch.searchsorted(end_BU, frame_M.expand(len(end_BU), -1).contiguous(), right=True)
        symbol_BM = symbol_BM.clamp(max=end_BU.shape[1] - 1)
        long_BM = frames_BU.gather(1, symbol_BM).to(text.x.dtype)
        into_BM = frame_M - (end_BU - frames_BU).gather(1, symbol_BM)
        edges = (into_BM == 0).to(long_BM), (into_BM == long_BM - 1).to(long_BM)
        place = torch.stack([into_BM / long_BM.clamp(min=1), *edges, long_BM.clamp(max=LONGEST).log1p()], -1)
        own_BMD = text.x.gather(1, symbol_BM[..., None].expand(-1, -1, text.x.shape[-1]))
        x_BMD = self.to_frames(own_BMD) + self.place(place) + self.style_frames(style_BD)[:, None]
        seq = Seq(x_BMD, end_BU[:, -1], None)
        for block in self.frames:
            seq = block(seq)
        return Said(seq, self.prior(seq.x))

    # -------------------- the flow

    def init_state(self, batch: int) -> State:
        """Of one evaluation of the velocity in a stream."""
        blocks: State = {str(i): b.init_state(batch) for i, b in enumerate(self.flow) if isinstance(b, Block)}
        width = 2 * self.config.features + self.config.width
        return {"blocks": blocks, "wait": new_wait(batch, 0, self.lookahead, self.gain.new_zeros(width))}

    def velocity(self, at: Seq, time_B: Tensor) -> Tensor:
        """`(B, M, F)`: where points go at a time in [0, 1].

        Args:
            at: points, prior and condition side by side, `(B, M, 2 F + D)`.
            time_B: of each row.
        """
        return self._velocity(at.x, self._network(at, time_B).x, time_B)

    def step(self, at: Seq, time: float, length: float, state: State | None = None) -> Seq:
        """One step of Euler's method: points, prior and condition `(B, M, 2 F + D)` to the same a step later."""
        time_B = torch.full((len(at.x),), time, device=at.x.device)
        if state is None:
            made, held = self._network(at, time_B), at
        else:
            wait = subtree(state, "wait")
            made = self._network(at, time_B, subtree(state, "blocks"))
            held = concat(Seq(tensor(wait, "rest"), tensor(wait, "n_rest")), at)
            rest = after(held, made.lengths, self.lookahead)
            wait["rest"], wait["n_rest"] = rest.x, rest.lengths
        x, n = held.x[:, : made.x.shape[1]], self.config.features
        point_BMF = x[..., :n] + length * self._velocity(x, made.x, time_B)
        return made._replace(x=torch.cat([point_BMF, x[..., n:]], 2))

    def _network(self, at: Seq, time_B: Tensor, state: State | None = None) -> Seq:
        """f, `(B, M, F)`, less what waits for frames ahead: it sees g / s, which says nothing at time 0."""
        n, s_F = self.config.features, self.log_residual.exp()
        t_B11 = time_B[:, None, None]
        seen_BMF = t_B11 * s_F / _power(t_B11, s_F) * (at.x[..., :n] - t_B11 * at.x[..., n : 2 * n])
        given = self.enter(torch.cat([seen_BMF, at.x[..., n : 2 * n]], 2)) + self.given(at.x[..., 2 * n :])
        scale_T = FASTEST * torch.exp(torch.arange(TIMES, device=time_B.device) * (-math.log(1000) / TIMES))
        angle_BT = time_B[:, None] * scale_T
        modulation = self.time(torch.cat([angle_BT.sin(), angle_BT.cos()], 1).to(at.x.dtype)).unflatten(1, (3, -1))
        seq = at._replace(x=given)
        for i, block in enumerate(self.flow):
            seq = block(seq, None if state is None else subtree(state, str(i)), modulation)
        return seq._replace(x=self.leave(self.leave_norm(seq.x)) * self.gain)

    def _velocity(self, at_BMC: Tensor, f_BMF: Tensor, time_B: Tensor) -> Tensor:
        """(p + g + c f - x) / (1 - t) without the division, which would be by 0 at the end."""
        n, s_F = self.config.features, self.log_residual.exp()
        prior_BMF, t_B11 = at_BMC[..., n : 2 * n], time_B[:, None, None]
        power_B1F = _power(t_B11, s_F)
        noisy_BMF = at_BMC[..., :n] - t_B11 * prior_BMF
        kept_B1F = (t_B11 * s_F.square() - (1 - t_B11)) / power_B1F
        return prior_BMF + kept_B1F * noisy_BMF + s_F * power_B1F.rsqrt() * f_BMF


def _power(t_B11: Tensor, s_F: Tensor) -> Tensor:
    """`(B, 1, F)`: variance of x - t p."""
    return (t_B11 * s_F).square() + (1 - t_B11).square()
