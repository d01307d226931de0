"""The synth: a text in the voice of a recording (arXiv 2410.06885, section 3.3), and what training needs of it.

How long a text takes is what the recording took for its own, by bytes. Long texts are said in parts, each after the
same recording, and the parts are faded into each other.

Letters: B rows, T frames, U tokens, N samples, F mels.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from mmx.errors import InputError
from mmx.interfaces import Sound, Speech, Voice
from mmx.media.mel import LogMel
from mmx.models.f5_tts import sampling
from mmx.models.f5_tts.field import Field
from mmx.models.f5_tts.sampling import Sampling
from mmx.models.f5_tts.tokenizer import PinyinTokenizer
from mmx.models.vocos import Vocos
from mmx.seq import Seq, pad
from mmx.state import State
from mmx.tasks import reference
from mmx.text.languages import is_unspaced

WINDOW_S = 22.0
"""Recording and part of a text together; the models were trained on up to 30 s."""
FADE_S = 0.15
SHORT, SHORT_SPEED = 10, 0.3
"""Texts of fewer bytes than this are given more time: a byte count says little of them."""
LEAST_BYTES = 40
"""Of a part, however long the recording is."""
SPEEDS = (0.25, 4.0)


class Tokens(nn.Module):
    """The text as it is: how it is embedded depends on the frames that it is to fill. A `Block`."""

    stride, lookahead = 1, 0

    def init_state(self, batch: int, capacity: int = 0) -> State:
        """Nothing is remembered."""
        return {}

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        """`(B, U)` to the same."""
        return seq


class Prompt(NamedTuple):
    """What is said before the text: a voice.

    Attributes:
        mels: `(T, F)` of the recording.
        text: what is said in it, with the space or mark that a sentence begins after.
    """

    mels: Tensor
    text: str

    @property
    def frames(self) -> int:
        """Whole hops of the recording; its mels have one frame more, the last half of which is mirrored."""
        return len(self.mels) - 1


class InfillSynth(nn.Module):
    """Says texts in voices that recordings give; an `mmx.interfaces.Synth`, and a field that can be trained.

    Args:
        field: the velocity.
        vocoder: mels to samples.
        settings: of the sampler.

    Attributes:
        tokenizer: set when the model is loaded.
    """

    reads: Literal["text", "encoder", "decoder"] = "text"
    lookahead = float("inf")
    medium = "audio"

    def __init__(self, field: Field, vocoder: Vocos, settings: Sampling):
        super().__init__()
        self.field, self.vocoder, self.settings = field, vocoder, settings
        self.mels = LogMel(field.mels, vocoder.n_fft, vocoder.hop)
        self.rate = self.mels.rate
        self.tokenizer: PinyinTokenizer | None = None

    @property
    def known(self) -> PinyinTokenizer:
        """The tokenizer. Raises `InputError` where there is none."""
        if self.tokenizer is None:
            raise InputError("expected vocab.txt next to the weights, got none: put it there to speak")
        return self.tokenizer

    def voices(self, language: str) -> Sequence[str]:
        """The voices of recordings that the user added: each can say every language that the model has."""
        self.known.language(language)
        return reference.names()

    def init_state(self, batch: int, capacity: int) -> State:
        """Nothing is remembered: a text is said as a whole."""
        return {}

    def speak(self, speech: Speech, state: State | None = None) -> Sound:
        """See `mmx.interfaces.Synth`."""
        prompt = self.prompt(speech)
        rows = [torch.cat([*self._parts(text, prompt, speech), torch.zeros(0)]) for text in speech.texts]
        return Sound(pad(rows, self.rate, speech.final))

    def stream(self, speech: Speech, block_s: float) -> Iterator[Sound]:
        """See `mmx.interfaces.Synth`: a block is a part of the text, which is sampled at once."""
        (text,) = speech.texts
        for block in self._parts(text, self.prompt(speech), speech):
            yield Sound(pad([block], self.rate, final=False))
        yield Sound(pad([torch.zeros(0)], self.rate, speech.final))

    def narrow(self) -> Iterable[nn.Module]:
        """The field; see `mmx.interfaces.HalfPrecise`."""
        return [self.field]

    # -------------------- what is said

    def prompt(self, speech: Speech) -> Prompt:
        """The voice that is asked for. Raises `InputError` for what the synth cannot do."""
        if not SPEEDS[0] <= speech.speed <= SPEEDS[1]:
            raise InputError(f"expected a speed from {SPEEDS[0]} to {SPEEDS[1]}, got {speech.speed}")
        if speech.pitch or speech.range != 1:
            asked = f"expected pitch 0 and range 1, got {speech.pitch} and {speech.range}"
            raise InputError(f"{asked}: this voice has the pitch of its recording")
        self.known.language(speech.language)
        return self._voice(speech.voice)

    def _voice(self, voice: Voice) -> Prompt:
        if isinstance(voice, int):
            names = reference.names()
            if not 0 <= voice < len(names):
                raise InputError(
                    f"expected a voice from a recording, got number {voice} of {len(names)}: add one with "
                    "`mmx voice add recording.wav --name me --consent`"
                )
            voice = names[voice]
        found = reference.read(voice) if isinstance(voice, str) else reference.from_tensors(voice)
        if found.mels.shape[1] != self.field.mels:
            raise InputError(f"expected a voice of {self.field.mels} mels, got {found.mels.shape[1]}: add it again")
        return Prompt(found.mels, found.text)

    def _parts(self, text: str, prompt: Prompt, speech: Speech) -> Iterator[Tensor]:
        """The sound of a text, in blocks that only have to be joined."""
        foreign = self.known.foreign(text)
        if foreign:
            raise InputError(
                f"expected letters of English or Chinese, got {' '.join(foreign[:8])}: write them otherwise"
            )
        seconds = prompt.frames * self.mels.stride / self.rate
        room = len(prompt.text.encode()) / seconds * (WINDOW_S - seconds) * speech.speed
        parts = split(" ".join(text.split()), max(LEAST_BYTES, int(room)))
        waves = (self.say(part, prompt, speech, speech.seed + i) for i, part in enumerate(parts))
        yield from faded(waves, round(FADE_S * self.rate))

    @torch.inference_mode()
    def say(self, text: str, prompt: Prompt, speech: Speech, seed: int) -> Tensor:
        """The sound `(N,)` of one part of a text."""
        device = self.field.out.weight.device
        ids = self.known.encode(prompt.text + text)
        tokens = pad([torch.tensor(ids, device=device)])
        n = max(prompt.frames + frames(text, prompt, speech.speed), len(ids) + 1, len(prompt.mels) + 1)
        known_BTF = torch.zeros(1, n, self.field.mels, device=device)
        known_BTF[0, : len(prompt.mels)] = prompt.mels.to(device)
        known = Seq(known_BTF, torch.tensor([n], device=device), self.rate / self.mels.stride)
        told, untold = (self.field.condition(known, tokens, drop) for drop in (False, True))
        begin_BTF = sampling.noise([n], self.field.mels, [seed], device)
        mels_BTF = sampling.sample(self.field, begin_BTF, told, untold, self._settings(speech))
        said_BTF = mels_BTF[:, prompt.frames :]
        sound = self.vocoder(Seq(said_BTF, torch.tensor([said_BTF.shape[1]], device=device)))
        # Past the middle of the last window there is half of it only.
        return sound.x[0, :-1].flatten().clamp(-1, 1).cpu()

    def _settings(self, speech: Speech) -> Sampling:
        own = self.settings
        return own if not speech.steps else Sampling(steps=speech.steps, guidance=own.guidance, sway=own.sway)

    # -------------------- what training needs

    def features(self, wave: Seq) -> Seq:
        """A waveform `(B, N)` to what the field is over, `(B, T, F)`."""
        return self.mels(wave)

    def told(self, tokens: Seq, known: Seq, drop: Tensor) -> Seq:
        """What the velocity depends on; see `Field.condition`."""
        return self.field.condition(known, tokens, drop)

    def velocity(self, x_BTF: Tensor, time_B: Tensor, condition: Seq) -> Tensor:
        """`(B, T, F)` where points of the paths go at a time in [0, 1]."""
        return self.field.velocity(x_BTF, time_B, condition)


# -------------------- texts


def frames(text: str, prompt: Prompt, speed: float) -> int:
    """Frames that a text takes: as many for a byte as the recording took."""
    size = len(text.encode())
    pace = SHORT_SPEED if size < SHORT else speed
    return int(prompt.frames / len(prompt.text.encode()) * size / pace)


_WIDE_MARKS = "；：，。！？"
_MARKS = re.compile(rf"(?<=[;:,.!?])\s+|(?<=[{_WIDE_MARKS}])")


def split(text: str, room: int) -> list[str]:
    """Parts of a text of at most `room` bytes, as long as they can be: at marks, else between words, else anywhere."""
    parts = [""]
    for piece in _pieces(text, room):
        glue = "" if not parts[-1] or _is_wide(parts[-1][-1]) else " "
        if len((parts[-1] + glue + piece).encode()) <= room:
            parts[-1] += glue + piece
        else:
            parts.append(piece)
    return [part for part in parts if part]


def _is_wide(char: str) -> bool:
    return char in _WIDE_MARKS or is_unspaced(char)


def _pieces(text: str, room: int) -> Iterator[str]:
    """Sentences and clauses, and what is longer than `room` bytes in smaller pieces."""
    for clause in filter(None, map(str.strip, _MARKS.split(text))):
        for word in [clause] if len(clause.encode()) <= room else clause.split(" "):
            while len(word.encode()) > room:
                head = word.encode()[:room].decode(errors="ignore") or word[0]
                yield head
                word = word[len(head) :]
            if word:
                yield word


def faded(waves: Iterator[Tensor], n_fade: int) -> Iterator[Tensor]:
    """Sounds `(N,)` one after the other, the end of each laid under the beginning of the next over `n_fade` samples."""
    tail = torch.zeros(0)
    for wave in waves:
        n = min(len(tail), len(wave))
        up_N = torch.linspace(0, 1, n)
        wave = torch.cat([tail[: len(tail) - n], tail[len(tail) - n :] * (1 - up_N) + wave[:n] * up_N, wave[n:]])
        yield wave[: max(0, len(wave) - n_fade)]
        tail = wave[max(0, len(wave) - n_fade) :]
    yield tail
