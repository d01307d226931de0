"""Several channels to one: what is said is heard, wherever it comes from."""

from collections.abc import Iterable, Iterator

import numpy as np
import pytest

from mmx.errors import MediaError
from mmx.media.downmix import ChannelAudio, downmix, names_by_count, weights

RATE = 16_000
SURROUND = ("FL", "FR", "FC", "LFE", "SL", "SR")


def noise(seconds: float, seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(round(seconds * RATE)) * 0.1).astype(np.float32)


def heard(*parts: Iterable[np.ndarray], names: tuple[str, ...] = ("FL", "FR"), piece: int = 1000) -> np.ndarray:
    """The mix of channels that are given for each part in turn."""
    return mixed(np.concatenate([np.stack(list(p)) for p in parts], axis=1), names, piece=piece)[0]


def mixed(
    x_cn: np.ndarray, names: tuple[str, ...], channels: str = "mix", piece: int = 1000
) -> tuple[np.ndarray, list[str]]:
    def sounds() -> Iterator[ChannelAudio]:
        for start in range(0, x_cn.shape[1], piece):
            yield ChannelAudio(x_cn[:, start : start + piece], names, RATE)

    remarks: list[str] = []
    pieces = [mono for mono, _ in downmix((s for s in sounds()), channels, remarks, "talk.wav")]
    return np.concatenate(pieces), remarks


def level(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(x.astype(np.float64) ** 2)))


def test_the_parts_are_those_of_bs_775_with_half_beside_the_centre():
    parts = weights(SURROUND) / weights(SURROUND)[2]
    assert parts.tolist() == pytest.approx([0.35355, 0.35355, 1, 0, 0.17678, 0.17678], rel=1e-4)
    without_centre = weights(("FL", "FR", "BL", "BR"))
    assert (without_centre / without_centre[0]).tolist() == pytest.approx([1, 1, 0.5, 0.5])
    for names in (SURROUND, ("FL", "FR"), ("FC",), ("FL", "FR", "BL", "BR"), (*SURROUND, "BL", "BR"), ("?",) * 12):
        assert weights(names).sum() == pytest.approx(1), "nothing is clipped"
    assert weights(("FL", "FR")).tolist() == weights(("NONE", "NONE")).tolist() == [0.5, 0.5]


def test_channels_without_names_are_named_by_their_count():
    assert weights(("NONE",) * 6).tolist() == weights(("FL", "FR", "FC", "LFE", "BL", "BR")).tolist()
    assert weights(("NONE",) * 8)[3] == 0 and weights(("NONE",) * 8)[2] > weights(("NONE",) * 8)[0]
    assert all(weights(("NONE",) * 3)), "a third microphone is no rumble"
    assert weights(("NONE",) * 12).tolist() == pytest.approx([1 / 12] * 12)
    assert weights(("LFE",)).tolist() == [1.0]
    assert [len(names_by_count(n)) for n in range(1, 20)] == list(range(1, 20))


def test_the_centre_of_a_film_is_heard_above_all_else():
    speech, music, rumble = noise(1, 1), noise(1, 2), 5 * noise(1, 3)
    film = [music, music, speech, rumble, music, music]
    without = [music, music, 0 * speech, rumble, music, music]
    of_speech = heard(film, names=SURROUND) - heard(without, names=SURROUND)
    np.testing.assert_allclose(of_speech, speech * weights(SURROUND)[2], atol=1e-6)
    assert level(heard([0 * music] * 3 + [rumble] + [0 * music] * 2, names=SURROUND)) == 0


@pytest.mark.parametrize("gain", [-1.0, -0.97, -1.1])
def test_two_channels_that_cancel_each_other_are_one(gain: float):
    x = noise(3.3, 4)
    found, remarks = mixed(np.stack([x, gain * x]), ("FL", "FR"))
    np.testing.assert_allclose(np.abs(found), np.abs(x) * max(1, -gain), atol=1e-6)
    assert len(remarks) == 1 and "cancel each other (one is inverted)" in remarks[0]


def test_cancelling_channels_give_one_without_clicks():
    x = noise(6, 5) + np.sin(np.arange(6 * RATE) * 2 * np.pi * 200 / RATE).astype(np.float32)
    right = np.concatenate([x[: 2 * RATE], -x[2 * RATE : 4 * RATE], x[4 * RATE :]])
    found, remarks = mixed(np.stack([x, right]), ("FL", "FR"))
    away = np.ones(len(x), bool)
    for at in (2 * RATE, 4 * RATE):  # a block, and a fade
        away[at : at + round(0.03 * RATE)] = False
    np.testing.assert_allclose(found[away], x[away], atol=1e-6)
    assert np.abs(np.diff(found)).max() < 1.05 * np.abs(np.diff(x)).max()
    assert "in 2.0 s of it, first at 2.0 s" in remarks[0]


def test_rumble_that_is_inverted_does_not_take_the_speech_away():
    t = np.arange(3 * RATE) / RATE
    rumble, speech = np.sin(2 * np.pi * 25 * t).astype(np.float32), noise(3, 6)
    np.testing.assert_allclose(heard([speech + rumble, speech - rumble]), speech, atol=1e-6)


def test_unlike_channels_are_both_heard():
    a, b = noise(2, 7), noise(2, 8)
    np.testing.assert_allclose(heard([a, b]), (a + b) / 2, atol=1e-6)
    np.testing.assert_allclose(heard([a, -0.3 * a]), 0.35 * a, atol=1e-6)


def test_one_silent_channel_is_told():
    x = noise(2, 9)
    for channels, told in (([x, 0 * x], "only the left channel"), ([1e-4 * x, x], "only the right channel")):
        found, remarks = mixed(np.stack(channels), ("FL", "FR"))
        assert level(found) == pytest.approx(level(x) / 2, rel=1e-3)
        assert len(remarks) == 1 and told in remarks[0]
    assert mixed(np.stack([x, 0.1 * x]), ("FL", "FR"))[1] == mixed(np.zeros((2, 9000), "f4"), ("FL", "FR"))[1] == []


@pytest.mark.parametrize("piece", [1, 37, 4096, 10**6])
def test_the_pieces_that_it_comes_in_change_nothing(piece: int):
    x, y = noise(0.9, 10), noise(0.7, 11)
    parts = [[x, -x], [y, y], [x, y[:1].repeat(len(x))]]
    np.testing.assert_array_equal(heard(*parts, piece=piece), heard(*parts))


def test_a_side_is_a_channel_as_it_is():
    a, b = noise(1, 12), noise(1, 13)
    for side, x in (("left", a), ("right", b)):
        found, remarks = mixed(np.stack([a, b]), ("FL", "FR"), side)
        np.testing.assert_array_equal(found, x)
        assert remarks == []
    np.testing.assert_array_equal(mixed(np.stack([a, b, a, a, a, a]), SURROUND, "right")[0], b)
    with pytest.raises(MediaError, match=r"talk\.wav: expected two channels or more for the right one, got one"):
        mixed(a[None], ("FC",), "right")
