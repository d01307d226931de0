"""Ctrl-C while recordings are read: it counts wherever it falls."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Interrupt:
    """Whether somebody pressed Ctrl-C."""

    def __init__(self) -> None:
        self.interrupted = False

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Keep a Ctrl-C that falls within.

        While FFmpeg reads through a Python file, PyAV swallows KeyboardInterrupt, and the sound being read
        becomes silence. So the signal is also kept here, for `check` to find.
        """
        usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if not usual or threading.current_thread() is not threading.main_thread():
            yield
            return

        def handler(number: int, frame: Any) -> None:
            self.interrupted = True
            raise KeyboardInterrupt

        hooks = sys.unraisablehook, sys.excepthook  # Cython tells both of what it swallows
        sys.unraisablehook = lambda u: None if u.exc_type is KeyboardInterrupt else hooks[0](u)
        sys.excepthook = lambda kind, *rest: None if kind is KeyboardInterrupt else hooks[1](kind, *rest)
        signal.signal(signal.SIGINT, handler)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            sys.unraisablehook, sys.excepthook = hooks

    def check(self) -> None:
        """Raise the interrupt that was swallowed, before a text that lacks something is kept."""
        if self.interrupted:
            raise KeyboardInterrupt
