"""ResNet-18 (He et al. 2016, arXiv 1512.03385): one picture to one vector, or the maps of a 3D front to vectors.

Names are torchvision's, so that its weights, and those of the models that were made from it, need no table.

Letters: N pictures, C channels, H height, W width, D width of the output (512).
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (64, 128, 256, 512)
WIDTH = WIDTHS[-1]


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions beside what they are added to."""

    def __init__(self, width_in: int, width: int, stride: int, activation: Callable[[int], nn.Module]):
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.bn1, self.relu1 = nn.BatchNorm2d(width), activation(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2, self.relu2 = nn.BatchNorm2d(width), activation(width)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or width_in != width:
            self.downsample = nn.Sequential(nn.Conv2d(width_in, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """`(N, C, H, W)` to `(N, C', H / stride, W / stride)`."""
        beside = x_NCHW if self.downsample is None else self.downsample(x_NCHW)
        h_NCHW = self.relu1(self.bn1(self.conv1(x_NCHW)))
        return self.relu2(self.bn2(self.conv2(h_NCHW)) + beside)


def _relu(width: int) -> nn.Module:
    return nn.ReLU()


class Trunk(nn.Module):
    """The four stages and the mean over the picture: maps `(N, 64, H, W)` to `(N, 512)`.

    Args:
        activation: made for a number of channels; `nn.PReLU` in AV-HuBERT, SiLU in auto-AVSR.
    """

    def __init__(self, activation: Callable[[int], nn.Module] = _relu):
        super().__init__()
        stages, before = [], WIDTHS[0]
        for i, width in enumerate(WIDTHS):
            first = BasicBlock(before, width, 1 if i == 0 else 2, activation)
            stages.append(nn.Sequential(first, BasicBlock(width, width, 1, activation)))
            before = width
        self.layer1, self.layer2, self.layer3, self.layer4 = stages

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """See above."""
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x_NCHW = stage(x_NCHW)
        return x_NCHW.mean((2, 3))


class ResNet18(Trunk):
    """A picture `(N, 3, H, W)` to `(N, 512)`: the stem and the trunk, without a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """See above."""
        return super().forward(F.max_pool2d(F.relu(self.bn1(self.conv1(x_NCHW))), 3, 2, 1))
