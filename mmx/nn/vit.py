"""The image tower of CLIP (Radford et al. 2021, arXiv 2103.00020): a Vision Transformer that gives a vector a picture.

Letters: N pictures, H height, W width, P patches, D width, E width of the space that texts share.
"""

import torch
from torch import Tensor, nn

from mmx.nn.block import EncoderLayer


class QuickGELU(nn.Module):
    """`x * sigmoid(1.702 x)`."""

    def forward(self, x: Tensor) -> Tensor:
        """Of any shape."""
        return x * torch.sigmoid(1.702 * x)


class ImageTower(nn.Module):
    """Square pictures `(N, 3, H, H)` to `(N, E)`.

    Args:
        pixels: H.
        patch: pixels of a side of a patch, which divides H.
        width: D.
        heads: of the attention.
        layers: of the Transformer.
        out: E.
    """

    def __init__(
        self,
        pixels: int = 224,
        patch: int = 32,
        width: int = 768,
        heads: int = 12,
        layers: int = 12,
        out: int = 512,
    ):
        super().__init__()
        if pixels % patch:
            raise ValueError(f"expected patches that divide {pixels} pixels, got {patch}")
        self.out = out
        self.patches = nn.Conv2d(3, width, patch, patch, bias=False)
        self.whole = nn.Parameter(width**-0.5 * torch.randn(width))
        self.positions = nn.Parameter(width**-0.5 * torch.randn((pixels // patch) ** 2 + 1, width))
        self.before = nn.LayerNorm(width)
        made = (EncoderLayer(width, heads, 4 * width, QuickGELU, key_bias=True) for _ in range(layers))
        self.layers = nn.ModuleList(made)
        self.after = nn.LayerNorm(width)
        self.project = nn.Linear(width, out, bias=False)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """See above; the picture's vector is that of a token that stands before its patches."""
        x_NPD = self.patches(x_NCHW).flatten(2).transpose(1, 2)
        whole_N1D = self.whole.to(x_NPD.dtype).expand(len(x_NPD), 1, -1)
        x_NPD = self.before(torch.cat([whole_N1D, x_NPD], 1) + self.positions.to(x_NPD.dtype))
        for layer in self.layers:
            x_NPD = layer(x_NPD)
        return self.project(self.after(x_NPD[:, 0]))
