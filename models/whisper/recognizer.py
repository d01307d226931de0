"""Whisper's recognizer: windows decoded to text with timestamp tokens, and the guards around that.

Search with fallback to higher temperatures, segments from time tokens, word times from cross-attention; speech without
text is decoded again, invented text and loops are caught.
"""

import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Literal, cast

import numpy as np
import torch

from mmx.errors import InputError, MmxWarning
from mmx.generate import Filter, Hypothesis, SearchOptions, Suppress, SuppressFirst, search
from mmx.interfaces import Prompter, Recognizer
from mmx.model import Model
from mmx.models.whisper import TimestampRules, other_language
from mmx.models.whisper.language_detector import LanguageDetector
from mmx.models.whisper.prompt import ContextPrompter
from mmx.models.whisper.timed_text import NOTED_S, TimedText, find_thin, holes, timed_texts
from mmx.models.whisper.tokenizer import LANGUAGES, WhisperTokenizer, find_language
from mmx.seq import Seq
from mmx.state import State, select, subtree
from mmx.tasks.options import Options
from mmx.tasks.result import Note, Segment, Word
from mmx.tasks.second_pass import SecondPass, Text
from mmx.tasks.window import Window, cut, halves
from mmx.tasks.windows import (
    RATE,
    SPAN_SLACK_S,
    Decoded,
    Job,
    attach_source_text,
    between_seams,
    require_aligner,
    timed_words,
    to_file_time,
)


@dataclass
class _Outcome:
    """What became of a window: its text, what is to be told, and stretches to decode again.

    Attributes:
        attempt: that is kept.
        doubted: that is kept if `again`, which then is all of the window, gives nothing better.
        notes: see `Decoded`.
        again: the same.
    """

    attempt: "_Attempt | None" = None
    doubted: "_Attempt | None" = None
    notes: list[Note] = field(default_factory=list)
    again: list[Window] = field(default_factory=list)

    def note(self, window: Window, action: Literal["retried", "dropped", "warning"], reason: str) -> None:
        self.notes.append(Note(window.start_s, window.end_s, action, reason))


@dataclass(frozen=True)
class _Attempt:
    """One decoding of a window, with what judges it."""

    hypothesis: Hypothesis
    text: str
    temperature: float
    compression_ratio: float
    no_speech_prob: float


def fit(model: Model, options: Options) -> Options:
    """The options with the model's spelling of languages. Raises `InputError` for what it cannot do."""
    tokenizer, card = cast(WhisperTokenizer, model.require_tokenizer()), model.card
    language = None if options.language is None else find_language(options.language)
    if options.task == "translate":
        if not tokenizer.multilingual or (card and card.tasks and "translate" not in card.tasks):
            raise InputError(
                f"expected a model that was trained to translate, got {model.name}: use whisper-base or larger"
            )
        if (target := find_language(options.to)) != "en":
            raise InputError(
                f"expected --to en for {model.name}, which translates to English only, got {LANGUAGES[target]}: name a "
                "model that has the language, or a text model (--text-model) that translates the English on"
            )
    if options.shortlist:
        raise InputError(f"expected a model with language tokens for a shortlist, got {model.name}: leave it out")
    if options.speak:
        raise InputError(f"expected a model with a voice, got {model.name}: use seamless-m4t-v2-large")
    if language and language not in tokenizer.language_ids and tokenizer.multilingual:
        raise InputError(f"expected a language that {model.name} has, got {language!r}")
    if language not in (None, "en") and not tokenizer.multilingual:
        raise InputError(f"expected English for {model.name}, got {language!r}: use a model without .en")
    return replace(options, language=language)


def recognizer(model: Model, options: Options) -> Recognizer:
    """What `transcribe` decodes with; the options are as `fit` returns them."""
    return TimestampRecognizer(model, options)


def prompter(model: Model, options: Options) -> Prompter:
    """The text side of a live session; the options are as `fit` returns them."""
    return ContextPrompter(model, options)


