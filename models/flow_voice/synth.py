"""A synth of our own: phonemes, durations, flow, vocoder; whole or in blocks, with the same sound.

Letters: B rows, U symbols, M frames, F features, N samples, D width.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mmx.errors import InputError
from mmx.interfaces import Sound, Speech, Voice
from mmx.models.flow_voice.acoustic import Acoustic, Said
from mmx.models.flow_voice.frames import FRAME_S, LATENT, RATE_HZ, SOUND, lesson
from mmx.models.flow_voice.vocoder import Vocoder
from mmx.nn.voice import find_voice
from mmx.seq import Seq, pad
from mmx.state import State
from mmx.tasks.word_times import joined, word_times
from mmx.tasks.words import Word
from mmx.text.languages import find_language
from mmx.text.phonemes import phonemes
from mmx.text.phonemes.symbols import numbers

SPEEDS = (0.5, 2.0)
OCTAVE = 12.0
"""In semitones, which is also how far a pitch may be moved."""
MOST_FRAMES = 50.0
"""Of a symbol at a speed of 1: the most that the teacher makes."""
VOICE = "voice"
"""Name of the tensor that describes a voice: a row of the model's own table, or a mean of some."""


class Taught(NamedTuple):
    """What an example teaches an acoustic model: see `mmx.train.objectives.acoustic`."""

    target: Seq
    condition: Seq
    prior: Tensor
    log_frames: Tensor
    frames: Tensor
    symbols: Seq


class Whole(NamedTuple):
    """What the blocks of a sentence have in common.

    Attributes:
        middle: `(B, 1, 1)` standardized log F0 about which the range of pitch is stretched.
        range: of pitch, a factor.
        shares: `(V,)`, how much of each voice is heard, in sum 1; of none where the vocoder knows no voices.
    """

    middle: Tensor
    range: float
    shares: Tensor


