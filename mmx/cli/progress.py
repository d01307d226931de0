"""How far a run over recordings is: the progress bar, and what failed."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmx.cli.interrupt import Interrupt
from mmx.errors import MmxError

if TYPE_CHECKING:
    from mmx.tasks.transcribe import Progress


class Report:
    """What happened so far, and the progress bar: media read, real-time factor, time left."""

    def __init__(self) -> None:
        self.finished, self.reading, self.given = 0, 0, 0
        self.failed: list[tuple[str, MmxError]] = []
        self.before_s = 0.0
        self.now_s = 0.0
        self.bar: Any = None
        self.started = time.monotonic()
        self.interrupt = Interrupt()

    def open(self) -> None:
        """Show the bar when a person is looking."""
        self.started = time.monotonic()
        if not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[clock]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            redirect_stdout=False,  # rich would send the text to the terminal even where it goes to a file
            redirect_stderr=False,
        )
        self.task = self.bar.add_task("", total=None, clock="")
        self.bar.start()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Take the bar away while something else is printed."""
        if self.bar:
            self.bar.stop()
        yield
        if self.bar:
            self.bar.start()

    def kept(self, total: int, output_dir: Path | None) -> str:
        """What is safe after a run that did not come to its end, and how to go on."""
        again = " Add --skip-existing to resume." if output_dir else ""
        return f"{self.finished} of {total} were finished and kept.{again}"

    def progress(self, p: "Progress") -> None:
        """Called as media is decoded."""
        self.interrupt.check()
        if p.finished:
            self.before_s += p.done_s
            return
        self.now_s = p.done_s
        if self.bar:
            spent = time.monotonic() - self.started
            speed = (self.before_s + self.now_s) / spent if spent > 0 else 0.0
            self.bar.update(
                self.task,
                description=p.name[-40:],
                completed=p.done_s,
                total=p.total_s,
                clock=f"{_clock(p.done_s)} of {_clock(p.total_s)}, {speed:.1f}x real time",
            )

    def close(self) -> None:
        """Take the bar away."""
        if self.bar:
            self.bar.stop()
            self.bar = None


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    minutes, s = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{s:02}" if hours else f"{minutes}:{s:02}"
