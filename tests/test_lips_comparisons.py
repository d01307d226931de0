"""The comparisons of lips, sound and mixup: the command runs to its tables and resumes, and they say what they should.

Letters: T frames.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from mmx.evaluate.metrics import Measurement, measure
from mmx.experiments import lips_comparisons as experiment
from mmx.media.sync import QUIETEST_DB


def test_a_bar_is_as_high_as_the_sound_is_loud_and_silence_is_black() -> None:
    bars = experiment.bars_of(np.array([QUIETEST_DB, QUIETEST_DB / 2, 0.0]))
    assert bars.shape == (3, 48, 48) and [int((b.any(1)).sum()) for b in bars] == [0, 24, 48]
    assert bars[1, -1].any() and not bars[1, 0].any()  # it stands on the ground


def test_speech_is_on_while_somebody_speaks_however_loud_and_through_short_pauses() -> None:
    loudness_T = np.full(40, QUIETEST_DB)
    loudness_T[[3, 4, 9, 10]], loudness_T[20:30], loudness_T[36:] = -10.0, -39.0, 0.0
    assert np.flatnonzero(experiment.speaking(loudness_T) == 0).tolist() == [
        *range(3, 11),
        *range(20, 30),
        *range(36, 40),
    ]
    assert set(experiment.speaking(loudness_T)) == {0.0, QUIETEST_DB}


def measured(*texts: str, said: tuple[str, ...]) -> Measurement:
    return measure("wer", texts, said, normalize="basic", bootstrap=200)


def test_a_gain_counts_beyond_chance_and_twice_the_seeds_spread() -> None:
    said = tuple("ab cd" for _ in range(40))
    right, wrong = measured(*said, said=said), measured(*("ab x" for _ in said), said=said)
    worse = measured(*("y x" for _ in said), said=said)

    def told(one: list[Measurement], other: list[Measurement]) -> str:
        scores = {"shared": {"lips": one}, "lips": {"lips": other}}
        (row,) = [r for r in experiment.comparisons(scores) if r.startswith("| shared against lips |")]
        return row

    assert told([right] * 2, [wrong] * 2).endswith("| -50.0 | 0.005 | 0.0 | yes |")
    assert told([right, wrong], [wrong] * 2).endswith("| no |")  # 25 points, which seeds alone differ by
    assert told([right] * 2, [right] * 2).endswith("| no |")
    assert experiment.mean_of([right, worse]).value == 50.0
    rows = list(experiment.table({"lips": {"lips": [right, worse]}}, {"lips": 12.3}))
    assert rows[-1] == "| lips | lips | 50.0 (50.0 to 50.0) | 70.7 | 12 |"


def test_chance_knows_how_many_words_there_are() -> None:
    assert experiment.chance(["a b", "c", "a d", "c"]) == pytest.approx(100 * 2 / 6)


@pytest.mark.slow
def test_it_runs_and_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("hibari")
    config = {
        "channels": [2, 3],
        "pixels": 16,
        "crop": 12,
        "width": 16,
        "layers": 1,
        "heads": 2,
        "hidden": 16,
        "left": 4,
    }
    setting = experiment.Setting(
        words=("pat", "bat"), clips={"train": 3, "valid": 1, "test": 2}, noises={"babble": 1}, updates=2, config=config
    )
    arms = ["shared", "lips", "timing", "mixup, loss", "lips, longer"]
    arguments = [str(tmp_path), "--seeds", "0", "--arms", *arms]
    assert experiment.main(arguments, setting) == 0, capsys.readouterr().err
    told = capsys.readouterr().out
    for row in ("| shared | both, 0 dB |", "| lips, longer | lips |", "| mixup, loss against lips, longer | lips |"):
        assert row in told
    assert "timing alone has" in told and "| mixup, loss | sound" not in told
    updates = {arm: json.loads((tmp_path / "runs-2" / arm / "0/metrics.jsonl").read_text("utf-8").splitlines()[-1])
               for arm in ("lips", "lips-longer")}  # fmt: skip
    assert (updates["lips"]["update"], updates["lips-longer"]["update"]) == (2, 3)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    assert experiment.main(arguments, setting) == 0
    assert capsys.readouterr().out == told and before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
