"""Windows decoded by a model whose text holds time tokens: Whisper's way, with its guards.

Search with fallback to higher temperatures, segments from time tokens, word times from cross-attention; speech without
text is decoded again, invented text and loops are caught.
"""

import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch

from mmx import align
from mmx.errors import InputError, MmxWarning
from mmx.generate import Filter, Hypothesis, SearchOptions, Suppress, SuppressFirst, search
from mmx.model import Model
from mmx.result import Note, Segment
from mmx.seq import Seq
from mmx.state import State, select, subtree
from mmx.text import LANGUAGES, find_language
from mmx.window import Window, cut, halves
from mmx.windows import RATE, Decoded, Job, Options, beside, on_clock, timed_words


@dataclass
class _Outcome:
    """What became of a window: its text, what is to be told, and stretches to decode again."""

    attempt: "_Attempt | None" = None
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
    tokenizer, card = model.tokenizer, model.card
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


class Decoder:
    """Decodes a batch of windows: encoder, language, search with fallback, segments and words.

    Args:
        model: with a tokenizer that has time tokens.
        options: as `fit` returns them.
    """

    MAX_RETRY = 2
    SPLIT_S = 8.0  # windows longer than this are split when their text repeats itself
    THIN_S = 4.0  # of speech, below which no piece is called thin
    THIN_TOKENS_PER_S = 2.0  # of speech; people say 3 to 6
    MISSED_S = 1.2  # of speech without text: more than time tokens are wrong by, less than a short sentence

    def __init__(self, model: Model, options: Options):
        self.model, self.options = model, options
        self.tok = model.tokenizer
        self.device = next(model.decoder.parameters()).device
        self.filters = self._filters()
        self.prompt = self._prompt()
        self.as_spoken: Decoder | None = None
        if options.bilingual and options.task == "translate":
            self.as_spoken = Decoder(model, replace(options, task="transcribe", word_timestamps=True))

    def _filters(self) -> list[Filter]:
        from mmx.models.whisper import TimestampRules

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
        room = self.model.decoder.ctx // 2 - 1
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
        if self.as_spoken is not None:
            for one, source in zip(out, self.as_spoken._decoded(jobs, memory, shared), strict=True):
                one.segments = beside(one.segments, [w for s in source.segments for w in s.words])
                if not one.again:  # else both are written anew
                    why = "not all words spoken here stand beside their translation"
                    one.notes += [Note(w.start_s, w.end_s, "warning", why) for w in source.again]
        return out

    def _decoded(self, jobs: Sequence[Job], memory: Seq, shared: State) -> list[Decoded]:
        outcomes = self._search(jobs, memory, shared)
        written = [self._pieces(o.attempt) if o.attempt else [] for o in outcomes]
        thin = [self._thin(*each) for each in zip(jobs, outcomes, written, strict=True)]
        timed: list[list[Sequence[align.TimedWord]]] = [[()] * len(pieces) for pieces in written]
        if self.options.word_timestamps:
            # Of all that was written, though some is dropped: an alignment stretches words over sound without text.
            timed = self._words(jobs, written, memory, shared)
        out = []
        for job, o, pieces, dropped, words in zip(jobs, outcomes, written, thin, timed, strict=True):
            segments: list[Segment] = []
            if o.attempt:
                kept = [(p, w) for p, w in zip(pieces, words, strict=True) if p not in dropped]
                segments = [self._on_clock(job, o.attempt, p, w) for p, w in kept]
                if not pieces:
                    o.note(job.window, "dropped", "no text was written")
                missed = self._missed(job, pieces)
                o.again += missed
                o.notes += [Note(m.start_s, m.end_s, "retried", "speech without text") for m in missed]
            out.append(Decoded(segments, o.notes, o.again))
        return out

    def _encode(self, jobs: Sequence[Job]) -> Seq:
        """`(B, M, D)`, taken from the file where a window was encoded ahead."""
        rows = [next((m for w, m in j.file.ahead if w is j.window), None) or self._heard(j.window) for j in jobs]
        return Seq(torch.cat([r.x for r in rows]), torch.cat([r.lengths for r in rows]), rows[0].rate)

    def _heard(self, window: Window) -> Seq:
        """`(1, M, D)`. A window is padded with silence to the 30 s that Whisper was trained on: given less, it drops
        last sentences. It is encoded alone, which keeps the activations in the CPU's cache."""
        front, encoder = self.model.stages("speech")
        n = encoder.ctx * encoder.stride * front.stride
        padded = torch.zeros(1, n)
        padded[0, : len(window.samples)] = torch.from_numpy(window.samples[:n])
        seq = Seq(padded.to(self.device), torch.tensor([n], device=self.device), RATE)
        return self.model.memory({"speech": seq})

    def _languages(self, jobs: Sequence[Job], memory: Seq) -> State:
        """Fix the language of files that have none yet; returns the decoder's keys and values of the memory."""
        state = self.model.decoder.init_state(len(jobs), 1)
        probs = self._language_probs(memory, state)
        codes = list(self.tok.language_ids) if self.tok.multilingual else ["en"]
        for file in {id(j.file): j.file for j in jobs if not j.file.language}.values():
            # By the file's own first windows, wherever the batch ends: its text is the same in any batch.
            here = {id(j.window): p for j, p in zip(jobs, probs, strict=True)}
            opening = file.opening or [j.window for j in jobs if j.file is file]
            late = [w for w in opening if id(w) not in here]
            file.ahead = [(w, self._heard(w)) for w in late]
            here |= {id(w): self._language_probs(m, self.model.decoder.init_state(1, 1))[0] for w, m in file.ahead}
            mine = torch.stack([here[id(w)] for w in opening]).mean(0)
            file.language, file.language_probability = codes[int(mine.argmax())], float(mine.max())
            file.opening = []
        for job in jobs:
            if self.options.language:
                job.file.language_probability = 1.0
        return subtree(state, "memory")

    def _language_probs(self, memory: Seq, state: State) -> torch.Tensor:
        """`(B, languages)`; the state keeps the keys and values of the memory."""
        start = torch.full((len(memory.x), 1), self.tok.sot, device=self.device)
        ids = list(self.tok.language_ids.values()) if self.tok.multilingual else [0]
        return self.model.decoder(start, memory, state)[:, 0, ids].float().softmax(-1).cpu()

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
            max_tokens=min(o.max_tokens, self.model.decoder.ctx - prefix.shape[1] - 1),
            no_repeat_ngram=no_repeat_ngram,
        )
        at = (len(self.prompt), -1)
        result = search(self.model.decoder, memory, prefix, self.tok.eot, how, self.filters, shared, at)
        silence = result.prefix_logits[:, 0].float().softmax(-1)[:, self.tok.no_speech].tolist()
        out = []
        for hypotheses, p in zip(result.rows, silence, strict=True):
            text = self.tok.decode([t for t in hypotheses[0].tokens if t < self.tok.eot]).strip()
            out.append(_Attempt(hypotheses[0], text, temperature, compression_ratio(text), p))
        return out

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

    def _pieces(self, attempt: _Attempt) -> list["_Piece"]:
        """Cut the tokens at the time tokens; times in seconds on the window's clock, None where none was written."""
        out: list[_Piece] = []
        start: float | None = None
        text: list[int] = []
        for token in attempt.hypothesis.tokens:
            if token < self.tok.eot:
                text.append(token)
            elif token >= self.tok.timestamp_begin:
                t = self.tok.timestamp(token)
                if text:
                    out.append(_Piece(start, t, tuple(text)))
                    text = []
                start = t
        if text:
            out.append(_Piece(start, None, tuple(text)))
        return [p for p in out if self.tok.decode(list(p.tokens)).strip()]

    def _on_clock(self, job: Job, a: _Attempt, piece: "_Piece", words: Sequence[align.TimedWord]) -> Segment:
        window = job.window
        begin, end = piece.span(window)
        start_s, end_s = window.file_span(min(begin, window.duration_s), min(max(begin, end), window.duration_s), 0.5)
        timed = on_clock(window, words)
        if timed:  # words know better than time tokens where a segment begins and ends
            start_s, end_s = min(w.start_s for w in timed), max(w.end_s for w in timed)
        return Segment(
            start_s=start_s,
            end_s=end_s,
            text=self.tok.decode(list(piece.tokens)),
            language="en" if self.options.task == "translate" else job.file.language or "",
            tokens=piece.tokens,
            avg_logprob=a.hypothesis.avg_log_prob,
            no_speech_prob=a.no_speech_prob,
            compression_ratio=a.compression_ratio,
            temperature=a.temperature,
            words=timed,
        )

    def _thin(self, job: Job, outcome: "_Outcome", pieces: Sequence["_Piece"]) -> list["_Piece"]:
        """Pieces that say too little for the speech that they stand for; it is to be decoded again, in halves.

        Of two like sentences in a row Whisper writes one now and then, and its time tokens span both.
        """
        window, found = job.window, []
        if job.retry >= self.MAX_RETRY or window.speech is None:
            return []
        for piece in pieces:
            begin, end = piece.span(window)
            heard_s = window.spoken_s(begin, end)
            if heard_s < self.THIN_S or len(piece.tokens) > self.THIN_TOKENS_PER_S * heard_s:
                continue
            part = cut(window, begin, end)
            outcome.again += halves(part)
            why = f"{len(piece.tokens)} tokens for {heard_s:.1f} s of speech: decoded again in halves"
            outcome.note(part, "retried", why)
            found.append(piece)
        return found

    def _missed(self, job: Job, pieces: Sequence["_Piece"]) -> list[Window]:
        """Stretches of the window that hold speech but no text."""
        if job.retry >= self.MAX_RETRY:
            return []
        window = job.window
        spans = [p.span(window) for p in pieces]
        starts = [begin for begin, _ in spans]
        at = np.maximum.accumulate([0.0, *(end for _, end in spans)]).tolist()
        holes = [(a, b) for a, b in zip(at, [*starts, window.duration_s], strict=True)]
        holes = [(a, b) for a, b in holes if b > a and window.spoken_s(a, b) > self.MISSED_S]
        whole = len(holes) == 1 and holes[0] == (0.0, window.duration_s)
        return [] if whole else [cut(window, a, b) for a, b in holes]

    def _words(
        self, jobs: Sequence[Job], spoken: Sequence[Sequence["_Piece"]], memory: Seq, shared: State
    ) -> list[list[Sequence[align.TimedWord]]]:
        """Timed words of each piece of each window, from one teacher-forced pass over the batch."""
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


@dataclass(frozen=True)
class _Piece:
    """Text tokens between two time tokens, seconds on the window's clock."""

    start_s: float | None
    end_s: float | None
    tokens: tuple[int, ...]

    def span(self, window: Window) -> tuple[float, float]:
        """Start and end, the window's own where none was written."""
        return self.start_s or 0.0, window.duration_s if self.end_s is None else self.end_s


def _by_piece(words: Sequence[align.TimedWord], lengths: Sequence[int]) -> list[Sequence[align.TimedWord]]:
    """Deal the words out to pieces of so many tokens each; a word that straddles two belongs to the first."""
    out: list[list[align.TimedWord]] = [[] for _ in lengths]
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
