"""A long recording with pauses: nothing is lost, the order holds, times are true, memory stays flat.

The recording repeats the five LibriVox sentences of `demos/dashwood.flac` in random order with random
pauses. Ten minutes by default; `MMX_LONG_MINUTES=60` for the full hour. With word times and, as is the default,
without.
"""

import csv
import difflib
import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

import mmx
from mmx.datasets.recipes.emma import spoken
from mmx.evaluate.metrics import installed_normalization, normalizer
from mmx.tasks.subtitles import cues
from mmx.tasks.transcribe import Options, transcribe

RATE = 16_000
MINUTES = float(os.environ.get("MMX_LONG_MINUTES", "10"))
pytestmark = [pytest.mark.slow, pytest.mark.long]


def sentences() -> list[np.ndarray]:
    """The five sentences, alone."""
    return [wave for _, wave in spoken(Path(__file__).parents[1] / "demos" / "dashwood.flac")]


def words_of(transcript: mmx.Transcript) -> list[tuple[str, float, float]]:
    """Comparable words with their times, those of the segment where there are no others; a word that normalizes to
    several keeps its times for each."""
    normalize, _ = normalizer(installed_normalization(), "en")
    items = transcript.words or transcript.segments
    return [(part, x.start_s, x.end_s) for x in items for part in normalize(x.text).split()]


def resident_mb() -> float:
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("reading the memory in use needs /proc: run this test on Linux")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def write_recording(path: Path, clips: list[np.ndarray], rng: random.Random) -> list[tuple[int, float]]:
    """A FLAC file of `MINUTES`; returns which sentence starts when (seconds)."""
    plan: list[tuple[int, float]] = []
    noise = np.random.default_rng(1)
    at = 0
    with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16") as f:
        while at < MINUTES * 60 * RATE:
            pause = int(rng.choice([0.3, 0.6, 1.0, 2.5, 6.0, 12.0]) * RATE)
            f.write((noise.standard_normal(pause) * 1e-4).astype(np.float32))
            which = rng.randrange(len(clips))
            plan.append((which, (at + pause) / RATE))
            f.write(clips[which])
            at += pause + len(clips[which])
    return plan


@pytest.fixture(scope="module", params=[True, False], ids=["words", "segments"])
def run(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[mmx.Transcript, list, list, list[float]]]:
    model = mmx.load()
    clips = sentences()
    alone = [words_of(model.transcribe(c, language="en", word_timestamps=True)) for c in clips]
    path = tmp_path_factory.mktemp("long") / "long.flac"
    plan = write_recording(path, clips, random.Random(7))
    memory: list[float] = []
    options = Options(language="en", word_timestamps=request.param)
    result = next(iter(transcribe(model, [str(path)], options, on_progress=lambda p: memory.append(resident_mb()))))
    yield result, plan, alone, memory


def test_every_sentence_is_there_in_order(run) -> None:
    result, plan, alone, _ = run
    expected = [w for which, _ in plan for w, *_ in alone[which]]
    got = [w for w, *_ in words_of(result)]
    matcher = difflib.SequenceMatcher(a=expected, b=got, autojunk=False)
    hit = np.zeros(len(expected), dtype=bool)
    for block in matcher.get_matching_blocks():
        hit[block.a : block.a + block.size] = True
    at = 0
    lost = []
    for which, start_s in plan:
        n = len(alone[which])
        if hit[at : at + n].mean() < 0.5:  # a sentence with some wrong words is there
            lost.append((which, start_s))
        at += n
    assert not lost
    assert hit.mean() > 0.97
    assert len(got) < 1.03 * len(expected)  # and nothing was invented


def test_cues_stand_where_somebody_speaks(run) -> None:
    result, plan, *_ = run
    lengths = [len(c) / RATE for c in sentences()]
    said = np.array([(start_s, start_s + lengths[which]) for which, start_s in plan])
    shown = [c for c in cues(result.segments) if c.lines]
    stray = []
    for c in shown:
        a, b = c.start_ms / 1000, c.end_ms / 1000
        heard = np.clip(np.minimum(said[:, 1] + 0.5, b) - np.maximum(said[:, 0] - 0.5, a), 0, None).sum()
        pause_s = np.diff(said.ravel())[1::2]  # short ones are kept, and a segment may go on over them
        short = [min(b, y) - max(a, x) for x, y, p in zip(said[:-1, 1], said[1:, 0], pause_s, strict=True) if p < 2.6]
        if b - a - heard - sum(max(0.0, s - 1.0) for s in short) > 0.5:
            stray.append((a, b, c.lines))
    print(f"{len(shown)} cues, {len(stray)} where nobody speaks")
    assert not stray


@pytest.mark.parametrize("run", [True], ids=["words"], indirect=True)
def test_word_times_are_on_the_true_clock(run) -> None:
    """Against another engine's forced alignment of the five sentences: PocketSphinx 5 with its en-us acoustic model."""
    result, plan, *_ = run
    with (Path(__file__).parent / "dashwood_words.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    said = [[r for r in rows if int(r["sentence"]) == k + 1] for k in range(5)]
    expected = [
        (r["word"], start_s + float(r["start_s"]), start_s + float(r["end_s"]))
        for which, start_s in plan
        for r in said[which]
    ]
    got = [("mr" if w == "mister" else w, *times) for w, *times in words_of(result)]
    matcher = difflib.SequenceMatcher(a=[w for w, *_ in expected], b=[w for w, *_ in got], autojunk=False)
    pairs = [
        (expected[block.a + i], got[block.b + i]) for block in matcher.get_matching_blocks() for i in range(block.size)
    ]
    errors = np.array([[abs(a - b) for a, b in zip(e[1:], g[1:], strict=True)] for e, g in pairs])
    late = [e[0] for (e, _), worst in zip(pairs, errors.max(1), strict=True) if worst > 0.3]
    (start, end), (latest, longest) = np.median(errors, axis=0), errors.max(axis=0)
    print(
        f"{len(pairs)} words; starts off by {start:.3f} s, at most {latest:.2f}; ends {end:.3f}, at most {longest:.2f}"
    )
    print(f"off by more than 0.3 s: {len(late) / len(pairs):.2%}, {dict(Counter(late))}")
    assert max(start, end) <= 0.06
    assert len(late) <= 0.01 * len(pairs)  # by hundredths: "is" and "than" are soft


def test_memory_is_flat(run) -> None:
    *_, memory = run
    third = len(memory) // 3
    # What a batch takes depends on how much is said in it, by a tenth or two; what leaks grows with every batch.
    assert max(memory[-third:]) < 1.2 * max(memory[third : 2 * third])


def test_the_clock_ends_where_the_file_ends(run) -> None:
    result, plan, *_ = run
    starts = [s.start_s for s in result.segments]
    assert starts == sorted(starts)
    assert result.duration_s >= MINUTES * 60
    assert result.segments[-1].end_s <= result.duration_s
    assert abs(result.segments[-1].start_s - plan[-1][1]) < 8
