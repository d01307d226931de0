"""Cutting recordings into windows: nothing lost, nothing twice, true times, bounded memory, quiet speech."""

import tracemalloc
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from mmx.errors import InputError
from mmx.media import silero_vad
from mmx.seq import Seq
from mmx.state import State
from mmx.tasks.segment import SegmentOptions, split
from mmx.tasks.window import Gap, Piece, Window, cut, halves

HZ = 16_000
FRAME = 512


class FakeVad:
    """Says the probabilities that it was given, one per frame, then zeros."""

    def __init__(self, probabilities) -> None:
        self.p = torch.as_tensor(np.asarray(probabilities, dtype=np.float32))

    def init_state(self, batch: int, capacity: int = 0) -> State:
        return {"at": torch.zeros(batch, dtype=torch.int64)}

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        assert state is not None and isinstance(state["at"], torch.Tensor)
        n, at = int(seq.lengths[0]), int(state["at"])
        frames = -(-n // FRAME) if seq.final else n // FRAME
        state["at"] = state["at"] + frames
        p = self.p[at : at + frames]
        return Seq(torch.nn.functional.pad(p, (0, frames - len(p)))[None], torch.tensor([frames]), HZ / FRAME)


def ramp(n: int) -> np.ndarray:
    """`(n,)` samples, each its own position; exact below 2**24."""
    return np.arange(n, dtype=np.float32)


def cut_up(x: np.ndarray, rng: np.random.Generator) -> Iterator[np.ndarray]:
    at = 0
    while at < len(x):
        n = int(rng.choice([0, 1, 160, 511, 4_000, 100_000, 400_000]))
        yield x[at : at + n]
        at += n


def speechlike(frames: int, rng: np.random.Generator) -> np.ndarray:
    """Probabilities in runs of speech, silence, doubt and noise, of all lengths."""
    p: list[float] = []
    while len(p) < frames:
        n = int(rng.geometric(rng.choice([0.5, 0.05, 0.01, 0.002])))
        low, high = [(0.6, 1.0), (0.0, 0.3), (0.3, 0.6), (0.0, 1.0)][rng.integers(4)]
        p.extend(rng.uniform(low, high, n))
    return np.array(p[:frames])


def at(seconds: float) -> int:
    sample = seconds * HZ
    assert abs(sample - round(sample)) < 1e-4, seconds
    return round(sample)


def stretches(items: list[Window | Gap]) -> list[tuple[int, int, str]]:
    """Every piece and gap as (first sample, end, reason; empty for a piece), by time."""
    out = []
    for item in items:
        if isinstance(item, Gap):
            out.append((at(item.start_s), at(item.end_s), item.reason))
        else:
            out.extend((at(p.file_s), at(p.file_s + p.duration_s), "") for p in item.pieces)
    return sorted(out)


def check(items: list[Window | Gap], signal: np.ndarray, options: SegmentOptions) -> None:
    """What must hold of any output: order, exact cover, exact samples, the limit."""
    starts = [i.start_s for i in items]
    assert starts == sorted(starts)
    edges = stretches(items)
    assert edges[0][0] == 0 and edges[-1][1] == len(signal)
    assert all(a[1] == b[0] and a[0] < a[1] for a, b in pairwise(edges))
    windows = [i for i in items if isinstance(i, Window)]
    assert [w.index for w in windows] == list(range(len(windows)))
    for w in windows:
        assert w.samples.dtype == np.float32 and len(w.samples) <= int(options.max_window_s * HZ + 1e-6)
        assert w.duration_s == len(w.samples) / HZ and w.speech_s == pytest.approx(w.duration_s)
        expected = [signal[at(p.file_s) : at(p.file_s + p.duration_s)] for p in w.pieces]
        np.testing.assert_array_equal(w.samples, np.concatenate(expected))
        offsets = np.cumsum([0] + [len(e) for e in expected[:-1]])
        assert [at(p.window_s) for p in w.pieces] == offsets.tolist()
        assert (w.start_s, w.end_s) == (w.file_time(0.0), w.file_time(w.duration_s, "end"))


def same(a: list[Window | Gap], b: list[Window | Gap]) -> None:
    assert [i if isinstance(i, Gap) else (i.index, i.pieces) for i in a] == [
        i if isinstance(i, Gap) else (i.index, i.pieces) for i in b
    ]
    for i, j in zip(a, b, strict=True):
        if isinstance(i, Window) and isinstance(j, Window):
            np.testing.assert_array_equal(i.samples, j.samples)


OPTIONS = [
    SegmentOptions(),
    SegmentOptions(max_window_s=5.0, min_speech_s=0.0),
    SegmentOptions(max_window_s=1.3, pad_s=0.2, max_gap_s=0.0, min_silence_s=0.0),
    SegmentOptions(max_window_s=8.0, pad_s=1.0, max_gap_s=0.7, min_silence_s=0.1, min_speech_s=0.4),
    SegmentOptions(max_window_s=3.0, pad_s=0.0, threshold=0.9, neg_threshold=0.0),
]


@pytest.mark.parametrize("seed", range(40))
def test_windows_and_gaps_cover_the_file_exactly_once(seed):
    rng = np.random.default_rng(seed)
    options = OPTIONS[seed % len(OPTIONS)]
    p = speechlike(int(rng.integers(1, 6_000)), rng)
    signal = ramp(max(1, len(p) * FRAME - int(rng.integers(FRAME))))
    whole = list(split([signal], FakeVad(p), options))
    check(whole, signal, options)
    # All speech is in a window; with no shortest burst, every single frame of it.
    for first, end, reason in stretches(whole):
        if reason == "no speech":
            assert (p[first // FRAME : -(-end // FRAME)][1:-1] < options.threshold).all()
            if options.min_speech_s == 0:
                assert (p[first // FRAME : -(-end // FRAME)] < options.threshold).all()
    same(whole, list(split(cut_up(signal, rng), FakeVad(p), options)))


def frames(*runs: tuple[float, float]) -> np.ndarray:
    """Probabilities from (seconds, probability) runs."""
    return np.concatenate([np.full(round(s * HZ / FRAME), p) for s, p in runs])


def windows_of(p: np.ndarray, options: SegmentOptions | None = None) -> list[Window | Gap]:
    signal = ramp(len(p) * FRAME)
    items = list(split([signal], FakeVad(p), options))
    check(items, signal, options or SegmentOptions())
    return items


def test_short_silence_stays_long_silence_goes():
    items = windows_of(frames((3.2, 0), (1.6, 1), (1.6, 0), (1.6, 1), (3.2, 0), (1.6, 1), (0.32, 0)))
    assert [type(i) for i in items] == [Gap, Window, Gap]
    # Speech is frames 100-150, 200-250 and 350-400; a pad has 4800 samples. The last silence is hardly longer
    # than a pad: it is kept, rather than reported as a sliver.
    assert stretches(items) == [
        (0, 46_400, "no speech"),
        (46_400, 132_800, ""),
        (132_800, 174_400, "no speech"),
        (174_400, 410 * FRAME, ""),
    ]


def test_bursts_are_gaps_with_their_reason():
    items = windows_of(frames((3.2, 0), (0.096, 1), (3.2, 0), (0.128, 1), (3.2, 0)))
    assert [(i.reason if isinstance(i, Gap) else "window") for i in items] == [
        "no speech",
        "speech shorter than 0.1 s",
        "no speech",
        "window",
        "no speech",
    ]


def test_hysteresis():
    """Doubt between the thresholds neither starts speech nor ends it."""
    doubt = frames((4, 0.4), (1, 0.9), (4, 0.4), (4, 0.2))
    (gap, window, rest) = windows_of(doubt)
    assert isinstance(gap, Gap) and isinstance(window, Window) and isinstance(rest, Gap)
    assert (window.start_s, window.end_s) == (pytest.approx(4 - 0.3), pytest.approx(8.992 + 0.3, abs=0.05))


def test_long_speech_is_cut_where_speech_is_least_likely():
    p = frames((80.0, 0.95))
    p[300], p[700:705], p[720] = 0.1, 0.4, 0.0  # too early; a pause; one odd frame, which smoothing forgives
    first, second, *_ = [i for i in windows_of(p) if isinstance(i, Window)]
    assert at(first.end_s) == 702 * FRAME + FRAME // 2 == at(second.start_s)


def test_packing_is_greedy_across_any_pause():
    """Twelve bursts of 4 s, minutes apart: six fit a window with their pads (6 * 4.6 s)."""
    p = frames(*[(120.0, 0.0), (4.0, 1.0)] * 12)
    windows = [i for i in windows_of(p) if isinstance(i, Window)]
    assert [len(w.pieces) for w in windows] == [6, 6]
    assert windows[0].file_time(4.6 + 0.3) == pytest.approx(windows[0].pieces[1].file_s + 0.3)


def test_a_silence_is_not_cut_out_to_make_room():
    """1.8 s of silence stays as it is or parts two windows; slivers beside a pad go to the window."""
    first, gap, second = windows_of(frames((0.32, 0), (13.7, 1), (1.8, 0), (14.1, 1)))
    assert isinstance(first, Window) and isinstance(gap, Gap) and isinstance(second, Window)
    assert first.start_s == 0.0 and gap.end_s - gap.start_s == pytest.approx(1.8 - 0.6, abs=0.04)


def test_a_window_is_never_one_sample_too_long():
    for frames_of_speech in range(880, 960):
        windows_of(np.concatenate([np.zeros(100), np.ones(frames_of_speech), np.zeros(100)]))


def test_file_time():
    pieces = (Piece(0.0, 10.0, 2.0), Piece(2.0, 20.0, 3.0), Piece(5.5, 40.0, 1.0))
    w = Window.of_sound(np.zeros(int(6.5 * HZ), np.float32), pieces, 0)
    assert [w.file_time(t) for t in (-1.0, 0.0, 1.0, 2.0, 4.0, 6.0, 9.0)] == [10, 10, 11, 20, 22, 40.5, 41]
    assert w.file_time(2.0, "end") == 12.0 and w.file_time(2.0 + 1e-9, "end") == 12.0
    assert w.file_time(2.0 - 1e-9, "start") == 20.0
    assert w.file_time(2.1, "end") == pytest.approx(20.1)
    # A hole of half a second before the third piece: the nearer edge.
    assert [w.file_time(t) for t in (5.1, 5.4)] == [23.0, 40.0]
    assert [w.file_time(t, "end") for t in (5.1, 5.4)] == [23.0, 40.0]
    assert (w.start_s, w.end_s, w.speech_s) == (10.0, 41.0, 6.0)
    times = np.linspace(-1, 8, 1001)
    for side in ("start", "end"):
        assert (np.diff([w.file_time(t, side) for t in times]) >= 0).all()


@pytest.mark.parametrize("vad", [None, FakeVad([]), FakeVad([1.0])])
def test_nothing_gives_nothing(vad):
    assert list(split([], vad)) == []
    assert list(split([np.zeros(0, np.float32)] * 3, vad)) == []


def test_no_speech_is_one_gap():
    assert list(split([ramp(1_000_000)], FakeVad([]))) == [Gap(0.0, 62.5, "no speech")]
    assert list(split([ramp(3)], FakeVad([]))) == [Gap(0.0, 3 / HZ, "no speech")]


@pytest.mark.parametrize("bad", [np.zeros(9, np.int16), np.zeros((2, 9), np.float32)])
def test_blocks_that_are_not_mono_float_are_refused(bad):
    with pytest.raises(InputError, match="mono float"):
        list(split([bad], None))


@pytest.mark.parametrize(
    "options",
    [
        {"threshold": 0.3},
        {"max_window_s": 1.0},
        {"pad_s": -1.0},
        {"min_speech_s": 40.0},
        {"max_gap_s": float("nan")},
    ],
)
def test_options_that_cannot_work_are_refused(options):
    with pytest.raises(InputError, match="expected"):
        SegmentOptions(**options)


def test_without_a_detector_windows_are_cut_where_it_is_quiet():
    rng = np.random.default_rng(0)
    x = rng.uniform(-0.5, 0.5, 75 * HZ).astype(np.float32)
    x[27 * HZ : 27 * HZ + 1_600] *= 0.01
    x[10 * HZ : 11 * HZ] = 0  # quieter, but not within the last 5 s
    items = list(split([x], None))
    check(items, x, SegmentOptions())
    assert all(isinstance(i, Window) and len(i.pieces) == 1 for i in items) and len(items) == 3
    assert items[0].end_s == pytest.approx(27.05, abs=0.011)
    same(items, list(split(cut_up(x, rng), None)))
    exact = list(split([x[: 30 * HZ]], None))
    assert len(exact) == 1 and len(exact[0].samples) == 30 * HZ if isinstance(exact[0], Window) else False


def test_a_detector_that_fails_loses_no_speech():
    p = frames((40.0, 0.0))
    p[100:] = np.nan
    items = windows_of(p)
    assert sum(w.speech_s for w in items if isinstance(w, Window)) >= 40 - 3.2


@pytest.mark.parametrize("with_vad", [True, False])
def test_memory_does_not_grow_with_the_file(with_vad):
    """An hour, of which the windows are dropped as they come: under 40 MB, where the file has 230 MB."""
    rng = np.random.default_rng(1)
    vad = FakeVad(speechlike(3600 * HZ // FRAME, rng)) if with_vad else None
    tracemalloc.start()
    try:
        seconds = sum(
            i.speech_s if isinstance(i, Window) else i.end_s - i.start_s
            for i in split((np.full(HZ, 0.1, np.float32) for _ in range(3600)), vad)
        )
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert seconds == pytest.approx(3600) and peak < 40e6


def test_blocks_are_read_lazily_and_may_be_reused_by_their_producer():
    def blocks() -> Iterator[np.ndarray]:
        buffer = np.empty(8_000, np.float32)
        for k in range(400):
            read.append(k)
            buffer[:] = np.arange(k * 8_000, (k + 1) * 8_000)
            yield buffer

    read: list[int] = []
    stream = split(blocks(), FakeVad(np.full(6_250, 0.9)))
    first = next(stream)
    # The window, the next span (its end tells that it does not fit), and what the detector hears at once.
    assert isinstance(first, Window) and len(read) * 0.5 <= 30 + 30 + 5
    check([first, *stream], ramp(400 * 8_000), SegmentOptions())


class Second(FakeVad):
    """A detector that is asked about a chunk by itself, and hears so many frames of speech at its beginning."""

    def __init__(self, frames: int) -> None:
        self.frames, self.asked = frames, list[int]()

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        assert state is None
        self.asked.append(int(seq.x[0, 0]) // FRAME)
        frames = -(-int(seq.lengths[0]) // FRAME)
        p = torch.zeros(1, frames)
        p[:, : self.frames] = 0.9
        return Seq(p, torch.tensor([frames]), HZ / FRAME)


def test_a_second_detector_is_asked_only_where_the_first_hears_next_to_nothing():
    first, second = np.zeros(4 * 128), Second(128)
    first[130:170] = 0.9  # the second chunk of four; of the third, one frame
    first[300] = 0.9
    items = list(split([ramp(4 * 128 * FRAME)], FakeVad(first), None, second))
    assert second.asked == [0, 256, 384]
    assert {reason for _, _, reason in stretches(items)} == {"", "no speech"}
    (gap,) = [i for i in items if isinstance(i, Gap)]
    assert gap.start_s > 170 * FRAME / HZ and gap.end_s < 256 * FRAME / HZ, "what the first heard stays as it was"
    items = list(split([ramp(4 * 128 * FRAME)], FakeVad(first), None, Second(10)))
    assert [reason for _, _, reason in stretches(items)].count("") == 1, "a burst is not believed"


# With the real detector.


@pytest.fixture(scope="module")
def vad():
    return silero_vad.load()


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    """The speech clips of pytest-audioeval, float32 at 16 kHz, loudest sample 0.5."""
    soundfile = pytest.importorskip("soundfile")
    soxr = pytest.importorskip("soxr")
    spec = find_spec("pytest_audioeval")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs the package pytest-audioeval: pip install 'mmx[test]'")
    out = []
    for path in sorted((Path(next(iter(spec.submodule_search_locations))) / "samples" / "audio").glob("*/*.wav")):
        wav, rate_hz = soundfile.read(path, dtype="float32")
        wav = soxr.resample(wav, rate_hz, HZ)
        out.append((0.5 / np.abs(wav).max() * wav).astype(np.float32))
    return out


def speech_share(items: list[Window | Gap]) -> float:
    held = sum(i.speech_s for i in items if isinstance(i, Window))
    return held / (held + sum(i.end_s - i.start_s for i in items if isinstance(i, Gap)))


def test_speech_in_silence_is_found(vad, clips):
    quiet = 1e-3 * np.random.default_rng(0).standard_normal(10 * HZ).astype(np.float32)
    x = np.concatenate([quiet, clips[0], quiet, clips[1], quiet])
    items = list(split([x], vad))
    check(items, x, SegmentOptions())
    (window,) = [i for i in items if isinstance(i, Window)]
    assert len(window.pieces) == 2
    for piece, start in zip(window.pieces, (10.0, 20 + len(clips[0]) / HZ), strict=True):
        assert start - 0.5 < piece.file_s < start + 0.7


@pytest.mark.parametrize("db", [-20, -40, -50])
def test_quiet_speech_is_found(vad, clips, db):
    """At -40 dB the bare detector misses whole clips, so what it hears is amplified."""
    scale = np.float32(10 ** (db / 20))
    for clip in clips:
        loud, soft = list(split([clip], vad)), list(split([clip * scale], vad))
        assert speech_share(soft) >= 0.95 * speech_share(loud)
    bare = SegmentOptions(max_gain_db=0.0)
    if db <= -40:
        assert min(speech_share(list(split([c * scale], vad, bare))) for c in clips) == 0.0


def test_noise_and_silence_are_not_speech(vad):
    rng = np.random.default_rng(0)
    for scale in (0.0, 1e-4, 1e-2, 0.2):
        x = (scale * rng.standard_normal(20 * HZ)).astype(np.float32)
        assert list(split([x], vad)) == [Gap(0.0, 20.0, "no speech")], scale


def test_samples_that_are_not_finite_do_not_deafen_the_detector(vad, clips):
    x = np.concatenate([np.zeros(HZ, np.float32), clips[0], np.zeros(3 * HZ, np.float32), clips[1]])
    broken = x.copy()
    broken[100:103] = np.nan, np.inf, -np.inf
    same(list(split([x], vad)), list(split([broken], vad)))


def joined() -> Window:
    """Ten seconds from 10 to 15 s and from 40 to 45 s of a file; the quietest stretch is around 6.5 s."""
    samples = np.random.default_rng(5).standard_normal(160_000).astype(np.float32)
    samples[102_000:106_000] *= 0.01
    return Window.of_sound(samples, (Piece(0.0, 10.0, 5.0), Piece(5.0, 40.0, 5.0)), 3)


@pytest.mark.parametrize(
    ("start_s", "end_s", "slack_s", "expected"),
    [
        (1.0, 2.0, 0.5, (11.0, 12.0)),
        (4.0, 5.2, 0.5, (14.0, 15.0)),  # an end set a little late does not reach over the cut
        (4.8, 7.0, 0.5, (40.0, 42.0)),  # nor does a start set a little early
        (4.0, 7.0, 0.5, (14.0, 42.0)),  # a segment may span it
        (4.0, 7.0, float("inf"), (40.0, 42.0)),  # a word may not
        (5.0, 5.0, float("inf"), (15.0, 15.0)),
    ],
)
def test_a_span_is_not_stretched_over_a_cut(start_s: float, end_s: float, slack_s: float, expected: tuple):
    assert joined().file_span(start_s, end_s, slack_s) == pytest.approx(expected)


def test_a_cut_out_part_knows_its_place():
    part = cut(joined(), 4.0, 6.0)
    assert np.array_equal(part.samples, joined().samples[64_000:96_000])
    assert [(p.window_s, p.file_s, p.duration_s) for p in part.pieces] == [(0.0, 14.0, 1.0), (1.0, 40.0, 1.0)]
    with pytest.raises(ValueError, match="inside"):
        cut(joined(), 11.0, 12.0)


def test_halves_part_at_a_joint_else_where_it_is_quiet():
    first, second = halves(joined())
    assert (first.end_s, second.start_s) == (15.0, 40.0)
    assert np.array_equal(np.concatenate([first.samples, second.samples]), joined().samples)
    single = Window.of_sound(joined().samples, (Piece(0.0, 10.0, 10.0),), 0)
    first, second = halves(single)
    assert first.duration_s == pytest.approx(6.5, abs=0.2)
    assert np.array_equal(np.concatenate([first.samples, second.samples]), single.samples)


def test_a_word_stretched_over_a_pause_is_where_it_is_loud():
    samples = np.zeros(6 * HZ, np.float32)
    samples[: 2 * HZ] = 0.01  # a breath before the pause
    samples[4 * HZ : 6 * HZ] = 0.3
    window = Window.of_sound(samples, (Piece(0.0, 0.0, 6.0),), 0, speech=((0.0, 2.0), (4.0, 6.0)))
    assert window.within_speech(1.5, 4.2, 0.3) == (3.7, 4.2), "0.2 s of speech, not 0.5 s of breath"
    assert window.within_speech(1.5, 4.2, 0.0) == (4.0, 4.2)
    assert window.within_speech(0.5, 1.5, 0.3) == (0.5, 1.5), "nothing else is near"
    assert window.within_speech(2.5, 3.5, 0.3) == (2.5, 3.5), "a word where nobody heard speech stays"
