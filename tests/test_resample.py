"""Sound at any rate to 16 kHz, piece by piece."""

import json
import tracemalloc

import numpy as np
import pytest

from mmx.errors import InputError
from mmx.streaming.server.resample import Resampler


def tone(rate: int, hz: float, seconds: float = 0.5) -> np.ndarray:
    return np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate).astype(np.float32)


@pytest.mark.parametrize("rate", [8_000, 22_050, 24_000, 44_100, 48_000])
def test_a_tone_keeps_its_pitch_and_its_length(rate: int):
    y = Resampler(rate).push(tone(rate, 440), final=True)
    assert abs(len(y) - 8_000) <= 1
    assert np.abs(y - tone(16_000, 440)[: len(y)])[40:-40].max() < 1e-3


def test_what_16_khz_cannot_hold_is_taken_away():
    assert np.abs(Resampler(48_000).push(tone(48_000, 11_000), final=True)[40:-40]).max() < 2e-2


@pytest.mark.parametrize("rate", [24_000, 44_100])
def test_pieces_give_what_the_whole_gives_even_when_saved_between(rate: int):
    x, rng = tone(rate, 300), np.random.default_rng(0)
    whole = Resampler(rate).push(x, final=True)
    out, at, r = [], 0, Resampler(rate)
    while at < len(x):
        n = int(rng.integers(0, 900))
        out.append(r.push(x[at : at + n], final=at + n >= len(x)))
        saved, r, at = json.loads(json.dumps(r.state())), Resampler(rate), at + n
        r.restore(saved)
    np.testing.assert_array_equal(np.concatenate(out), whole)


def test_16_khz_is_left_as_it_is():
    x = tone(16_000, 440)
    assert Resampler(16_000).push(x) is x


def test_odd_rates_are_refused():
    with pytest.raises(InputError, match="8000 to 96000"):
        Resampler(4_000)


@pytest.mark.parametrize("rate", [95_999, 44_099, 8_001])
def test_an_odd_rate_is_heard_as_well_and_costs_no_more(rate: int):
    hz, resampler = 300.0, Resampler(rate)
    y = resampler.push(tone(rate, hz), final=True)
    assert np.abs(y - tone(16_000, hz, 0.6)[: len(y)])[40:-40].max() < 1e-4
    assert resampler.filter is Resampler(rate).filter, "all that hear at a rate share its filter"
    assert resampler.filter.taps.nbytes < 2**21


def test_much_sound_at_once_takes_little_memory():
    x = np.zeros(96_000 * 5, np.float32)
    resampler = Resampler(96_000)
    tracemalloc.start()
    try:
        assert len(resampler.push(x)) > 79_000
        assert tracemalloc.get_traced_memory()[1] < 50 * 2**20
    finally:
        tracemalloc.stop()
