"""Whose recording is worked on: the one that had least, a few windows at a time.

Nobody knows how long a recording will take, so that "shortest first" is: who has had the least work goes first. A short
one then passes an hour that is at work as soon as its present windows are decoded. Nobody waits for ever: whoever has
waited `PATIENCE_S` for a turn goes before all, the longest wait first.
"""

import threading
import time
from collections.abc import Callable

PATIENCE_S = 60.0


class Turn:
    """One recording's claim to be worked on; made by `Turns.join`.

    Attributes:
        worked_s: seconds of work so far.
        waited_s: seconds that it waited for its turns so far.
        working: whether it has a turn.
        over: whether it was given up.
        resting: whether it wants no turn for now.
    """

    def __init__(self, turns: "Turns"):
        self._turns = turns
        self.since = turns.clock()
        self.worked_s = self.waited_s = 0.0
        self.working = self.over = self.resting = False

    def take(self) -> bool:
        """Wait for a turn, in the worker's thread; False where the recording was given up meanwhile."""
        return self._turns._take(self)

    def offer(self) -> bool:
        """Between two windows, in the worker's thread: let another go first that has had less; False as above."""
        return self._turns._offer(self)

    def rest(self, wait: Callable[[], object]) -> bool:
        """In the worker's thread: leave the turn to others until `wait` returns, then as `take`."""
        return self._turns._rest(self, wait)

    def give_up(self) -> None:
        """Wait no more; one that is worked on keeps its turn until its worker has noticed. From any thread."""
        self._turns._give_up(self)

    def end(self) -> None:
        """The worker is done with it."""
        self._turns._end(self)

    @property
    def place(self) -> int:
        """How many others come before it; 0 for one that is worked on."""
        return self._turns._place(self)


class Turns:
    """Hands out turns to as many recordings at once as there are workers.

    Args:
        workers: recordings worked on at the same moment.
        clock: seconds from anywhere.
    """

    def __init__(self, workers: int, clock: Callable[[], float] = time.monotonic):
        self.workers, self.clock = workers, clock
        self._all: list[Turn] = []
        self._changed = threading.Condition()

    def join(self) -> Turn:
        """A new claim."""
        with self._changed:
            turn = Turn(self)
            self._all.append(turn)
            self._grant()
            return turn

    # -------------------- of one turn

    def _take(self, turn: Turn) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: turn.over or turn.working)
            return not turn.over

    def _offer(self, turn: Turn) -> bool:
        with self._changed:
            if turn.over:
                return False
            self._switch(turn, working=False)
            self._grant()
        return self._take(turn)

    def _rest(self, turn: Turn, wait: Callable[[], object]) -> bool:
        with self._changed:
            turn.resting = True
            self._switch(turn, working=False)
            self._grant()
        wait()
        with self._changed:
            self._switch(turn, working=False)
            turn.resting = False
            self._grant()
        return self._take(turn)

    def _give_up(self, turn: Turn) -> None:
        with self._changed:
            turn.over = True
            if not turn.working:
                self._remove(turn)
            self._changed.notify_all()

    def _end(self, turn: Turn) -> None:
        with self._changed:
            turn.over = True
            self._remove(turn)
            self._grant()

    def _place(self, turn: Turn) -> int:
        with self._changed:
            waiting = self._waiting()
            return waiting.index(turn) + 1 if turn in waiting else 0

    # -------------------- with the lock held

    def _switch(self, turn: Turn, *, working: bool) -> None:
        """Book the time since the last switch."""
        now = self.clock()
        if turn.working:
            turn.worked_s += now - turn.since
        elif not turn.resting:
            turn.waited_s += now - turn.since
        turn.since, turn.working = now, working

    def _remove(self, turn: Turn) -> None:
        if turn in self._all:
            self._switch(turn, working=False)
            self._all.remove(turn)

    def _waiting(self) -> list[Turn]:
        """Who waits, the next first."""
        now = self.clock()

        def rank(turn: Turn) -> tuple[bool, float]:
            impatient = now - turn.since >= PATIENCE_S
            return not impatient, turn.since if impatient else turn.worked_s

        return sorted((t for t in self._all if not (t.working or t.resting)), key=rank)

    def _grant(self) -> None:
        free = self.workers - sum(t.working for t in self._all)
        for turn in self._waiting()[: max(0, free)]:
            self._switch(turn, working=True)
        self._changed.notify_all()
