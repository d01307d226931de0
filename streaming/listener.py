"""Live listening: looks at a window of the sound, continues its text, and writes as much of it as a policy allows.

The window is the sound since the last sentence that was written. At each look the decoder is forced to what was written
of it and continues; a policy says how much of the continuation is safe (AlignAtt: Papi et al. 2023, arXiv 2305.11408;
LocalAgreement-2: Macháček et al. 2023, arXiv 2307.14743). Text before the window is context. In silence nothing is
computed but voice activity, and nothing is written.

Letters: M memory frames, D width, U tokens.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmx.clip import Clip, Input
from mmx.generate import NoRepeatNGram
from mmx.greedy import Continuation, continue_text
from mmx.media.audio import SAMPLE_RATE as RATE
from mmx.model import Model
from mmx.nn.decoder import TextDecoder
from mmx.seq import Seq
from mmx.state import State
from mmx.streaming.activity import SpeechActivity
from mmx.streaming.encoders import stream_encoder
from mmx.streaming.guards import AttendedWord, before_end_of_speech, certain, lengthened, onward, passed_over, recurs
from mmx.streaming.policies import Policy, View
from mmx.tasks import align
from mmx.tasks.options import Task
from mmx.tasks.segment import Vad
from mmx.tasks.transcribe import prompter
from mmx.tasks.transcribe import vad as load_vad
from mmx.tasks.translate import has_loop
from mmx.tasks.windows import require_aligner
from mmx.tasks.words import Word
from mmx.text.sentences import split_sentences


class Monotonic(Protocol):
    """What the policy `emma` asks: heads that say when the source suffices (`mmx.models.monotonic.MonotonicHeads`)."""

    def p_choose(
        self,
        decoder: TextDecoder,
        tokens: Tensor,
        memory: Seq,
        heard: Tensor | None = None,
        shared: State | None = None,
    ) -> Tensor:
        """`(1, N, U)`: the probability of each of N heads that `heard` `(1,)` frames of the memory suffice for what
        follows each of `tokens` `(1, U)`."""
        ...


@dataclass(frozen=True, slots=True)
class _Mark:
    """The end of a written word of the window: tokens up to there, seconds of the session, end of a sentence."""

    tokens: int
    end_s: float
    sentence: bool


class Listener:
    """What one session remembers of the sound and of the text of its window.

    Args:
        model: a speech encoder, a text decoder, a tokenizer.
        policy: see `mmx.streaming.policies`.
        language: as in `Stream`.
        task: as in `Stream`.
        to: as in `Stream`.
        vad: as in `Stream`.
        monotonic: as in `Stream`.
        inputs: what the session has of what the model reads; all of it when None.
    """

    PAD_S = 0.3  # sound kept before speech, for detectors are late at soft sounds
    PAUSE_S = 0.4  # of silence, after which a word is surely complete
    REST_S = 1.2  # of silence, after which a sentence is surely over
    SHORT_S = 0.8  # of speech, below which a look would be guessing
    BRIEF_S = 0.4  # ... and what is left before a pause holds no words
    WORD_TOKENS = 16  # more than a word and its marks have
    BACK_S = 0.7  # that a text looks back in the sound at most
    MOVED_S = 1.5  # ... a translation, which moves words, and a model of which nobody knows the heads that follow sound
    LEAST_S = 0.06  # that a word lasts
    DEAF_S = 2.0  # of speech without a pause, after which an end of the text is not believed
    TRIM_S = 8.0  # a longer window is cut at the last sentence that is written
    LONGEST_S = 15.0  # ... and one as long as this at the last word
    # More is no speech: a letter of Hindi, Tamil or Georgian is several tokens, so that people say up to 29 a second.
    # What runs on below that is a loop, and found as one.
    TOKENS_PER_S = 32
    ENOUGH_S = 2.0  # of speech to tell the language by
    spells = False

    def __init__(
        self,
        model: Model,
        policy: Policy,
        *,
        language: str | None = None,
        task: Task = "transcribe",
        to: str | None = None,
        vad: Vad | bool | None = True,
        monotonic: Monotonic | None = None,
        inputs: Mapping[str, Input] | None = None,
    ):
        self.decoder, self.heads = require_aligner(model)
        self.tok = model.require_tokenizer()
        self.policy, self.monotonic = policy, monotonic
        self.prompter = prompter(model, language, task, to)
        self.encoder = stream_encoder(model, inputs)
        self.voice = SpeechActivity(load_vad() if vad is True else vad or None)
        # Whether the text follows the sound word by word, to the tenth of a second or three.
        self.follows = self.prompter.task == "transcribe" and bool(model.card and model.card.alignment_heads)
        self.open = False  # whether the window holds speech that is being written
        self.settled = 0  # sample up to which all speech is written
        self.wrote = 0  # samples that were heard when the last words were written
        self.context: list[int] = []  # tokens before the window
        self.committed: list[int] = []  # tokens of the window that are written
        self.marks: list[_Mark] = []  # ... and where their words end
        self.rest: list[int] = []  # tokens after them, which may change
        self.words: list[Word] = []  # ... and their words
        self.looks: list[AttendedWord] = []  # ... and where in the sound they look

    # -------------------- the session

    @property
    def language(self) -> str:
        """Tag of the language that is written; empty until it is known."""
        return self.prompter.language

    @property
    def tentative(self) -> str:
        """What the last look would have written next."""
        return "".join(w.text for w in self.words)

    @property
    def behind_s(self) -> float:
        """Seconds of speech that was heard and is not written."""
        return self.voice.speech_within(max(self.settled, self._written_until()))

    def _written_until(self) -> int:
        """Sample up to which the sound of the window is written."""
        return max(self.encoder.begin, round(self.marks[-1].end_s * RATE) if self.marks else 0)

    def step(self, samples: NDArray[np.float32], final: bool, others: Clip | None = None) -> list[Word]:
        """Hear the next samples, at 16 kHz; `final` is the end of the session. Words that may be written."""
        self.encoder.push(samples, final, others)
        self.voice.push(samples, final)
        if not self.open:
            if self.voice.speech_until <= self.settled:
                self.encoder.drop(self.voice.heard - round(self.PAD_S * RATE))
                return []
            self.open = True
            self.encoder.drop(max(self.settled, self.voice.onset(self.settled) - round(self.PAD_S * RATE)))
        heard_all = self.encoder.covered >= self.voice.speech_until
        over = final or (heard_all and self.voice.quiet_s >= self.REST_S)
        out: list[Word] = []
        if self.voice.speech_until > self.settled:
            out = self._look(over or (heard_all and self.voice.quiet_s >= self.PAUSE_S), over)
            self.voice.forget(self.encoder.begin)
        return out + self._close() if over else out

    def _close(self) -> list[Word]:
        """Write what is left, and end the sentence."""
        out = self._write(len(self.rest))
        if out:
            out[-1] = replace(out[-1], final=True)
        elif self.marks and not self.marks[-1].sentence:
            at_s = self.marks[-1].end_s
            out = [Word("", at_s, at_s, final=True)]
        self._move(len(self.committed))
        self.open, self.settled = False, self.voice.heard
        self.encoder.drop(self.settled - round(self.PAD_S * RATE))
        return out

    # -------------------- a look

    def _look(self, finished: bool, over: bool) -> list[Word]:
        """Read the window, continue the text, write what the policy allows."""
        source_s = (self.encoder.covered - self.encoder.begin) / RATE
        speech_s = self.voice.speech_within(self.encoder.begin)
        least_s = self.SHORT_S if self.prompter.spoken else self.ENOUGH_S
        if not source_s or (speech_s < least_s and not self.committed and not finished):
            return []
        out: list[Word] = []
        while True:
            view, ended = self._read(finished, sure=speech_s >= self.ENOUGH_S)
            count = self.policy(view)
            if not finished:
                count = min(count, certain(view.hypothesis, view.scores, view.previous))
            found = self._passed_over(count, ended, finished)
            if found is None:
                break
            before, begin = found
            out += self._write(before)
            self._begin_at(begin)
        out += self._write(self._whole_words(count, ended, finished and not over))
        if any(w.text for w in out):
            self.wrote = self.encoder.covered
        if finished:
            self.settled = self.voice.speech_until
        self._trim()
        return out

    def _read(self, finished: bool, sure: bool) -> tuple[View, bool]:
        """What the model would write now, kept as what may change, and whether it says that this is all."""
        memory = self.encoder.memory()
        begin_s, source_s = self.encoder.begin / RATE, (self.encoder.covered - self.encoder.begin) / RATE
        heard = min(int(memory.lengths[0]), max(1, math.ceil(source_s * (memory.rate or 50.0))))
        shared = self.prompter.detect(memory, sure)
        prompt = self.prompter.prompt(self.context)
        found = self._continue(memory, shared, prompt, source_s)
        if self.context and has_loop([*self.committed, *found.tokens], times=3):  # the context is apt to start them
            self.context = []
            prompt = self.prompter.prompt(self.context)
            found = self._continue(memory, shared, prompt, source_s)
        align_s = self._align(memory, shared, prompt, found, heard, begin_s)
        credible = self._credible(found.tokens, finished)
        if credible < len(found.tokens):  # what it wrote beyond them would spoil their times
            found = Continuation(found.tokens[:credible], found.scores[:credible], True)
            align_s = self._align(memory, shared, prompt, found, heard, begin_s)
        p_choose = self._p_choose(memory, shared, prompt, found, heard)
        view = View(source_s, finished, self.committed, found.tokens, self.rest, found.scores, align_s, p_choose)
        self.rest = found.tokens
        return view, found.ended

    def _credible(self, tokens: Sequence[int], finished: bool) -> int:
        """How many tokens of a hypothesis the sound speaks for.

        Where nothing can be waited for, what only looks astray and says something new is believed.
        """
        if self.follows:
            kept = onward(self.looks, self._since_s(), self.BACK_S, self.voice)
        else:
            kept = onward(self.looks, self.encoder.begin / RATE, max(self.BACK_S, self.MOVED_S), self.voice)
        if finished and kept < len(self.looks):
            before = [text for text, _ in self.prompter.split([*self.context, *self.committed])]
            if not recurs([*before, *(w.text for w in self.looks)], len(before) + kept):
                kept = len(self.looks)
        if self.follows:
            kept = min(kept, before_end_of_speech(self.looks, self.voice))
        self.looks = self.looks[:kept]
        return sum(w.tokens for w in self.looks)

    def _passed_over(self, count: int, ended: bool, finished: bool) -> tuple[int, int] | None:
        """Speech that the decoder passes over.

        A decoder is apt to leave out what would only repeat the text, so that a sentence that is said twice is lost.

        Args:
            count: tokens that the policy would write.
            ended: whether the hypothesis is all that the decoder would write.
            finished: whether a pause or the end has come.

        Returns:
            The tokens to write before it, and the sample with which it begins; None where there is none.
        """
        if self.follows and (found := passed_over(self.looks, self._since_s(), self.voice)):
            words, begin = found
            tokens = sum(w.tokens for w in self.looks[:words])
            if tokens < count and (self.committed or self.context or tokens):
                return tokens, max(begin, self.encoder.begin)
        if not ended:
            return None
        begin = self._unwritten(finished)
        return None if begin is None else (len(self.rest) if self.committed else 0, begin)  # the marks that close it

    def _unwritten(self, finished: bool) -> int | None:
        """Sample with which speech begins that is left as the decoder says that all is written; None without."""
        if any(not w.mark for w in self.looks):
            return None
        if not self.committed:  # the context is all that could be in the way
            unheeded = finished and self.context and self.voice.speech_within(self.encoder.begin) >= self.SHORT_S
            return self.encoder.begin if unheeded else None
        since, translates = self._written_until(), self.prompter.task != "transcribe"
        after = max(since, self.wrote) if translates else since  # a translation moves words
        begin = self.voice.after_pause(after, self.PAUSE_S)
        if self.voice.speech_within(begin) >= (self.BRIEF_S if finished else self.SHORT_S):
            return begin - round(self.PAD_S * RATE)
        return since if finished and not translates and self.voice.speech_within(since) >= self.DEAF_S else None

    def _since_s(self) -> float:
        """Where the text before the hypothesis ends, in seconds of the session."""
        return self._written_until() / RATE

    def _begin_at(self, sample: int) -> None:
        """Begin the window there; what is written of it becomes context, or, where nothing is, the context goes."""
        if self.committed:
            self._move(len(self.committed))
        else:
            self.context = []
        self.rest, self.words, self.looks = [], [], []
        self.encoder.drop(sample)

    def _continue(self, memory: Seq, shared: State, prompt: Sequence[int], source_s: float) -> Continuation:
        """The continuation; a loop is written again with repetition forbidden."""
        prefix = [*prompt, *self.committed]
        due = 8 + round(self.TOKENS_PER_S * source_s) - len(self.committed)
        room = min(self.decoder.ctx - len(prefix) - 2, due)  # the prefix holds what is written, too
        filters = self.prompter.filters(begins=not self.committed)
        how = (self.prompter.eot, max(0, room))
        found = continue_text(self.decoder, memory, prefix, self.rest, *how, filters, shared)
        if has_loop([*self.committed, *found.tokens]):
            found = continue_text(self.decoder, memory, prefix, [], *how, [*filters, NoRepeatNGram(3)], shared)
        return found

    @torch.inference_mode()
    def _align(
        self, memory: Seq, shared: State, prompt: Sequence[int], found: Continuation, heard: int, begin_s: float
    ) -> list[float]:
        """Where the decoder looks as it writes each token, in seconds of the window; keeps words and times."""
        self.words, self.looks = [], []
        if not found.tokens:
            return []
        rate = memory.rate or 50.0
        tokens = torch.tensor([[*prompt, *self.committed, *found.tokens, self.prompter.eot]], device=memory.x.device)
        scores, _ = self.decoder.cross_weights(tokens, memory, self.heads, shared)
        first = len(prompt) - 1 + len(self.committed)
        matrix_UM = align.attention_matrix(scores[0].cpu(), heard)[first:-1]
        last_s = self.marks[-1].end_s - begin_s if self.marks else 0.0
        skipped = min(max(0, round(last_s * rate)), heard - 1)  # frames of what is written
        probability = np.exp(found.scores)
        start_s = (
            align.token_times(matrix_UM[:, skipped:], probability.tolist(), rate).start_s + skipped / rate + begin_s
        )
        looks_s = (matrix_UM[:-1].argmax(1) / rate).tolist()
        groups = self.prompter.split(found.tokens)
        ends = np.cumsum([0, *(len(group) for _, group in groups)])
        bounds_s = lengthened(start_s[ends].tolist(), self.LEAST_S, self.encoder.covered / RATE)
        for i, (text, group) in enumerate(groups):
            part = slice(ends[i], ends[i + 1])
            self.words.append(Word(text, bounds_s[i], bounds_s[i + 1], probability[part].mean().item()))
            at_s = [begin_s + t for t in looks_s[part]]
            self.looks.append(AttendedWord(text, len(group), min(at_s), max(at_s), _is_mark(text)))
        return looks_s

    def _p_choose(
        self, memory: Seq, shared: State, prompt: Sequence[int], found: Continuation, heard: int
    ) -> list[float] | None:
        """Of the head that is least sure, for each token of the continuation."""
        if self.monotonic is None or not isinstance(self.decoder, TextDecoder):
            return None
        tokens = torch.tensor([[*prompt, *self.committed, *found.tokens]], device=memory.x.device)[:, :-1]
        with torch.inference_mode():
            frames = torch.tensor([heard], device=memory.x.device)
            p_1NU = self.monotonic.p_choose(self.decoder, tokens, memory, heard=frames, shared=shared)
        return p_1NU[0].amin(0)[len(prompt) + len(self.committed) - 1 :].tolist() if found.tokens else []

    # -------------------- writing

    def _whole_words(self, count: int, ended: bool, pause: bool) -> int:
        """The largest number of tokens, at most `count`, that ends with a word.

        A mark at the end waits while there is but a pause: what ends a sentence shows in what follows.
        """
        total = kept = 0
        for text, tokens in self.prompter.split(self.rest):
            total += len(tokens)
            if total > count or (total == len(self.rest) and not ended):
                break
            if not (pause and _is_mark(text)):
                kept = total
        return kept

    def _write(self, count: int) -> list[Word]:
        """Commit the first `count` tokens of what may change."""
        out: list[Word] = []
        total, words = len(self.committed), 0
        for (text, tokens), word in zip(self.prompter.split(self.rest), self.words, strict=True):
            if total + len(tokens) > len(self.committed) + count:
                break
            total, words = total + len(tokens), words + 1
            ends = self._ends_sentence([*self.committed, *self.rest][:total])
            self.marks.append(_Mark(total, word.end_s, ends))
            if out and _is_mark(text):  # closing marks join their word
                out[-1] = replace(out[-1], text=out[-1].text + text, final=ends)
            else:
                out.append(replace(word, final=ends))
        self.committed += self.rest[:count]
        self.rest, self.words = self.rest[count:], self.words[words:]
        return out

    def _ends_sentence(self, tokens: Sequence[int]) -> bool:
        """Whether the last word of a text ends a sentence, whatever may follow: an abbreviation does not."""
        last = self.tok.decode(tokens[-self.WORD_TOKENS :]).split()[-1:]
        return bool(last) and len(split_sentences(f"{last[0]} A")) > 1

    def _trim(self) -> None:
        """Shorten a long window at the last written sentence, else at a pause, a very long one at the last word."""
        length_s = (self.encoder.covered - self.encoder.begin) / RATE
        if length_s <= self.TRIM_S:
            return
        ends = [m for m in self.marks[:-1] if m.sentence or length_s > self.LONGEST_S]
        lost = False  # whether the decoder writes no stops any more: it goes on as the text before it
        if not ends:
            ends = [m for m in self.marks[:-1] if self.voice.pauses(round(m.end_s * RATE), self.PAUSE_S)]
            lost = bool(ends)
        if ends:
            self._move(ends[-1].tokens)
            self.encoder.drop(round(ends[-1].end_s * RATE))
            if lost:
                self.context = []
        elif length_s > 2 * self.LONGEST_S:  # nothing was written of what the detector takes for speech
            self._move(len(self.committed))
            self.rest, self.words = [], []
            self.encoder.drop(self.encoder.covered - round(self.TRIM_S * RATE))

    def _move(self, count: int) -> None:
        """Move the first `count` written tokens out of the window, into the context."""
        self.context = [*self.context, *self.committed[:count]][-self.prompter.max_context :]
        self.committed = self.committed[count:]
        self.marks = [_Mark(m.tokens - count, m.end_s, m.sentence) for m in self.marks if m.tokens > count]

    # -------------------- the memory

    _PLAIN = ("open", "settled", "wrote", "context", "committed", "rest")

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that the session remembers, but its text."""
        tensors: dict[str, Tensor] = {}
        values: dict[str, Any] = {n: getattr(self, n) for n in self._PLAIN}
        values["marks"] = [[m.tokens, m.end_s, m.sentence] for m in self.marks]
        values["words"] = [[w.text, w.start_s, w.end_s, w.probability] for w in self.words]
        values["script"] = [self.prompter.spoken, self.prompter.guess]
        for name, part in (("encoder", self.encoder), ("voice", self.voice)):
            held, values[name] = part.saved()
            tensors |= {f"{name}.{k}": v for k, v in held.items()}
        return tensors, values

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        for name in self._PLAIN:
            setattr(self, name, values[name])
        self.marks = [_Mark(*row) for row in values["marks"]]
        self.words = [Word(*row) for row in values["words"]]
        self.prompter.spoken, self.prompter.guess = values["script"]
        for name, part in (("encoder", self.encoder), ("voice", self.voice)):
            held = {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")}
            part.restore(held, values[name])


_CLOSING = frozenset(".,;:?!…。、，！？：；।؟،؛»”’)]}\"'")


def _is_mark(text: str) -> bool:
    """Whether a word is but marks that belong to the word before it."""
    return bool(text) and not text.startswith(" ") and set(text) <= _CLOSING
