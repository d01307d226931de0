"""Examples as training data, whatever they are of: what a model's modalities read is read for them, row by row.

Letters: B rows, N samples or frames, T feature frames, M memory frames, U tokens.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from mmx.clip import Input
from mmx.clip import pad as pad_clips
from mmx.errors import InputError
from mmx.interfaces import Needs, TaskTokenizer
from mmx.model import Model, Stage
from mmx.seq import Seq, pad
from mmx.train.augment import shown_otherwise
from mmx.train.batch import IGNORED, Batch
from mmx.train.manifest import Example
from mmx.train.reading import SLACK_S, duration_s, read_recording, read_target
from mmx.weights.card import suggestion

CACHE_BYTES = 2 << 30
"""Of memories that are kept instead of encoded again; those of a thousand recordings in Whisper base."""
ANYTHING = Needs()
"""Of an objective that learns texts from whatever a model reads."""
TARGET_RATE = 50.0
"""Frames a second by which what is to be made counts in the size of a batch."""


def modalities(model: Model, examples: Sequence[Example], needs: Needs = ANYTHING) -> dict[str, Input]:
    """What of the examples a model reads, by modality.

    All that it records and they have; their texts where it records nothing of them, or where it fuses both.

    Raises:
        InputError: it reads nothing of them, or an objective needs a modality that they lack.
    """
    known, first = model.inputs, examples[0]
    wanted = {n: known[n] for n in needs.modalities} if needs.modalities else dict(model.recorded)
    found = {n: i for n, i in wanted.items() if i.medium in first.media}
    if any(i.medium == "audio" for i in wanted.values()) and not found and "video" in first.media:
        found = {n: i for n, i in wanted.items() if i.medium == "audio"}  # the sound of a film
    texts = {n: i for n, i in known.items() if i.medium == "text" and first.source}
    reads_text = not found if not needs.modalities else any(n in needs.modalities for n in texts)
    found |= texts if reads_text or (model.fuse is not None and not needs.modalities) else {}
    if missing := [n for n in needs.modalities if n not in found]:
        raise InputError(f"expected data with {' and '.join(needs.modalities)}, got none of {' and '.join(missing)}")
    if not found and not (needs.makes and not known):  # a model that only speaks may read all of what it is to make
        raise InputError(_unreadable(model, first))
    return found


def _unreadable(model: Model, example: Example) -> str:
    media = sorted({i.medium for i in model.inputs.values()})
    if not example.media:
        remedy = suggestion("translate-text")
        return f"expected a model that reads texts, got {model.name}, which reads only speech: {remedy}"
    if media == ["text"]:
        return f"expected a model with a speech encoder, got {model.name}: {suggestion('transcribe')}"
    return f"expected {' or '.join(media)} for {model.name}, got data with {', '.join(example.media)}"


def lesson(model: Model, example: Example, language: Callable[[str], str]) -> tuple[list[int], list[int]]:
    """What the decoder is given to write the text of an example, and what it is to write: text and end.

    Args:
        model: with its tokenizer, which may have a `lesson` of its own.
        example: with a text.
        language: the tokenizer's spelling of a language.

    Raises:
        InputError: the model does not have the language or the task.
    """
    tok = model.require_tokenizer()
    if isinstance(tok, TaskTokenizer):
        return tok.lesson(example.target, example.src_lang, example.tgt_lang, example.task)
    return tok.prompt(language(example.tgt_lang)), [*tok.encode(example.target), tok.eot]


@dataclass(frozen=True)
class Changes:
    """Augmentation, by what it changes; each is given a key of the seed, the epoch and the example.

    Attributes:
        media: of samples or frames `(N, *)`, by medium.
        features: of sound's features `(T, F)`, given also how many of them are sound and not padding.
        lowercase: share of the source texts that is shown in lower case.
        unpunctuated: share that is shown without its final punctuation. Both as recognizers of speech write.
    """

    media: Mapping[str, Callable[[Tensor, str], Tensor]] = field(default_factory=dict)
    features: Callable[[Tensor, int, str], Tensor] | None = None
    lowercase: float = 0.0
    unpunctuated: float = 0.0


UNCHANGED = Changes()


class Data:
    """Examples, ready to be batched.

    Args:
        examples: all of the same media, of which those longer than the model's window, or than `max_tokens`, are left
            out; `left_out` says how many.
        model: that is to learn them, with its tokenizer.
        max_tokens: of a text, read or written.
        group_by: the fields of an example that make up its group, for sampling.
        changes: what is augmented.
        seed: of the augmentation.
        needs: of the objective.
        room: bytes of decoded recordings that are kept in memory.

    Raises:
        InputError: a recording is missing, the model lacks a language or a task or reads nothing of this, or the
            objective needs what an example does not have.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        model: Model,
        *,
        max_tokens: int,
        group_by: Sequence[str] = (),
        changes: Changes = UNCHANGED,
        seed: int = 0,
        needs: Needs = ANYTHING,
        room: int = 0,
    ):
        self.model, self.seed, self.changes, self.kept = model, seed, changes, Kept(room)
        self.inputs = modalities(model, examples, needs)
        self.recorded = {n: i for n, i in self.inputs.items() if i.medium != "text"}
        self.windows = {n: model.window(n) for n in self.recorded}
        own_rate = 1.0 if model.synth is None else model.synth.rate
        self.makes = {needs.makes: needs.rate or float(own_rate)} if needs.makes else {}
        self.room = max_tokens if model.decoder is None else min(max_tokens, model.decoder.ctx)
        self._spell = cache(lambda text: model.require_tokenizer().language(text))
        self.examples: list[Example] = []
        self.sources: list[list[int]] = []
        self.targets: list[tuple[list[int], list[int]]] = []
        self.lengths: list[tuple[int, int]] = []
        _require(examples, needs)
        for example in examples:
            self._add(example, needs.text)
        self.left_out = len(examples) - len(self.examples)
        if not self.examples:
            raise InputError(self._none_left(len(examples)))
        self.groups = ["/".join(getattr(e, field) for field in group_by) for e in self.examples]

    def _add(self, example: Example, written: bool) -> None:
        """Take an example, unless it is too long."""
        prompt, text = lesson(self.model, example, self._spell) if written else ([], [])
        source = self._source(example, example.source) if len(self.recorded) < len(self.inputs) else []
        seconds = duration_s(example, self.recorded) if self.recorded else 0.0
        fits = all(seconds * float(i.rate or 1) <= self.windows[n].frames for n, i in self.recorded.items())
        if not fits or max(len(source), len(prompt) + len(text)) > self.room:
            return
        makes = sum(round(duration_s(_whole(example, m), _alone(m, r)) * TARGET_RATE) for m, r in self.makes.items())
        self.examples.append(example)
        self.sources.append(source)
        self.targets.append((prompt, text))
        read = sum(self._frames(n, seconds) for n in self.recorded) + len(source)
        self.lengths.append((read, len(prompt) + len(text) + makes))

    def _none_left(self, n_examples: int) -> str:
        if not self.recorded:
            return (
                f"expected texts of at most max_tokens = {self.room} tokens on either side, got none among "
                f"{n_examples} examples: raise max_tokens as far as the model has room, or cut the texts"
            )
        longest = min(w.frames / float(self.recorded[n].rate or 1) for n, w in self.windows.items())
        return (
            f"expected recordings of at most {longest:g} s and {self.room} tokens, got none: cut the recordings, or "
            "say start_s and duration_s"
        )

    def _frames(self, modality: str, seconds: float) -> int:
        """Memory frames of so many seconds."""
        w = self.windows[modality]
        frames = w.frames if w.padded else round(seconds * float(self.recorded[modality].rate or 1))
        return max(1, frames // w.stride)

    def _source(self, example: Example, text: str) -> list[int]:
        return self.model.require_source_tokenizer().source(text, self._spell(example.src_lang))

    def batch(self, indices: Sequence[int], epoch: int = 0) -> Batch:
        """The examples as tensors; what is augmented depends on the seed, the epoch and the example alone."""
        if self.changes.features is not None and self.recorded:
            rows = [self._features(i, epoch) for i in indices]
            inputs = pad_clips(rows)
            return self.with_inputs(indices, inputs, "encoders", epoch)
        rows = [{name: x for name, (x, _) in self.samples(i, epoch).items()} for i in indices]
        inputs = {name: pad([row[name] for row in rows], float(i.rate or 1)) for name, i in self.recorded.items()}
        return self.with_inputs(indices, inputs, "front", epoch)

    @property
    def is_fixed(self) -> bool:
        """Whether an example is the same in every epoch."""
        return not self.changes.media and self.changes.features is None and len(self.recorded) == len(self.inputs)

    def samples(self, i: int, epoch: int) -> dict[str, tuple[Tensor, int]]:
        """The samples or frames `(N, *)` of an example as the model takes them, and how many are not padding."""
        if not self.recorded:
            return {}
        read, key = self.kept(i, lambda: read_recording(self.examples[i], self.recorded)), self._key(i, epoch)
        for name, x in read.items():
            limit, rate = self.windows[name].frames, float(self.recorded[name].rate or 1)
            if len(x) > limit + SLACK_S * rate:
                raise InputError(
                    f"expected at most {limit / rate:g} s in {self.examples[i].media[self.recorded[name].medium]}, as "
                    f"its file declares, got {len(x) / rate:.1f} s: give its row a duration_s"
                )
        changes = {n: self.changes.media[w.medium] for n, w in self.recorded.items() if w.medium in self.changes.media}
        changed = {name: changes[name](x, key) if name in changes else x for name, x in read.items()}
        if any(len(x) > self.windows[name].frames for name, x in changed.items()):
            changed = read  # played slower it would not fit
        return {name: self._filled(name, x) for name, x in changed.items()}

    def _filled(self, name: str, x_N: Tensor) -> tuple[Tensor, int]:
        limit, padded = self.windows[name].frames, self.windows[name].padded
        x_N = x_N[:limit]
        behind = limit - len(x_N) if padded else 0
        return F.pad(x_N, (0, 0) * (x_N.dim() - 1) + (0, behind)), len(x_N)

    @torch.no_grad()
    def _features(self, i: int, epoch: int) -> dict[str, Seq]:
        self.model.front.eval()  # it is not trained: the masks come behind it
        out = {}
        for name, (x_N, spoken) in self.samples(i, epoch).items():
            seq = pad([x_N], float(self.recorded[name].rate or 1)).to(_device(self.model))
            seq = self.model.encode(name, seq, "front", "encoders")
            if self.recorded[name].medium == "audio" and self.changes.features is not None:
                frames = round(int(seq.lengths[0]) * spoken / len(x_N))
                seq = seq._replace(x=self.changes.features(seq.x[0], frames, self._key(i, epoch))[None])
            out[name] = seq
        return out

    def _key(self, i: int, epoch: int) -> str:
        return f"{self.seed}/{epoch}/{i}"

    def with_inputs(self, indices: Sequence[int], inputs: Mapping[str, Seq], begin: Stage, epoch: int = 0) -> Batch:
        """The batch of some examples, whose recordings have come to the stage `begin`; their texts are added."""
        rows = pad([torch.tensor([*a, *b], dtype=torch.int64) for a, b in (self.targets[i] for i in indices)])
        given_B = torch.tensor([len(self.targets[i][0]) for i in indices])
        wanted_BU = rows.mask & (torch.arange(rows.x.shape[1]) >= given_B[:, None])
        targets_BU = rows.x.masked_fill(~wanted_BU, IGNORED)
        read = {n: pad([torch.tensor(self._text(i, epoch)) for i in indices]) for n in self.inputs.keys() - inputs}
        tasks, keys = tuple(self.examples[i].task for i in indices), tuple(self._key(i, epoch) for i in indices)
        makes = {m: pad([self._made(i, m, r) for i in indices], r) for m, r in self.makes.items()}
        return Batch({**inputs, **read}, rows.x[:, :-1], targets_BU[:, 1:], tasks, begin, makes, keys)

    def _made(self, i: int, medium: str, rate: float) -> Tensor:
        return read_target(self.examples[i].makes[medium], medium, rate, self.examples[i])

    def _text(self, i: int, epoch: int) -> list[int]:
        """The source text's tokens, as they are shown in an epoch."""
        text, c = self.examples[i].source, self.changes
        shown = shown_otherwise(text, c.lowercase, c.unpunctuated, self._key(i, epoch))
        ids = self.sources[i] if shown == text else self._source(self.examples[i], shown)
        return ids if len(ids) <= self.room else self.sources[i]


def _require(examples: Sequence[Example], needs: Needs) -> None:
    """Refuse examples without what an objective learns from."""
    for wanted, what, lacking in (
        (needs.text, "a text", [e for e in examples if not e.target]),
        (bool(needs.makes), f"target_{needs.makes}", [e for e in examples if needs.makes not in e.makes]),
    ):
        if wanted and lacking:
            raise InputError(
                f"expected {what} in every row, which the objective learns from, got none in {len(lacking)} of them, "
                f"such as {lacking[0].id or next(iter(lacking[0].paths), lacking[0].source)!r}: fill in or remove them"
            )


def _whole(example: Example, medium: str) -> Example:
    return Example("", "", example.src_lang, example.tgt_lang, example.id, media={medium: example.makes[medium]})


def _alone(medium: str, rate: float) -> dict[str, Input]:
    return {medium: Input(medium, rate)}  # type: ignore[arg-type]


class Kept:
    """What was made, by number, as long as there is room for it.

    Args:
        room: bytes.
    """

    def __init__(self, room: int):
        self.room = room
        self._found: dict[int, dict[str, Tensor]] = {}

    def __call__(self, i: int, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """What is kept, or else made; nobody may change it."""
        if i in self._found:
            return self._found[i]
        made = make()
        size = sum(x.numel() * x.element_size() for x in made.values())
        if size <= self.room:
            self.room -= size
            self._found[i] = made
        return made


class EncodedData:
    """Recordings for a model whose encoders are frozen: each example is encoded once, by itself, and kept.

    Args:
        data: without augmentation, which would make every encoding another.
        room: bytes that may be kept; beyond, examples are encoded each time, with the same result.
    """

    def __init__(self, data: Data, room: int = CACHE_BYTES):
        self.data, self.room = data, room
        self.examples, self.left_out = data.examples, data.left_out
        self.lengths, self.groups = data.lengths, data.groups
        self._kept: dict[int, dict[str, Seq]] = {}

    def batch(self, indices: Sequence[int], epoch: int = 0) -> Batch:
        """The examples as tensors, encoded."""
        rows = [self._encoded(i) for i in indices]
        inputs = pad_clips(rows)
        return self.data.with_inputs(indices, inputs, "adapters", epoch)

    @torch.no_grad()
    def _encoded(self, i: int) -> dict[str, Seq]:
        if i in self._kept:
            return self._kept[i]
        model = self.data.model
        model.encoders.eval()  # frozen: it is used as it is
        found = {}
        for name, (x_N, _) in self.data.samples(i, 0).items():
            seq = pad([x_N], float(self.data.recorded[name].rate or 1)).to(_device(model))
            found[name] = model.encode(name, seq, "front", "adapters").to("cpu")
        size = sum(seq.x.numel() * seq.x.element_size() for seq in found.values())
        if size <= self.room:
            self.room -= size
            self._kept[i] = found
        return found


def encodes_frozen(model: Model) -> bool:
    """Whether nothing of what an input passes before the adapters is trained."""
    return not any(p.requires_grad for part in (model.front, model.encoders) for p in part.parameters())


def _device(model: Model) -> torch.device:
    return next(model.parameters()).device
