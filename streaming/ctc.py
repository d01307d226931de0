"""Live reading of a CTC head (`mmx.nn.ctc`): what a causal encoder has emitted is written at once, as it cannot change.

A model that sees its window anew each time may change its mind: there a policy decides, as in `mmx.streaming.listener`.
Text comes in parts of words, a letter or more at a time. Blanks for `REST_S` end a sentence; nothing is asked of voice
activity, so that any modality can be read.

Letters: M memory frames, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmx.clip import Clip, Input
from mmx.media.audio import SAMPLE_RATE as RATE
from mmx.model import Model
from mmx.streaming.encoders import IncrementalEncoder, stream_encoder
from mmx.streaming.gap import Gap, without_first
from mmx.streaming.policies import Policy, View
from mmx.tasks.ctc_recognizer import CTCRecognizer, fit
from mmx.tasks.options import Options, Task
from mmx.tasks.words import Word
from mmx.text.languages import find_language


@dataclass(frozen=True, slots=True)
class Emitted:
    """A token, the seconds of the session in which its frame lies, and its probability."""

    token: int
    start_s: float
    end_s: float
    log_prob: float


class CTCListener:
    """What one session remembers; the arguments are those of `Stream`.

    Args:
        model: with a CTC head, which scores each frame by itself, and a tokenizer.
        policy: for a model that sees its window anew; see `mmx.streaming.policies`.
        language: that is written.
        task: as in `Stream`.
        inputs: what the session has of what the model reads; all of it when None.

    Raises:
        InputError: no language is given, or one that the model does not have.
    """

    REST_S = 1.2  # of blanks, after which a sentence is surely over
    LONGEST_S = 15.0  # a longer window is cut after what is written
    spells = True

    def __init__(
        self,
        model: Model,
        policy: Policy,
        *,
        language: str | None = None,
        task: Task = "transcribe",
        inputs: Mapping[str, Input] | None = None,
    ):
        self.recognizer = CTCRecognizer(model, fit(model, Options(language=language, task=task)))
        self.tok, self.policy = model.require_tokenizer(), policy
        self.encoder = stream_encoder(model, inputs)
        self.causal = isinstance(self.encoder, IncrementalEncoder)
        self.last = self.recognizer.blank  # of the frames before the window
        self.open = False  # whether a sentence has begun
        self.until_s = 0.0  # where the last token that is written ends
        self.heard = 0  # samples of the clock
        self.committed: list[int] = []  # tokens of the window that are written
        self.pending: list[Emitted] = []  # written, but no whole letter yet
        self.rest: list[Emitted] = []  # may change
        self.gap = Gap() if model.fuse is not None and self.causal else None

    @property
    def language(self) -> str:
        """Tag of the language that is written."""
        return find_language(self.recognizer.language).tag

    @property
    def tentative(self) -> str:
        """What the last step would have written next."""
        return self.tok.decode([e.token for e in [*self.pending, *self.rest]])

    @property
    def behind_s(self) -> float:
        """Seconds that came and are not encoded."""
        return max(0, self.heard - self.encoder.covered) / RATE

    def step(self, samples: NDArray[np.float32], final: bool, others: Clip | None = None) -> list[Word]:
        """See what comes next; what may be written."""
        self._push(samples, final, others or {})
        self.heard += len(samples)
        found = self._emitted()
        seen_s = self.encoder.covered / RATE
        last_s = found[-1].end_s if found else self.until_s
        over = final or seen_s - last_s >= self.REST_S
        sure = len(found) if self.causal else self._sure(found, over)
        out = self._write(found[:sure], over)
        self.rest = found[sure:]
        if over and self.open:
            out = [*out[:-1], replace(out[-1], final=True)] if out else [Word("", last_s, last_s, final=True)]
            self.open = False
        self._trim(over)
        return out

    def _push(self, samples: NDArray[np.float32], final: bool, others: Clip) -> None:
        """Encode what comes next, but for a gap in which nothing is there; behind it the encoder begins anew."""
        if self.gap is None or not isinstance(self.encoder, IncrementalEncoder):
            self.encoder.push(samples, final, others)
            return
        was_open, skipped = self.gap.open, self.gap.take(samples, others, self.heard)
        if was_open:
            self.encoder.restart(self.heard + skipped)
            self.last = self.recognizer.blank
            samples, others = without_first(skipped, samples, others, self.heard)
        if not (was_open and self.gap.open):
            self.encoder.push(samples, final or self.gap.open, others)

    @torch.inference_mode()
    def _emitted(self) -> list[Emitted]:
        """The best path through the window, without what is written of it."""
        memory = self.encoder.memory()
        rate, begin_s = memory.rate or 25.0, self.encoder.begin / RATE
        count = int(memory.lengths[0])
        if not self.causal:  # beyond it is but the silence that the window was filled up with
            count = min(count, round((self.encoder.covered / RATE - begin_s) * rate))
        if not count:
            return []
        best_M, found_M = (x[0, :count].tolist() for x in self.recognizer.log_probs(memory).max(-1))
        before = [self.last, *found_M[:-1]]
        emitted = [
            Emitted(token, begin_s + m / rate, begin_s + (m + 1) / rate, best_M[m])
            for m, (token, previous) in enumerate(zip(found_M, before, strict=True))
            if token not in (self.recognizer.blank, previous)
        ]
        if self.causal:
            self.last = found_M[-1]
            return emitted
        known = len(self.committed)
        if [e.token for e in emitted[:known]] == self.committed:
            return emitted[known:]
        return [e for e in emitted if e.start_s >= self.until_s + 0.5 / rate]  # what is written would now be other

    def _sure(self, found: Sequence[Emitted], over: bool) -> int:
        """How many tokens the policy allows."""
        begin_s = self.encoder.begin / RATE
        return self.policy(
            View(
                source_s=self.encoder.covered / RATE - begin_s,
                finished=over,
                committed=self.committed,
                hypothesis=[e.token for e in found],
                previous=[e.token for e in self.rest],
                scores=[e.log_prob for e in found],
                align_s=[e.start_s - begin_s for e in found],
            )
        )

    def _write(self, emitted: Sequence[Emitted], over: bool) -> list[Word]:
        """Commit tokens; what is no whole letter yet, or but a space, waits for what follows."""
        out: list[Word] = []
        for e in emitted:
            self.pending.append(e)
            self.committed.append(e.token)
            self.until_s = e.end_s
            if self._is_whole():
                out.append(self._letter())
        if over and self.pending and self.tok.decode([e.token for e in self.pending]).strip():
            out.append(self._letter())
        if over:
            self.pending = []
        return out

    def _is_whole(self) -> bool:
        text = self.tok.decode([e.token for e in self.pending])
        return bool(text.strip()) and not text.endswith("\N{REPLACEMENT CHARACTER}")

    def _letter(self) -> Word:
        tokens = [e.token for e in self.pending]
        text = self.tok.decode(tokens)
        text = text if self.open else f" {text.strip()}"
        spoken = [e for e in self.pending if self.tok.decode([e.token]).strip()] or self.pending
        probability = float(np.exp(np.mean([e.log_prob for e in self.pending])))
        self.pending, self.open = [], True
        return Word(text, spoken[0].start_s, spoken[-1].end_s, probability, tokens=tuple(tokens))

    def _trim(self, over: bool) -> None:
        """Forget what is written: of a causal encoder all, else at the end of a sentence and of a long window."""
        if self.causal or over:
            end = self.encoder.covered
        elif self.encoder.covered - self.encoder.begin > self.LONGEST_S * RATE:
            end = max(round(self.until_s * RATE), self.encoder.covered - round(self.LONGEST_S * RATE))
        else:
            return
        self.encoder.drop(end)
        self.committed = []
        if over:
            self.rest, self.last = [], self.recognizer.blank

    # -------------------- the memory

    _PLAIN = ("last", "open", "until_s", "heard", "committed")
    _TIMED = ("pending", "rest")

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that the session remembers, but its text."""
        tensors, encoder = self.encoder.saved()
        values: dict[str, Any] = {n: getattr(self, n) for n in self._PLAIN}
        values["gap"] = None if self.gap is None else self.gap.absent
        for name in self._TIMED:
            values[name] = [[e.token, e.start_s, e.end_s, e.log_prob] for e in getattr(self, name)]
        return tensors, {**values, "encoder": encoder}

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        for name in self._PLAIN:
            setattr(self, name, values[name])
        for name in self._TIMED:
            setattr(self, name, [Emitted(*row) for row in values[name]])
        if self.gap is not None:
            self.gap.absent = values.get("gap") or 0
        self.encoder.restore(tensors, values["encoder"])