class TimestampRecognizer:
    """Decodes a batch of windows: encoder, language, search with fallback, segments and words.

    Args:
        model: with a tokenizer that has time tokens.
        options: as `fit` returns them.
    """

    MAX_RETRY = 2
    SPLIT_S = 8.0  # windows longer than this are split when their text repeats itself
    MISSED_S = 1.2  # of speech without text: more than time tokens are wrong by, less than a short sentence

    def __init__(self, model: Model, options: Options):
        self.model, self.options = model, options
        self.tok = cast(WhisperTokenizer, model.require_tokenizer())
        self.decoder, _ = require_aligner(model)
        self.device = self.decoder.device
        window = model.window("speech")
        self.samples = window.frames
        self.languages = LanguageDetector(model, self.tok)
        self.filters = self._filters()
        self.prompt = self._prompt()
        self.as_spoken: TimestampRecognizer | None = None
        if options.bilingual and options.task == "translate":
            self.as_spoken = TimestampRecognizer(model, replace(options, task="transcribe", word_timestamps=True))

    def _filters(self) -> list[Filter]:
        tok = self.tok
        never = [*tok.non_speech_tokens(), tok.transcribe, tok.translate, tok.sot, tok.sot_prev, tok.sot_lm]
        return [
            SuppressFirst(tok.blank_tokens()),
            Suppress([*never, tok.no_speech]),
            TimestampRules(tok.eot, tok.no_timestamps, tok.timestamp_begin),
        ]

    def _prompt(self) -> list[int]:
        hotwords, before = (
            self.tok.encode(" " + text.strip()) if text and text.strip() else []
            for text in (self.options.hotwords, self.options.initial_prompt)
        )
        room = self.decoder.ctx // 2 - 1
        kept = before[max(0, len(before) - max(0, room - len(hotwords))) :]
        if len(hotwords) + len(before) > room:
            warnings.warn(
                f"expected at most {room} tokens of hotwords and prompt, got {len(hotwords)} and {len(before)}: the "
                f"first {min(room, len(hotwords))} and the last {len(kept)} of them are used",
                MmxWarning,
                stacklevel=2,
            )
        tokens = [*hotwords[:room], *kept]
        return [self.tok.sot_prev, *tokens] if tokens else []

    @torch.inference_mode()
    def __call__(self, jobs: Sequence[Job]) -> list[Decoded]:
        """Segments and notes of each job on its file's clock, and the stretches that must be decoded again."""
        memory = self._encode(jobs)
        shared = self._languages(jobs, memory)
        out = self._decoded(jobs, memory, shared)
        for row, (job, one) in enumerate(zip(jobs, out, strict=True)):
            one.notes += self._other_languages(job, shared, row)
        if self.as_spoken is not None:
            for one, source in zip(out, self.as_spoken._decoded(jobs, memory, shared), strict=True):
                _put_beside(one, source)
                if not one.again:  # else both are written anew
                    why = "not all source words are next to their translation"
                    one.notes += [Note(w.start_s, w.end_s, "warning", why) for w in source.again]
        return out

    def _decoded(self, jobs: Sequence[Job], memory: Seq, shared: State) -> list[Decoded]:
        outcomes = self._search(jobs, memory, shared)
        attempts = [o.attempt or o.doubted for o in outcomes]
        written = self._without_guesses(jobs, attempts, memory, shared)
        thin = [find_thin(j.window, pieces, self.tok) for j, pieces in zip(jobs, written, strict=True)]
        timed = self._words(jobs, written, memory, shared)
        judged = [bool(j.second or o.doubted or t) for j, o, t in zip(jobs, outcomes, thin, strict=True)]
        log_probs = self._log_probs(jobs, written, judged, memory, shared)
        out = []
        for job, o, pieces, doubted, words, likely in zip(jobs, outcomes, written, thin, timed, log_probs, strict=True):
            one = Decoded(notes=o.notes, again=o.again)
            out.append(one)
            a = o.attempt or o.doubted
            if a is None:
                continue
            texts = [
                Text(list(self._on_clock(job, a, p, w)), log_prob, len(p.tokens))
                for p, w, log_prob in zip(pieces, words, likely, strict=True)
            ]
            if o.doubted:
                whole = Text(failed=True)
                for text in texts:
                    whole.add(text)
                one.seconds, one.again = [SecondPass(whole, o.again)], []
                continue
            self._keep(job, one, pieces, texts, doubted)
            one.failed = one.failed or self._repeats(a)
        return out

    def _keep(
        self, job: Job, one: Decoded, pieces: Sequence[TimedText], texts: Sequence[Text], doubted: Sequence[TimedText]
    ) -> None:
        """Put the texts of a window's pieces where they go: written, or to be compared with a second decoding."""
        for piece, text in zip(pieces, texts, strict=True):
            if piece in doubted and job.retry < self.MAX_RETRY:
                part = cut(job.window, *piece.span(job.window))
                one.seconds.append(SecondPass(text, halves(part)))
                heard_s = job.window.speech_within(*piece.span(job.window))
                why = f"{len(piece.tokens)} tokens for {heard_s:.1f} s of speech: decoded again in halves"
                one.notes.append(Note(part.start_s, part.end_s, "retried", why))
                continue
            one.failed = one.failed or piece in doubted
            one.segments += text.segments
            one.log_prob += text.log_prob
            one.tokens += text.tokens
        if not pieces:
            one.notes.append(Note(job.window.start_s, job.window.end_s, "dropped", "no text was written"))
        for hole in holes(job.window, pieces):
            heard_s = hole.speech_within(0.0, hole.duration_s)
            if heard_s > self.MISSED_S and job.retry < self.MAX_RETRY:
                one.again.append(hole)
                one.notes.append(Note(hole.start_s, hole.end_s, "retried", "speech without text"))
            elif heard_s > NOTED_S:
                one.notes.append(Note(hole.start_s, hole.end_s, "warning", f"{heard_s:.1f} s of speech without text"))

    def _without_guesses(
        self, jobs: Sequence[Job], attempts: Sequence[_Attempt | None], memory: Seq, shared: State
    ) -> list[list[TimedText]]:
        """The pieces of each attempt, without unlikely ones that were written only because no end was allowed."""
        written = [timed_texts(a.hypothesis.tokens, self.tok) if a else [] for a in attempts]
        ends = [None if a is None else a.hypothesis.kept_going for a in attempts]
        log_probs = self._log_probs(jobs, written, [end is not None for end in ends], memory, shared)
        least = self.options.logprob_threshold
        return [
            [
                p
                for p, likely in zip(pieces, row, strict=True)
                if end is None or p.at < end or likely >= least * len(p.tokens)
            ]
            for end, pieces, row in zip(ends, written, log_probs, strict=True)
        ]

    def _log_probs(
        self,
        jobs: Sequence[Job],
        written: Sequence[Sequence[TimedText]],
        wanted: Sequence[bool],
        memory: Seq,
        shared: State,
    ) -> list[list[float]]:
        """Sum of the log-probabilities of each piece's text, of the wanted windows; 0 of the others."""
        out = [[0.0] * len(pieces) for pieces in written]
        for i, (job, pieces) in enumerate(zip(jobs, written, strict=True)):
            text = [t for p in pieces for t in p.tokens]
            if not (wanted[i] and text):
                continue
            prompt = self.tok.prompt(job.file.language, self.options.task, timestamps=False)
            index = torch.tensor([i], device=self.device)
            tokens = torch.tensor([[*prompt, *text]], device=self.device)
            _, probs = self.decoder.cross_weights(
                tokens, memory.rows(index), [(0, 0)], select(shared, index), self.tok.eot
            )
            given = probs[0, len(prompt) - 1 :].clamp(min=1e-9).log().cpu().numpy()
            ends = np.cumsum([0, *(len(p.tokens) for p in pieces)])
            out[i] = [float(given[a:b].sum()) for a, b in pairwise(ends.tolist())]
        return out

    def _encode(self, jobs: Sequence[Job]) -> Seq:
        """`(B, M, D)`, taken from the file where a window was encoded ahead; it is kept there no longer."""
        rows = [next((m for w, m in j.file.ahead if w is j.window), None) or self._heard(j.window) for j in jobs]
        for job in jobs:
            job.file.ahead = [(w, m) for w, m in job.file.ahead if w is not job.window]
        return Seq(torch.cat([r.x for r in rows]), torch.cat([r.lengths for r in rows]), rows[0].rate)

    def _heard(self, window: Window) -> Seq:
        """`(1, M, D)`. A window is padded with silence to the 30 s that Whisper was trained on: given less, it drops
        last sentences. It is encoded alone, which keeps the activations in the CPU's cache."""
        return self.languages.encode([window.samples], self.samples / RATE)

    def _languages(self, jobs: Sequence[Job], memory: Seq) -> State:
        """Fix the language of files that have none yet; returns the decoder's keys and values of the memory."""
        state = self.decoder.init_state(len(jobs), 1)
        probs = self.languages.of_memory(memory, state)
        for file in {id(j.file): j.file for j in jobs if not j.file.language}.values():
            # By the file's own first windows, wherever the batch ends: its text is the same in any batch.
            here = {id(j.window): p for j, p in zip(jobs, probs, strict=True)}
            opening = file.opening or [j.window for j in jobs if j.file is file]
            late = [w for w in opening if id(w) not in here]
            file.ahead = [(w, self._heard(w)) for w in late]
            here |= {id(w): self.languages.of_memory(m, self.decoder.init_state(1, 1))[0] for w, m in file.ahead}
            mine = torch.stack([here[id(w)] for w in opening]).mean(0)
            file.language, file.language_probability = self.languages.codes[int(mine.argmax())], float(mine.max())
            file.opening = []
        for job in jobs:
            if self.options.language:
                job.file.language_probability = 1.0
        return subtree(state, "memory")

    def _other_languages(self, job: Job, shared: State, row: int) -> list[Note]:
        """What is said in another language than the window's text is written in; a translation has both anyway."""
        written = job.file.language
        if self.options.task != "transcribe" or not self.tok.multilingual or written is None or job.retry:
            return []

        def glance(spans: Sequence[tuple[float, float]]) -> torch.Tensor:
            return self.languages.of_stretches(shared, row, spans)

        return other_language.notes(job.window, written, glance, self.languages.of_sounds, self.languages.codes)

    def _prefix(self, job: Job) -> list[int]:
        return [*self.prompt, *self.tok.prompt(job.file.language, self.options.task, timestamps=True)]

    def _search(self, jobs: Sequence[Job], memory: Seq, shared: State) -> "list[_Outcome]":
        """The best acceptable attempt of each window; failures are tried again at higher temperatures."""
        outcomes = [_Outcome() for _ in jobs]
        todo = list(range(len(jobs)))
        for temperature in self.options.temperature:
            found = self._attempts(jobs, todo, memory, shared, temperature)
            todo = [r for r, a in zip(todo, found, strict=True) if not self._settled(jobs[r], a, outcomes[r])]
            if not todo:
                return outcomes
        looping = [r for r in todo if self._repeats(outcomes[r].attempt)]
        found = self._attempts(jobs, looping, memory, shared, 0.0, no_repeat_ngram=4)
        for row, attempt in zip(looping, found, strict=True):
            outcomes[row].attempt = attempt
        for row in todo:
            how = "repetitions were forbidden" if row in looping else "the best attempt was kept"
            outcomes[row].note(jobs[row].window, "warning", f"failed at every temperature; {how}")
        return outcomes

    def _settled(self, job: Job, attempt: _Attempt, outcome: "_Outcome") -> bool:
        """Whether an attempt ends the search for its window."""
        window, score = job.window, attempt.hypothesis.avg_log_prob
        reason = self._failure(attempt)
        if reason is None and attempt.hypothesis.ended:
            outcome.attempt = attempt
            return True
        if reason is None:
            reason = "the text was cut at its limit"
            if not self._halved(job, outcome, reason):
                outcome.attempt = attempt
                outcome.note(window, "warning", reason)
            return True
        if self._silent(attempt):
            outcome.attempt = None
            why = f"no speech (p={attempt.no_speech_prob:.2f}, log-probability {score:.2f})"
            outcome.note(window, "dropped", why)
            return True
        # People do repeat themselves. In a shorter window a true repetition shows up as what it is, and a loop of the
        # model's own making has less to feed on, so this comes before heat, which only garbles what was really said.
        if self._repeats(attempt) and self._halved(job, outcome, reason):
            outcome.doubted = attempt
            return True
        outcome.attempt = self._better(outcome.attempt, attempt)
        outcome.note(window, "retried", f"{reason} at temperature {attempt.temperature:g}")
        return False

    def _halved(self, job: Job, outcome: "_Outcome", reason: str) -> bool:
        """Send a window back in two halves, unless it is short or was tried often enough; whether it was sent."""
        window = job.window
        if window.duration_s <= self.SPLIT_S or job.retry >= self.MAX_RETRY:
            return False
        outcome.attempt, outcome.again = None, list(halves(window))
        outcome.note(window, "retried", f"{reason}: decoded again in two halves")
        return True

    def _attempts(
        self,
        jobs: Sequence[Job],
        rows: Sequence[int],
        memory: Seq,
        shared: State,
        temperature: float,
        no_repeat_ngram: int = 0,
    ) -> list[_Attempt]:
        """Decode some rows of the batch."""
        if not rows:
            return []
        if len(rows) < len(jobs):
            index = torch.tensor(rows, device=self.device)
            memory, shared = memory.rows(index), select(shared, index)
        o = self.options
        prefix = torch.tensor([self._prefix(jobs[r]) for r in rows], device=self.device)
        how = SearchOptions(
            beam_size=o.beam_size,
            best_of=o.best_of,
            patience=o.patience,
            length_penalty=o.length_penalty,
            temperature=temperature,
            max_tokens=min(o.max_tokens, self.decoder.ctx - prefix.shape[1] - 1),
            no_repeat_ngram=no_repeat_ngram,
        )
        at = (len(self.prompt), -1)
        may_end = [partial(self._may_end, jobs[r].window) for r in rows]
        result = search(self.decoder, memory, prefix, self.tok.eot, how, self.filters, shared, at, may_end)
        silence = result.prefix_logits[:, 0].float().softmax(-1)[:, self.tok.no_speech].tolist()
        out = []
        for hypotheses, p in zip(result.rows, silence, strict=True):
            text = self.tok.decode([t for t in hypotheses[0].tokens if t < self.tok.eot]).strip()
            out.append(_Attempt(hypotheses[0], text, temperature, compression_ratio(text), p))
        return out

    def _may_end(self, window: Window, tokens: Sequence[int]) -> bool:
        """Whether a text may end with its last time token: not where somebody speaks on for longer than a few words.

        Whisper leaves the last sentence of a window to the next one, which begins with it; ours do not overlap.
        """
        at = tokens[-1] if tokens else 0
        if window.speech is None or at < self.tok.timestamp_begin or not any(t < self.tok.eot for t in tokens):
            return True
        return window.speech_within(self.tok.timestamp(at), window.duration_s) <= self.MISSED_S

    def _repeats(self, a: _Attempt | None) -> bool:
        return a is not None and a.compression_ratio > self.options.compression_ratio_threshold

    def _failure(self, a: _Attempt) -> str | None:
        if self._repeats(a):
            return f"repetition (compression ratio {a.compression_ratio:.1f})"
        if a.hypothesis.avg_log_prob < self.options.logprob_threshold:
            return f"low confidence (log-probability {a.hypothesis.avg_log_prob:.2f})"
        return None

    def _silent(self, a: _Attempt) -> bool:
        o = self.options
        return a.no_speech_prob > o.no_speech_threshold and a.hypothesis.avg_log_prob < o.logprob_threshold

    def _better(self, a: _Attempt | None, b: _Attempt) -> _Attempt:
        def badness(x: _Attempt) -> tuple[bool, float]:
            return self._repeats(x), -x.hypothesis.avg_log_prob

        return b if a is None or badness(b) < badness(a) else a

    def _on_clock(self, job: Job, a: _Attempt, piece: TimedText, words: Sequence[Word]) -> Iterator[Segment]:
        """A piece on the file's clock: one segment, or where its words lie on both sides of a seam, one on each."""
        window = job.window
        runs = between_seams(window, words) or [()]
        # Counted from the end: the first tokens may be the rest of a word that the piece before has.
        ends = len(piece.tokens) - np.cumsum([0, *(sum(len(w.tokens) for w in run) for run in reversed(runs[1:]))])
        bounds = [0, *ends[::-1].tolist()]
        for run, (first, end) in zip(runs, pairwise(bounds), strict=True):
            timed = to_file_time(window, run)
            span_s = window.file_span(*piece.span(window), SPAN_SLACK_S)
            if timed:  # words know better than time tokens where a segment begins and ends
                span_s = min(w.start_s for w in timed), max(w.end_s for w in timed)
            yield self._segment(job, a, piece.tokens[first:end], span_s, timed if self.options.word_timestamps else ())

    def _segment(
        self, job: Job, a: _Attempt, tokens: tuple[int, ...], span_s: tuple[float, float], words: tuple[Word, ...] = ()
    ) -> Segment:
        return Segment(
            *span_s,
            text=self.tok.decode(list(tokens)),
            language="en" if self.options.task == "translate" else job.file.language or "",
            tokens=tokens,
            avg_logprob=a.hypothesis.avg_log_prob,
            no_speech_prob=a.no_speech_prob,
            compression_ratio=a.compression_ratio,
            temperature=a.temperature,
            words=words,
        )

    def _words(
        self, jobs: Sequence[Job], spoken: Sequence[Sequence[TimedText]], memory: Seq, shared: State
    ) -> list[list[Sequence[Word]]]:
        """Timed words of each piece of each window, from one teacher-forced pass over the batch.

        Where nobody asked for the times of words, they are had of windows with a piece over a seam: time tokens cannot
        tell which of its words were said before the silence that was cut out there.
        """
        rows = [i for i, each in enumerate(zip(jobs, spoken, strict=True)) if self._need_words(*each)]
        out: list[list[Sequence[Word]]] = [[()] * len(pieces) for pieces in spoken]
        if not rows:
            return out
        if len(rows) < len(jobs):
            index = torch.tensor(rows, device=self.device)
            memory, shared = memory.rows(index), select(shared, index)
        found = self._aligned([jobs[i] for i in rows], [spoken[i] for i in rows], memory, shared)
        for i, words in zip(rows, found, strict=True):
            over = [self.options.word_timestamps or p.over_a_seam(jobs[i].window) for p in spoken[i]]
            out[i] = [w if wanted else () for w, wanted in zip(words, over, strict=True)]
        return out

    def _need_words(self, job: Job, pieces: Sequence[TimedText]) -> bool:
        return self.options.word_timestamps or any(p.over_a_seam(job.window) for p in pieces)

    def _aligned(
        self, jobs: Sequence[Job], spoken: Sequence[Sequence[TimedText]], memory: Seq, shared: State
    ) -> list[list[Sequence[Word]]]:
        texts = [[t for p in pieces for t in p.tokens] for pieces in spoken]
        prompts = [self.tok.prompt(j.file.language, self.options.task, timestamps=False) for j in jobs]

        def split(job: Job, text: Sequence[int]) -> list[tuple[str, list[int]]]:
            return self.tok.split_words(text, self._written_language(job))

        # Attention alone stretches words over sound without text, and slips where a sentence recurs.
        spans = [
            [span for p in pieces for span in [p.span(job.window)] * len(p.tokens)]
            for job, pieces in zip(jobs, spoken, strict=True)
        ]
        listen = self.options.task == "transcribe"
        words = timed_words(self.model, jobs, prompts, texts, memory, shared, split, self.tok.eot, spans, listen)
        return [_by_piece(w, [len(p.tokens) for p in pieces]) for w, pieces in zip(words, spoken, strict=True)]

    def _written_language(self, job: Job) -> str:
        return "en" if self.options.task == "translate" else job.file.language or "en"


