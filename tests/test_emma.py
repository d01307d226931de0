"""EMMA: the closed form equals the enumeration of all monotonic paths, losses do what they say.

Letters: B rows, N heads, U tokens, J frames.
"""

import itertools

import pytest
import torch
from torch import Tensor

from mmx.streaming.emma.alignment import (
    average_lagging,
    expected_alignment,
    expected_delays,
    variance_loss,
)


def energies(*shape: int, scale: float = 2.0, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def enumerated(p_UJ: Tensor, finish: bool) -> Tensor:
    """Every non-decreasing choice of frames, weighed by what it says of each p: token i declines the frames from where
    the token before was written up to its own, and takes its own. With `finish`, the last frame declines nothing."""
    n_u, n_j = p_UJ.shape
    p = p_UJ.clone()
    if finish:
        p[:, -1] = 1.0
    alpha = torch.zeros_like(p)
    for depth in range(1, n_u + 1):  # a path may stop for want of a frame: each token on its own, over all ways to it
        for path in itertools.combinations_with_replacement(range(n_j), depth):
            weight, at = torch.ones((), dtype=p.dtype), 0
            for i, j in enumerate(path):
                weight = weight * torch.prod(1 - p[i, at:j]) * p[i, j]
                at = j
            alpha[depth - 1, path[-1]] += weight
    return alpha


@pytest.mark.parametrize("finish", [False, True])
@pytest.mark.parametrize(("n_u", "n_j"), [(1, 1), (1, 5), (4, 1), (3, 4), (4, 6), (5, 3)])
def test_expected_alignment_is_the_sum_over_all_paths(n_u: int, n_j: int, finish: bool) -> None:
    energy = energies(2, 3, n_u, n_j)
    expected = torch.stack([
        torch.stack([enumerated(energy[b, n].sigmoid(), finish) for n in range(3)]) for b in range(2)
    ])  # fmt: skip
    torch.testing.assert_close(expected_alignment(energy, finish=finish), expected, atol=1e-10, rtol=0)
    single = expected_alignment(energy.float(), finish=finish)
    torch.testing.assert_close(single, expected.float(), atol=1e-5, rtol=0)


def test_finished_tokens_are_written_for_sure() -> None:
    total = expected_alignment(energies(2, 2, 6, 9)).sum(-1)
    torch.testing.assert_close(total, torch.ones_like(total), atol=1e-12, rtol=0)
    assert (expected_alignment(energies(2, 2, 6, 9), finish=False).sum(-1) < 0.999).any()


def recurrence(energy_UJ: Tensor) -> Tensor:
    """Raffel et al.'s equation 8, token by token and frame by frame, without a division."""
    p = energy_UJ.sigmoid()
    p[:, -1] = 1.0
    before = torch.zeros_like(p[0])
    before[0] = 1.0
    rows = []
    for row in p:
        reach, out = torch.zeros((), dtype=p.dtype), []
        for j in range(len(row)):
            reach = reach + before[j]
            out.append(reach * row[j])
            reach = reach * (1 - row[j])
        before = torch.stack(out)
        rows.append(before)
    return torch.stack(rows)


@pytest.mark.parametrize("scale", [1.0, 10.0, 100.0])
def test_single_precision_stays_right_over_many_frames(scale: float) -> None:
    """Where products vanish: with energies of 100 the probability of reading on falls below any float."""
    energy = energies(12, 150, scale=scale, seed=3)
    got = expected_alignment(energy.float()[None, None])[0, 0]
    torch.testing.assert_close(got, recurrence(energy).float(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("value", [-1e4, -100.0, -30.0, 0.0, 30.0, 100.0, 1e4])
def test_gradients_are_finite_at_the_ends(value: float) -> None:
    energy = torch.full((1, 2, 5, 40), value, requires_grad=True)
    alpha = expected_alignment(energy)
    ends = torch.arange(1.0, 41.0)[None]
    loss = variance_loss(alpha, ends, torch.tensor([5])) + expected_delays(alpha, ends).sum()
    (grad,) = torch.autograd.grad(loss, energy)
    assert bool(alpha.isfinite().all())
    assert bool(grad.isfinite().all())


def test_gradient_is_that_of_the_function() -> None:
    energy = energies(2, 1, 3, 4).requires_grad_()
    frames = torch.tensor([4, 3])
    assert torch.autograd.gradcheck(lambda e: expected_alignment(e, frames), energy)


def test_padding_is_ignored() -> None:
    energy = energies(2, 2, 4, 7)
    frames = torch.tensor([7, 5])
    short = expected_alignment(energy[1:, ..., :5])
    for junk in (1e4, float("nan"), -float("inf")):
        energy[1, ..., 5:] = junk
        leaf = energy.clone().requires_grad_()
        alpha = expected_alignment(leaf, frames)
        torch.testing.assert_close(alpha[1:, ..., :5], short, atol=1e-12, rtol=0)
        assert not alpha[1, ..., 5:].any()
        (grad,) = torch.autograd.grad(alpha.square().sum(), leaf)
        assert bool(grad.isfinite().all())
        assert not grad[1, ..., 5:].any()


# -------------------- losses


def certain(frames: list[int], n: int) -> Tensor:
    """The alignment `(1, 1, U, J)` of a policy that leaves nothing to chance."""
    return torch.nn.functional.one_hot(torch.tensor(frames), n).double()[None, None]


def test_average_lagging_of_known_policies() -> None:
    ends = torch.arange(1.0, 9.0, dtype=torch.float64)[None]
    source, tokens = torch.tensor([8.0]), torch.tensor([8])
    for k, lag in ((1, 1.0), (3, 3.0), (8, 8.0)):  # wait-k is k behind; it ends with the first token that has all
        path = [min(k - 1 + i, 7) for i in range(8)]
        delays = expected_delays(certain(path, 8), ends)
        assert average_lagging(delays, source, tokens).item() == pytest.approx(lag)


def test_average_lagging_ignores_tokens_of_padding() -> None:
    delays = torch.tensor([[1.0, 2.0, 3.0, 99.0]], dtype=torch.float64)
    assert average_lagging(delays, torch.tensor([6.0]), torch.tensor([3])).item() == pytest.approx((1 + 0 - 1) / 3)


def test_variance_is_that_of_the_frame() -> None:
    ends = torch.tensor([[1.0, 2.0, 4.0]], dtype=torch.float64)
    alpha = torch.tensor([[[[0.5, 0.0, 0.5], [0.0, 1.0, 0.0], [0.3, 0.3, 0.4]]]], dtype=torch.float64)
    assert variance_loss(alpha, ends, torch.tensor([2])).item() == pytest.approx(2.25 / 2)


def test_losses_lead_where_they_should() -> None:
    """Latency pulls towards writing early, variance towards being sure."""
    energy = energies(1, 1, 4, 6, scale=0.1).requires_grad_()
    ends, tokens = torch.arange(1.0, 7.0)[None], torch.tensor([4])
    delays = expected_delays(expected_alignment(energy), ends)
    loss = average_lagging(delays, torch.tensor([6.0]), tokens).mean()
    (grad,) = torch.autograd.grad(loss, energy)
    assert grad[..., :-1].max() < 0
    assert not grad[..., -1].any()
    before = variance_loss(expected_alignment(energy), ends, tokens)
    (grad,) = torch.autograd.grad(before, energy)
    assert variance_loss(expected_alignment(energy - 0.1 * grad), ends, tokens) < before
