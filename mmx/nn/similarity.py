"""What products of unit vectors are scaled by before they are compared: trained, as in CLIP and SigLIP."""

import math

import torch
from torch import Tensor, nn

SIMILARITY = "similarity"
"""The name that a model has it under, among its heads."""
MOST = math.log(100)


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
