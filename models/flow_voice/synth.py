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
        steps, middle_B11 = self._steps(speech), _middle(at)
        for i in range(steps):
            at = self.acoustic.step(at, i / steps, 1 / steps)
        return Sound(self._heard(at, speech, middle_B11, None), words)

    @torch.no_grad()
    def stream(self, speech: Speech, block_s: float) -> Iterator[Sound]:
        """See `mmx.interfaces.Synth`: the text is read at once, its frames are made block by block."""
        at, words = self.prepared(speech)
        steps, size, n = self._steps(speech), max(1, round(block_s * RATE_HZ)), at.x.shape[1]
        states = [self.acoustic.init_state(1) for _ in range(steps)]
        vocoder, middle_B11 = self._vocoder(), _middle(at)
        sound_state, begin, told, done = vocoder.init_state(1), 0, 0, 0
        first = size + steps * self.acoustic.lookahead + int(vocoder.lookahead)
        while begin < n or not begin:
            end = begin + (size if begin else first)
            piece = Seq(at.x[:, begin:end], (at.lengths - begin).clamp(0, end - begin), RATE_HZ, end >= n)
            for i, own in enumerate(states):
                piece = self.acoustic.step(piece, i / steps, 1 / steps, own)
            wave, begin = self._heard(piece, speech, middle_B11, sound_state), end
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
        able, table = self.voices(speech.language), self.acoustic.voice.weight
        if isinstance(speech.voice, int | str):
            at = self.names.index(able[find_voice(able, speech.voice)])
            voice_D, accent = table[at], self.accents[at]
        else:
            voice_D, accent = _described(speech.voice, table), self.accents[self.names.index(able[0])]
        asked = [speech.pitch / OCTAVE, 0.0, math.log2(speech.speed)]  # a range is not followed: see `_heard`
        language_1 = torch.tensor([self.languages.index(accent)], device=table.device)
        asked_1A = torch.tensor([asked], device=table.device)
        return self.acoustic.describe(voice_D[None], language_1, asked_1A), accent

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

    def _heard(self, at: Seq, speech: Speech, middle_B11: Tensor, state: State | None) -> Seq:
        """Waveform of points that have come to the end of their paths, their F0 stretched about the middle.

        The vocoder follows F0 exactly; the acoustic model was taught a range of pitch, and does not follow it.
        """
        x, (mean, deviation) = at.x[..., :SOUND], self.pitch
        f0_BM2 = x[..., LATENT : LATENT + 2]
        log_hz = torch.lerp(middle_B11.to(f0_BM2).expand_as(f0_BM2), f0_BM2, speech.range) * deviation + mean
        frames = at._replace(x=torch.cat([x[..., :LATENT], log_hz, x[..., LATENT + 2 :]], 2), rate=RATE_HZ)
        wave = self._vocoder()(frames, state)
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


def _begun(words: Sequence[Word], now_s: float) -> int:
    """How many words begin before a time."""
    return sum(word.start_s < now_s for word in words)