def _put_beside(one: Decoded, source: Decoded) -> None:
    """Put what was spoken in a window attach_source_text its translation, that in doubt included."""
    words = [w for s in _all_segments(source) for w in s.words]
    parts = [one.segments, *(s.first.segments for s in one.seconds)]
    found = iter(attach_source_text([s for part in parts for s in part], words))
    one.segments, *doubted = [[next(found) for _ in part] for part in parts]
    for second, segments in zip(one.seconds, doubted, strict=True):
        second.first.segments = segments


def _all_segments(one: Decoded) -> list[Segment]:
    return [*one.segments, *(s for second in one.seconds for s in second.first.segments)]


def _by_piece(words: Sequence[Word], lengths: Sequence[int]) -> list[Sequence[Word]]:
    """Deal the words out to pieces of so many tokens each; a word that straddles two belongs to the first."""
    out: list[list[Word]] = [[] for _ in lengths]
    ends = np.cumsum(lengths)
    at = 0
    for w in words:
        out[min(int(np.searchsorted(ends, at, side="right")), len(lengths) - 1)].append(w)
        at += len(w.tokens)
    return list(out)


def compression_ratio(text: str) -> float:
    """Bytes of UTF-8 over bytes after zlib: a text that repeats itself scores high."""
    raw = text.encode()
    return len(raw) / len(zlib.compress(raw)) if raw else 0.0
