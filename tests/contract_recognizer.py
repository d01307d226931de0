"""The law that every `Recognizer` keeps: `verify_recognizer` measures it and names the check that one breaks."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from contract import ContractError

from mmx.tasks.options import Options
from mmx.tasks.window import Window
from mmx.tasks.windows import Decoded, File, Job

MakeWindow = Callable[[int, float], Window]
"""A window by its number and by the second of its recording with which it begins."""
SLACK_S = 0.5
"""By which a model may be wrong about times at the edges of a window."""


def verify_recognizer(recognizer: Any, make: MakeWindow, count: int = 3, language: str = "en") -> None:
    """Raise `ContractError` unless `recognizer` keeps the law.

    Args:
        recognizer: of a model in evaluation mode, in float32.
        make: windows 0 to `count - 1`, of different lengths; of at least one of them something is written.
        count: at least two.
        language: of what is said in them.
    """
    law = _RecognizerLaw(recognizer, make, count, language)
    for check in (law.answers, law.clock, law.order, law.moved, law.alone, law.again):
        check()


class _RecognizerLaw:
    def __init__(self, recognizer: Any, make: MakeWindow, count: int, language: str):
        self.recognizer, self.make, self.count, self.language = recognizer, make, count, language
        self.found = self.call(range(count))

    def answers(self) -> None:
        """One answer for each window, and the options as the model takes them."""
        options = self.recognizer.options
        self.demand("answers", isinstance(options, Options), f"options are {type(options).__name__}")
        self.demand("answers", len(self.found) == self.count, f"{len(self.found)} answers to {self.count} windows")
        kinds = {type(x).__name__ for x in self.found if not isinstance(x, Decoded)}
        self.demand("answers", not kinds, f"expected Decoded, got {sorted(kinds)}")
        self.demand("answers", any(x.segments for x in self.found), "nothing is written of any window")

    def clock(self) -> None:
        """Times are those of the recording, and lie in the window."""
        for i, found in enumerate(self.found):
            window = self.window(i)
            for s in found.segments:
                spans = [(s.start_s, s.end_s), *((w.start_s, w.end_s) for w in s.words)]
                within = all(window.start_s - SLACK_S <= a <= b <= window.end_s + SLACK_S for a, b in spans)
                self.demand("clock", within, f"window {i} from {window.start_s} to {window.end_s} s: {spans}")

    def order(self) -> None:
        """Segments and words follow each other; the words are the text."""
        for i, found in enumerate(self.found):
            starts = [s.start_s for s in found.segments]
            self.demand("order", starts == sorted(starts), f"segments of window {i} start at {starts}")
            for s in found.segments:
                words = [w.start_s for w in s.words]
                self.demand("order", words == sorted(words), f"words of window {i} start at {words}")
                joined = "".join(w.text for w in s.words)
                self.demand("order", not s.words or joined.strip() == s.text.strip(), f"{joined!r} is not {s.text!r}")

    def moved(self) -> None:
        """A window that begins later has the same text, later."""
        later = self.call(range(self.count), 100.0)
        for i, (a, b) in enumerate(zip(self.found, later, strict=True)):
            self.same("moved", a, b, i, 100.0)

    def alone(self) -> None:
        """A window does not know its neighbours."""
        for i in range(self.count):
            self.same("alone", self.found[i], self.call([i])[0], i)
        backwards = self.call(range(self.count)[::-1])[::-1]
        for i, found in enumerate(backwards):
            self.same("alone", self.found[i], found, i)

    def again(self) -> None:
        """The same windows give the same."""
        for i, found in enumerate(self.call(range(self.count))):
            self.same("again", self.found[i], found, i)

    # -------------------- details

    def window(self, i: int, later_s: float = 0.0) -> Window:
        return self.make(i, 10.0 * i + later_s)

    def call(self, numbers: Sequence[int], later_s: float = 0.0) -> list[Decoded]:
        return self.recognizer([Job(File(f"{i}", self.language), self.window(i, later_s)) for i in numbers])

    def same(self, check: str, a: Decoded, b: Decoded, i: int, later_s: float = 0.0) -> None:
        texts = [s.text for s in a.segments], [s.text for s in b.segments]
        self.demand(check, texts[0] == texts[1], f"window {i}: {texts[0]} against {texts[1]}")
        times = [[t for s in x.segments for t in (s.start_s, s.end_s)] for x in (a, b)]
        close = times[1] == pytest.approx([t + later_s for t in times[0]], abs=0.021)
        self.demand(check, close, f"window {i}: times {times[0]} against {times[1]}, {later_s} s later")

    def demand(self, check: str, fulfilled: bool, message: str) -> None:
        if not fulfilled:
            raise ContractError(check, message)
