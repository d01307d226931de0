"""Live listening with an encoder that must see its whole input: a short window is heard again at each look.

The window is the sound since the last sentence that was written. At each look it is encoded anew, the decoder is forced
to what was written of it, continues, and a policy says how much of the continuation may be written (AlignAtt: Papi et
al. 2023, arXiv 2305.11408; LocalAgreement: Macháček et al. 2023, arXiv 2307.14743). Text before the window is given as
context. In silence nothing is computed, and nothing is written.

Letters: N samples, M memory frames, D width, U tokens.
"""

import math
import string
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmx import align
from mmx.errors import InputError
from mmx.generate import Filter, NoRepeatNGram, Suppress, SuppressFirst
from mmx.languages import find_language
from mmx.model import Model
from mmx.seq import Seq
from mmx.state import State, subtree
from mmx.streaming.events import Written
from mmx.streaming.greedy import Continuation, continue_text
from mmx.streaming.policies import Policy, View
from mmx.streaming.voice import Voice
from mmx.transcribe import Options, fit
from mmx.transcribe import vad as load_vad
from mmx.translate import has_loop
from mmx.windows import RATE

SENTENCE_END = tuple(".?!。？！…।؟")
MARKS = set(string.punctuation + "。、，！？：；…।؟،«»„“”‘’")


