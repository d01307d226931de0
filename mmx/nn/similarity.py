"""How alike rows of two modalities are: scaled products of unit vectors (CLIP, SigLIP), or token by token (CiCo).

Letters: B rows of one modality, K of the other, M and U their tokens, D width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmx.seq import Seq

SIMILARITY = "similarity"
"""The name that a model has it under, among its heads."""
MOST = math.log(100)
TAU = 0.07
"""Temperature of `late_interaction`."""


class Similarity(nn.Module):
    """A scale, and a bias, which sigmoids need (Zhai et al. 2023, arXiv 2303.15343, section 3.2).

    Args:
        temperature: that products are divided by at first.
        bias: that is added to them then; of the sigmoid loss alone.
    """

    def __init__(self, temperature: float = 0.07, bias: float = -10.0):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(-math.log(temperature)))
        self.bias = nn.Parameter(torch.tensor(bias))

    def forward(self, a_BD: Tensor, b_BD: Tensor) -> Tensor:
        """Scaled products `(B, B)` of unit vectors, in float32; without the bias."""
        return self.scale.clamp(max=MOST).exp() * (a_BD.float() @ b_BD.float().T)


def late_interaction(a: Seq, b: Seq, tau: float = TAU) -> tuple[Tensor, Tensor]:
    """Similarities `(B, K)` in [-1, 1] of all rows of `a` `(B, M, D)` with all of `b` `(K, U, D)`, both ways.

    With E the cosines of their tokens, forth is the mean over tokens of `a` of the sum over those of `b` of E, weighted
    by its softmax at temperature tau; back is the same with both exchanged. Cheng et al. 2023, arXiv 2303.12793,
    section 3.3. Unlike in their code, padding has no part in the softmax: no row depends on what it is padded to.
    """
    E_BKMU = torch.einsum("bmd,kud->bkmu", *(F.normalize(s.x.float(), dim=-1) for s in (a, b)))
    mask_BM, mask_KU = a.mask, b.mask

    def way(E: Tensor, counted: Tensor, other: Tensor) -> Tensor:
        """Over the tokens of the last dimension, then over those before."""
        weight = (E / tau).masked_fill(~other, -torch.inf).softmax(-1)
        return ((weight * E).sum(-1) * counted).sum(-1) / counted.sum(-1).clamp(min=1)

    forth = way(E_BKMU, mask_BM[:, None], mask_KU[None, :, None])
    return forth, way(E_BKMU.transpose(2, 3), mask_KU[None], mask_BM[:, None, None])
