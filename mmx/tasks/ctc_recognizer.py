"""Windows decoded without a decoder: the best path through the scores of a CTC head (`mmx.nn.ctc`).

Asked for a vocabulary, the best of the paths that spell its words (`mmx.tasks.ctc_lexicon`).

Letters: B windows, M memory frames, V vocabulary.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from mmx.clip import pad
from mmx.errors import InputError
from mmx.model import Model
from mmx.nn.ctc import NAME, log_probs
from mmx.seq import Seq
from mmx.tasks.ctc_lexicon import Lexicon
from mmx.tasks.options import Options
from mmx.tasks.result import Note, Segment
from mmx.tasks.windows import Decoded, Job, to_file_time
from mmx.tasks.words import Word
from mmx.text.languages import find_language


class Path(NamedTuple):
    """The best path of a row: its tokens, the frame in which each begins, and its log-probability a frame."""

    tokens: list[int]
    frames: list[int]
    log_prob: float


def fit(model: Model, options: Options) -> Options:
    """The options with the model's spelling of languages. Raises `InputError` for what it cannot do."""
    tok = model.require_tokenizer()
    if options.language is None and len(tok.language_ids) == 1:
        options = replace(options, language=next(iter(tok.language_ids)))
    if options.language is None:
        raise InputError(f"expected --language: {model.name} does not detect what it is to write")
    if options.speak or options.bilingual:
        asked = "speak" if options.speak else "bilingual"
        raise InputError(f"expected no {asked} with {model.name}, which writes what it sees in one language")
    return replace(options, language=tok.language(options.language))


def recognizer(model: Model, options: Options) -> "CTCRecognizer":
    """What `transcribe` decodes with; the options are as `fit` returns them."""
    return CTCRecognizer(model, options)


class CTCRecognizer:
    """Decodes a batch of windows.

    Args:
        model: with a CTC head and a tokenizer with language tokens.
        options: as `fit` returns them.
    """

    def __init__(self, model: Model, options: Options):
        self.model, self.options, self.tok = model, options, model.require_tokenizer()
        self.language = options.language or ""
        self.lexicon = Lexicon.read(options.vocabulary, self.tok) if options.vocabulary else None
        self.silent = [i for i in range(self.tok.n_vocab) if i in {*self.tok.control_ids, self.tok.eot}]

    @torch.inference_mode()
    def __call__(self, jobs: Sequence[Job]) -> list[Decoded]:
        """Segments and notes of each job on its file's clock."""
        device = next(self.model.parameters()).device
        clip = pad([j.window.clip for j in jobs])
        memory = self.model.memory({name: seq.to(device) for name, seq in clip.items()})
        paths = best_paths(self.log_probs(memory), memory.lengths, self.blank, self.lexicon)
        return [self._decoded(job, path, memory.rate or 25.0) for job, path in zip(jobs, paths, strict=True)]

    @property
    def blank(self) -> int:
        """The last of the scores."""
        return self.tok.n_vocab

    def log_probs(self, memory: Seq) -> Tensor:
        """`(B, M, V + 1)` log-probabilities of what a text may hold."""
        return log_probs(self.model.heads[NAME], memory, self.tok.language_ids.get(self.language), self.silent)

    def _decoded(self, job: Job, path: Path, rate: float) -> Decoded:
        out, tag = Decoded(), find_language(self.language).tag
        job.file.language = tag
        text, window = self.tok.decode(path.tokens).strip(), job.window
        if not text:
            out.notes.append(Note(window.start_s, window.end_s, "dropped", "no text was written"))
            return out
        words = to_file_time(window, self._words(path, rate, window.duration_s))
        out.segments.append(
            Segment(
                start_s=words[0].start_s,
                end_s=words[-1].end_s,
                text=f" {text}",
                language=tag,
                avg_logprob=path.log_prob,
                words=words if self.options.word_timestamps or self.options.task == "transcribe" else (),
            )
        )
        return out

    def _words(self, path: Path, rate: float, duration_s: float) -> list[Word]:
        """Each from its first token to its last, which lasts a frame."""
        words, at = [], 0
        for text, tokens in self.tok.split_words(path.tokens):
            first, last = path.frames[at], path.frames[at + len(tokens) - 1]
            span = (first / rate, min(duration_s, (last + 1) / rate))
            spelled = text if words else f" {text.strip()}"
            words.append(Word(spelled, *span, math.exp(path.log_prob), tokens=tuple(tokens)))
            at += len(tokens)
        return words


def best_paths(log_probs_BMV: Tensor, lengths_B: Tensor, blank: int, lexicon: Lexicon | None = None) -> list[Path]:
    """The most probable path of each row, repeats and blanks left out (Graves et al. 2006, section 3.2).

    Args:
        log_probs_BMV: of the tokens and the blank.
        lengths_B: frames of each row.
        blank: index of the blank.
        lexicon: words that alone may be written; any text when None.
    """
    lengths = lengths_B.tolist()
    if lexicon is None:
        best_BM, found_BM = log_probs_BMV.max(-1)
        rows = [(found_BM[b, :n].tolist(), float(best_BM[b, :n].sum())) for b, n in enumerate(lengths)]
    else:
        rows = lexicon.best_paths(log_probs_BMV.cpu().numpy(), lengths, blank)
    out = []
    for (row, total), n in zip(rows, lengths, strict=True):
        begins = [i for i in range(n) if row[i] != blank and (i == 0 or row[i] != row[i - 1])]
        out.append(Path([row[i] for i in begins], begins, total / n if n else 0.0))
    return out
