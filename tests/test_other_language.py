"""What is said in another language than the text is written in is told; what is said in the same one never."""

import numpy as np
import torch

from mmx.other_language import LONGEST_S, notes, stretches
from mmx.seq import Seq
from mmx.window import Piece, Window

CODES = ("en", "fr", "hr", "bs")
RATE = 50.0


def window(*speech: tuple[float, float]) -> Window:
    return Window(np.zeros(30 * 16_000, np.float32), (Piece(0.0, 100.0, 30.0),), 0, speech)


def told(w: Window, written: str, in_window: dict[float, list[float]], alone: list[float]) -> list[tuple]:
    """Notes where the model hears given probabilities: by the first frame in the window's memory, and alone."""
    memory = Seq(torch.arange(1500.0).reshape(1, -1, 1), torch.tensor([1500]), RATE)

    def probabilities(seq: Seq) -> torch.Tensor:
        first = float(seq.x[0, 0, 0])
        return torch.tensor([alone if first < 0 else in_window[first / RATE]])

    def encode(part: Window) -> Seq:
        return Seq(-torch.ones(1, 10, 1), torch.tensor([10]), RATE)

    found = notes(w, written, memory, probabilities, encode, CODES)
    return [(n.start_s, n.end_s, n.action, n.reason) for n in found]


def test_a_stretch_in_another_language_is_told_with_its_time_and_both_languages():
    heard = {0.0: [0.99, 0.01, 0.0, 0.0], 8.0: [0.1, 0.4, 0.3, 0.2]}
    (one,) = told(window((0.0, 5.0), (8.0, 11.0)), "en", heard, [0.01, 0.98, 0.01, 0.0])
    assert one == (108.0, 111.0, "warning", "sounds like French, and the text is written as English")


def test_a_language_that_is_not_sure_or_a_neighbour_of_the_one_written_is_not_told():
    w, heard = window((8.0, 11.0)), {8.0: [0.1, 0.4, 0.3, 0.2]}
    assert told(w, "en", heard, [0.1, 0.6, 0.2, 0.1]) == []
    assert told(w, "en", heard, [0.95, 0.05, 0.0, 0.0]) == []
    assert told(w, "hr", heard, [0.0, 0.0, 0.08, 0.92]) == []


def test_stretches_are_long_enough_to_tell_and_short_enough_to_hold_one_language():
    found = stretches(window((0.0, 0.6), (2.0, 3.5), (5.0, 23.0)))
    assert found[0] == (2.0, 3.5) and len(found) == 4
    assert all(1.0 <= b - a <= LONGEST_S for a, b in found)
    assert stretches(Window(np.zeros(16_000, np.float32), (Piece(0.0, 0.0, 1.0),), 0)) == [], "nobody listened"


def test_neighbouring_stretches_are_told_once():
    heard = {t: [0.0, 0.9, 0.1, 0.0] for t in (0.0, 5.0)}
    (one,) = told(window((0.0, 10.0)), "en", heard, [0.0, 1.0, 0.0, 0.0])
    assert one[:2] == (100.0, 110.0)
