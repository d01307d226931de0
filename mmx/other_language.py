"""Stretches of a window in another language than the one that its text is written in.

A model that is steered by one language for all of a recording leaves out, or translates, what is said in another. Which
stretches those are, the model itself can tell, at the cost of one decoding step each: its attention is given the
stretch's own frames of the memory, which is there anyway. That is sure of the language written and unsure of others;
only a stretch in which it does not hear the former is encoded once more, alone.

Letters: B windows, M memory frames, D width, L languages.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from mmx.result import Note
from mmx.seq import Seq
from mmx.text import LANGUAGES
from mmx.window import Window, cut

LEAST_S = 1.0  # of speech, in which a language can be told
LONGEST_S = 6.0  # longer speech is looked at in parts: a sentence of another language may follow without a pause
SUSPECT = 0.5  # probability of the language written, below which a stretch is looked at again
SURE = 0.9  # that it is another language
TOGETHER_S = 1.0  # between two such stretches that are told as one
RULED_OUT = 0.02  # that it is the language written: its neighbours (Croatian, Bosnian) are told apart by less


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
    memory: Seq,
    probabilities: Callable[[Seq], Tensor],
    encode: Callable[[Window], Seq],
    codes: Sequence[str],
) -> list[Note]:
    """A note for each stretch of a window that is surely in another language.

    Args:
        window: the sound; only where a detector listened is there a stretch.
        written: code of the language that the text is written in.
        memory: of the window, `(1, M, D)`.
        probabilities: memory to the probabilities of `codes`, `(1, L)`.
        encode: a window to its memory.
        codes: the languages.
    """
    own, rate = codes.index(written), memory.rate or 50.0
    out: list[Note] = []
    for begin, end in stretches(window):
        a, b = int(begin * rate), max(int(begin * rate) + 1, int(end * rate))
        frames = memory.x[:, a:b]
        heard_L = probabilities(memory._replace(x=frames, lengths=torch.full_like(memory.lengths, frames.shape[1])))[0]
        if frames.shape[1] == 0 or float(heard_L[own]) >= SUSPECT:
            continue
        part = cut(window, begin, end)
        heard_L = probabilities(encode(part))[0]
        if float(heard_L.max()) >= SURE and float(heard_L[own]) <= RULED_OUT:
            other = LANGUAGES[codes[int(heard_L.argmax())]]
            why = f"sounds like {other.title()}, and the text is written as {LANGUAGES[written].title()}"
            if out and out[-1].reason == why and part.start_s - out[-1].end_s <= TOGETHER_S:
                part_start_s = out.pop().start_s
                out.append(Note(part_start_s, part.end_s, "warning", why))
            else:
                out.append(Note(part.start_s, part.end_s, "warning", why))
    return out
