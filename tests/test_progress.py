"""How a training goes: what the terminal and TensorBoard's curves show, and that a resume shows nothing twice."""

import json
from collections import Counter
from pathlib import Path

import pytest

from mmx.train.progress import Means, Progress, sparkline


def updates(out: Path, first: int, last: int, total: int = 9) -> None:
    """A run from update `first`, killed without a word after update `last`."""
    progress = Progress(out, total, first - 1, 100 * (first - 1))
    for update in range(first, last + 1):
        progress.learned(Means({"nll": 10.0 * update}, {"nll": 10}), rate=1e-3, norm=0.5)
        progress.report(update, 0, 100 * update)
        if update % 2 == 0:
            progress.validated(update, 10.0 - update)
    if progress.board is not None:
        progress.board.flush()


def test_curves_hold_each_update_once_after_a_resume(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    updates(tmp_path, 1, 6)
    updates(tmp_path, 5, 9)  # its checkpoint was of update 4
    curves = EventAccumulator(str(tmp_path / "tensorboard"))
    curves.Reload()
    assert {"loss", "lr", "norm", "valid_loss", "tokens_per_s"} <= set(curves.Tags()["scalars"])
    assert [(e.step, e.value) for e in curves.Scalars("loss")] == [(i, float(i)) for i in range(1, 10)]
    assert [(e.step, e.value) for e in curves.Scalars("valid_loss")] == [(i, 10.0 - i) for i in (2, 4, 6, 8)]


def test_lines_hold_each_update_once_after_a_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    updates(tmp_path, 1, 6)
    with (tmp_path / "metrics.jsonl").open("a") as f:
        f.write('{"update": 7, "lo')
    updates(tmp_path, 5, 9)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert Counter(r["update"] for r in rows if "loss" in r) == Counter(range(1, 10))
    assert [r["valid_loss"] for r in rows if "valid_loss" in r] == [8, 6, 4, 2]
    assert capsys.readouterr().err.splitlines()[-2].endswith("█▆▃▁")  # the curve goes on over the resume


def test_sparkline() -> None:
    assert sparkline([]) == ""
    assert sparkline([3.0]) == "▁"
    assert sparkline([1, 2, 3, 4, 5, 6, 7, 8]) == "▁▂▃▄▅▆▇█"
    assert sparkline([5, float("nan"), 1]) == "█?▁"
    long = sparkline(list(range(1000)), width=8)
    assert long == "▁▂▃▄▅▆▇█"
