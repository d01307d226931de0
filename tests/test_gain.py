"""The gain before a detector of voice activity: how loud it makes quiet sound, and how it forgets louder sound."""

import numpy as np
import pytest

from mmx.media.gain import FRAME, Gain
from mmx.seq import Seq
from mmx.state import State
from mmx.streaming.activity import SpeechActivity

HALF_LIFE = round(Gain.HALF_LIFE_S * 16_000)


def tone(n: int, level: float) -> np.ndarray:
    """Of that root mean square."""
    return (level * 2**0.5 * np.sin(0.3 * np.arange(n))).astype(np.float32)


def level(x: np.ndarray) -> float:
    return float(np.sqrt(np.square(x.astype(np.float64)).mean()))


def test_quiet_sound_comes_to_the_level_of_the_detector_and_loud_sound_stays() -> None:
    assert level(Gain().apply(tone(8192, 0.004))) == pytest.approx(0.1, rel=0.02)
    loud = tone(8192, 0.3)
    np.testing.assert_array_equal(Gain().apply(loud), loud)
    assert level(Gain(20.0).apply(tone(8192, 0.001))) == pytest.approx(0.01, rel=0.02), "by no more than 20 dB"


@pytest.mark.parametrize("chunk", [2 * FRAME, 16 * FRAME, HALF_LIFE])
def test_loud_sound_is_forgotten_by_the_clock_whatever_the_chunks(chunk: int) -> None:
    gain = Gain()
    gain.apply(tone(chunk, 0.08))
    for _ in range(2 * HALF_LIFE // chunk):
        gain.apply(np.zeros(chunk, np.float32))
    assert gain.level == pytest.approx(0.08 / 4, rel=0.02)


def test_the_gain_changes_over_a_frame_without_a_step() -> None:
    gain, ones = Gain(), np.ones(4 * FRAME, np.float32)
    gain.apply(0.08 * ones)
    rising = gain.apply(0.8 * ones) / np.float32(0.8)
    assert rising[0] == pytest.approx(1.25) and rising[FRAME - 1] == pytest.approx(1.0)
    assert np.abs(np.diff(rising)).max() < 0.001


class Loud:
    """A detector that hears speech where a frame is louder than 0.05."""

    def init_state(self, batch: int, capacity: int = 0) -> State:
        return {}

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        n = int(seq.lengths[0]) // FRAME
        heard = (seq.x[:, : n * FRAME].unflatten(1, (n, FRAME)).square().mean(2).sqrt() > 0.05).float()
        return Seq(heard, seq.lengths // FRAME, 31.25)


def test_a_stream_is_amplified_too_and_goes_on_with_its_gain_when_it_is_resumed() -> None:
    first = SpeechActivity(Loud())
    first.push(tone(8192, 0.004))
    assert first.speaking, "quiet speech is heard"
    first.push(tone(8192, 0.4))
    first.push(tone(8192, 0.004))
    assert not first.speaking, "beside loud speech it is a pause"
    again = SpeechActivity(Loud())
    again.restore(*first.saved())
    for activity in (first, again):
        activity.push(tone(8192, 0.004))
    assert not again.speaking and again.gain.level == first.gain.level and again.gain.last == first.gain.last
