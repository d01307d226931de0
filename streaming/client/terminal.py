"""What a live session looks like: a terminal with text that stays and text that may change, plain lines, or JSON."""

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TextIO

from mmx.streaming.client.speech import Spoken
from mmx.tasks.events import Event


@dataclass(frozen=True, slots=True)
class Status:
    """How a session is doing.

    Attributes:
        heard_s: seconds of sound.
        lag_s: seconds of speech that are not written yet.
        real_time_factor: seconds of work for each second of sound, of late; above 1 falls behind.
        level_db: loudness of the latest sound, decibels below full scale.
        step_s: seconds between decoding steps.
        tentative: text that may change.
        language: that is written; empty while unknown.
        stopping: whether the session is about to end.
    """

    heard_s: float
    lag_s: float
    real_time_factor: float
    level_db: float
    step_s: float
    tentative: str
    language: str
    stopping: bool = False


class Display(Protocol):
    """Shows a session."""

    def written(self, events: Sequence[Event]) -> None:
        """Text that stays."""
        ...

    def translated(self, events: Sequence[Event]) -> None:
        """Sentences of the translation."""
        ...

    def spoken(self, sentence: Spoken) -> None:
        """A sentence that begins to be heard."""
        ...

    def status(self, status: Status) -> None:
        """Comes several times a second."""
        ...

    def note(self, text: str) -> None:
        """Something that people should know."""
        ...

    def close(self) -> None:
        """The session has ended."""
        ...


def _complain(text: str) -> None:
    print(f"mmx: {text}", file=sys.stderr, flush=True)


class PlainDisplay:
    """Text that is only appended to, a sentence a line; notes go to standard error.

    Args:
        out: where to.
        bilingual: whether a translation follows each line, which then begins with the language.
    """

    def __init__(self, out: TextIO | None = None, bilingual: bool = False):
        self.out = sys.stdout if out is None else out
        self.bilingual = bilingual
        self._open = False

    def written(self, events: Sequence[Event]) -> None:
        for e in events:
            if e.text.strip():
                begun = f"[{e.language}] " if self.bilingual else ""
                self.out.write(e.text if self._open else begun + e.text.lstrip())
                self._open = True
            if e.final:
                self._end_line()
        self.out.flush()

    def translated(self, events: Sequence[Event]) -> None:
        for e in events:
            self._end_line()
            self.out.write(f"[{e.language}] {e.text.strip()}\n")
        self.out.flush()

    def spoken(self, sentence: Spoken) -> None: ...

    def status(self, status: Status) -> None: ...

    def note(self, text: str) -> None:
        _complain(text)

    def close(self) -> None:
        self._end_line()
        self.out.flush()

    def _end_line(self) -> None:
        if self._open:
            self.out.write("\n")
            self._open = False


class JsonDisplay:
    """Each event as a line of JSON with the fields of `Event` (`Spoken`) and `type`: text, translation, or speech."""

    def __init__(self, out: TextIO | None = None):
        self.out = sys.stdout if out is None else out

    def written(self, events: Sequence[Event]) -> None:
        self._lines("text", events)

    def translated(self, events: Sequence[Event]) -> None:
        self._lines("translation", events)

    def spoken(self, sentence: Spoken) -> None:
        self._lines("speech", [sentence])

    def _lines(self, kind: str, events: Sequence[Event | Spoken]) -> None:
        for e in events:
            fields = {k: round(v, 3) if isinstance(v, float) else v for k, v in asdict(e).items()}
            self.out.write(json.dumps({"type": kind, **fields}, ensure_ascii=False) + "\n")
        self.out.flush()

    def status(self, status: Status) -> None: ...

    def note(self, text: str) -> None:
        _complain(text)

    def close(self) -> None:
        self.out.flush()


