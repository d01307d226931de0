"""Signals to stop (Ctrl-C, a scheduler's SIGTERM) as a request that a loop answers when it is between two steps."""

import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any


class StopSignals:
    """While it is entered, the first Ctrl-C or SIGTERM only asks to stop; a second Ctrl-C stops at once.

    Outside of the main thread, where signals cannot be caught, nothing is changed.

    Attributes:
        asked: number of the signal that came; 0 for none.
    """

    def __init__(self) -> None:
        self.asked = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            self._before = {n: signal.signal(n, self._take) for n in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.asked == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = number
        if number == signal.SIGINT and sys.stderr.isatty():
            print("mmx: stopping when this update is done; Ctrl-C again stops at once", file=sys.stderr, flush=True)

    def leave(self) -> None:
        """End the program as the signal would have done: KeyboardInterrupt, or the exit code of SIGTERM."""
        if self.asked == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM)
        raise KeyboardInterrupt
