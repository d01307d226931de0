"""The log of a live session: its text as numbered lines, and items, each of which is completed once.

An item is what OpenAI calls the audio of one turn. With turn detection it ends with a sentence, or with a pause; where
the client alone says when a turn ends (`turn_detection: null`), it holds all that was said up to a commit. Either way
one commit gives one completed item, even where nothing was said.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from mmx.tasks.events import Event

CommandKind = Literal["commit", "update", "clear", "close"]
SOURCE = "source"


@dataclass(frozen=True)
class Failure:
    """What went wrong in a session: a message for its client, and its code."""

    message: str
    code: str


@dataclass(frozen=True)
class Turn:
    """What one turn of hearing gave.

    Attributes:
        events: text, on the clock of the session.
        failures: that the client is told.
        ends: whether the session ends with it.
        broken: whether it ends because it cannot go on, so that what was begun is not completed.
    """

    events: Sequence[Event] = ()
    failures: Sequence[Failure] = ()
    ends: bool = False
    broken: bool = False


@dataclass(frozen=True)
class Entry:
    """A line of a session's log; `seq` is its place, from 0 on.

    Attributes:
        seq: number of the line.
        kind: "delta" appends, "completed" gives a whole item, "error" and "closed" tell what happened.
        track: of the text, see `mmx.tasks.events`.
        text: to append, or of the item, or the message.
        start_s: when it was said, in seconds of the session.
        end_s: as above.
        language: that it is written in; of an error, its code.
        item: number of the item in its track; of an error, of the item that cannot be completed, -1 for none.
        previous: of a completed item: number of the item that was completed before it, -1 for none.
        cause: what completed it: a "turn" that ended, a "commit", the "end" of what the client commits.
        seconds: of sound since the item before it.
        opens: of a delta: whether it is the first of a turn.
    """

    seq: int
    kind: Literal["delta", "completed", "error", "closed"]
    track: str = ""
    text: str = ""
    start_s: float = 0.0
    end_s: float = 0.0
    language: str = ""
    item: int = 0
    previous: int = -1
    cause: Literal["", "turn", "commit", "end"] = ""
    seconds: float = 0.0
    opens: bool = False


class Items:
    """What a session wrote.

    Attributes:
        log: its lines.
        ended: whether the last is there.
    """

    def __init__(self) -> None:
        self.log: list[Entry] = []
        self.ended = False
        self._open: dict[str, list[Event]] = {}  # of items that are not complete
        self._count: dict[str, int] = {}
        self._previous: dict[str, int] = {}
        self._done_s = 0.0  # heard when the last item was completed

    def write(self, turn: Turn, heard_s: float, *, manual: bool, command: CommandKind | None, goes_on: bool) -> None:
        """Write what one turn of hearing gave.

        Args:
            turn: text, and what happened.
            heard_s: seconds of the session that are heard.
            manual: whether only a commit completes an item.
            command: what was done after it.
            goes_on: whether items stay open after an update.
        """
        last = {e.track: i for i, e in enumerate(turn.events)}
        for i, e in enumerate(turn.events):
            self._append(e, not manual)
            # What a commit completes is completed once, below.
            if e.final and not manual and not (command == "commit" and last[e.track] == i):
                self._complete(e.track, "turn", heard_s)
        for failure in turn.failures:
            self._fail(failure, turn.broken)
        if turn.ends:
            if manual and not turn.broken:
                self._complete_all("end", heard_s)
            self.ended = True
            self._line("closed")
        if command == "commit" and not self.ended:
            self._complete_all("commit", heard_s)
        elif command == "clear" and manual:
            self._forget()
        elif command in ("clear", "update") and not goes_on:
            self._complete_all("end" if manual else "turn", heard_s)

    def _line(self, kind: Any, track: str = "", text: str = "", **facts: Any) -> None:
        self.log.append(Entry(len(self.log), kind, track, text, **facts))

    def _append(self, e: Event, turns: bool) -> None:
        had = self._open.setdefault(e.track, [])
        if e.text:
            opens = turns and e.track == SOURCE and not any(x.text for x in had)
            item = self._count.get(e.track, 0)
            facts: dict[str, Any] = {"start_s": e.start_s, "end_s": e.end_s, "language": e.language, "item": item}
            self._line("delta", e.track, e.text, **facts, opens=opens)
        had.append(e)

    def _fail(self, failure: Failure, broken: bool) -> None:
        unfinished = broken and any(x.text for x in self._open.get(SOURCE, ()))
        item = self._count.get(SOURCE, 0) if unfinished else -1
        self._line("error", text=failure.message, language=failure.code, item=item)

    def _complete_all(self, cause: Literal["turn", "commit", "end"], heard_s: float) -> None:
        for track in dict.fromkeys([*self._open, SOURCE]):
            self._complete(track, cause, heard_s)

    def _complete(self, track: str, cause: Literal["turn", "commit", "end"], heard_s: float) -> None:
        events = [e for e in self._open.pop(track, ()) if e.text]
        if not events and not (cause == "commit" and track == SOURCE):
            return
        item = self._count.get(track, 0)
        self._line(
            "completed", track, "".join(e.text for e in events).strip(),
            start_s=events[0].start_s if events else heard_s,
            end_s=max((e.end_s for e in events), default=heard_s),
            language=events[-1].language if events else "",
            item=item, previous=self._previous.get(track, -1), cause=cause,
            seconds=heard_s - self._done_s if track == SOURCE else 0.0,
        )  # fmt: skip
        if track == SOURCE:
            self._done_s = heard_s
        self._count[track], self._previous[track] = item + 1, item

    def _forget(self) -> None:
        """Drop the items that are open: what comes next is of others."""
        for track, events in self._open.items():
            self._count[track] = self._count.get(track, 0) + any(e.text for e in events)
        self._open = {}

    # -------------------- what outlives the server

    def facts(self) -> dict[str, Any]:
        """Plain values that `restore` needs beside the log."""
        return {
            "ended": self.ended,
            "items": {track: [asdict(e) for e in events] for track, events in self._open.items()},
            "count": self._count,
            "previous": self._previous,
            "done_s": self._done_s,
        }

    def restore(self, log: Iterable[Entry], facts: dict[str, Any]) -> None:
        """Go on from what `facts` gave."""
        self.log, self.ended = list(log), facts["ended"]
        self._open = {track: [Event(**e) for e in events] for track, events in facts["items"].items()}
        self._count = facts["count"]
        self._previous = facts.get("previous", {t: n - 1 for t, n in self._count.items()})
        self._done_s = facts.get("done_s", 0.0)
