"""What a vocoder learns: spectra of its sound at several resolutions, its mel spectrum, how periodic its bands are.

Phases are free, so that a train of pulses need not stand where the speaker's did (Yamamoto et al. 2020, arXiv
1910.11480, section 2.2; the mel term is that of Kong et al. 2020, arXiv 2010.05646, equation 5).

Letters: B rows, N samples, M latent frames, J frames of a spectrum, F frequencies, K bands, L lags.
"""

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mmx.errors import InputError
from mmx.interfaces import Losses, Needs
from mmx.media.mel import mel_filterbank
from mmx.model import Model
from mmx.seq import Seq, after
from mmx.train.batch import Batch
from mmx.train.objectives.weigh import mean_of_each

NAME, MEL, PERIODIC = "spectral", "mel", "periodic"
SIZES = (512, 1024, 2048)
"""Samples of a window; a quarter of it is the hop."""
MEL_SIZE, BANDS = 1024, 100
BANDS_HZ = ((300, 1300), (1000, 2000), (2000, 3000), (3000, 4200), (4200, 6000), (6000, 9000))
"""In which it is heard how periodic the sound is."""
LAGS, LAGS_S = 256, (0.002, 0.016)
"""Points of an autocorrelation, and from which lag to which they are compared, in seconds: periods of 500 to 62 Hz."""
FLOOR = 1e-3
"""Magnitude below which nothing is told apart, of a window's sum; samples are in [-1, 1]."""


class SpectralLoss:
    """Log magnitudes and spectral convergence at three resolutions; log mel energies; how periodic each band is.

    Of each row a window is heard, drawn from its key; so an update costs the same whatever the recordings are.

    Args:
        rate: samples a second.
        seconds: length of the window.
        edge_s: how much of it, at either end, is made and not compared: its neighbours are missing.
        mel: weight of the mel term.
        periodic: weight of the term of periodicity. Without it harmonics whose place is not known to a few hertz, those
            above 2 kHz, become noise: beside its place a harmonic is nearly as bad to the spectral term.
    """

    perplexity = False

    def __init__(
        self,
        rate: int = 24_000,
        seconds: float = 1.0,
        edge_s: float = 0.05,
        mel: float = 0.5,
        periodic: float = 0.0,
    ):
        if not 0 <= 2 * edge_s < seconds:
            raise ValueError(f"expected seconds above 2 * edge_s, got {seconds} and {edge_s}")
        self.rate, self.seconds, self.edge_s = rate, seconds, edge_s
        self.parts = {NAME: 1.0, MEL: mel, PERIODIC: periodic}

    def needs(self, model: Model) -> Needs:
        """Sound of what the model reads; of the model one encoder, which makes a waveform."""
        if len(model.recorded) != 1 or model.decoder is not None:
            raise InputError(
                f"expected a vocoder, a model that makes sound of one recorded medium, for the objective {NAME}, got "
                f"{model.name}: choose another objective"
            )
        return Needs(text=False, makes="audio", rate=float(self.rate))

    def count(self, batch: Batch) -> dict[str, int]:
        """Rows, of which each counts by its mean."""
        return dict.fromkeys(self.parts, len(batch.tasks))

    def weights(self, counts: Mapping[str, int]) -> dict[str, float]:
        """Of means."""
        return {name: self.parts[name] * w for name, w in mean_of_each(counts).items()}

    def __call__(self, model: Model, batch: Batch) -> Losses:
        """Reports each."""
        rows = self.compared(*self.waves(model, batch))
        found = {name: row_B.sum() for name, row_B in rows.items()}
        return Losses(found, self.count(batch), {key: loss.detach() for key, loss in found.items()})

    def compared(self, made_BN: Tensor, wanted_BN: Tensor) -> dict[str, Tensor]:
        """`(B,)` of each term."""
        return {
            NAME: spectral_losses(made_BN, wanted_BN),
            MEL: mel_losses(made_BN, wanted_BN, self.rate),
            PERIODIC: periodicity_losses(made_BN, wanted_BN, self.rate),
        }

    def waves(self, model: Model, batch: Batch) -> tuple[Tensor, Tensor]:
        """`(B, N)` twice: what the model makes of a window of each row, and what it should; without the edges."""
        ((name, read),) = batch.inputs.items()
        target = batch.outputs["audio"]
        read, target = self.cut(read, target, batch.keys)
        wave = model.memory({name: read}, batch.begin)
        edge, n = round(self.edge_s * self.rate), min(wave.x.shape[1], target.x.shape[1])
        lengths = torch.minimum(wave.lengths, target.lengths)
        made_BN, wanted_BN = (Seq(w.x[:, :n], lengths).masked.float()[:, edge : n - edge] for w in (wave, target))
        return made_BN, wanted_BN

    def cut(self, read: Seq, target: Seq, keys: Sequence[str]) -> tuple[Seq, Seq]:
        """The same window of both, of each row its own."""
        frames_hz = float(read.rate or 1)
        size, per = round(self.seconds * frames_hz), round(self.rate / frames_hz)
        begins = []
        for i, n in enumerate(read.lengths.tolist()):
            seed = hashlib.sha256(f"{NAME}/{keys[i] if keys else i}".encode()).digest()[:7]
            generator = torch.Generator().manual_seed(int.from_bytes(seed, "big"))
            begins.append(int(torch.randint(max(0, n - size) + 1, (), generator=generator)))
        begin_B = torch.tensor(begins, device=read.x.device)
        return after(read, begin_B, size), after(target, begin_B * per, size * per)