class FlowVoice(nn.Module):
    """An `mmx.interfaces.Synth` of many voices.

    Args:
        acoustic: symbols to frames.
        vocoder: frames to a waveform; none while the acoustic model is trained.
        names: of the voices.
        accents: of each voice, a language as `mmx.text.phonemes` takes it ("en-GB").
        pitch: mean and deviation of the logarithm of F0 in Hz, by which it is standardized.
        steps: of Euler's method; 0 speaks the prior's mean.
    """

    rate = 24_000.0
    reads: Literal["text", "encoder", "decoder"] = "text"
    lookahead = math.inf
    medium, medium_rate = "features", RATE_HZ

    def __init__(
        self,
        acoustic: Acoustic,
        vocoder: Vocoder | None,
        names: Sequence[str],
        accents: Sequence[str],
        pitch: tuple[float, float],
        steps: int,
    ):
        super().__init__()
        self.acoustic, self.vocoder, self.names = acoustic, vocoder, tuple(names)
        self.accents, self.pitch, self.steps = tuple(accents), pitch, steps
        self.languages = tuple(dict.fromkeys(accents))

    # -------------------- training

    def weight(self) -> Tensor:
        """`(F,)`: what an error of each feature counts; later dimensions of the latent carry less of the sound."""
        return torch.cat([torch.linspace(1.6, 0.6, LATENT), torch.tensor([2.0, 2.0, 1.0, 1.0])])

    def taught(self, features: Seq) -> Taught:
        """Read training data, `(B, M, frames.COLUMNS)`."""
        known = lesson(features)
        style_BD = self.acoustic.describe(self.acoustic.voice(known.voice), known.language, known.asked)
        text = self.acoustic.encode(known.symbols, style_BD)
        log_BU = self.acoustic.log_frames(text) - known.asked[:, -1:] * math.log(2)
        condition, prior_BMF = self.acoustic.spread(text, known.frames, style_BD)
        return Taught(known.sound, condition, prior_BMF, log_BU, known.frames, known.symbols)

    def velocity(self, x_BMF: Tensor, time_B: Tensor, taught: Taught) -> Tensor:
        """`(B, M, F)` where points of the paths go at times in [0, 1]. The prior learns nothing of it."""
        at = torch.cat([x_BMF, taught.prior.detach().to(x_BMF.dtype), taught.condition.x.to(x_BMF.dtype)], 2)
        return self.acoustic.velocity(taught.condition._replace(x=at), time_B)

    # -------------------- speech

    def voices(self, language: str) -> Sequence[str]:
        """Those whose own language it is."""
        tag = find_language(language).tag
        found = [n for n, a in zip(self.names, self.accents, strict=True) if a.partition("-")[0] == tag]
        if not found:
            known = ", ".join(sorted({a.partition("-")[0] for a in self.accents}))
            raise InputError(f"expected a language that these voices speak, {known}, got {language!r}")
        return found

    def init_state(self, batch: int, capacity: int) -> State:
        """Nothing: a text is read as a whole."""
        return {}

    @torch.no_grad()
    def speak(self, speech: Speech, state: State | None = None) -> Sound:
        """See `mmx.interfaces.Synth`."""
        at, words = self.prepared(speech)
        steps, whole = self._steps(speech), self._whole(at, speech)
        for i in range(steps):
            at = self.acoustic.step(at, i / steps, 1 / steps)
        return Sound(self._heard(at, whole, None), words)

    @torch.no_grad()
    def stream(self, speech: Speech, block_s: float) -> Iterator[Sound]:
        """See `mmx.interfaces.Synth`: the text is read at once, its frames are made block by block."""
        at, words = self.prepared(speech)
        steps, size, n = self._steps(speech), max(1, round(block_s * RATE_HZ)), at.x.shape[1]
        states = [self.acoustic.init_state(1) for _ in range(steps)]
        vocoder, whole = self._vocoder(), self._whole(at, speech)
        sound_state, begin, told, done = vocoder.init_state(1), 0, 0, 0
        first = size + steps * self.acoustic.lookahead + int(vocoder.lookahead)
        while begin < n or not begin:
            end = begin + (size if begin else first)
            piece = Seq(at.x[:, begin:end], (at.lengths - begin).clamp(0, end - begin), RATE_HZ, end >= n)
            for i, own in enumerate(states):
                piece = self.acoustic.step(piece, i / steps, 1 / steps, own)
            wave, begin = self._heard(piece, whole, sound_state), end
            done += int(wave.lengths[0])
            until = len(words[0]) if begin >= n else _begun(words[0], done / self.rate)
            yield Sound(wave, (words[0][told:until],))
            told = until

    def prepared(self, speech: Speech) -> tuple[Seq, list[tuple[Word, ...]]]:
        """Noise, prior and condition side by side, `(B, M, 2 F + D)`, and the words with their times."""
        if not SPEEDS[0] <= speech.speed <= SPEEDS[1]:
            raise InputError(f"expected a speed from {SPEEDS[0]} to {SPEEDS[1]}, got {speech.speed}")
        if not SPEEDS[0] <= speech.range <= SPEEDS[1]:
            raise InputError(f"expected a range of pitch from {SPEEDS[0]} to {SPEEDS[1]}, got {speech.range}")
        if abs(speech.pitch) > OCTAVE:
            raise InputError(f"expected a pitch from {-OCTAVE:g} to {OCTAVE:g} semitones, got {speech.pitch}")
        style_1D, accent = self._style(speech)
        rows = [phonemes(text, accent) for text in speech.texts]
        symbols = [numbers(joined(row)) for row in rows]
        known = pad([torch.tensor([0, *row, 0], device=style_1D.device) for row in symbols])
        style_BD = style_1D.expand(len(rows), -1)
        text = self.acoustic.encode(known, style_BD)
        frames_BU = whole_frames(self.acoustic.log_frames(text).exp().clamp(max=MOST_FRAMES) / speech.speed, known.mask)
        frames_BU *= torch.tensor([bool(row) for row in symbols], device=frames_BU.device)[:, None]  # nothing to say
        said = self.acoustic.spread(text, frames_BU, style_BD)
        counts = [row[: len(s) + 2].tolist() for row, s in zip(frames_BU, symbols, strict=True)]
        words = [word_times(row, n, FRAME_S) for row, n in zip(rows, counts, strict=True)]
        start_BMF = self._noise(said, speech.seed) if self._steps(speech) else said.prior
        return side_by_side(said, start_BMF), words

    def _style(self, speech: Speech) -> tuple[Tensor, str]:
        """`(1, D)` of the voice as it is asked to speak, and its accent."""
        voice_D, accent = self._voice(speech)
        asked = [speech.pitch / OCTAVE, 0.0, math.log2(speech.speed)]  # a range is not followed: see `_heard`
        language_1 = torch.tensor([self.languages.index(accent)], device=voice_D.device)
        asked_1A = torch.tensor([asked], device=voice_D.device)
        return self.acoustic.describe(voice_D[None], language_1, asked_1A), accent

    def _voice(self, speech: Speech) -> tuple[Tensor, str]:
        """`(D,)` of the voice that is asked for, and its accent."""
        able, table_VD = self.voices(speech.language), self.acoustic.voice.weight
        if isinstance(speech.voice, int | str):
            at = self.names.index(able[find_voice(able, speech.voice)])
            return table_VD[at], self.accents[at]
        return _described(speech.voice, table_VD), self.accents[self.names.index(able[0])]

    def _noise(self, said: Said, seed: int) -> Tensor:
        """`(B, M, F)`: the same of each row, whatever rows are beside it."""
        n, like = int(said.condition.lengths.max()), said.prior
        noise_MF = torch.from_numpy(np.random.default_rng(seed).standard_normal((n, SOUND), np.float32))
        return noise_MF.to(like).expand_as(like)

    def _steps(self, speech: Speech) -> int:
        return speech.steps or self.steps

    def _vocoder(self) -> Vocoder:
        if self.vocoder is None:
            raise InputError("expected a model with a vocoder, got the acoustic part of one: join both first")
        return self.vocoder

    def _whole(self, at: Seq, speech: Speech) -> "Whole":
        """What every block of a sentence is made with."""
        table_VD = self.acoustic.voice.weight
        shares_V = _shares(self._voice(speech)[0], table_VD) if self._vocoder().config.voices else table_VD[:0, 0]
        return Whole(_middle(at), speech.range, shares_V)

    def _heard(self, at: Seq, whole: "Whole", state: State | None) -> Seq:
        """Waveform of points that have come to the end of their paths, their F0 stretched about the middle.

        The vocoder follows F0 exactly; the acoustic model was taught a range of pitch, and does not follow it.
        """
        x, (mean, deviation) = at.x[..., :SOUND], self.pitch
        f0_BM2 = x[..., LATENT : LATENT + 2]
        log_hz = torch.lerp(whole.middle.to(f0_BM2).expand_as(f0_BM2), f0_BM2, whole.range) * deviation + mean
        shares_BMV = whole.shares.to(x).expand(*x.shape[:2], -1)
        frames_BMF = torch.cat([x[..., :LATENT], log_hz, x[..., LATENT + 2 :], shares_BMV], 2)
        wave = self._vocoder()(at._replace(x=frames_BMF, rate=RATE_HZ), state)
        return wave._replace(x=wave.masked.clamp(-1, 1))


