"""Speech and its text as training data: recordings are read when a batch is made of them.

Letters: B rows, N samples, T feature frames, M memory frames, F features, U tokens, D width.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmx.errors import InputError, MediaError
from mmx.media.audio import NOT_FINITE, SAMPLE_RATE, open_audio
from mmx.model import Model, Stage
from mmx.seq import Seq, pad
from mmx.train.batch import IGNORED, Batch
from mmx.train.manifest import MIN_S, Example

SLACK_S = 0.1
"""By which sound may be longer than it is declared: codecs fill their last frame."""
CACHE_BYTES = 2 << 30
"""Of memories that are kept instead of encoded again; those of a thousand recordings in Whisper base."""


class Hearing(NamedTuple):
    """How a model takes speech.

    Attributes:
        window: samples of the longest input.
        padded: whether shorter ones are filled up with silence, as Whisper's are.
        samples_per_frame: samples for each frame of its memory, for the size of a batch.
    """

    window: int
    padded: bool
    samples_per_frame: int


def hearing(model: Model) -> Hearing:
    """How a model takes speech. Raises `InputError` for one that does not."""
    if "speech" not in model.encoders:
        raise InputError(f"expected a model that hears speech, got {model.name}: use whisper-base")
    front, encoder = model.stages("speech")
    samples_per_frame = int(front.stride or 1) * int(encoder.stride or 1)
    if hasattr(model.tokenizer, "timestamp_begin"):  # it was trained on windows of one length, see timed_windows
        return Hearing(encoder.ctx * samples_per_frame, True, samples_per_frame)
    return Hearing(round(getattr(encoder, "window_s", 30.0) * SAMPLE_RATE), False, samples_per_frame)


def read_speech(example: Example) -> Tensor:
    """The samples `(N,)` of an example at 16 kHz.

    Raises:
        InputError: the recording is missing, unreadable or not finite, or has no sound there.
    """
    name = f"{example.id or Path(example.audio).name} ({example.audio})"
    start = round(example.start_s * SAMPLE_RATE)
    stop = None if example.duration_s is None else start + round(example.duration_s * SAMPLE_RATE)
    pieces, at = [], 0
    try:
        with open_audio(example.audio) as reader:
            for block in reader:
                pieces.append(block[max(0, start - at) : None if stop is None else max(0, stop - at)])
                at += len(block)
                if stop is not None and at >= stop:
                    break
        flaws = [w for w in reader.warnings if NOT_FINITE in w]
    except MediaError as e:
        raise InputError(f"expected speech in {name}, got {e}: mend it or remove its row") from e
    if flaws:
        raise InputError(f"expected finite samples in {name}, got: {flaws[0]}. Record it again or remove its row")
    samples = np.concatenate([np.zeros(0, np.float32), *pieces])
    wanted = 1 if stop is None else stop - start - round(SLACK_S * SAMPLE_RATE)
    if len(samples) < max(1, wanted):
        raise InputError(
            f"expected {'sound' if stop is None else f'{example.duration_s:g} s of sound'} from {example.start_s:g} s "
            f"on in {name}, got {len(samples) / SAMPLE_RATE:.2f} s: correct start_s and duration_s, or remove its row"
        )
    return torch.from_numpy(samples)


def duration_s(example: Example) -> float:
    """Seconds of an example: what its row says, else what the file declares, else what it holds."""
    if example.duration_s is not None:
        return example.duration_s
    declared = _declared_s(example)
    if declared is None:
        return len(read_speech(example)) / SAMPLE_RATE
    return declared - example.start_s


def require_sound(examples: Sequence[Example]) -> None:
    """Open every recording, so that one that cannot be used is told before hours of training and not after.

    Raises:
        InputError: a recording is missing or unreadable, or ends before an example of it does.
    """
    ends: dict[str, float | None] = {}
    for example in examples:
        if not example.audio:
            continue
        if example.audio not in ends:
            ends[example.audio] = _declared_s(example)
        end, wanted = ends[example.audio], example.start_s + (example.duration_s or MIN_S)
        if end is not None and wanted > end + SLACK_S:
            raise InputError(
                f"expected sound until {wanted:g} s in {example.audio} ({example.id or 'without an id'}), got "
                f"{end:.2f} s of it: correct start_s and duration_s, or remove its row"
            )


def _declared_s(example: Example) -> float | None:
    """Seconds that a recording declares to last, if it does."""
    try:
        with open_audio(example.audio) as reader:
            return reader.duration_s
    except MediaError as e:
        raise InputError(
            f"expected speech in {example.audio}, got {e} Mend it or remove its row; `mmx data check` lists all such"
        ) from e


def spoken_target(tokenizer: Any, example: Example) -> tuple[list[int], list[int]]:
    """What the decoder is given to write the text of an example, and what it is to write: text and end.

    Raises:
        InputError: the model does not have the language or the task.
    """
    if hasattr(tokenizer, "timestamp_begin"):
        prompt = tokenizer.prompt(example.src_lang if tokenizer.multilingual else None, example.task)
        text = " " + example.target.strip()
    else:
        prompt = tokenizer.prompt(tokenizer.language(example.tgt_lang))
        text = example.target
    return prompt, [*tokenizer.encode(text), tokenizer.eot]


class SpeechData:
    """Speech and its text, ready to be batched; the counterpart of `TextData`.

    Args:
        examples: of which those longer than the model's window, or than `max_tokens`, are left out; `left_out` says
            how many.
        model: that is to learn them, with its tokenizer.
        max_tokens: of the text.
        group_by: the fields of an example that make up its group, for sampling.
        change_samples: changes samples `(N,)`, given the seed of the example in its epoch; see `mmx.train.augment`.
        change_features: the same for features `(T, F)`, given also how many of them are speech and not padding.
        seed: of the augmentation.

    Raises:
        InputError: a recording is missing, or the model lacks a language or a task.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        model: Model,
        *,
        max_tokens: int,
        group_by: Sequence[str] = (),
        change_samples: Callable[[Tensor, str], Tensor] | None = None,
        change_features: Callable[[Tensor, int, str], Tensor] | None = None,
        seed: int = 0,
    ):
        self.model, self.seed, self.hearing = model, seed, hearing(model)
        self.change_samples, self.change_features = change_samples, change_features
        self.examples: list[Example] = []
        self.targets: list[tuple[list[int], list[int]]] = []
        self.lengths: list[tuple[int, int]] = []
        room = min(max_tokens, model.require_decoder().ctx)
        for example in examples:
            seconds = duration_s(example)
            prompt, text = spoken_target(model.require_tokenizer(), example)
            if seconds * SAMPLE_RATE <= self.hearing.window and len(prompt) + len(text) <= room:
                self.examples.append(example)
                self.targets.append((prompt, text))
                self.lengths.append((self._frames(seconds), len(prompt) + len(text)))
        self.left_out = len(examples) - len(self.examples)
        if not self.examples:
            raise InputError(
                f"expected speech of at most {self.hearing.window / SAMPLE_RATE:g} s and {room} tokens, got none: cut "
                "the recordings, or say start_s and duration_s"
            )
        self.groups = ["/".join(getattr(e, field) for field in group_by) for e in self.examples]

    def _frames(self, seconds: float) -> int:
        samples = self.hearing.window if self.hearing.padded else round(seconds * SAMPLE_RATE)
        return max(1, samples // self.hearing.samples_per_frame)

    def batch(self, indices: Sequence[int], epoch: int = 0) -> Batch:
        """The examples as tensors; what is augmented depends on the seed, the epoch and the example alone."""
        if self.change_features is None:
            rows = [self.samples(i, epoch)[0] for i in indices]
            return self.with_inputs(indices, pad(rows, float(SAMPLE_RATE)), "front")
        return self.with_inputs(indices, stack([self._features(i, epoch) for i in indices]), "encoders")

    @property
    def is_fixed(self) -> bool:
        """Whether an example is the same in every epoch."""
        return self.change_samples is None and self.change_features is None

    def samples(self, i: int, epoch: int) -> tuple[Tensor, int]:
        """The samples `(N,)` of an example as the model takes them, and how many of them are speech."""
        limit, samples = self.hearing.window, read_speech(self.examples[i])
        if len(samples) > limit + SLACK_S * SAMPLE_RATE:
            raise InputError(
                f"expected at most {limit / SAMPLE_RATE:g} s in {self.examples[i].audio}, as its file declares, got "
                f"{len(samples) / SAMPLE_RATE:.1f} s: give its row a duration_s"
            )
        if self.change_samples is not None:
            changed = self.change_samples(samples, f"{self.seed}/{epoch}/{i}")
            samples = changed if len(changed) <= limit else samples
        samples = samples[:limit]
        silence = limit - len(samples) if self.hearing.padded else 0
        return F.pad(samples, (0, silence)), len(samples)

    @torch.no_grad()
    def _features(self, i: int, epoch: int) -> Seq:
        samples_N, spoken = self.samples(i, epoch)
        seq = pad([samples_N], float(SAMPLE_RATE)).to(_device(self.model))
        self.model.front.eval()  # it is not trained: the masks come behind it
        seq = self.model.encode("speech", seq, "front", "encoders")
        frames = round(int(seq.lengths[0]) * spoken / len(samples_N))
        assert self.change_features is not None
        return seq._replace(x=self.change_features(seq.x[0], frames, f"{self.seed}/{epoch}/{i}")[None])

    def with_inputs(self, indices: Sequence[int], inputs: Seq, begin: Stage) -> Batch:
        """The batch of some examples, whose speech has come to the stage `begin`."""
        rows = pad([torch.tensor([*prompt, *text]) for prompt, text in (self.targets[i] for i in indices)])
        given_B = torch.tensor([len(self.targets[i][0]) for i in indices])
        wanted_BU = rows.mask & (torch.arange(rows.x.shape[1]) >= given_B[:, None])
        targets_BU = rows.x.masked_fill(~wanted_BU, IGNORED)
        tasks = tuple(self.examples[i].task for i in indices)
        return Batch({"speech": inputs}, rows.x[:, :-1], targets_BU[:, 1:], tasks, begin)


class EncodedData:
    """Speech for a model whose encoder is frozen: each example is encoded once, by itself, and kept.

    Args:
        data: without augmentation, which would make every encoding another.
        room: bytes that may be kept; beyond, examples are encoded each time, with the same result.
    """

    def __init__(self, data: SpeechData, room: int = CACHE_BYTES):
        self.data, self.room = data, room
        self.examples, self.left_out = data.examples, data.left_out
        self.lengths, self.groups = data.lengths, data.groups
        self._kept: dict[int, Seq] = {}

    def batch(self, indices: Sequence[int], epoch: int = 0) -> Batch:
        """The examples as tensors, encoded."""
        return self.data.with_inputs(indices, stack([self._encoded(i) for i in indices]), "adapters")

    @torch.no_grad()
    def _encoded(self, i: int) -> Seq:
        if i in self._kept:
            return self._kept[i]
        model = self.data.model
        model.encoders.eval()  # frozen: it is used as it is
        seq = pad([self.data.samples(i, 0)[0]], float(SAMPLE_RATE)).to(_device(model))
        encoded = model.encode("speech", seq, "front", "adapters").to("cpu")
        size = encoded.x.numel() * encoded.x.element_size()
        if size <= self.room:
            self.room -= size
            self._kept[i] = encoded
        return encoded


def hears_frozen(model: Model) -> bool:
    """Whether nothing of what speech passes before the adapters is trained."""
    return not any(p.requires_grad for part in (model.front, model.encoders) for p in part.parameters())


def stack(rows: Sequence[Seq]) -> Seq:
    """One `Seq` of several that have one row each."""
    return pad([r.x[0, : int(r.lengths[0])] for r in rows], rows[0].rate)


def _device(model: Model) -> torch.device:
    return next(model.parameters()).device
