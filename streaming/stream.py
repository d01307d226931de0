"""`Stream`: one session of live listening. Sound goes in as it comes, text that will not change comes out.

A model serves any number of streams in any number of threads: all that a session remembers is in its own `Stream`,
which is for one thread at a time.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmx.clip import SPEECH, Clip, Input, Rolling, rate_of
from mmx.errors import CheckpointError, InputError
from mmx.files import write_tensors
from mmx.media.audio import SAMPLE_RATE as RATE
from mmx.memory import give_back, large_blocks_apart
from mmx.model import Model
from mmx.nn.ctc import NAME
from mmx.seq import Seq
from mmx.streaming.ctc import CTCListener
from mmx.streaming.emma.heads import find_heads
from mmx.streaming.encoders import StreamEncoder
from mmx.streaming.lag import STEPS_S
from mmx.streaming.listener import Listener, Monotonic
from mmx.streaming.policies import Policy, find_policy
from mmx.tasks.events import Event
from mmx.tasks.options import Task
from mmx.tasks.result import Segment, Transcript, Word
from mmx.tasks.segment import Vad
from mmx.text.languages import find_language


class Listening(Protocol):
    """What a stream drives: `Listener`, or `CTCListener` for a model without a decoder.

    Attributes:
        encoder: holds the window.
        spells: whether it writes parts of words, so that what does not begin with a space goes on with the word before.
    """

    encoder: StreamEncoder
    spells: bool

    @property
    def language(self) -> str:
        """Tag of the language that is written; empty until it is known."""
        ...

    @property
    def tentative(self) -> str:
        """What would be written next."""
        ...

    @property
    def behind_s(self) -> float:
        """Seconds that came and are not written."""
        ...

    def step(self, samples: NDArray[np.float32], final: bool, others: Clip | None = None) -> list[Word]:
        """Take the next samples of the clock, and what other modalities have meanwhile; words that may be written."""
        ...

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and plain values that `restore` needs."""
        ...

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        ...


VERSION = 4
"""Of the format that `Stream.save` writes."""
MINUTE = 60 * RATE