def whole_frames(mean_BU: Tensor, mask_BU: Tensor) -> Tensor:
    """Mean numbers of frames as whole ones, at least one each, whose sums stay what they were: none for the padding."""
    ends_BU = (mean_BU * mask_BU).cumsum(1).round().long()
    frames_BU = torch.diff(ends_BU, dim=1, prepend=ends_BU.new_zeros(len(ends_BU), 1))
    return frames_BU.clamp(min=1) * mask_BU


def side_by_side(said: Said, start_BMF: Tensor) -> Seq:
    return said.condition._replace(x=torch.cat([start_BMF, said.prior, said.condition.x], 2), rate=RATE_HZ)


def _middle(at: Seq) -> Tensor:
    """`(B, 1, 1)`: the mean of standardized log F0 where the prior is voiced."""
    prior_BMF = at.masked[..., SOUND : 2 * SOUND]
    f0_BM2, voiced_BM2 = prior_BMF[..., LATENT : LATENT + 2], prior_BMF[..., LATENT + 2 :] > 0
    return ((f0_BM2 * voiced_BM2).sum((1, 2)) / voiced_BM2.sum((1, 2)).clamp(min=1))[:, None, None]


def _described(voice: Voice, table_VD: Tensor) -> Tensor:
    """The vector of a voice that is none of the model's own."""
    found = voice.get(VOICE) if not isinstance(voice, int | str) else None
    if found is None or found.shape != table_VD.shape[1:]:
        raise InputError(f"expected a voice described by a tensor {VOICE!r} of {table_VD.shape[1]} numbers")
    return found.to(table_VD)


def _shares(voice_D: Tensor, table_VD: Tensor) -> Tensor:
    """`(V,)`: of which voices a voice is the mean, by least squares; of one of the table it is that one alone."""
    known_DV, wanted_D = table_VD.cpu().double().T, voice_D.cpu().double()  # not every device has float64
    sum_1 = torch.ones(1, dtype=torch.float64)
    rows_DV = torch.cat([known_DV, sum_1.expand(1, known_DV.shape[1])])
    found_V = torch.linalg.lstsq(rows_DV, torch.cat([wanted_D, sum_1])[:, None]).solution[:, 0].clamp(min=0)
    return (found_V / found_V.sum().clamp(min=1e-6)).to(table_VD)


def _begun(words: Sequence[Word], now_s: float) -> int:
    """How many words begin before a time."""
    return sum(word.start_s < now_s for word in words)
