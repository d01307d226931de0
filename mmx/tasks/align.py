"""When each word was said: dynamic time warping of the decoder's cross-attention (Whisper's own method), and loudness.

A few attention heads follow the audio; their averaged weights, seen as a cost, are aligned monotonically with the
frames (see `alignment_heads` in a card). Attention turns to a word before it is said, and where one begins it knows by
a tenth of a second or three; the sound knows better, for words rarely begin where it is loudest. So a word that begins
costs what it is loud there (`reluctance`): docs/experiments/word_times.md has what that gains.

Letters: B rows, N heads, U tokens, M encoder frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mmx.tasks.words import Word

MEDIAN_WIDTH = 7
LEAD_S = 0.08  # by which attention is early
LOUD_COST = 8.0  # of beginning a word where it is loudest, in standard deviations of attention
RANGE_DB = 30.0  # below the loudest: as good as silence
SMOOTH_S = 0.1  # over which loudness is averaged: the closure of a "t" is no pause
IMPOSSIBLE = 100.0  # attention is in standard deviations, a few at most


@dataclass(frozen=True, slots=True)
class TokenTimes:
    """Boundaries between tokens.

    Attributes:
        start_s: `(U + 1,)` start of each token, and of the end token.
        probability: `(U,)` what the model gave each token.
    """

    start_s: NDArray[np.float64]
    probability: NDArray[np.float64]


def median_filter(x: Tensor, width: int = MEDIAN_WIDTH) -> Tensor:
    """Median over a sliding odd window of the last dimension, edges reflected; shorter inputs are left alone."""
    if x.shape[-1] <= width // 2:
        return x
    half = width // 2
    padded = F.pad(x.reshape(1, -1, x.shape[-1]), (half, half), mode="reflect").reshape(*x.shape[:-1], -1)
    return padded.unfold(-1, width, 1).sort()[0][..., half]


def attention_matrix(scores_NUM: Tensor, n_frames: int) -> Tensor:
    """`(U, n_frames)` mean attention of the heads, each normalized over the tokens and smoothed in time."""
    weights = scores_NUM[..., :n_frames].float().softmax(-1)
    std, mean = torch.std_mean(weights, dim=-2, keepdim=True, correction=0)
    return median_filter((weights - mean) / std).mean(0)


def confine(matrix_UM: Tensor, spans_s: Sequence[tuple[float, float]], rate: float, slack_s: float) -> Tensor:
    """The attention matrix with what lies more than `slack_s` outside each token's span made as good as impossible.

    Args:
        matrix_UM: from `attention_matrix`; rows past the spans (the end token) are left alone.
        spans_s: start and end between which each token is known to lie.
        rate: frames per second.
        slack_s: by which a span may be wrong.
    """
    at_s = torch.arange(matrix_UM.shape[1]) / rate
    begin, end = torch.tensor(spans_s).T.reshape(2, -1, 1)
    outside = (at_s < begin - slack_s) | (at_s > end + slack_s)
    out = matrix_UM.clone()
    out[: len(spans_s)] -= IMPOSSIBLE * outside
    return out


def onset_penalty(samples: NDArray[np.float32], n_frames: int, rate: float, sample_rate: int) -> NDArray[np.float64]:
    """`(n_frames,)` cost of beginning a word at a frame: how loud the sound is `LEAD_S` later, 0 in silence.

    Args:
        samples: `(N,)` of the window; past its end there is silence.
        n_frames: of the attention matrix.
        rate: frames per second.
        sample_rate: samples per second.
    """
    hop, width = sample_rate / rate, sample_rate // 40
    at = np.round((np.arange(n_frames) + LEAD_S * rate) * hop).astype(int)
    padded = np.pad(samples.astype(np.float64) ** 2, (width // 2, max(0, int(at[-1]) - len(samples)) + width))
    total = np.concatenate([[0.0], np.cumsum(padded)])
    level_db = 10 * np.log10((total[at + width] - total[at]) / width + 1e-10)
    loud = np.clip((level_db - np.quantile(level_db, 0.95)) / RANGE_DB + 1, 0, 1)
    half = int(SMOOTH_S * rate / 2)
    return LOUD_COST * np.convolve(np.pad(loud, half, mode="edge"), np.ones(2 * half + 1) / (2 * half + 1), "valid")


def warp(cost_UM: NDArray[np.float64], entry_UM: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The cheapest monotonic path through a cost matrix from corner to corner, by anti-diagonals.

    Steps are diagonal, down (next token) and right (next frame); ties prefer the diagonal only when strictly cheapest,
    then down, then right, as the reference does.

    Args:
        cost_UM: of each token at each frame.
        entry_UM: what going on to a token costs at each frame, beside; 0 in the reference.

    Returns:
        Token index and frame index of each point of the path.
    """
    n, m = cost_UM.shape
    total = np.full((n + 1, m + 1), np.inf, dtype=np.float32)  # as the reference stores it
    step = np.zeros((n + 1, m + 1), dtype=np.int8)
    total[0, 0] = 0.0
    for d in range(2, n + m + 1):
        i = np.arange(max(1, d - m), min(n, d - 1) + 1)
        j = d - i
        enter = entry_UM[i - 1, j - 1]
        diagonal, down, right = total[i - 1, j - 1] + enter, total[i - 1, j] + enter, total[i, j - 1]
        which = np.where((diagonal < down) & (diagonal < right), 0, np.where((down < diagonal) & (down < right), 1, 2))
        total[i, j] = cost_UM[i - 1, j - 1] + np.choose(which, (diagonal, down, right))
        step[i, j] = which
    step[0, :], step[:, 0] = 2, 1
    i, j = n, m
    path: list[tuple[int, int]] = []
    while i > 0 or j > 0:
        path.append((i - 1, j - 1))
        move = step[i, j]
        i, j = i - (move != 2), j - (move != 1)
    rows, frames = zip(*reversed(path), strict=True)
    return np.array(rows), np.array(frames)


