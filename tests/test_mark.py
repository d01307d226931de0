"""The mark: found after what happens to recordings, not found where it is not, and the same in blocks as in one."""

import hashlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soxr

from mmx.errors import InputError
from mmx.experiments import marking
from mmx.mark import detector
from mmx.mark.detector import Detection, detect_blocks
from mmx.mark.marker import Marker, mark
from mmx.mark.pattern import PAYLOADS, TILES, TURNS, pattern
from mmx.media.audio import read_audio

SAMPLE = Path(__file__).parents[1] / "demos" / "dashwood.flac"
RATE = 24_000


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    """Ten seconds of somebody who reads."""
    return read_audio(SAMPLE, rate=RATE)[: 10 * RATE]


@pytest.fixture(scope="module")
def marked(speech: np.ndarray) -> np.ndarray:
    return mark(speech, RATE, payload=5)


def look(samples: np.ndarray, rate: int = RATE, key: str = "mmx") -> Detection:
    return detect_blocks([soxr.resample(samples, rate, detector.RATE).astype(np.float32)], key)


def noise(samples: np.ndarray) -> np.ndarray:
    """White noise, 30 dB below the speech."""
    drawn = np.random.default_rng(0).standard_normal(len(samples)).astype(np.float32)
    return samples + drawn * samples.std() * 10 ** (-30 / 20)


ATTACKS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    **marking.ATTACKS,
    "quiet": lambda x: 0.05 * x,
    "noise": noise,
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_mark_and_its_payload_survive(marked: np.ndarray, attack: str) -> None:
    got = look(ATTACKS[attack](marked))
    assert got.found and got.false_alarm < 1e-9 and got.probability > 0.999
    assert got.payload == 5


def test_the_experiment_counts_what_is_found(speech: np.ndarray, marked: np.ndarray) -> None:
    (row,) = list(marking.table([mark(speech, RATE), speech], ["MP3 64"]))[1:]
    assert row.split()[2:5] == ["1", "of", "2"] and row.split()[-2:] == ["50", "1e+00"]
    assert len(list(marking.excerpts([speech[: 4 * RATE]] * 6))) == 2
    assert marking.least_rate(268, 268) == pytest.approx(0.99, abs=1e-4)


def test_speech_has_no_mark_and_neither_has_another_key(speech: np.ndarray, marked: np.ndarray) -> None:
    got = look(speech)
    assert not got.found and got.probability < 0.6 and got.payload is None and got.spans == ()
    assert not look(marked, key="somebody else's").found
    assert look(mark(speech, RATE, key="mine"), key="mine").found
    for sound in (np.zeros(RATE, np.float32), np.ones(RATE, np.float32), np.zeros(1, np.float32)):
        assert look(sound) == Detection(False, 1.0)
    assert detect_blocks([]) == Detection(False, 1.0)


def test_sound_that_repeats_itself_is_no_mark(speech: np.ndarray) -> None:
    """A second again and again fits the signs as well each time; that must not add up."""
    for seed in range(3):
        beat = np.random.default_rng(seed).standard_normal(detector.RATE).astype(np.float32)
        assert not detect_blocks([np.tile(beat, 60)]).found
        assert not look(np.tile(speech[seed * RATE :][:RATE], 60)).found


