"""The windows of a recording on their way through a decoder.

A recognizer is called with jobs and answers with `Decoded`s: that of `mmx.tasks.recognizer`, or a family's own.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch

from mmx.errors import InputError, MmxError
from mmx.interfaces import Aligner
from mmx.media.audio import SAMPLE_RATE as RATE
from mmx.model import Model
from mmx.seq import Seq
from mmx.state import State, select
from mmx.tasks import align
from mmx.tasks.result import Note, Segment, SpokenSegment, Word
from mmx.tasks.second_pass import SecondPass
from mmx.tasks.window import Window

SPAN_SLACK_S = 0.5
"""By which time tokens may be wrong."""
LATE_S = 0.15
"""By which the speech detector may be late at soft sounds."""


OPENING = 4
"""Windows at a recording's beginning that say in which language it is."""


@dataclass
class File:
    """One recording, or one channel of it, on its way to a transcript.

    Attributes:
        channel: which one of a recording whose channels are heard one by one, "left" or "right"; else "".
        share: which part of the recording's work it is, and of how many.
        peak: the loudest sample, 1 at full scale; None where no sound is read.
        notes: of its decoding.
        wrong: what is wrong with the recording, and what was done to hear it.
        read: whether all of its windows are known.
        opening: its first windows, until its language is known; all `OPENING` of them before the first is decoded.
        ahead: those of them that were encoded for the language and wait for their turn, and the memory of each.
    """

    name: str
    language: str | None
    channel: str = ""
    share: tuple[int, int] = (0, 1)
    peak: float | None = None
    language_probability: float = 0.0
    duration_s: float = 0.0
    total_s: float | None = None
    segments: list[Segment] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    wrong: list[Note] = field(default_factory=list)
    spoken: list[SpokenSegment] = field(default_factory=list)
    opening: list[Window] = field(default_factory=list)
    ahead: list[tuple[Window, Seq]] = field(default_factory=list)
    waiting: int = 0
    read: bool = False
    error: MmxError | None = None


@dataclass
class Job:
    """A window to decode.

    Attributes:
        file: that it is of.
        window: the sound.
        retry: how often its audio was tried before.
        second: the stretch that it is decoded again for, where its first text may stay.
    """

    file: File
    window: Window
    retry: int = 0
    second: SecondPass | None = None


@dataclass
class Decoded:
    """What became of a window.

    Attributes:
        segments: on the file's clock.
        notes: what was skipped, dropped or tried again, and why.
        again: stretches of it to decode again.
        seconds: stretches of it to decode again, and what was written of them; the better text stays.
        spoken: what was said of it aloud.
        log_prob: of the tokens of the segments' texts, where the window is decoded for a `SecondPass`.
        tokens: how many these are.
        failed: whether a text repeats itself or says too little for its speech, though no further try is left.
    """

    segments: list[Segment] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    again: list[Window] = field(default_factory=list)
    seconds: list[SecondPass] = field(default_factory=list)
    spoken: list[SpokenSegment] = field(default_factory=list)
    log_prob: float = 0.0
    tokens: int = 0
    failed: bool = False


def require_aligner(model: Model) -> tuple[Aligner, tuple[tuple[int, int], ...]]:
    """The decoder and its heads that follow the source: those that the card names, else those that it names itself.

    Raises:
        InputError: its attention does not say where it looks.
    """
    decoder = model.require_decoder()
    if not isinstance(decoder, Aligner):
        raise InputError(
            f"expected a decoder whose attention gives word times, got that of {model.name}: live sessions need them; "
            "transcribe files with it, or choose a model with attention to the recording"
        )
    named = tuple(model.card.alignment_heads) if model.card else ()
    return decoder, named or decoder.alignment_heads


