"""From noise to mels: Euler's method with steps of unequal length, under guidance.

Letters: B rows, S steps, T frames, F mels.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmx.errors import InputError
from mmx.models.f5_tts.field import Field, at_step
from mmx.seq import Seq

GRID = 32
PRUNED: Mapping[int, Sequence[int]] = {
    5: (0, 2, 4, 8, 16, 32),
    6: (0, 2, 4, 6, 8, 16, 32),
    7: (0, 2, 4, 6, 8, 16, 24, 32),
    10: (0, 2, 4, 6, 8, 12, 16, 20, 24, 28, 32),
    12: (0, 2, 4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32),
    16: (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32),
}
"""Of 32 steps, those that are kept where there are fewer (Zheng et al. 2025, arXiv 2505.19931, empirically pruned)."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the equation is solved.

    Attributes:
        steps: of Euler's method, each of two passes packed into one where there is guidance.
        guidance: by how much the text and the prompt are followed more than they would be (classifier-free guidance,
            Ho and Salimans 2022, arXiv 2207.12598); 0 for none.
        sway: below 0 makes the first steps the shorter ones (arXiv 2410.06885, equation 7); 0 leaves them.
    """

    steps: int = 32
    guidance: float = 2.0
    sway: float = -1.0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"expected at least 1 step, got {self.steps}")
        if not -1 <= self.sway <= 2 / (math.pi - 2):
            raise InputError(f"expected a sway from -1 to {2 / (math.pi - 2):.2f}, got {self.sway}: time would go back")


def times(sampling: Sampling) -> Tensor:
    """`(S + 1,)` float32, from 0 to 1: the even or pruned grid, swayed."""
    kept = PRUNED.get(sampling.steps)
    even = torch.linspace(0, 1, sampling.steps + 1) if kept is None else torch.tensor(kept) / GRID
    return even + sampling.sway * (torch.cos(torch.pi / 2 * even) - 1 + even)


@torch.no_grad()
def sample(field: Field, noise_BTF: Tensor, told: Seq, untold: Seq | None, sampling: Sampling) -> Tensor:
    """Mels `(B, T, F)` float32.

    Args:
        field: the velocity.
        noise_BTF: where the paths begin, standard normal.
        told: the condition with text and prompt, B rows.
        untold: the condition without; needed where there is guidance.
        sampling: see there.
    """
    guided = sampling.guidance != 0
    if guided and untold is None:
        raise ValueError("expected the condition without text and prompt for guidance, got none")
    both = told
    if guided and untold is not None:
        both = told._replace(x=torch.cat([told.x, untold.x]), lengths=torch.cat([told.lengths, untold.lengths]))
    grid_S = times(sampling).to(noise_BTF.device)
    # The text path, the projection of the conditions and the modulations of all norms are computed once, not per step.
    read_RTD, steps = field.read(both), field.steps(grid_S[:-1])
    x_BTF = noise_BTF.float()
    for i, length in enumerate(grid_S.diff().tolist()):
        found = field.move(x_BTF, at_step(steps, i), read_RTD, both)
        if guided:
            with_BTF, without_BTF = found.chunk(2)
            found = torch.lerp(without_BTF, with_BTF, 1 + sampling.guidance)
        x_BTF = x_BTF + length * found
    return x_BTF


def noise(frames: Sequence[int], mels: int, seeds: Sequence[int], device: torch.device) -> Tensor:
    """`(B, T, F)` of each row's own seed: the same in whatever batch, on whatever device; zero after its frames."""
    out = torch.zeros(len(frames), max(frames), mels)
    for row, n, seed in zip(out, frames, seeds, strict=True):
        row[:n] = torch.randn(n, mels, generator=torch.Generator().manual_seed(seed))
    return out.to(device)