def test_scores_are_those_of_chance_on_unmarked_speech(speech: np.ndarray) -> None:
    """Over keys, a score has mean 0 and variance 1, and the e-value a mean of at most 1."""
    low = soxr.resample(speech, RATE, detector.RATE).astype(np.float32)
    (piece,) = detector._pieces([low])
    scores = np.stack([detector._scores(piece, f"key {k}")[0] for k in range(20)])
    inner = scores[:, 2 * detector.PLACES : -2 * detector.PLACES]
    assert abs(inner.mean()) < 0.05 and inner.std() == pytest.approx(1.0, abs=0.05)
    values = [math.exp(detector._decode(z.reshape(-1, detector.PLACES, TILES))[0]) for z in scores]
    assert np.mean(values) < 1.5 and max(values) < 60


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 24_000, 44_100, 48_000])
def test_any_rate_is_marked_in_blocks_as_in_one(rate: int) -> None:
    x = np.random.default_rng(0).standard_normal(4 * rate).astype(np.float32) * 0.1
    whole = mark(x, rate, 3)
    assert len(whole) == len(x) and whole.dtype == np.float32
    got = look(whole, rate)
    assert got.found and got.payload == 3
    sizes, marker, parts, at = np.random.default_rng(1), Marker(rate, 3), [], 0
    while at < len(x):
        size = int(sizes.integers(1, rate // 3))
        parts.append(marker.push(x[at : at + size]))
        at += size
        assert min(at, len(x)) - sum(map(len, parts)) <= 0.046 * rate, "what is held back"
    parts.append(marker.push(x[:0], final=True))
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-6)


def test_sentences_of_one_marker_are_one_mark(speech: np.ndarray) -> None:
    """Each has its own length, and their tiles continue, so that short ones are as clear as a long one."""
    one, parts, apart = Marker(RATE), [], []
    for begin in range(0, len(speech), 20_001):
        sentence = speech[begin : begin + 20_001]
        parts.append(one.push(sentence, final=True))
        apart.append(mark(sentence, RATE))
        assert len(parts[-1]) == len(sentence)
    together = look(np.concatenate(parts))
    assert len(together.spans) == 1 and together.false_alarm < look(np.concatenate(apart)).false_alarm * 1e-12


def test_it_is_where_the_speech_is_and_below_it(speech: np.ndarray, marked: np.ndarray) -> None:
    changed = marked - speech
    assert 10 * np.log10((speech**2).sum() / (changed**2).sum()) > 22, "dB of speech over what was added"
    spectrum = np.abs(np.fft.rfft(changed)) ** 2
    hz = np.fft.rfftfreq(len(changed), 1 / RATE)
    assert spectrum[(hz < 350) | (hz > 3_850)].sum() < 1e-3 * spectrum.sum()
    silence = np.zeros(RATE, np.float32)
    assert not mark(silence, RATE).any()
    around = mark(np.concatenate([silence, speech[:RATE], silence]), RATE)
    assert not around[: RATE - 1_100].any() and not around[2 * RATE + 1_100 :].any()


def test_stretches_are_told(speech: np.ndarray, marked: np.ndarray) -> None:
    """Marked from 20 to 30 s and from 45 to 55 s, the first without its beginning."""
    track = np.concatenate([speech, speech, marked[7_000:], speech, speech[: 5 * RATE], marked, speech[: 5 * RATE]])
    low = soxr.resample(track, RATE, detector.RATE).astype(np.float32)
    got = detect_blocks(np.array_split(low, 17))
    assert [round(s.start_s) for s in got.spans] == [20, 45] and [round(s.end_s) for s in got.spans] == [30, 55]
    assert got.payload == 5


def test_an_hour_needs_no_more_memory_than_its_scores(speech: np.ndarray) -> None:
    low = soxr.resample(speech, RATE, detector.RATE).astype(np.float32)

    def blocks() -> Iterator[np.ndarray]:
        for _ in range(13):
            yield low

    pieces = list(detector._pieces(blocks()))
    assert len(pieces) == 3 and max(map(len, pieces)) < 65 * detector.RATE
    whole = np.concatenate([detector._scores(p, "mmx")[0] for p in pieces])
    (one,) = detector._pieces([low])
    first = detector._scores(one, "mmx")[0]
    inner = slice(2 * detector.PLACES, 8 * detector.PLACES)
    assert np.corrcoef(first[inner].ravel(), whole[inner].ravel())[0, 1] > 0.99


def test_sound_without_room_for_the_mark_stays_as_it_is() -> None:
    x = np.random.default_rng(0).normal(0, 0.1, 3000).astype(np.float32)
    np.testing.assert_array_equal(Marker(400).push(x, final=True), x)


def test_bad_arguments_are_told() -> None:
    with pytest.raises(InputError, match="payload from 0 to 15"):
        Marker(RATE, 16)


def test_the_pattern_is_what_it_was() -> None:
    """Of marks that are out there: whoever changes it gives it another key."""
    drawn = pattern("mmx")
    tiles = np.stack([drawn.tiles(p) for p in range(PAYLOADS)]).astype(np.int8)
    assert set(np.unique(tiles)) == {-1, 1}
    assert hashlib.sha256(tiles.tobytes()).hexdigest()[:16] == "037a50fd196b2dec"
    assert not TURNS.reshape(-1, TILES).sum(0).any(), "each tile is turned around as often as not"
