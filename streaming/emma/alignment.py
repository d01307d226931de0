"""EMMA: monotonic attention that is learned.

Each head gives p, the probability that what was heard suffices to write the next token. In training, every way through
the grid of tokens and frames is weighed at once: `expected_alignment` is the probability that a token is written at a
frame. At run time a token is written when p reaches a threshold (Raffel et al. 2017, arXiv 1704.00784; Ma et al. 2020,
"Monotonic Multihead Attention", arXiv 1909.12406; Ma et al. 2023, "Efficient Monotonic Multihead Attention", arXiv
2312.04515).

Energies, not probabilities, are what is passed around: `p = sigmoid(energy)` and `1 - p = sigmoid(-energy)` then are
exact however near p is to 0 or 1.

Letters: B rows, N heads, U tokens, J frames (of decision: pooled frames of the memory, or prefixes of the source).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def expected_alignment(energy_BNUJ: Tensor, frames_B: Tensor | None = None, finish: bool = True) -> Tensor:
    """The probability that each token is written at each frame (Raffel et al. 2017).

    `alpha[i, j] = p[i, j] * sum_{k <= j} alpha[i - 1, k] * prod_{l = k}^{j - 1} (1 - p[i, l])`: token i is written at
    frame j if the one before it was written at or before it, all frames in between were declined, and j is not.

    The products are taken for all tokens at once as in EMMA's closed form: a triangle of partial
    products for each token, so that nothing is divided by a product that vanishes. They are made as sums of logarithms,
    none of which is a difference of two large sums. What remains in turn is one product of a row and a triangle for
    each token. Needs memory for B * N * U * J * J numbers.

    Args:
        energy_BNUJ: `(..., U, J)`, B rows first.
        frames_B: valid frames of each row, at least 1; all when None. Energies of padding may be anything.
        finish: whether all that is left is written at the last valid frame, since the source has ended (Ma et al.
            2020): p is taken as 1 there, and each token's probabilities sum to 1. Without, what is
            missing in the sum is the probability that a token is never written.

    Returns:
        `(..., U, J)`, zero at padded frames.
    """
    write, log_read = _actions(energy_BNUJ, frames_B, finish)
    travel = _partial_products(log_read)
    row = torch.zeros_like(write[..., 0, :])
    row[..., 0] = 1.0
    rows = []
    for i in range(write.shape[-2]):
        row = write[..., i, :] * (row[..., None, :] @ travel[..., i, :, :])[..., 0, :]
        rows.append(row)
    return torch.stack(rows, dim=-2)


def _actions(energy: Tensor, frames_B: Tensor | None, finish: bool) -> tuple[Tensor, Tensor]:
    """Probability of writing and logarithm of that of reading, with padding that is never written at."""
    columns = torch.arange(energy.shape[-1], device=energy.device)
    if frames_B is None:
        frames_B = torch.full(energy.shape[:1], energy.shape[-1], device=energy.device)
    frames = frames_B.reshape(-1, *[1] * (energy.dim() - 1))
    # A select, not a product: what lies in the padding may be NaN, and must not be in the gradient either.
    energy = torch.where(columns < frames, energy, torch.zeros_like(energy))
    write, log_read = energy.sigmoid(), F.logsigmoid(-energy)
    write = torch.where(columns < frames, write, torch.zeros_like(write))
    if finish:
        write = torch.where(columns == frames - 1, torch.ones_like(write), write)
    return write, log_read


def _partial_products(log_read: Tensor) -> Tensor:
    """`(..., J)` to `(..., K, J)`: the probability of reading on from frame k to frame j; zero where j < k."""
    n = log_read.shape[-1]
    ones = torch.ones(n, n, dtype=torch.bool, device=log_read.device)
    # Step l leads from frame l - 1 to l: row k adds the steps k + 1 ... j, each sum from its own start.
    step = F.pad(log_read[..., :-1], (1, 0))[..., None, :].expand(*log_read.shape[:-1], n, n)
    sums = torch.where(ones.triu(1), step, torch.zeros_like(step)).cumsum(-1)
    return torch.where(ones.triu(), sums, torch.full_like(sums, -math.inf)).exp()


def expected_delays(alpha_BNUJ: Tensor, ends_BJ: Tensor) -> Tensor:
    """How much of the source is expected to have been heard when each token is written, `(B, N, U)`.

    Args:
        alpha_BNUJ: from `expected_alignment`, with `finish`.
        ends_BJ: where each frame ends, in any unit; of padding, any finite number.
    """
    return (alpha_BNUJ * ends_BJ[:, None, None]).sum(-1)


def average_lagging(delays: Tensor, source: Tensor, tokens: Tensor) -> Tensor:
    """How far a writer is behind one that spreads its tokens evenly over the source (Ma et al. 2019, arXiv 1810.08398,
    section 4), of expected delays, so that it can be trained on.

    Args:
        delays: `(B, ..., U)`, in the unit of `source`.
        source: `(B,)` length of the source.
        tokens: `(B,)` int64, tokens of each row, at least 1; those beyond do not count.

    Returns:
        `(B, ...)`, mean over the tokens up to the first one that waits for the whole source.
    """
    shape = (-1, *[1] * (delays.dim() - 1))
    whole, n = source.reshape(shape), tokens.reshape(shape)
    at = torch.arange(delays.shape[-1], device=delays.device)
    waited = delays.detach() >= whole - 1e-6 * whole.abs()
    counted = (at < n) & (waited.long().cumsum(-1) - waited.long() == 0)
    lag = delays - at * whole / n
    return torch.where(counted, lag, torch.zeros_like(lag)).sum(-1) / counted.sum(-1)


def variance_loss(alpha_BNUJ: Tensor, ends_BJ: Tensor, tokens_B: Tensor) -> Tensor:
    """Variance of the frame at which a token is written, mean over tokens and heads (EMMA); a scalar.

    Without it a head may keep p near one half, and what it does at run time is not what was trained.
    """
    delays_BNU = expected_delays(alpha_BNUJ, ends_BJ)
    spread_BNU = (alpha_BNUJ * (ends_BJ[:, None, None] - delays_BNU[..., None]) ** 2).sum(-1)
    return mean_over_tokens(spread_BNU, tokens_B)


def mean_over_tokens(value_BNU: Tensor, tokens_B: Tensor) -> Tensor:
    """The mean of what stands at valid tokens, over rows, heads and tokens; a scalar."""
    mask = torch.arange(value_BNU.shape[-1], device=value_BNU.device) < tokens_B[:, None, None]
    mask = mask.expand_as(value_BNU)
    return torch.where(mask, value_BNU, torch.zeros_like(value_BNU)).sum() / mask.sum()
