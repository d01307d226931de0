"""Windows decoded by a model that writes text without times: SeamlessM4T and every encoder with a text decoder.

The text of a window is steered by a language token; cross-attention says when each word was said, sentences get their
words' times. One pass of the encoder serves the text in both languages and the voice.

Letters: B windows, N samples, M memory frames, U tokens.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from mmx.clip import pad
from mmx.errors import InputError
from mmx.generate import Hypothesis, SearchOptions
from mmx.interfaces import Aligner, Prompter, Recognizer
from mmx.model import Model
from mmx.seq import Seq
from mmx.state import State
from mmx.tasks.options import Options
from mmx.tasks.prompt import LanguagePrompter
from mmx.tasks.result import Note, Segment
from mmx.tasks.speak import Voice, say_rows
from mmx.tasks.text_search import TextSearch, has_loop
from mmx.tasks.windows import Decoded, Job, attach_source_text, between_seams, timed_words, to_file_time
from mmx.tasks.words import Word
from mmx.text.languages import find_language
from mmx.text.sentences import split_sentences


def fit(model: Model, options: Options) -> Options:
    """The options with the model's spelling of languages. Raises `InputError` for what it cannot do."""
    tok = model.require_tokenizer()
    language = None if options.language is None else tok.language(options.language)
    if language is None and (options.task == "transcribe" or options.bilingual):
        raise InputError(f"expected --language: {model.name} does not detect the language that it is to write")
    if options.speak and (options.task != "translate" or model.synth is None):
        raise InputError(f"expected a translation by a model with a voice to speak, got {options.task} by {model.name}")
    to = tok.language(options.to) if options.task == "translate" else options.to
    return replace(options, language=language, to=to)


def recognizer(model: Model, options: Options) -> Recognizer:
    """What `transcribe` decodes with; the options are as `fit` returns them."""
    return PlainRecognizer(model, options)


def prompter(model: Model, options: Options) -> Prompter:
    """The text side of a live session; the options are as `fit` returns them."""
    return LanguagePrompter(model, options)


