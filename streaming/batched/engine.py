"""Many live sessions on one model: each has a slot, a row of one batch, and all advance together, a chunk at a time.

Sessions join, pause, leave, are saved and come back in any slot, at any time: a step is always the same computation on
the same tensors, with a mask for the rows that do not advance (as Kyutai's Moshi serves its users: Défossez et al.
2024, arXiv 2410.00037). So on CUDA it is captured once as a graph and replayed. Unlike there, all that a session
remembers is in the engine's own `State`, none of it on the model, which any number of engines and threads may share.

Letters: B slots, N samples, K frames of a chunk, W tokens of a step.
"""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmx.errors import CheckpointError, InputError
from mmx.files import write_tensors
from mmx.model import Model
from mmx.seq import Seq
from mmx.state import State, leaves, map_leaves, subtree
from mmx.streaming.batched.chunks import Decide, Ears, Pen, settle, wait_k
from mmx.streaming.events import Event
from mmx.tasks.options import RATE

VERSION = 1
"""Of the format that `Engine.save` writes."""

Run: TypeAlias = Callable[[], None]
Prepare: TypeAlias = Callable[[Run], Run]
"""Makes of a step, which reads and writes fixed tensors, something that repeats it."""


def capture(step: Run, warm_up: int = 3) -> Run:
    """A CUDA graph of a step; what it launches is launched as one from then on.

    The step is run before it is captured, so that libraries choose their algorithms and take their memory, on a stream
    of its own, as capture demands (PyTorch's notes on CUDA graphs).
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(warm_up):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def eager(step: Run) -> Run:
    """The step as it is."""
    return step


@dataclass
class _Slot:
    """A session's part that lives on the host."""

    samples: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))  # not heard yet
    heard: int = 0  # samples
    final: bool = False  # no more will be pushed
    ended: bool = False  # all were heard
    done: bool = False  # all was written
    paused: bool = False
    tokens: list[int] = field(default_factory=list)  # of the open sentence
    words: int = 0  # of them that were given out
    events: int = 0
    at_s: float = 0.0  # until when the words given out reach