class Stream:
    """A live session.

    Args:
        model: one that reads recordings, whatever of them, with a tokenizer and a decoder or a CTC head.
        policy: decides when a token is written: a name with its threshold (see `mmx.streaming.policies.find_policy`),
            or a function of a `View`.
        language: of the speech; detected when None, by models that can.
        task: transcribe or translate.
        to: language to translate into; the model's default when None.
        step_s: the model looks each time that so much new sound has come.
        vad: the voice activity model; True makes one, None hears everything as speech. One may serve many streams.
        catch_up: look once, not at each step, where a push brings several steps of sound: for a listener in real time
            that fell behind. What is written then depends on how the sound was cut into pushes; else it does not.
        monotonic: heads that say when the source suffices, for the policy emma; when None, those that mmx has for the
            model.
        modalities: that the session has, of those in `Model.recorded`; when None, those of the first clip. Where it has
            no sound, nothing is known of voice activity: all of it may be speech.

    Raises:
        InputError: the model cannot do what is asked.
    """

    def __init__(
        self,
        model: Model,
        *,
        policy: str | Policy = "alignatt",
        language: str | None = None,
        task: Task = "transcribe",
        to: str | None = None,
        step_s: float = 1.0,
        vad: Vad | bool | None = True,
        catch_up: bool = False,
        monotonic: Monotonic | None = None,
        modalities: Sequence[str] | None = None,
    ):
        check_step(step_s)
        decide = find_policy(policy) if isinstance(policy, str) else policy
        self.model, self.task, self.catch_up = model, task, catch_up
        self.settings = {"language": language, "task": task, "to": to, "step_s": step_s}
        if isinstance(policy, str):
            self.settings["policy"] = policy
        self.step = round(step_s * RATE)
        self.events: list[Event] = []
        self._forgotten = 0  # events before these
        if monotonic is None and isinstance(policy, str) and policy.partition(":")[0] == "emma":
            monotonic = find_heads(model)
        self.inputs = _chosen(model.recorded, modalities)
        self.listener: Listening
        if model.decoder is None and NAME in model.heads:
            self.listener = CTCListener(model, decide, language=language, task=task, inputs=self.inputs)
        else:
            self.listener = Listener(
                model, decide, language=language, task=task, to=to, vad=vad if SPEECH in self.inputs else None,
                monotonic=monotonic, inputs=self.inputs,
            )  # fmt: skip
        large_blocks_apart()
        self._waiting = np.zeros(0, np.float32)
        self._others = Rolling()  # what comes beside the sound
        self._names: frozenset[str] = frozenset()  # modalities of the session, once they are known
        if modalities is not None:
            self._begin(self.inputs)
        self._heard = 0  # samples that the listener has had
        self._ended = False

    def push(self, chunk: "NDArray[np.float32] | Tensor | Clip", final: bool = False) -> list[Event]:
        """Hear more of the source.

        Args:
            chunk: `(N,)` float mono samples at 16 kHz in [-1, 1], any N, none included; or a clip of one row with what
                the model reads. All modalities of a session are on one clock. One that lags behind is waited for: it
                has no frames, or fewer. One that a clip does not name is lost (a face that turned away): as in `join`,
                zeros stand for it until the others end.
            final: whether this is the end of the session; then all that is left is written.

        Returns:
            What may be appended to the text.

        Raises:
            InputError: the session has ended, or the chunk is no such sound.
        """
        if self._ended:
            raise InputError("expected no more audio after push(..., final=True): make a new Stream")
        minute = self._heard // MINUTE
        self._waiting = np.concatenate([self._waiting, self._clock(chunk, final)])
        out: list[Event] = []
        while (ready := self._ready(final)) >= self.step:
            take = self.step
            if self.catch_up:  # whole steps, yet no more at once than a listener's window can hold
                take *= min(ready // self.step, max(1, 5 * RATE // self.step))
            part, self._waiting = self._waiting[:take], self._waiting[take:]
            out += self._take(part, final and not len(self._waiting))
        if final and not self._ended:
            part, self._waiting = self._waiting, self._waiting[:0]
            out += self._take(part, True)
        if self._heard // MINUTE > minute:
            give_back()
        return out

    def _clock(self, chunk: "NDArray[np.float32] | Tensor | Clip", final: bool) -> NDArray[np.float32]:
        """The sound of a chunk, or silence as long as what comes without; other modalities are kept."""
        clip: Mapping[str, Any] = chunk if isinstance(chunk, Mapping) else {SPEECH: chunk} if len(chunk) else {}
        if unknown := clip.keys() - self.inputs.keys():
            raise InputError(f"expected modalities among {', '.join(self.inputs)}, got {sorted(unknown)}")
        others = {name: _frames(name, seq, self.inputs[name]) for name, seq in clip.items() if name != SPEECH}
        samples = _samples(_row(clip[SPEECH])) if SPEECH in clip else _NONE
        if clip and not self._names:
            self._begin(clip)
        if late := clip.keys() - self._names:
            raise InputError(
                f"expected {', '.join(sorted(self._names))} in this session, got {', '.join(sorted(late))} later: "
                "name all that it will have, Stream(..., modalities=...)"
            )
        self._others.append(others)
        heard = self._heard + len(self._waiting) + len(samples)
        end_s = max([self._others.end_of(n) for n in others] + [heard / RATE] * (SPEECH in clip), default=0.0)
        for lost in set(self._others.names) - clip.keys() if clip else ():
            self._others.fill(lost, end_s)
        if (SPEECH in clip or not clip) and SPEECH in self._names and not final:
            return samples
        return np.concatenate([samples, np.zeros(max(0, round(self._others.end_s * RATE) - heard), np.float32)])

    def _begin(self, names: Iterable[str]) -> None:
        """Know what the session has: nothing of it, so far."""
        self._names = frozenset(names)
        self._others.append({n: _nothing(self.inputs[n]) for n in self._names if n != SPEECH})

    def _ready(self, final: bool) -> int:
        """Samples that wait and beside which nothing is missing."""
        ends = () if final else self._others.ends_s
        return min([len(self._waiting), *(round(end_s * RATE) - self._heard for end_s in ends)])

    def _take(self, part: NDArray[np.float32], final: bool) -> list[Event]:
        others = self._others.part(self._heard / RATE, (self._heard + len(part)) / RATE, self._heard / RATE)
        self._heard += len(part)
        self._ended = final
        self._others.drop(self._heard / RATE)
        written = self.listener.step(
            part, final, {n: s._replace(x=s.x[:, : int(s.lengths[0])]) for n, s in others.items()}
        )
        at_s, language = self._heard / RATE, self.listener.language
        first = self._forgotten + len(self.events)
        new = [
            Event(first + i, w.text, w.start_s, w.end_s, at_s, w.final, language, w.probability)
            for i, w in enumerate(written)
        ]
        self.events += new
        return new

    def forget(self) -> None:
        """Drop the events so far, and with them `text` and `transcript`: whoever has them need not keep them twice."""
        self._forgotten += len(self.events)
        self.events = []

    @property
    def tentative(self) -> str:
        """What would be written next if the source ended here; it may change."""
        return self.listener.tentative

    @property
    def source_s(self) -> float:
        """Seconds of the source that were pushed."""
        return (self._heard + len(self._waiting)) / RATE

    @property
    def lag_s(self) -> float:
        """Seconds of speech that were pushed but are not written yet; 0 in silence."""
        return self.listener.behind_s + len(self._waiting) / RATE if self.listener.behind_s else 0.0

    @property
    def text(self) -> str:
        """All that was written."""
        return "".join(e.text for e in self.events).strip()

    def transcript(self, source: str = "live") -> Transcript:
        """What was written so far, to be saved as SRT or in any other format."""
        segments: list[Segment] = []
        words: list[Word] = []
        for e in [*self.events, None]:
            if e is not None and e.text and words and self.listener.spells and not e.text[0].isspace():
                words[-1] = _longer(words[-1], e)
            elif e is not None and e.text:
                words.append(Word(e.text, e.start_s, e.end_s, e.probability))
            if words and (e is None or e.final):
                text = "".join(w.text for w in words)
                mean = sum(math.log(max(w.probability, 1e-9)) for w in words) / len(words)
                segments.append(
                    Segment(words[0].start_s, max(w.end_s for w in words), text, self.listener.language,
                            avg_logprob=mean, words=tuple(words))
                )  # fmt: skip
                words = []
        spoken = self.settings["language"]
        language = find_language(spoken).tag if spoken else self.listener.language
        return Transcript(
            source=source,
            segments=tuple(segments),
            language=language,
            language_probability=1.0,
            duration_s=self.source_s,
            task=self.task,
            model=self.model.name,
        )

    def save(self, path: str | Path) -> None:
        """Write the session to one safetensors file, from which `restore` goes on, in any process.

        Raises:
            OutputError: it cannot be written.
        """
        tensors, values = self.listener.state()
        frames, places = self._others.saved()
        rows = [[e.text, e.start_s, e.end_s, e.at_s, e.final, e.language, e.probability] for e in self.events]
        header = {
            "version": VERSION,
            "model": self.model.name,
            "settings": self.settings,
            "catch_up": self.catch_up,
            "heard": self._heard,
            "ended": self._ended,
            "forgotten": self._forgotten,
            "events": rows,
            "listener": values,
            "inputs": list(self.inputs),
            "names": sorted(self._names),
            "others": places,
        }
        held = {f"listener.{k}": v.contiguous() for k, v in tensors.items()}
        held |= {f"others.{name}": x for name, x in frames.items()}
        held["waiting"] = torch.from_numpy(self._waiting.copy())
        write_tensors(path, held, {"mmx": json.dumps(header)})

    @classmethod
    def restore(
        cls,
        model: Model,
        path: str | Path,
        *,
        policy: Policy | None = None,
        vad: Vad | bool | None = True,
        monotonic: Monotonic | None = None,
    ) -> "Stream":
        """Go on with a session that `save` wrote.

        Args:
            model: the model that it was listening with.
            path: the file.
            policy: where the session was not made with a policy's name.
            vad: as in `Stream`.
            monotonic: as in `Stream`.

        Raises:
            CheckpointError: the file is no session, or one of another model.
        """
        tensors, header = _read(path)
        if header["model"] != model.name:
            raise CheckpointError(f"expected a session of {model.name}, got one of {header['model']}: load that model")
        settings = dict(header["settings"])
        if policy is not None:
            settings["policy"] = policy
        if "policy" not in settings:
            raise InputError("expected the policy of the session, which was a function: pass it to restore")
        how: dict[str, Any] = {"vad": vad, "catch_up": header["catch_up"], "monotonic": monotonic}
        stream = cls(model, **settings, **how, modalities=header.get("inputs"))
        stream._forgotten = header["forgotten"]
        stream.events = [Event(stream._forgotten + i, *row) for i, row in enumerate(header["events"])]
        stream._heard, stream._ended = header["heard"], header["ended"]
        stream._waiting = tensors.pop("waiting").numpy()
        places = header.get("others", {})  # which a session of sound lacked in earlier versions
        stream._names, stream._others = frozenset(header.get("names", ())), Rolling()
        stream._others.restore({name: tensors.pop(f"others.{name}") for name in places}, places)
        held = {k.removeprefix("listener."): v for k, v in tensors.items()}
        stream.listener.restore(held, header["listener"])
        return stream


_NONE = np.zeros(0, np.float32)


def _longer(word: Word, e: Event) -> Word:
    """A word with the letters that follow."""
    return replace(word, text=word.text + e.text, end_s=e.end_s, probability=min(word.probability, e.probability))


def _chosen(recorded: Mapping[str, Input], modalities: Sequence[str] | None) -> dict[str, Input]:
    """What a session has of what a model reads. Raises `InputError` for what it does not read."""
    names = list(recorded) if modalities is None else list(modalities)
    if not names or set(names) - recorded.keys():
        raise InputError(f"expected modalities among {', '.join(recorded) or 'none'}, got {names}")
    return {name: recorded[name] for name in names}


def _nothing(what: Input) -> Seq:
    """No frames of a modality."""
    dtype = torch.uint8 if what.medium == "video" else torch.float32
    return Seq(torch.zeros(1, 0, *what.shape, dtype=dtype), torch.zeros(1, dtype=torch.int64), what.rate, final=False)


def _frames(name: str, seq: Seq, what: Input) -> Seq:
    """A modality as a model reads it. Raises `InputError` for frames of another kind."""
    if len(seq.x) != 1 or rate_of(name, seq) != what.rate or (what.shape and seq.x.shape[2:] != what.shape):
        raise InputError(
            f"expected one row of {name}, {what.rate:g} frames a second of shape {what.shape}, got {len(seq.x)} of "
            f"{seq.rate:g} with {tuple(seq.x.shape[2:])}"
        )
    return seq._replace(x=seq.x.nan_to_num(posinf=0.0, neginf=0.0)) if seq.x.is_floating_point() else seq


def _row(sound: "NDArray[np.float32] | Tensor | Seq") -> "NDArray[np.float32] | Tensor":
    return sound.x[0, : int(sound.lengths[0])] if isinstance(sound, Seq) else sound


def check_step(step_s: float) -> None:
    """Raise `InputError` for a step that no stream can have."""
    if not STEPS_S[0] <= step_s <= STEPS_S[1]:
        raise InputError(f"expected step_s in {STEPS_S[0]:g} to {STEPS_S[1]:g} seconds, got {step_s}")


def _read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "pt") as file:
            header = json.loads((file.metadata() or {})["mmx"])
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as e:
        raise CheckpointError(f"expected a session that Stream.save wrote in {path}, got {e}") from e
    if header.get("version") != VERSION:
        raise CheckpointError(f"expected a session of version {VERSION}, got {header.get('version')}: begin a new one")
    return tensors, header


def _samples(chunk: "NDArray[np.float32] | Tensor") -> NDArray[np.float32]:
    x = chunk.detach().cpu().numpy() if isinstance(chunk, Tensor) else np.asarray(chunk)
    if x.ndim != 1 or not np.issubdtype(x.dtype, np.floating):
        raise InputError(f"expected mono float samples (N,) at 16 kHz, got {x.dtype} {x.shape}")
    return np.nan_to_num(x.astype(np.float32), posinf=0.0, neginf=0.0)