class TerminalDisplay:
    """Finished sentences scroll away; below them stand the sentence that grows, what may still change, and the gauges.

    Args:
        title: what is heard, by what.
        console: of rich; a new one when None.
        recording: file that the sound goes to.
    """

    FLOOR_DB, CELLS = -60.0, 12

    def __init__(self, title: str = "", console: Any = None, recording: str = ""):
        from rich.console import Console
        from rich.live import Live

        self.title, self.recording = title, recording
        self.console = console or Console(highlight=False)
        self._words: list[Event] = []
        self._speech_lag = ""
        self._status: Status | None = None
        self._live = Live(console=self.console, get_renderable=self.render, refresh_per_second=8, transient=True)
        self._live.start()

    def written(self, events: Sequence[Event]) -> None:
        for e in events:
            self._words.append(e)
            if e.final:
                self._finish()

    def _finish(self) -> None:
        from rich.text import Text

        words, self._words = [w for w in self._words if w.text.strip()], []
        if words:
            line = Text.assemble((_clock(words[0].start_s), "dim"), "  ", "".join(w.text for w in words).strip())
            self.console.print(_hanging(line))

    def translated(self, events: Sequence[Event]) -> None:
        from rich.text import Text

        for e in events:
            self.console.print(
                _hanging(Text.assemble((f"{e.language:>5}", "dim"), "  ", (e.text.strip(), "bold cyan")))
            )

    def spoken(self, sentence: Spoken) -> None:
        self._speech_lag = f"   speech {sentence.lag_s:.1f} s after"

    def status(self, status: Status) -> None:
        self._status = status

    def note(self, text: str) -> None:
        from rich.text import Text

        self.console.print(Text(f"       {text}", style="yellow"))

    def close(self) -> None:
        self._finish()
        self._live.stop()

    def render(self) -> Any:
        """The part that changes: the open sentence and the gauges."""
        from rich.console import Group
        from rich.text import Text

        s = self._status
        if s is None:
            return Text(f"       {self.title}: listening", style="dim")
        stable = "".join(w.text for w in self._words).strip()
        start_s = next((w.start_s for w in self._words if w.text.strip()), s.heard_s)
        tail = s.tentative if stable else s.tentative.lstrip()
        line = Text.assemble((_clock(start_s), "dim"), "  ", stable, (tail, "dim italic"))
        return Group(_hanging(line), Text(), self._gauges(s))

    def _gauges(self, s: Status) -> Any:
        from rich.text import Text

        filled = round(self.CELLS * min(max(1 - s.level_db / self.FLOOR_DB, 0.0), 1.0))
        level = "red" if s.level_db > -3 else "green"
        slow = "red" if s.real_time_factor > 1 else "default"
        late = "yellow" if s.lag_s > 4 * s.step_s else "default"
        light = ("■", "yellow") if s.stopping else ("●", "red")
        parts: list[Any] = [
            light, f" {_clock(s.heard_s)}   ",
            ("━" * filled, level), ("━" * (self.CELLS - filled), "bright_black"), f" {max(s.level_db, -99):4.0f} dB   ",
            "lag ", (f"{s.lag_s:4.1f} s", late), self._speech_lag,
            "   real-time factor ", (f"{s.real_time_factor:.2f}", slow),
            f"   look every {s.step_s:g} s", f"   {s.language}" if s.language else "",
            (f"\n  {self.title}", "dim"), (f"   recording to {self.recording}" if self.recording else "", "dim"),
            ("   finishing" if s.stopping else "   Ctrl-C ends and saves", "dim"),
        ]  # fmt: skip
        return Text.assemble(*parts)


def _hanging(line: Any) -> Any:
    """Lines after the first begin where its text does."""
    from rich.table import Table

    grid = Table.grid(padding=(0, 0))
    grid.add_column(width=7, no_wrap=True)
    grid.add_column()
    grid.add_row(line[:7], line[7:])
    return grid


def _clock(seconds: float) -> str:
    minutes, s = divmod(math.floor(seconds), 60)
    return f"{minutes:02d}:{s:02d}"
