"""A long live session: what it remembers does not grow, a late look costs what an early one does, no text is lost.

Sound is pushed as fast as it is heard. A minute and a half on tiny random models by default; with `MMX_LIVE_MINUTES=90`
they and the default model hear 90 minutes; the time of a push, the memory in use and the word errors are printed,
beside those of the same model offline.
"""

import math
import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from test_long import resident_mb, sentences
from test_stream import RATE, build, sound

import mmx
from mmx.bench.asr import word_error_rate
from mmx.streaming.listener import Listener
from mmx.streaming.stream import Stream

MINUTES = float(os.environ.get("MMX_LIVE_MINUTES", "1.5"))
TEXT = (Path(__file__).parents[1] / "demos" / "dashwood.txt").read_text("utf-8").split("\n")
pytestmark = [pytest.mark.slow, pytest.mark.long]


def remembered(stream: Stream) -> int:
    """Numbers that the session holds beside its text."""
    tensors, values = stream.listener.state()
    return sum(t.numel() for t in tensors.values()) + sum(len(v) for v in values.values() if isinstance(v, list))


@pytest.mark.parametrize("kind", ["whole", "causal"])
def test_a_session_stays_as_large_and_as_slow_as_it_began(kind: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Listener, "BACK_S", math.inf)  # a random model looks anywhere in the sound
    model = build(kind)
    encoder: Any = model.encoders["speech"]
    frames: list[int] = []
    real = encoder.forward

    def counted(seq: Any, *rest: Any) -> Any:
        frames[-1] += seq.x.shape[1]
        return real(seq, *rest)

    monkeypatch.setattr(encoder, "forward", counted)
    stream = Stream(model, policy="hold-n:2", language="en", vad=None)
    held: list[int] = []
    for second in range(round(MINUTES * 60)):
        frames.append(0)
        stream.push(sound(1, seed=second))
        held.append(remembered(stream))
    half = len(held) // 2  # a random model's window is cut anywhere: many cuts on each side, and what grows doubles
    assert max(held[half:]) <= 1.2 * max(held[20:half])
    assert max(frames[half:]) <= 1.2 * max(frames[20:half])
    if kind == "causal":
        assert sum(frames) <= len(frames) * 51, "each frame of the sound is encoded once"


@pytest.mark.skipif("MMX_LIVE_MINUTES" not in os.environ, reason="set MMX_LIVE_MINUTES to hear that long for real")
def test_every_sentence_of_a_long_session_is_written(tmp_path: Path):
    model, rng, clips = mmx.load(), random.Random(0), sentences()
    stream = Stream(model, language="en")
    said: list[str] = []
    took: list[float] = []  # CPU seconds of each push
    memory: list[float] = []
    with soundfile.SoundFile(tmp_path / "session.flac", "w", RATE, 1) as recording:
        while stream.source_s < MINUTES * 60:
            i = rng.randrange(len(clips))
            said.append(TEXT[i])
            wave = np.concatenate([clips[i], np.zeros(round(rng.uniform(0.2, 4) * RATE), np.float32)])
            recording.write(wave)
            for at in range(0, len(wave), RATE // 2):
                begin = time.process_time()
                stream.push(wave[at : at + RATE // 2])
                took.append(time.process_time() - begin)
                memory.append(resident_mb())
    stream.push(np.zeros(0, np.float32), final=True)
    live = word_error_rate(" ".join(said), stream.text)
    offline = word_error_rate(" ".join(said), model.transcribe(tmp_path / "session.flac", language="en").text)
    ninth = len(took) // 9
    first, last = slice(0, ninth), slice(len(took) - ninth, None)
    print(f"\n{stream.source_s / 60:.1f} min, {len(said)} sentences; the first and the last ninth of them:")
    print(f"{np.mean(took[first]):.3f} and {np.mean(took[last]):.3f} CPU seconds a push of half a second,")
    print(f"{max(memory[first]):.0f} and {max(memory[last]):.0f} MB of memory")
    print(f"word errors: live {live:.2%}, offline {offline:.2%}")
    assert live < offline + 0.02  # what a policy writes early stays
    assert max(memory[last]) < 1.1 * max(memory[first])