class PlainRecognizer:
    """Decodes a batch of windows.

    Args:
        model: a speech encoder, a text decoder and a tokenizer with language tokens.
        options: as `fit` returns them.
    """

    TOKENS_PER_S = 8  # more is no speech; the longest text that is searched for
    NO_REPEAT = 3

    def __init__(self, model: Model, options: Options):
        self.model, self.options, self.tok = model, options, model.require_tokenizer()
        self.target = options.to if options.task == "translate" else options.language or ""
        self.write = TextSearch(model, self.target, options.shortlist, options.ctc_weight)
        self.decoder = model.require_decoder()
        self.device = self.decoder.device
        self.as_spoken: PlainRecognizer | None = None
        if options.bilingual and options.task == "translate":
            self.as_spoken = PlainRecognizer(model, replace(options, task="transcribe", speak=False, shortlist=None))

    @torch.inference_mode()
    def __call__(self, jobs: Sequence[Job]) -> list[Decoded]:
        """Segments and notes of each job on its file's clock."""
        memory, shared = self._encode(jobs), {}
        out = self._decoded(jobs, memory, shared)
        if self.as_spoken is not None:
            for one, source in zip(out, self.as_spoken._decoded(jobs, memory, shared), strict=True):
                one.segments = attach_source_text(one.segments, [w for s in source.segments for w in s.words])
        return out

    def _encode(self, jobs: Sequence[Job]) -> Seq:
        inputs = pad([j.window.clip for j in jobs])
        return self.model.memory({name: seq.to(self.device) for name, seq in inputs.items()})

    def _decoded(self, jobs: Sequence[Job], memory: Seq, shared: State) -> list[Decoded]:
        out = [Decoded() for _ in jobs]
        found = self._search(jobs, memory, shared, out)
        rows = [list(h.tokens) for h in found]
        words = self._words(jobs, found, memory, shared)
        for job, h, timed, one in zip(jobs, found, words, out, strict=True):
            if self.options.language and not job.file.language:
                job.file.language = find_language(self.options.language).tag
            one.segments = self._segments(job, h, timed)
        if self.options.speak and any(rows):
            self._speak(jobs, rows, memory, shared, out)
        return out

    def _words(
        self, jobs: Sequence[Job], found: Sequence[Hypothesis], memory: Seq, shared: State
    ) -> Sequence[Sequence[Word]]:
        """Timed words of each window's text."""
        if memory.rate is None or not isinstance(self.decoder, Aligner):
            return [
                spread(job.window.duration_s, self.tok.split_words(h.tokens), h)
                for job, h in zip(jobs, found, strict=True)
            ]
        prompts, texts = [self.write.prompt] * len(jobs), [h.tokens for h in found]
        return timed_words(self.model, jobs, prompts, texts, memory, shared, lambda _, t: self.tok.split_words(t))

    def _search(self, jobs: Sequence[Job], memory: Seq, shared: State, out: Sequence[Decoded]) -> list[Hypothesis]:
        """The best text of each window; a loop is searched again with repetition forbidden."""
        seconds = max(j.window.duration_s for j in jobs)
        o = self.options
        how = SearchOptions(
            beam_size=o.beam_size,
            patience=o.patience,
            length_penalty=o.length_penalty,
            max_tokens=min(o.max_tokens, 16 + math.ceil(seconds * self.TOKENS_PER_S)),
        )
        found = self.write(memory, how, shared)
        looping = [i for i, h in enumerate(found) if has_loop(h.tokens)]
        calm = replace(how, no_repeat_ngram=self.NO_REPEAT)
        again = self.write(memory, calm, shared) if looping else found
        for i in looping:
            found[i] = again[i]
            window = jobs[i].window
            out[i].notes.append(Note(window.start_s, window.end_s, "retried", "repetition: decoded with it forbidden"))
        for job, h, one in zip(jobs, found, out, strict=True):
            if not self.tok.decode(h.tokens).strip():
                one.notes.append(Note(job.window.start_s, job.window.end_s, "dropped", "no text was written"))
            elif not h.ended:
                one.notes.append(Note(job.window.start_s, job.window.end_s, "warning", "the text was cut at its limit"))
        return found

    def _segments(self, job: Job, h: Hypothesis, timed: Sequence[Word]) -> list[Segment]:
        """One segment for each sentence; where it was said on both sides of a silence that was cut out, one on each."""
        text = self.tok.decode(h.tokens)
        out: list[Segment] = []
        at = 0
        for sentence in (s.text for s in split_sentences(text) if s.text):
            first, written = at, ""
            while at < len(timed) and len(written.strip()) < len(sentence):
                written += timed[at].text
                at += 1
            runs = between_seams(job.window, timed[first:at]) or [()]
            for run in runs:
                mine = to_file_time(job.window, run)
                last_s = (
                    out[-1].end_s if out else job.window.start_s
                )  # the word before may have taken all of a sentence
                out.append(
                    Segment(
                        start_s=min((w.start_s for w in mine), default=last_s),
                        end_s=max((w.end_s for w in mine), default=last_s if out else job.window.end_s),
                        text=f" {sentence}" if len(runs) == 1 else f" {''.join(w.text for w in run).strip()}",
                        language=find_language(self.target).tag,  # as all results have it, not as the model spells it
                        avg_logprob=h.avg_log_prob,
                        words=mine if self.options.word_timestamps or self.options.task == "transcribe" else (),
                    )
                )
        return out

    def _speak(
        self, jobs: Sequence[Job], rows: Sequence[list[int]], memory: Seq, shared: State, out: Sequence[Decoded]
    ) -> None:
        voice = Voice(self.options.speaker)
        said = say_rows(self.model, rows, self.target, voice, memory, shared)
        for row, job, one, spoken in zip(rows, jobs, out, said, strict=True):
            if len(spoken.samples) and row:
                one.spoken.append(replace(spoken, start_s=job.window.start_s))


def spread(duration_s: float, words: Sequence[tuple[str, Sequence[int]]], h: Hypothesis) -> list[Word]:
    """Words one after the other over a window, each as long as it has tokens: where nothing tells when they were said.

    Without attention to the memory (a language model) or a clock in it (CIF) there is nothing to align.
    """
    step_s = duration_s / max(1, sum(len(tokens) for _, tokens in words))
    out, at = [], 0
    for text, tokens in words:
        span_s = (at * step_s, (at + len(tokens)) * step_s)
        out.append(Word(text, *span_s, math.exp(h.avg_log_prob), tokens=tuple(tokens)))
        at += len(tokens)
    return out
