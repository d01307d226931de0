"""Memory that nobody uses goes back to the system, in long sessions too."""

import subprocess
import sys

import numpy as np
import pytest
from test_long import resident_mb
from test_stream import RATE, build, sound

from mmx.memory import give_back
from mmx.streaming import stream as module
from mmx.streaming.stream import Stream

linux = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="other systems' C libraries give memory back themselves"
)
KEPT_MB = """
import sys
import numpy as np
from mmx.memory import large_blocks_apart
resident_mb = lambda: int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6
np.ones(1 << 20)  # 8 MB that come and go: blocks as large lie in the heap from now on
if sys.argv[1] == "apart":
    large_blocks_apart()
blocks = [np.ones(n) for _ in range(20) for n in (1 << 20, 12_000)]
full = resident_mb()
del blocks[::2]
print(full - resident_mb())
"""


@linux
def test_large_blocks_go_back_at_once():
    run = [sys.executable, "-c", KEPT_MB]
    alone, apart = (float(subprocess.check_output([*run, how])) for how in ("alone", "apart"))
    assert alone < 20 and apart > 140, (alone, apart)


@linux
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
