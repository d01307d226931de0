"""I3D: GoogLeNet's Inception inflated to space and time (Carreira and Zisserman 2017, arXiv 1705.07750).

Names are those of its usual weights in torch, so that these need no table.

Letters: N clips, T frames, H height, W width, C channels.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 1024
"""Of its features."""
EPS = 1e-3
Size = tuple[int, int, int]
"""Along time, height and width."""

_STEM: Sequence[tuple[str, int, int, Size, Size]] = (
    ("Conv3d_1a_7x7", 3, 64, (7, 7, 7), (2, 2, 2)),
    ("Conv3d_2b_1x1", 64, 64, (1, 1, 1), (1, 1, 1)),
    ("Conv3d_2c_3x3", 64, 192, (3, 3, 3), (1, 1, 1)),
)
_MIXED: Sequence[tuple[str, Sequence[int]]] = (
    ("Mixed_3b", (64, 96, 128, 16, 32, 32)),
    ("Mixed_3c", (128, 128, 192, 32, 96, 64)),
    ("Mixed_4b", (192, 96, 208, 16, 48, 64)),
    ("Mixed_4c", (160, 112, 224, 24, 64, 64)),
    ("Mixed_4d", (128, 128, 256, 24, 64, 64)),
    ("Mixed_4e", (112, 144, 288, 32, 64, 64)),
    ("Mixed_4f", (256, 160, 320, 32, 128, 128)),
    ("Mixed_5b", (256, 160, 320, 32, 128, 128)),
    ("Mixed_5c", (384, 192, 384, 48, 128, 128)),
)
"""Channels of each block: of its first branch, of the two layers of the second and third, and of the fourth."""
_POOLS: dict[str, tuple[Size, Size]] = {
    "Conv3d_2b_1x1": ((1, 3, 3), (1, 2, 2)),
    "Mixed_3b": ((1, 3, 3), (1, 2, 2)),
    "Mixed_4b": ((3, 3, 3), (2, 2, 2)),
    "Mixed_5b": ((2, 2, 2), (2, 2, 2)),
}
"""Kernel and stride of the pooling before a layer."""


def same(x: Tensor, kernel: Size, stride: Size) -> Tensor:
    """Zeros around, so that each side is divided by its stride and rounded up: more of them behind than ahead."""
    pads: list[int] = []
    for n, k, s in zip(x.shape[-3:], kernel, stride, strict=True):
        more = max((-(-n // s) - 1) * s + k - n, 0)
        pads = [more // 2, more - more // 2, *pads]
    return F.pad(x, pads)


def pooled(x: Tensor, kernel: Size, stride: Size) -> Tensor:
    """The largest of each part, of what is made `same`."""
    return F.max_pool3d(same(x, kernel, stride), kernel, stride)


class Unit(nn.Module):
    """A convolution of what is made `same`, batch norm and ReLU."""

    def __init__(self, before: int, after: int, kernel: Size, stride: Size = (1, 1, 1)):
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.conv3d, self.bn = nn.Conv3d(before, after, kernel, stride, bias=False), nn.BatchNorm3d(after, EPS)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, T, H, W)` to the same in other sizes."""
        return F.relu(self.bn(self.conv3d(same(x, self.kernel, self.stride))))


class Mixed(nn.Module):
    """Four branches side by side: 1, 1 and 3, 1 and 3, pooling and 1."""

    def __init__(self, before: int, widths: Sequence[int]):
        super().__init__()
        one, three = (1, 1, 1), (3, 3, 3)
        a, b0, b1, c0, c1, d = widths
        self.b0 = Unit(before, a, one)
        self.b1a, self.b1b = Unit(before, b0, one), Unit(b0, b1, three)
        self.b2a, self.b2b = Unit(before, c0, one), Unit(c0, c1, three)
        self.b3b = Unit(before, d, one)

    def forward(self, x: Tensor) -> Tensor:
        """See above."""
        last = self.b3b(pooled(x, (3, 3, 3), (1, 1, 1)))
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), last], 1)


class I3D(nn.Module):
    """Clips of pictures `(N, 3, T, H, W)` to features `(N, 1024)`: the mean of the last block over time and space."""

    def __init__(self) -> None:
        super().__init__()
        for name, before, after, kernel, stride in _STEM:
            self.add_module(name, Unit(before, after, kernel, stride))
        width = _STEM[-1][2]
        for name, widths in _MIXED:
            self.add_module(name, Mixed(width, widths))
            width = widths[0] + widths[2] + widths[4] + widths[5]

    def forward(self, x: Tensor) -> Tensor:
        """See above."""
        for name, layer in self.named_children():
            x = layer(pooled(x, *_POOLS[name]) if name in _POOLS else x)
        return x.mean((2, 3, 4))