def token_times(
    matrix_UM: Tensor,
    probability: Sequence[float],
    rate: float,
    word_lengths: Sequence[int] = (),
    extra: NDArray[np.float64] | None = None,
) -> TokenTimes:
    """Start of each token on the window's clock, from its attention matrix over all tokens including the end token.

    Args:
        matrix_UM: from `attention_matrix`.
        probability: `(U - 1,)` what the model gave each token.
        rate: frames per second.
        word_lengths: tokens of each word; needed with `extra`.
        extra: from `reluctance`; when None, attention alone decides, as in the reference.
    """
    cost_UM = -matrix_UM.double().numpy()
    entry_UM, lead_s = np.zeros_like(cost_UM), 0.0
    if extra is not None:
        entry_UM[np.cumsum([n for n in word_lengths if n])] = extra  # the first word begins where the window does
        lead_s = LEAD_S
    rows, frames = warp(cost_UM, entry_UM)
    first = np.concatenate([[True], np.diff(rows).astype(bool)])
    return TokenTimes(frames[first] / rate + lead_s, np.asarray(probability, dtype=np.float64))


_SENTENCE_END = frozenset(".。!！?？")
PREPENDED = "\"'“¿([{-"
APPENDED = "\"'.。,，!！?？:：”)]}、"


def words(times: TokenTimes, split: Sequence[tuple[str, Sequence[int]]]) -> list[Word]:
    """Words from token times; `split` gives each word's text and tokens, in order, without the end token."""
    ends = np.cumsum([len(tokens) for _, tokens in split])
    out = []
    for (text, tokens), end in zip(split, ends.tolist(), strict=True):
        begin = end - len(tokens)
        mean = float(times.probability[begin:end].mean()) if end > begin else 0.0
        span = float(times.start_s[begin]), float(times.start_s[min(end, len(times.start_s) - 1)])
        out.append(Word(text, *span, mean, tokens=tuple(tokens)))
    return merge_punctuation(limit_durations(out))


def limit_durations(found: Sequence[Word]) -> list[Word]:
    """Shorten words that the alignment stretched over a pause at the edge of a sentence."""
    durations = np.array([w.end_s - w.start_s for w in found])
    durations = durations[durations > 0]
    median = min(0.7, float(np.median(durations))) if len(durations) else 0.0
    longest = 2 * median
    out = list(found)
    if not len(durations):
        return out
    for i in range(1, len(out)):
        w = out[i]
        if w.end_s - w.start_s > longest:
            if w.text in _SENTENCE_END:
                out[i] = replace(w, end_s=w.start_s + longest)
            elif out[i - 1].text in _SENTENCE_END:
                out[i] = replace(w, start_s=w.end_s - longest)
    return out


def merge_punctuation(found: Sequence[Word]) -> list[Word]:
    """Join opening marks to the next word and closing marks to the one before; times stay the word's own."""
    out = list(found)
    for i in range(len(out) - 2, -1, -1):  # opening marks, from the right so that several in a row all move
        mark, follower = out[i], _next_filled(out, i)
        if follower is not None and mark.text.startswith(" ") and mark.text.strip() and mark.text.strip() in PREPENDED:
            w = out[follower]
            out[follower] = replace(w, text=mark.text + w.text, tokens=mark.tokens + w.tokens)
            out[i] = Word("", 0.0, 0.0, 0.0)
    kept: list[Word] = []
    for w in out:
        if not w.text and not w.tokens:
            continue
        if kept and not kept[-1].text.endswith(" ") and w.text and w.text in APPENDED:
            p = kept[-1]
            kept[-1] = replace(p, text=p.text + w.text, tokens=p.tokens + w.tokens)
        else:
            kept.append(w)
    return kept


def _next_filled(found: Sequence[Word], i: int) -> int | None:
    return next((j for j in range(i + 1, len(found)) if found[j].text), None)
