"""A vocoder for many voices: a latent at 40 Hz, F0 and voicing to a waveform at 24 kHz, in blocks of any size.

Convolutions make, for each of 80 frames a second, the spectra of three sources, which an inverse STFT adds up: a train
of pulses at F0 filtered in magnitude and phase (harmonics), noise filtered in magnitude, and a part with a phase of its
own (transients). The network never sees a sample, so it costs about a hundredth of one that upsamples; pitch follows
F0 by construction. Source-filter: Wang et al. 2019, arXiv 1904.12088; ConvNeXt and inverse STFT: Siuzdak 2023, arXiv
2306.00814. The shape of the heads and the initial weights are those of hibari-tts (Apache-2.0).

Everything that a stream needs is in its state: the last frames of each convolution, the phase of the pulses, the
place in the table of noise, the windows that still overlap.

Letters: B rows, M latent frames (40 Hz), J frames (80 Hz), N samples, C channels, D width, K kernel, F frequencies.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmx.clip import Medium
from mmx.nn.adapters import gather_windows, new_wait
from mmx.seq import Seq, after, concat
from mmx.state import State, subtree, tensor

RATE = 24_000
"""Samples per second."""
HOP = 300
"""Samples from one spectral frame to the next: 80 a second."""
N_FFT = 1200
BINS = N_FFT // 2 + 1
FRAMES = 2
"""Spectral frames of a latent frame; of each its F0 and voicing are given."""
BACK, AHEAD = 2, 2
"""Frames before and after its own of which a spectral frame reads the F0: its window is four hops long."""
JITTER = 0.15
"""In training, the largest deviation of the noise on a row's latent: at run time it is not quite its teacher's."""
NOISE_FRAMES = 509
"""Of the table of noise, which repeats."""
LOWEST_HZ, HIGHEST_HZ = 30.0, 11_000.0
"""Of F0, and of the harmonics."""
MIDDLE = 5.1
"""Logarithm of a middling F0 in Hz, 164, from which the network counts."""
LOUDEST = 7.0
"""Log magnitude at which a spectrum is cut off, so that no input overflows."""


@dataclass(frozen=True, kw_only=True)
class VocoderConfig:
    """Numbers of a vocoder.

    Attributes:
        latent: channels of the latent, without F0 and voicing.
        width: D.
        blocks: ConvNeXt blocks.
        hidden: width inside a block.
        kernel: frames (80 Hz) that a block sees.
        ahead: how many of them lie ahead.
        voices: how many are known, 0 for none; a frame says how much of each it is.
    """

    latent: int = 128
    width: int = 256
    blocks: int = 6
    hidden: int = 928
    kernel: int = 7
    ahead: int = 3
    voices: int = 37

    def __post_init__(self) -> None:
        if not 0 <= self.ahead < self.kernel:
            raise ValueError(f"expected ahead in [0, kernel), got {self.ahead} with a kernel of {self.kernel}")
        if self.blocks * self.ahead < AHEAD:
            raise ValueError(f"expected blocks that look {AHEAD} frames ahead in all, got {self.blocks} x {self.ahead}")


def windows(seq: Seq, state: State | None, kernel: int, ahead: int) -> Seq:
    """The frames that the next windows of `kernel` frames cover, `ahead` of which lie after a window's own frame.

    Returns:
        `(B, J + kernel - 1, D)` with zeros where no frame is; its lengths are those of the J windows. Empty where no
        window is complete.
    """
    back = kernel - 1 - ahead
    if state is None:
        return seq._replace(x=F.pad(seq.masked, (0, 0, back, ahead)))
    if seq.final:
        zeros = seq.x.new_zeros(len(seq.x), ahead, seq.x.shape[2])
        seq = concat(seq, Seq(zeros, torch.full_like(seq.lengths, ahead), seq.rate, True))
    return gather_windows(seq, state, kernel, 1)


class ConvNeXt(nn.Module):
    """Depthwise convolution, norm, two linear layers with a GELU between; scaled and added (Liu et al. 2022).

    Args:
        width: D.
        hidden: between the two.
        kernel: frames that the convolution sees.
        ahead: how many of them lie ahead.
    """

    stride = 1

    def __init__(self, width: int, hidden: int, kernel: int, ahead: int):
        super().__init__()
        self.kernel, self.lookahead = kernel, ahead
        # As a convolution in two dimensions it is several times faster on a CPU.
        self.conv = nn.Conv2d(width, width, (1, kernel), groups=width)
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.scale = nn.Parameter(torch.full((width,), 0.1))

    def init_state(self, batch: int, capacity: int = 0) -> State:
        """Zeros stand before the first frame."""
        return new_wait(batch, self.kernel - 1 - self.lookahead, self.kernel - 1, self.norm.weight)

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        """`(B, J, D)` to the same shape."""
        made = windows(seq, state, self.kernel, self.lookahead)
        n = made.x.shape[1] - self.kernel + 1
        if n <= 0:
            return made._replace(x=made.x[:, :0])
        at = self.kernel - 1 - self.lookahead
        h_BJD = self.conv(made.x.transpose(1, 2).unsqueeze(2)).squeeze(2).transpose(1, 2)
        h_BJD = self.down(F.gelu(self.up(self.norm(h_BJD)), approximate="tanh"))
        return made._replace(x=made.x[:, at : at + n] + self.scale * h_BJD)


class Vocoder(nn.Module):
    """A latent to a waveform; an `mmx.interfaces.Block` whose input has, of each 40 Hz frame, these channels:

    `latent` numbers of about unit variance, then natural logarithms of F0 in Hz of its two 80 Hz frames (interpolated
    where there is none), then their voicing, voiced above 0, then the shares of `voices`, in sum 1.

    Attributes:
        lookahead: latent frames past the current one that the sound of a frame depends on.
        medium: what it reads.
        rate: frames of it a second.
        shape: of a frame.
    """

    stride = None  # it makes 600 samples of a frame
    medium: Medium = "features"
    rate = RATE / HOP / FRAMES

    def __init__(self, config: VocoderConfig):
        super().__init__()
        c = self.config = config
        self.shape = (c.latent + 2 * FRAMES + c.voices,)
        self.enter = nn.Linear(*self.shape, FRAMES * c.width)
        self.blocks = nn.ModuleList(ConvNeXt(c.width, c.hidden, c.kernel, c.ahead) for _ in range(c.blocks))
        self.norm = nn.LayerNorm(c.width)
        self.head = nn.Linear(c.width, 5 * BINS)
        self.lookahead = math.ceil((c.blocks * c.ahead + AHEAD) / FRAMES)
        self.room = BACK + c.blocks * c.ahead  # frames whose F0 waits
        random = np.random.default_rng(0)
        noise = random.standard_normal((2, NOISE_FRAMES, BINS)).astype(np.float32)
        self.register_buffer("noise", torch.from_numpy(noise), persistent=False)
        self.register_buffer("window", torch.hann_window(N_FFT, device="cpu"), persistent=False)
        self.noise: Tensor
        self.window: Tensor
        with torch.no_grad():
            self.head.weight *= 0.3
            self.head.bias[:] = -1.0
            self.head.bias[3 * BINS :] = -4.0

    def init_state(self, batch: int, capacity: int = 0) -> State:
        """A stream before its first frame."""
        like = self.norm.weight
        return {
            "blocks": {str(i): b.init_state(batch) for i, b in enumerate(self.blocks) if isinstance(b, ConvNeXt)},
            "pitch": new_wait(batch, BACK, self.room, like.new_zeros(2, dtype=torch.float32)),
            "phase": torch.zeros(batch, dtype=torch.float64, device=like.device),
            "frames": torch.zeros(batch, dtype=torch.int64, device=like.device),
            "overlap": new_wait(batch, 1, 3, like.new_zeros(N_FFT, dtype=torch.float32)),
        }

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        """`(B, M, latent + 4 + voices)` at 40 Hz to `(B, 600 M, )` at 24 kHz, less what waits for its look-ahead."""
        state_now = self.init_state(len(seq.x)) if state is None else state
        if self.training and state is None:  # else the noise of a window would be the same in each update
            state_now["frames"] = torch.randint(NOISE_FRAMES, (len(seq.x),), device=seq.x.device)
        seq = seq._replace(x=seq.masked)
        spectra = self.spectra(seq, None if state is None else subtree(state_now, "blocks"))
        source_BJF = self.source(self.pitch(seq), spectra, state_now)
        frames = self.frames(spectra, source_BJF, state_now)
        made = windows(frames, None if state is None else subtree(state_now, "overlap"), 4, 2)
        return self.overlap_add(made, seq)

    # -------------------- the network

    def spectra(self, seq: Seq, state: State | None = None) -> Seq:
        """`(B, J, 5 F)`: log magnitude and phase of harmonics, log magnitude of noise, both of the free part."""
        at = self.config.latent
        log_hz_BMC = (seq.x[..., at : at + FRAMES] - MIDDLE) * seq.mask[..., None]
        latent_BMC = seq.x[..., :at]
        if self.training:
            loud_B11 = JITTER * torch.rand(len(latent_BMC), 1, 1, device=latent_BMC.device)
            latent_BMC = latent_BMC + loud_B11 * torch.randn_like(latent_BMC)
        x_BMC = torch.cat([latent_BMC, log_hz_BMC, seq.x[..., at + FRAMES :]], 2).to(self.enter.weight.dtype)
        x_BJD = self.enter(x_BMC).unflatten(2, (FRAMES, -1)).flatten(1, 2)
        rate = None if seq.rate is None else seq.rate * FRAMES
        out = Seq(x_BJD, seq.lengths * FRAMES, rate, seq.final)
        for i, block in enumerate(self.blocks):
            out = block(out, None if state is None else subtree(state, str(i)))
        return out._replace(x=self.head(self.norm(out.x)))

    # -------------------- sources

    def pitch(self, seq: Seq) -> Seq:
        """`(B, J, 2)`: F0 in Hz, and 1 where voiced; zeros beyond the rows."""
        at = self.config.latent
        hz_BJ = seq.x[..., at : at + FRAMES].flatten(1).float().exp().clamp(LOWEST_HZ, RATE / 4)
        voiced_BJ = (seq.x[..., at + FRAMES : at + 2 * FRAMES].flatten(1) > 0).float()
        pitch = Seq(torch.stack([hz_BJ, voiced_BJ], 2), seq.lengths * FRAMES, None, seq.final)
        return pitch._replace(x=pitch.masked)

    def source(self, pitch: Seq, spectra: Seq, state: State) -> Tensor:
        """STFT `(B, J, F)` of the pulses at the frames of `spectra`; F0 that is not due yet waits in the state."""
        wait = subtree(state, "pitch")
        known = concat(Seq(tensor(wait, "rest"), tensor(wait, "n_rest")), pitch)
        made_B, n = spectra.lengths, spectra.x.shape[1]
        # Of the frames j the F0 from j - BACK to j + AHEAD; zeros, which is unvoiced, after the last one.
        used_BJ2 = F.pad(known.masked, (0, 0, 0, n + BACK + AHEAD))[:, : n + BACK + AHEAD]
        rest = after(known, made_B, self.room)
        wait["rest"], wait["n_rest"] = rest.x, rest.lengths
        wave_BN, phase_BJ = pulses(used_BJ2, tensor(state, "phase"))
        state["phase"] = phase_BJ.gather(1, made_B[:, None])[:, 0]
        if not n:
            return wave_BN.new_zeros(len(wave_BN), 0, BINS, dtype=torch.complex64)
        return torch.fft.rfft(wave_BN.unfold(1, N_FFT, HOP) * self.window) / (N_FFT / 4)

    def frames(self, spectra: Seq, source_BJF: Tensor, state: State) -> Seq:
        """`(B, J, 1200)`: the windowed sound of each frame."""
        if not spectra.x.shape[1]:
            return spectra._replace(x=self.window.new_zeros(len(spectra.x), 0, N_FFT))
        parts = spectra.x.float().unflatten(2, (5, BINS)).unbind(2)
        loud, phase, noise, free, free_phase = parts
        at_B = tensor(state, "frames")
        state["frames"] = (at_B + spectra.lengths) % NOISE_FRAMES
        at_BJ = (at_B[:, None] + torch.arange(spectra.x.shape[1], device=at_B.device)) % NOISE_FRAMES
        white_BJF = torch.complex(self.noise[0][at_BJ], self.noise[1][at_BJ])
        spectrum_BJF = (
            torch.polar(magnitude(loud), math.pi * phase) * source_BJF
            + magnitude(noise) * white_BJF
            + torch.polar(magnitude(free), free_phase)
        )
        frames_BJN = torch.fft.irfft(spectrum_BJF, N_FFT) * (self.window / 1.5)  # four squared windows add up to 1.5
        return spectra._replace(x=frames_BJN)

    def overlap_add(self, made: Seq, seq: Seq) -> Seq:
        """Frames, with the three around each hop, to samples."""
        n = max(0, made.x.shape[1] - 3)
        x = made.x.unflatten(2, (4, HOP))
        # A hop is the third quarter of its own frame, the fourth of the one before, the first of the second after it.
        wave_BJN = x[:, 3 : 3 + n, 0] + x[:, 2 : 2 + n, 1] + x[:, 1 : 1 + n, 2] + x[:, :n, 3]
        return Seq(wave_BJN.flatten(1), made.lengths * HOP, float(RATE), seq.final)


def magnitude(log_BJF: Tensor) -> Tensor:
    """Of its logarithm, within bounds."""
    return log_BJF.clamp(max=LOUDEST).exp()


def pulses(pitch_BJ2: Tensor, start_B: Tensor) -> tuple[Tensor, Tensor]:
    """A train of pulses at F0: all its harmonics up to `HIGHEST_HZ` with an amplitude of 1, in closed form.

    Args:
        pitch_BJ2: F0 in Hz and voicing of J frames, between which both are interpolated.
        start_B: turns, float64, at the first frame.

    Returns:
        `(B, (J - 1) * 300)` samples, and `(B, J)` turns, of [0, 1), at each frame.
    """
    step_H = torch.arange(HOP, device=pitch_BJ2.device, dtype=torch.float32)
    hz, voiced = (x[..., None] for x in pitch_BJ2.unbind(2))
    hz = hz.clamp(min=LOWEST_HZ)
    rise = hz[:, 1:] - hz[:, :-1]
    turns_BJ = ((hz[:, :-1] * HOP + rise * (HOP - 1) / 2) / RATE).double()[..., 0]
    phase_BJ = torch.cat([start_B[:, None], start_B[:, None] + turns_BJ.cumsum(1)], 1).remainder(1)
    within = (hz[:, :-1] * step_H + rise * (step_H * (step_H - 1) / (2 * HOP))) / RATE
    angle = 2 * math.pi * (phase_BJ[:, :-1, None].float() + within).remainder(1)
    now_hz = hz[:, :-1] + rise * (step_H / HOP)
    amplitude = voiced[:, :-1] + (voiced[:, 1:] - voiced[:, :-1]) * (step_H / HOP)
    # Dirichlet's kernel: the sum of n cosines is sin((n + 1/2) x) / (2 sin(x / 2)) - 1/2.
    upper = (HIGHEST_HZ / now_hz).floor() + 0.5
    below = 2 * (angle / 2).sin()
    near = below.abs() < 2e-3
    sum_ = torch.where(near, upper, (upper * angle).sin() / torch.where(near, 1.0, below))
    return ((sum_ - 0.5) * amplitude).flatten(1), phase_BJ
