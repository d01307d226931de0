"""Stretches of a window in another language than the one that its text is written in.

A model that is steered by one language for all of a recording leaves out, or translates, what is said in another. The
model itself can tell which stretches those are, by one decoding step for all of a window's at once. Given the frames of
the window's memory that a stretch takes up, and those of a pause, it is sure of the language written and unsure of
others. Only a stretch in which it does not hear the former is encoded by itself, its first two seconds: in so short an
input it tells languages about as well as in its whole window.
"""

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from mmx.models.whisper.tokenizer import LANGUAGES
from mmx.tasks.result import Note
from mmx.tasks.window import Window, cut

LEAST_S = 1.0  # of speech, in which a language can be told
LONGEST_S = 6.0  # longer speech is looked at in parts: a sentence of another language may follow without a pause
PAUSE_S = 1.0  # whose memory follows that of a stretch: speech that breaks off looks like no language
SUSPECT = 0.65  # probability of the language written, below which a part is heard by itself
HEARD_S = 2.0  # of such a part
SURE = 0.9  # that it is another language
RULED_OUT = 0.02  # that it is the language written: its neighbours (Croatian, Bosnian) are told apart by less
TOGETHER_S = 1.0  # between two such stretches that are told as one


def stretches(window: Window) -> list[tuple[float, float]]:
    """Speech of a window in stretches of `LEAST_S` to `LONGEST_S`, on its clock."""
    out = []
    for begin, end in window.speech or ():
        n = max(1, int(np.ceil((end - begin) / LONGEST_S)))
        step = (end - begin) / n
        out += [(begin + k * step, begin + (k + 1) * step) for k in range(n) if step >= LEAST_S]
    return out


def notes(
    window: Window,
    written: str,
    glance: Callable[[Sequence[tuple[float, float]]], Tensor],
    probabilities: Callable[[Sequence[np.ndarray]], Tensor],
    codes: Sequence[str],
) -> list[Note]:
    """A note for each stretch of a window that is surely in another language.

    Args:
        window: the sound; only where a detector listened is there a stretch.
        written: code of the language that the text is written in.
        glance: N stretches of the window, in seconds, to the probabilities `(N, L)` of `codes` in its memory.
        probabilities: pieces of sound of at most `HEARD_S`, N of them, to the probabilities `(N, L)` of `codes`.
        codes: the languages.
    """
    spans = stretches(window)
    if not spans:
        return []
    own, out = codes.index(written), list[Note]()
    suspects = [span for span, heard_L in zip(spans, glance(spans), strict=True) if float(heard_L[own]) < SUSPECT]
    if not suspects:
        return []
    parts = [cut(window, begin, end) for begin, end in suspects]
    for part, heard_L in zip(parts, probabilities([_beginning(p) for p in parts]), strict=True):
        if float(heard_L.max()) < SURE or float(heard_L[own]) > RULED_OUT:
            continue
        other = LANGUAGES[codes[int(heard_L.argmax())]]
        why = f"sounds like {other.title()}, and the text is written as {LANGUAGES[written].title()}"
        start_s = part.start_s
        if out and out[-1].reason == why and start_s - out[-1].end_s <= TOGETHER_S:
            start_s = out.pop().start_s
        out.append(Note(start_s, part.end_s, "warning", why))
    return out


def _beginning(part: Window) -> np.ndarray:
    return cut(part, 0.0, min(HEARD_S, part.duration_s)).samples