class Windowed:
    """One session; see `mmx.streaming.stream.Listener`.

    Args:
        model: a speech encoder, a text decoder, a tokenizer.
        policy: see `mmx.streaming.policies`.
        language: as in `Stream`.
        task: as in `Stream`.
        to: as in `Stream`.
        vad: as in `Stream`.
    """

    PAD_S = 0.3  # sound kept before speech, for detectors are late at soft sounds
    PAUSE_S = 0.4  # of silence, after which a word is surely complete
    REST_S = 1.2  # of silence, after which a sentence is surely over
    SHORT_S = 0.8  # of speech, below which a look would be guessing
    TRIM_S = 12.0  # a longer window is cut at the last sentence that is written
    LONGEST_S = 20.0  # ... and a window as long as this at the last word
    CONTEXT = 64  # tokens of text before the window
    TOKENS_PER_S = 8  # more is no speech
    ENOUGH_S = 2.0  # of speech to tell the language by

    def __init__(
        self,
        model: Model,
        policy: Policy,
        *,
        language: str | None = None,
        task: str = "transcribe",
        to: str | None = None,
        vad: Any = True,
    ):
        options = fit(model, Options(language=language, task=task, to=to or "en"))  # type: ignore[arg-type]
        self.model, self.policy, self.tok = model, policy, model.tokenizer
        self.task, self.to, self.spoken = task, options.to, options.language
        self.voice = Voice(load_vad() if vad is True else vad)
        self.device = next(model.decoder.parameters()).device
        self.dtype = model.decoder.ln.weight.dtype
        self.filters = self._filters()
        self.heads = _heads(model)
        self.audio = np.zeros(0, np.float32)
        self.begin = 0  # sample of the session at which `audio` begins
        self.open = vad is None  # whether `audio` holds speech that is being written
        self.settled = 0  # sample up to which all speech is written
        self.context: list[int] = []
        self.committed: list[int] = []
        self.times: list[tuple[int, float, bool]] = []  # of each word of `committed`: its last token, end, sentence end
        self.rest: list[int] = []  # tokens after `committed`, which may change
        self.rest_times: list[Written] = []

    # -------------------- the session

    @property
    def language(self) -> str:
        """Code of the language that is written; empty until it is known."""
        written = self.to if self.task == "translate" else self.spoken
        return find_language(written).tag if written else ""

    @property
    def tentative(self) -> str:
        """What the last look would have written next."""
        return self.tok.decode(self.rest)

    @property
    def behind_s(self) -> float:
        """Seconds of speech that are not written."""
        return max(0, self.voice.spoken_until - self.settled) / RATE if self.open else 0.0

    def step(self, samples: NDArray[np.float32], final: bool) -> list[Written]:
        """Hear the next samples."""
        self.audio = np.concatenate([self.audio, samples])
        self.voice.hear(samples, final)
        if not self.open and self.voice.spoken_until > self.settled:
            self.open = True
            self._drop(max(self.settled, self.voice.onset - round(self.PAD_S * RATE)))
        if not self.open:
            self._drop(self.voice.heard - round(self.PAD_S * RATE))
            return []
        over = final or self.voice.quiet_s >= self.REST_S
        out: list[Written] = []
        if self.voice.spoken_until > self.settled:
            out = self._look(over or self.voice.quiet_s >= self.PAUSE_S, over)
        return out + self._close() if over else out

    def _drop(self, before: int) -> None:
        """Forget the sound before a sample of the session."""
        count = min(max(0, before - self.begin), len(self.audio))
        self.audio, self.begin = self.audio[count:], self.begin + count

    def _close(self) -> list[Written]:
        """Write what is left, and end the sentence."""
        out = self._write(len(self.rest))
        if out:
            out[-1] = _ended(out[-1])
        elif self.times and not self.times[-1][2]:
            at_s = self.times[-1][1]
            out = [Written("", at_s, at_s, final=True)]
        self._shift(len(self.committed))
        self.settled = self.voice.heard
        self.open = self.voice.vad is None
        self._drop(self.settled - round(self.PAD_S * RATE))
        return out

    # -------------------- a look

    def _look(self, finished: bool, over: bool) -> list[Written]:
        """Hear the window, continue the text, write what the policy allows."""
        speech_s = (self.voice.spoken_until - max(self.voice.onset, self.begin)) / RATE
        if speech_s < self.SHORT_S and not finished:
            return []
        source_s = len(self.audio) / RATE
        memory = self._encode(self.audio)
        shared = self._shared(memory, speech_s)
        prompt = self._prompt()
        prefix = [*prompt, *self.committed]
        room = min(self.model.decoder.ctx - len(prefix) - 2, 8 + round(self.TOKENS_PER_S * source_s))
        found = self._continue(memory, shared, prefix, room)
        align_s = self._align(memory, shared, prompt, found, source_s)
        view = View(source_s, finished, self.committed, found.tokens, self.rest, found.scores, align_s)
        count = self.policy(view)
        self.rest = found.tokens
        out = self._write(self._whole_words(count, found.ended, finished, over))
        if finished:
            self.settled = self.voice.spoken_until
        self._trim()
        return out

    def _continue(self, memory: Seq, shared: State, prefix: Sequence[int], room: int) -> Continuation:
        """The continuation; a loop is written again with repetition forbidden."""
        eot, rest = self.tok.eot, self.rest
        first = [] if self.committed else self.filters[:1]
        filters = [*first, *self.filters[1:]]
        found = continue_text(self.model.decoder, memory, prefix, rest, eot, room, filters, shared)
        if has_loop([*self.committed, *found.tokens]):
            filters = [*filters, NoRepeatNGram(3)]
            found = continue_text(self.model.decoder, memory, prefix, [], eot, room, filters, shared)
        return found

    def _encode(self, wave: NDArray[np.float32]) -> Seq:
        """`(1, M, D)` of a window."""
        front, encoder = self.model.stages("speech")
        most = getattr(encoder, "ctx", None)
        n = len(wave) if most is None else most * encoder.stride * front.stride
        x_1N = torch.zeros(1, n)
        x_1N[0, : len(wave)] = torch.from_numpy(wave[:n])
        with torch.inference_mode():
            seq = Seq(x_1N.to(self.device), torch.tensor([n], device=self.device), RATE)
            return self.model.memory({"speech": seq}).to(self.dtype)

    @torch.inference_mode()
    def _shared(self, memory: Seq, speech_s: float) -> State:
        """The decoder's keys and values of the memory; tells the language on the way, where it is not known."""
        if self.spoken is not None or not hasattr(self.tok, "sot"):
            return {}
        if not self.tok.multilingual:
            self.spoken = "en"
            return {}
        state = self.model.decoder.init_state(1, 1)
        logits = self.model.decoder(torch.tensor([[self.tok.sot]], device=self.device), memory, state)[0, 0]
        codes = list(self.tok.language_ids)
        self.detected = codes[int(logits[list(self.tok.language_ids.values())].argmax())]
        if speech_s >= self.ENOUGH_S or self.committed:
            self.spoken = self.detected
        return subtree(state, "memory")

    def _prompt(self) -> list[int]:
        """What comes before the text of the window."""
        if not hasattr(self.tok, "sot"):
            return self.tok.prompt(self.to if self.task == "translate" else self.spoken)
        before = [self.tok.sot_prev, *self.context[-self.CONTEXT :]] if self.context else []
        return [*before, *self.tok.prompt(self.spoken or self.detected, self.task)]

    def _filters(self) -> list[Filter]:
        tok = self.tok
        if not hasattr(tok, "sot"):
            return [SuppressFirst([]), Suppress(tok.control_ids)]
        never = [tok.sot, tok.transcribe, tok.translate, tok.sot_prev, tok.sot_lm, tok.no_speech]
        times = range(tok.no_timestamps, tok.n_vocab)
        return [SuppressFirst(tok.blank_tokens()), Suppress([*tok.non_speech_tokens(), *never, *times])]

    @torch.inference_mode()
    def _align(
        self, memory: Seq, shared: State, prompt: Sequence[int], found: Continuation, source_s: float
    ) -> list[float]:
        """Where the decoder looks as it writes each token, in seconds of the window; keeps the words' times."""
        if not found.tokens:
            self.rest_times = []
            return []
        rate = memory.rate or 50.0
        text = [*self.committed, *found.tokens]
        tokens = torch.tensor([[*prompt, *text, self.tok.eot]], device=self.device)
        scores, _ = self.model.decoder.cross_weights(tokens, memory, self.heads, shared or None)
        frames = min(int(memory.lengths[0]), max(1, math.ceil(source_s * rate)))
        first = len(prompt) - 1
        matrix_UM = align.attention_matrix(scores[0].cpu(), frames)[first + len(self.committed) : -1]
        last_s = self.times[-1][1] if self.times else 0.0
        begin = min(max(0, int(last_s * rate)), frames - 1)
        probs = np.exp(found.scores)
        times = align.token_times(matrix_UM[:, begin:], probs.tolist(), rate)
        split = self._split(found.tokens)
        ends = np.cumsum([len(t) for _, t in split])
        self.rest_times = []
        at = 0
        for (text_, _), end in zip(split, ends.tolist(), strict=True):
            span = [float(times.start_s[i]) + begin / rate for i in (at, end)]
            self.rest_times.append(Written(text_, span[0], span[1], float(probs[at:end].mean())))
            at = end
        return (matrix_UM[:-1].argmax(1) / rate).tolist()

    # -------------------- writing

    def _split(self, tokens: Sequence[int]) -> list[tuple[str, list[int]]]:
        if hasattr(self.tok, "sot"):
            return self.tok.split_words(tokens, self.language or self.detected)
        return self.tok.split_words(tokens)

    def _whole_words(self, count: int, ended: bool, finished: bool, over: bool) -> int:
        """The largest number of tokens, at most `count`, that ends with a word."""
        words, total = self._split(self.rest), 0
        kept = 0
        for text, tokens in words:
            total += len(tokens)
            cut_off = total == len(self.rest) and not ended
            if total > count or cut_off:
                break
            # What ends a sentence shows only in what follows: a pause alone does not.
            if not (finished and not over and set(text.strip()) <= MARKS):
                kept = total
        return kept

    def _write(self, count: int) -> list[Written]:
        """Commit the first `count` tokens of what may change; closing marks join their word."""
        offset_s = self.begin / RATE
        out: list[Written] = []
        total = 0
        for (text, tokens), w in zip(self._split(self.rest), self.rest_times, strict=True):
            total += len(tokens)
            if total > count:
                break
            ends = text.rstrip("\"'”’»)").endswith(SENTENCE_END)
            self.times.append((len(self.committed) + total, w.end_s, ends))
            mark = out and set(text.strip()) <= MARKS and not text.startswith(" ")
            if mark:
                p = out[-1]
                out[-1] = Written(p.text + text, p.start_s, p.end_s, p.probability, ends)
            else:
                out.append(Written(text, w.start_s + offset_s, w.end_s + offset_s, w.probability, ends))
        self.committed += self.rest[:count]
        self.rest, self.rest_times = self.rest[count:], self.rest_times[len(self._split(self.rest[:count])) :]
        return out

    def _trim(self) -> None:
        """Shorten a long window at the last written sentence, a very long one at the last written word."""
        length_s = len(self.audio) / RATE
        if length_s <= self.TRIM_S or not self.times:
            return
        ends = [t for t in self.times[:-1] if t[2]]
        if not ends and length_s > self.LONGEST_S:
            ends = self.times[:-1]
        if ends:
            count, end_s, _ = ends[-1]
            self._shift(count)
            self._drop(self.begin + round(end_s * RATE))

    def _shift(self, count: int) -> None:
        """Move the first `count` committed tokens out of the window, into the context."""
        cut_s = max((t for n, t, _ in self.times if n <= count), default=0.0)
        self.context = [*self.context, *self.committed[:count]][-self.CONTEXT :]
        self.committed = self.committed[count:]
        self.times = [(n - count, t - cut_s, e) for n, t, e in self.times if n > count]
        self.rest_times = [Written(w.text, w.start_s - cut_s, w.end_s - cut_s, w.probability) for w in self.rest_times]

    # -------------------- the memory

    _PLAIN = ("begin", "open", "settled", "context", "committed", "rest", "spoken", "times")

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that the session remembers."""
        tensors, voice = self.voice.saved()
        values: dict[str, Any] = {n: getattr(self, n) for n in self._PLAIN}
        values["rest_times"] = [[w.text, w.start_s, w.end_s, w.probability] for w in self.rest_times]
        held = {f"voice.{k}": v for k, v in tensors.items()}
        return {**held, "audio": torch.from_numpy(self.audio.copy())}, {**values, "voice": voice}

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        voice = {k.removeprefix("voice."): v for k, v in tensors.items() if k.startswith("voice.")}
        self.voice.restore(voice, values["voice"])
        for name in self._PLAIN:
            setattr(self, name, values[name])
        self.times = [(n, t, e) for n, t, e in values["times"]]
        self.rest_times = [Written(*row) for row in values["rest_times"]]
        self.audio = tensors["audio"].numpy()


def _ended(w: Written) -> Written:
    return Written(w.text, w.start_s, w.end_s, w.probability, True)


def _heads(model: Model) -> tuple[tuple[int, int], ...]:
    """Heads of the decoder that follow the sound: the card's, else all of the later half."""
    decoder = model.decoder
    if not hasattr(decoder, "cross_weights"):
        raise InputError(f"expected a decoder that says where it looks, got that of {model.name}")
    if model.card and model.card.alignment_heads:
        return tuple(model.card.alignment_heads)
    n = len(decoder.layers)
    return tuple((i, h) for i in range(n // 2, n) for h in range(decoder.heads))
