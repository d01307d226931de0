"""The experiment of `mmx.experiments.interface` at a smaller size: CIF against pooling onto a frozen decoder."""

import pytest
import torch

from mmx.experiments import interface
from mmx.experiments.interface import FIRST, WORDS, AveragePool, Size, World, edits, run, spelled, table
from mmx.seq import Seq

SMALL = Size(width=32, pretraining=250, updates=200, test=60, batch=24, noise=0.4)


def test_numbers_are_spelled() -> None:
    def words(number: int) -> str:
        return " ".join(WORDS[token - FIRST] for token in spelled(number))

    assert words(7) == "seven"
    assert words(19) == "nineteen"
    assert words(40) == "forty"
    assert words(110) == "one hundred ten"
    assert words(70042) == "seventy thousand forty two"
    assert words(999999) == "nine hundred ninety nine thousand nine hundred ninety nine"


def test_edits_are_counted() -> None:
    assert edits([1, 2, 3], [1, 2, 3]) == 0
    assert edits([], [1, 2]) == 2
    assert edits([1, 9, 3, 4], [1, 2, 3]) == 2


def test_no_held_out_number_is_learned_from() -> None:
    world = World(SMALL, 0)
    learned = {tuple(text) for text in world.texts(400, held_out=False)}
    assert not learned & {tuple(text) for text in world.texts(200, held_out=True)}


def test_pooling_takes_the_mean_of_the_frames_that_are_there() -> None:
    pool = AveragePool(4, 2)
    x = torch.randn(1, 5, 4, generator=torch.Generator().manual_seed(0))
    x[0, 3:] = torch.nan
    got = pool(Seq(x, torch.tensor([3])))
    frames = pool.ln(x[0, :3])
    want = pool.project(torch.stack([frames[:2].mean(0), frames[2]]))
    torch.testing.assert_close(got.x[0, : int(got.lengths)], want)


@pytest.mark.long
def test_cif_finds_words_that_pooling_does_not_and_the_decoder_stays() -> None:
    """The ordering at a small size with one seed; docs/experiments/interface.md has three seeds at the usual size."""
    found = run(0, SMALL)
    cif, pooled = found["CIF"], found["average pooling"]
    assert cif.unchanged
    assert pooled.unchanged
    assert cif.trained < pooled.trained, "the better one is not the larger one"
    assert cif.errors < pooled.errors
    assert cif.length_error < pooled.length_error
    for name in ("CIF", "average pooling"):
        assert found[name].errors < found[f"{name}, untrained"].errors
    assert f"| CIF | {cif.trained:,} | {cif.errors:.3f} |" in table([found])
    assert interface.BOS < FIRST
