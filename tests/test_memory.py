"""Memory that nobody uses goes back to the system, in long sessions too."""

import sys

import numpy as np
import pytest
from test_long import resident_mb
from test_stream import RATE, build, sound

from mmx.memory import give_back
from mmx.streaming import stream as module
from mmx.streaming.stream import Stream


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="other systems' C libraries give memory back themselves"
)
def test_gaps_between_blocks_in_use_are_given_back():
    blocks = [np.ones(12_000) for _ in range(1000)]  # 96 kB each: too small for pages of their own
    kept = blocks[::100] + blocks[-1:]
    full = resident_mb()
    del blocks
    give_back()
    assert resident_mb() < full - 60
    assert all(block.sum() == 12_000 for block in kept)


def test_a_session_gives_back_each_minute(monkeypatch: pytest.MonkeyPatch):
    called = list[float]()
    monkeypatch.setattr(module, "give_back", lambda: called.append(stream.source_s))
    monkeypatch.setattr(module, "MINUTE", 4 * RATE)
    stream = Stream(build("causal"), policy="hold-n:2", language="en", vad=None)
    for second in range(10):
        stream.push(sound(1, seed=second))
    assert [round(at_s) for at_s in called] == [4, 8]
