"""Whose recording is worked on next."""

import threading

from mmx.streaming.server.turns import PATIENCE_S, Turn, Turns


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def working(turns: list[Turn]) -> list[int]:
    return [i for i, t in enumerate(turns) if t.working]


def offered(turn: Turn) -> threading.Thread:
    """A worker between two windows; it goes on when it has its next turn."""
    thread = threading.Thread(target=turn.offer, daemon=True)
    thread.start()
    return thread


def settle(turn: Turn, thread: threading.Thread) -> None:
    """Wait until an offer has been weighed: the worker goes on, or its turn is another's."""
    while thread.is_alive() and turn.working:
        pass


def test_a_short_recording_does_not_wait_for_a_long_one():
    clock = Clock()
    turns = Turns(1, clock)
    long = turns.join()
    clock.now_s = 50.0
    short = turns.join()
    assert (working([long, short]), short.place) == ([0], 1)
    thread = offered(long)
    settle(long, thread)
    assert working([long, short]) == [1]
    clock.now_s = 52.0
    short.end()
    thread.join(10)
    assert long.working and (long.worked_s, long.waited_s) == (50.0, 2.0)
    assert (short.worked_s, short.waited_s) == (2.0, 0.0)


def test_two_long_recordings_alternate():
    clock = Clock()
    turns = Turns(1, clock)
    both = [turns.join(), turns.join()]
    seen, threads = [], {}
    for _ in range(6):
        (one,) = working(both)
        seen.append(one)
        clock.now_s += 5.0
        threads[one] = offered(both[one])
        settle(both[one], threads[one])
    assert seen == [0, 1, 0, 1, 0, 1]
    for t in both:
        t.end()
    for thread in threads.values():
        thread.join(10)


def test_who_waited_long_goes_before_newcomers():
    clock = Clock()
    turns = Turns(1, clock)
    old = turns.join()
    clock.now_s = 500.0
    first = turns.join()
    thread = offered(old)
    settle(old, thread)
    served = 0
    while not old.working:  # newcomers without end
        (now,) = [t for t in turns._all if t.working]
        turns.join()
        clock.now_s += 10.0
        now.end()
        served += 1
    assert first.over and served * 10.0 == PATIENCE_S
    thread.join(10)


def test_giving_up_holds_the_turn_until_the_worker_ends():
    turns = Turns(1)
    at_work, waiting = turns.join(), turns.join()
    got: list[bool] = []
    thread = threading.Thread(target=lambda: got.append(waiting.take()))
    thread.start()
    waiting.give_up()
    thread.join(10)
    assert got == [False]
    at_work.give_up()
    last = turns.join()
    assert not last.working  # the worker still computes
    assert not at_work.offer()
    at_work.end()
    assert last.take()


def test_as_many_work_as_there_are_workers():
    turns = Turns(2)
    three = [turns.join() for _ in range(3)]
    assert working(three) == [0, 1] and three[2].place == 1
    three[0].end()
    assert working(three) == [1, 2]