class Engine:
    """Sessions side by side.

    One thread steps; others may push. The engine never waits for a session: one without sound for a chunk sits out.

    Args:
        model: a speech front end without statistics over the whole recording, an encoder with a chunk mask, a
            `TextDecoder`, a tokenizer.
        slots: B, sessions at most.
        to: language to write; what it means is the tokenizer's affair.
        chunk_s: seconds of sound of a step; the encoder's chunk, or a multiple of it. The chunk when None.
        decide: when a token may be written, see `mmx.streaming.batched.chunks`.
        writes: W, tokens of a step at most.
        memory_s: seconds of sound that the decoder sees.
        tokens: longest sentence.
        device: where the model goes and steps are made; where it is when None.
        prepare: `capture`, `eager`; capture on CUDA when None.

    Raises:
        InputError: the model cannot stream, or the numbers do not fit it.
    """

    def __init__(
        self,
        model: Model,
        slots: int = 16,
        *,
        to: str = "en",
        chunk_s: float | None = None,
        decide: Decide | None = None,
        writes: int = 4,
        memory_s: float = 20.0,
        tokens: int = 128,
        device: str | torch.device | None = None,
        prepare: Prepare | None = None,
    ):
        if slots < 1 or writes < 1:
            raise InputError(f"expected at least one slot and one write a step, got {slots} and {writes}")
        model.require_decoder()
        if device is not None:
            model.to(device)
        self.model, self.tok = model, model.tokenizer
        self.front, encoder = model.stages("speech")
        if self.front.lookahead == float("inf"):
            raise InputError("expected a front end that streams: build it with normalize=False")
        adaptor: Any = dict(model.adapters.items()).get("speech")
        chunk = getattr(encoder, "chunk", None) or 1
        one_s = chunk * self.front.stride / RATE
        times = 1 if chunk_s is None else round(chunk_s / one_s)
        if times < 1 or (chunk_s is not None and abs(times * one_s - chunk_s) > 1e-6):
            raise InputError(f"expected chunk_s to be a multiple of the encoder's {one_s:g} s, got {chunk_s}")
        self.ears = Ears(encoder, adaptor, times)
        self.chunk = self.ears.frames * self.front.stride
        self.span = self.chunk + int(self.front.lookahead)
        stride = 1 if adaptor is None else adaptor.stride
        room = max(round(memory_s * RATE / self.front.stride / stride), self.ears.widest)
        prompt = list(self.tok.prompt(to))
        never = list(self.tok.control_ids)
        tokens = min(tokens, model.decoder.ctx)
        self.pen = Pen(model.decoder, prompt, self.tok.eot, never, decide or wait_k(), room, tokens)
        self.language, self.writes = to, writes
        self.device = model.decoder.token.weight.device
        self._allocate(slots)
        if prepare is None:
            prepare = capture if self.device.type == "cuda" else eager
        with torch.inference_mode():
            self._run = prepare(self._step)  # no row advances yet

    def _allocate(self, slots: int) -> None:
        """All tensors that a step reads and writes; they never move."""
        with torch.no_grad():
            self.state: State = {"ears": self.ears.init_state(slots), "pen": self.pen.init_state(slots)}
            self._fresh: State = {"ears": self.ears.init_state(1), "pen": self.pen.init_state(1)}
            # A new state may share tensors among its leaves; what is written in place must not.
            self.state = map_leaves(self.state, torch.clone)
            features = self.ears.encoder.features_ln.weight.shape[0]
            none = torch.zeros(slots, dtype=torch.int64, device=self.device)
            self._x = torch.zeros(slots, self.ears.frames, features, device=self.device)
            self._n, self._final, self._hear, self._go = none, *(none.bool() for _ in range(3))
            self._tokens = none.new_full((slots, self.writes), -1)
            self._probabilities = torch.zeros(slots, self.writes, device=self.device)
            self._done = none.bool()
        self.slots: list[_Slot | None] = [None] * slots
        self._lock = threading.Lock()  # of the samples of all slots, which one thread takes and others bring

    def _step(self) -> None:
        """Hear a chunk, then write: what a graph repeats."""
        ears, pen = subtree(self.state, "ears"), subtree(self.state, "pen")
        memory, after = self.ears.step(Seq(self._x, self._n), self._final, ears)
        settle(ears, after, self._hear)
        self.pen.remember(self.model.for_decoder(memory), pen, self._hear, self._final)
        for i in range(self.writes):
            token_B, probability_B, done_B = self.pen.write(pen, self._go)
            self._tokens[:, i].copy_(token_B)
            self._probabilities[:, i].copy_(probability_B)
        self._done.copy_(done_B)

    # -------------------- sessions

    def open(self) -> int:
        """Begin a session; its slot.

        Raises:
            InputError: all slots are taken.
        """
        slot = next((i for i, s in enumerate(self.slots) if s is None), None)
        if slot is None:
            raise InputError(
                f"expected a free slot, all {len(self.slots)} are taken: close one, or make a larger engine"
            )
        self._put(slot, self._fresh)
        self.slots[slot] = _Slot()
        return slot

    def _put(self, slot: int, state: State) -> None:
        """Write a state of one row into a slot."""
        with torch.inference_mode():
            for (_, mine), (_, other) in zip(leaves(self.state), leaves(state), strict=True):
                mine[slot].copy_(other[0])

    def _at(self, slot: int) -> _Slot:
        held = self.slots[slot] if 0 <= slot < len(self.slots) else None
        if held is None:
            raise InputError(f"expected the number of an open slot, got {slot}: open() gives one")
        return held

    def push(self, slot: int, samples: NDArray[np.float32], final: bool = False) -> None:
        """Give a session `(N,)` more samples at 16 kHz; `final` is its end.

        Raises:
            InputError: the session is not open or has ended, or these are no samples.
        """
        held, x = self._at(slot), np.asarray(samples)
        if x.ndim != 1 or not np.issubdtype(x.dtype, np.floating):
            raise InputError(f"expected mono float samples (N,) at 16 kHz, got {x.dtype} {x.shape}")
        x = np.nan_to_num(x.astype(np.float32), posinf=0.0, neginf=0.0)
        with self._lock:
            if held.final:
                raise InputError(f"expected no more sound in slot {slot} after final=True: close it and open another")
            held.samples = np.concatenate([held.samples, x])
            held.final = final

    def pause(self, slot: int, paused: bool = True) -> None:
        """Let a session rest, or go on: its sound waits."""
        self._at(slot).paused = paused

    def close(self, slot: int) -> None:
        """End a session and free its slot; what it has not written is gone."""
        self._at(slot)
        self.slots[slot] = None

    def finished(self, slot: int) -> bool:
        """Whether a session's sound has ended and all is written."""
        return self._at(slot).done

    # -------------------- a step

    def step(self) -> dict[int, list[Event]]:
        """Advance every session that has a chunk of sound, or sound that ended and text to write.

        Returns:
            What each of these has written.
        """
        with self._lock:
            window_BN, n_B = self._gather()
        going = [i for i in range(len(self.slots)) if self._mask[i]]
        if not going:
            return {}
        with torch.inference_mode():
            wav = Seq(window_BN.to(self.device), n_B.to(self.device), RATE)
            seq = self.front(wav)
            width = min(seq.x.shape[1], self.ears.frames)
            self._x.zero_()
            self._x[:, :width].copy_(seq.masked[:, :width])
            self._n.copy_(seq.lengths.clamp(max=self.ears.frames))
            self._run()
            rows = zip(self._tokens.tolist(), self._probabilities.tolist(), self._done.tolist(), strict=True)
        written = list(rows)
        return {i: self._events(self._at(i), *written[i]) for i in going}

    def _gather(self) -> tuple[Tensor, Tensor]:
        """The next window of each row, `(B, N)` and its samples; sets the masks."""
        count = len(self.slots)
        window_BN, n_B = torch.zeros(count, self.span), torch.zeros(count, dtype=torch.int64)
        hear, final, go = ([False] * count for _ in range(3))
        for i, held in enumerate(self.slots):
            if held is None or held.paused or held.done:
                continue
            last = held.final and len(held.samples) <= self.span
            if not held.ended and (last or len(held.samples) >= self.span):
                part = held.samples[: self.span]
                window_BN[i, : len(part)] = torch.from_numpy(part)
                n_B[i] = len(part)
                held.samples = held.samples[len(part) if last else self.chunk :]
                held.heard += len(part) if last else self.chunk
                hear[i], final[i], held.ended = True, last, last
            go[i] = hear[i] or held.ended
        for mask, values in ((self._hear, hear), (self._final, final), (self._go, go)):
            mask.copy_(torch.tensor(values))
        self._mask = go
        return window_BN, n_B

    def _events(self, held: _Slot, tokens: list[int], probabilities: list[float], done: bool) -> list[Event]:
        out: list[Event] = []
        for token, p in zip(tokens, probabilities, strict=True):
            if token == self.tok.eot:
                out += self._words(held, p, over=True)
                held.tokens, held.words = [], 0
            elif token >= 0:
                held.tokens.append(token)
                out += self._words(held, p, over=False)
        held.done = done
        return out

    def _words(self, held: _Slot, p: float, over: bool) -> list[Event]:
        """Words that are complete: a word is when the next one begins, or the sentence ends."""
        words = [text for text, _ in self.tok.split_words(held.tokens)]
        ready = words[held.words : len(words) if over else max(held.words, len(words) - 1)]
        held.words += len(ready)
        at_s = held.heard / RATE
        out = []
        for i, text in enumerate(ready):
            final = over and i == len(ready) - 1
            out.append(Event(held.events + i, text, held.at_s, at_s, at_s, final, self.language, p))
        if over and not ready and words:
            out.append(Event(held.events, "", at_s, at_s, at_s, True, self.language))
        if out:
            held.at_s = at_s
        held.events += len(out)
        return out

    # -------------------- sessions on disk

    def save(self, slot: int, path: str | Path) -> None:
        """Write a session to one safetensors file; it goes on here. Raises `OutputError`."""
        held = self._at(slot)
        tensors = {k: v[slot : slot + 1].contiguous().cpu() for k, v in leaves(self.state)}
        with self._lock:
            plain = {k: v for k, v in vars(held).items() if k != "samples"}
            samples = torch.from_numpy(held.samples.copy())
        header = {"version": VERSION, "model": self.model.name, "slot": plain}
        write_tensors(path, {**tensors, "samples": samples}, {"mmx": json.dumps(header)})

    def restore(self, path: str | Path) -> int:
        """Go on with a session that `save` wrote, of an engine with the same model and numbers; its slot.

        Raises:
            CheckpointError: the file is no such session.
            InputError: all slots are taken.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), "pt") as file:
                header = json.loads((file.metadata() or {})["mmx"])
                tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
            held = _Slot(samples=tensors.pop("samples").numpy(), **header["slot"])
        except (OSError, SafetensorError, KeyError, TypeError, json.JSONDecodeError) as e:
            raise CheckpointError(f"expected a session that Engine.save wrote in {path}, got {e}") from e
        wanted = {k: tuple(v.shape[1:]) for k, v in leaves(self.state)}
        got = {k: tuple(v.shape[1:]) for k, v in tensors.items()}
        if header["version"] != VERSION or header["model"] != self.model.name or got != wanted:
            raise CheckpointError(
                f"expected a session of {self.model.name} with this engine's numbers, got one of {header['model']}"
            )
        slot = self.open()
        with torch.inference_mode():
            for name, mine in leaves(self.state):
                mine[slot].copy_(tensors[name][0])
        self.slots[slot] = held
        return slot
