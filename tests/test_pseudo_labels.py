"""Pseudo-labels: segments in which a model is sure, and a manifest of them."""

from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from test_fingerspelling import poses, spelling_model

from mmx.datasets.pseudo_labels import pseudo_labels
from mmx.errors import InputError
from mmx.make.pseudo_labels import make
from mmx.nn.ctc import NAME, CTCHead
from mmx.train.manifest import read_manifest
from mmx.train.reading import read_recording


def test_they_are_those_of_the_paper() -> None:
    """Windows of 16 frames: sure ones next to each other are one segment, those a little further off are left out."""
    p_NC = np.full((80, 3), 0.1)
    sure = ((10, 1, 0.9), (12, 1, 0.7), (15, 1, 0.65), (30, 1, 0.8), (60, 1, 0.95), (20, 2, 0.99), (5, 0, 0.99))
    for at, label, confidence in sure:
        p_NC[at, label] = confidence
    p_NC[50, 1] = 0.55  # not sure
    found = [(x.label, x.start, x.stop, x.confidence) for x in pseudo_labels(p_NC, leave_out=[0])]
    assert found == [(1, 10, 31, 0.9), (2, 20, 36, 0.99), (1, 60, 76, 0.95)]
    assert pseudo_labels(np.zeros((0, 3))) == []
    with pytest.raises(InputError, match="probabilities"):
        pseudo_labels(np.full((4, 3), 7.0))


def test_a_manifest_of_them_is_read_as_any(tmp_path: Path) -> None:
    model = spelling_model()
    with torch.no_grad():
        cast(CTCHead, model.heads[NAME]).out.bias[-1] = -30.0  # no blanks: every frame has a letter
    x_TJC = np.repeat(poses([12], 3).x[0].numpy(), 5, 0)  # each hand is held
    np.save(tmp_path / "x.npy", x_TJC)
    (tmp_path / "in.tsv").write_text("id\tpose\ttext\tsrc_lang\nx\tx.npy\ta\tase\n")
    count = make(tmp_path / "in.tsv", tmp_path / "out.tsv", model, least=0.4)
    rows = read_manifest(tmp_path / "out.tsv")
    assert len(rows) == count >= 1
    for row in rows:
        frames = round((row.duration_s or 0) * 25)
        assert row.target in "abcd" and frames >= 3 and round(row.start_s * 25) + frames <= 60
        assert len(read_recording(row, {"signs": model.recorded["signs"]})["signs"]) == frames
    with pytest.raises(InputError, match="lower --least"):
        make(tmp_path / "in.tsv", tmp_path / "out.tsv", model, least=0.9999)