def timed_words(
    model: Model,
    jobs: Sequence[Job],
    prompts: Sequence[Sequence[int]],
    texts: Sequence[Sequence[int]],
    memory: Seq,
    shared: State,
    split: Callable[[Job, Sequence[int]], Sequence[tuple[str, Sequence[int]]]],
    below: int | None = None,
    spans_s: Sequence[Sequence[tuple[float, float]]] | None = None,
    listen: bool = False,
) -> list[list[Word]]:
    """When each word was said, on its window's clock, from one teacher-forced pass of the decoder.

    Args:
        model: whose cross-attention follows the sound. Where its card does not name the heads that do, those of the
            later half of the layers are taken.
        jobs: the windows.
        prompts: what each text was steered by.
        texts: text tokens of each window.
        memory: of the windows, `(B, M, D)`.
        shared: `state["memory"]` of the search that wrote the texts.
        split: text tokens of a window to its words.
        below: probabilities are taken among the tokens below this one; among all when None.
        spans_s: where each text token lies, on its window's clock and within `SPAN_SLACK_S`, where that is known.
        listen: the words are those that were said, in their order: let loudness decide where they begin, too.
    """
    decoder, heads = require_aligner(model)
    eot, rate = model.require_tokenizer().eot, memory.rate or 50.0
    rows = [torch.tensor([*p, *t, eot]) for p, t in zip(prompts, texts, strict=True)]
    out: list[list[Word]] = []
    for i, (job, prompt, text) in enumerate(zip(jobs, prompts, texts, strict=True)):
        if not text:
            out.append([])
            continue
        first, last = len(prompt) - 1, len(prompt) + len(text) + 1
        frames = min(int(memory.lengths[i]), max(1, math.ceil(job.window.duration_s * rate)))
        one = torch.tensor([i], device=memory.x.device)  # each alone: its times do not depend on the texts beside it
        tokens = rows[i][None].to(memory.x.device)
        scores, probs = decoder.cross_weights(tokens, memory.rows(one), heads, select(shared, one), below)
        matrix = align.attention_matrix(scores[0, :, :last].cpu(), frames)[first:-1]
        if spans_s is not None:
            matrix = align.confine(matrix, spans_s[i], rate, SPAN_SLACK_S)
        found = split(job, text)
        extra = align.onset_penalty(job.window.samples, frames, rate, RATE) if listen else None
        given = probs[0, first : first + len(text)].cpu().tolist()
        times = align.token_times(matrix, given, rate, [len(tokens) for _, tokens in found], extra)
        out.append(align.words(times, found))
    return out


def to_file_time(window: Window, words: Iterable[Word]) -> tuple[Word, ...]:
    """Words of a window on the file's clock, without the silence that an alignment stretched them over."""
    return tuple(Word(w.text, *window.file_span(*_speech_span(window, w), math.inf), w.probability) for w in words)


def _speech_span(window: Window, word: Word) -> tuple[float, float]:
    """Where in the window a word was said: an alignment may stretch it over a silence."""
    return window.within_speech(word.start_s, word.end_s, LATE_S)


def between_seams(window: Window, words: Sequence[Word]) -> list[Sequence[Word]]:
    """The words of a text in runs, each within one piece of its window: no run goes over a silence that was cut out."""
    runs: list[list[Word]] = []
    last = -1
    for w in words:
        # an alignment that slips back is no new run
        at = max(last, *window.held_by(*_speech_span(window, w), math.inf))
        if at != last:
            runs.append([])
        runs[-1].append(w)
        last = at
    return list(runs)


def attach_source_text(segments: Sequence[Segment], words: Sequence[Word]) -> list[Segment]:
    """Segments of a translation with the words spoken meanwhile as their `source_text`; no word is left out."""
    if not segments:
        return []
    taken: list[list[str]] = [[] for _ in segments]
    for w in words:
        middle_s = (w.start_s + w.end_s) / 2
        nearest = min(range(len(segments)), key=lambda i: _distance_s(segments[i], middle_s))
        taken[nearest].append(w.text)
    return [replace(s, source_text="".join(t).strip()) for s, t in zip(segments, taken, strict=True)]


def _distance_s(segment: Segment, time_s: float) -> float:
    return max(segment.start_s - time_s, time_s - segment.end_s, 0.0)