def magnitudes(wave_BN: Tensor, size: int) -> Tensor:
    """`(B, F, J)` of windows that lie within the wave."""
    window = torch.hann_window(size, device=wave_BN.device)
    return torch.stft(wave_BN, size, size // 4, window=window, center=False, return_complex=True).abs()


def spectral_losses(made_BN: Tensor, wanted_BN: Tensor) -> Tensor:
    """`(B,)`: mean over `SIZES` of the mean difference of log magnitudes plus the relative error of magnitudes."""
    total_B = torch.zeros(len(made_BN), device=made_BN.device)
    for size in SIZES:
        a, b = magnitudes(made_BN, size), magnitudes(wanted_BN, size)
        total_B = total_B + (a.clamp(min=FLOOR).log() - b.clamp(min=FLOOR).log()).abs().mean((1, 2))
        total_B = total_B + ((a - b).square().sum((1, 2)) / b.square().sum((1, 2)).clamp(min=0.1)).sqrt()
    return total_B / len(SIZES)


def periodicity_losses(made_BN: Tensor, wanted_BN: Tensor, rate: int) -> Tensor:
    """`(B,)`: mean difference of `periodicity`; a band of a window counts by its level in the recording, in dB."""
    (made, _), (wanted, power_BKJ) = (periodicity(w, rate) for w in (made_BN, wanted_BN))
    weight_BKJ = (power_BKJ / FLOOR**2).clamp(min=1).log()
    off_BKJ = (made - wanted).abs().mean(3)
    return (off_BKJ * weight_BKJ).sum((1, 2)) / weight_BKJ.sum((1, 2)).clamp(min=1e-3)


def periodicity(wave_BN: Tensor, rate: int) -> tuple[Tensor, Tensor]:
    """How alike each of `BANDS_HZ` is to itself some time later, in each window.

    Its autocorrelation's envelope: a harmonic a little beside its place changes it by little, noise by much.

    Returns:
        `(B, K, J, L)` in [0, 1], of L lags, and `(B, K, J)` mean power.
    """
    power_BFJ, step_hz = magnitudes(wave_BN, MEL_SIZE).square(), rate / MEL_SIZE
    first, last = (round(s * step_hz * LAGS) for s in LAGS_S)
    rows, powers = [], []
    for low, high in BANDS_HZ:
        band_BJF = power_BFJ[:, round(low / step_hz) : round(high / step_hz)].transpose(1, 2)
        alike_BJL = torch.fft.fft(band_BJF, LAGS)[..., first:last].abs()
        rows.append(alike_BJL / (band_BJF.sum(2, keepdim=True) + FLOOR**2))
        powers.append(band_BJF.mean(2))
    return torch.stack(rows, 1), torch.stack(powers, 1)


def mel_losses(made_BN: Tensor, wanted_BN: Tensor, rate: int) -> Tensor:
    """`(B,)`: mean difference of the logarithms of the mean magnitude in each mel band."""
    bank_KF = mel_filterbank(rate, MEL_SIZE, BANDS).to(made_BN.device)
    bank_KF = bank_KF / bank_KF.sum(1, keepdim=True).clamp(min=1e-9)
    a, b = ((bank_KF @ magnitudes(w, MEL_SIZE)).clamp(min=FLOOR).log() for w in (made_BN, wanted_BN))
    return (a - b).abs().mean((1, 2))
