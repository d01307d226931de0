"""What the frames of a signed sentence are before anything is learned of them.

Letters: B rows, T frames, H height, W width, J points, C coordinates.
"""

import torch
from torch import Tensor, nn

from mmx.clip import EXTRACTOR
from mmx.seq import Seq
from mmx.state import State

RATE = 25.0
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the colours of ImageNet."""


class Pictures(nn.Module):
    """Pictures of bytes `(B, T, H, W, 3)` in ImageNet's units, `(B, T, 3, H, W)`."""

    medium, rate = "video", RATE
    stride, lookahead = 1, 0

    def __init__(self, pixels: int):
        super().__init__()
        self.shape = (pixels, pixels, 3)
        self.register_buffer("mean", torch.tensor(MEAN), persistent=False)
        self.register_buffer("std", torch.tensor(STD), persistent=False)
        self.mean: Tensor
        self.std: Tensor

    def init_state(self, batch: int, capacity: int = 0) -> State:
        """Nothing is remembered."""
        return {}

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        """See above."""
        x_BTHWC = (seq.masked.float() / 255 - self.mean) / self.std
        return seq._replace(x=x_BTHWC.permute(0, 1, 4, 2, 3))


class Points(nn.Module):
    """Points of a person `(B, T, J, C)` to `(B, T, J * C)`, in widths of the shoulders around their middle.

    Points come as groups of MediaPipe Holistic: 33 of the body, 21 of each hand, whose wrists are seen from the
    shoulders and whose fingers from the wrist. A point that was not found is 0, before and after. What is asked of the
    shoulders is asked of each frame alone, so that a stream needs no more than its frame.
    """

    medium, rate = "pose", RATE
    points = ("POSE_LANDMARKS", "LEFT_HAND_LANDMARKS", "RIGHT_HAND_LANDMARKS")
    sizes = (33, 21, 21)
    shape = (sum(sizes), 3)
    shoulders = (11, 12)
    farthest = 4.0
    stride, lookahead = 1, 0

    def __init__(self, extractor: str = EXTRACTOR):
        super().__init__()
        self.extractor = extractor

    def init_state(self, batch: int, capacity: int = 0) -> State:
        """Nothing is remembered."""
        return {}

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        """See above."""
        x_BTJC = seq.masked.float()
        found_BTJ1 = (x_BTJC != 0).any(-1, keepdim=True)
        left_BTC, right_BTC = (x_BTJC[:, :, i] for i in self.shoulders)
        middle_BT1C = ((left_BTC + right_BTC) / 2)[:, :, None]
        wide_BT11 = (left_BTC - right_BTC)[..., :2].norm(dim=-1)[..., None, None]
        x_BTJC = (x_BTJC - middle_BT1C) / torch.where(wide_BT11 > 0, wide_BT11, 1.0)
        body, *hands = x_BTJC.split(self.sizes, 2)
        seen = [torch.cat([h[:, :, :1], 4 * (h[:, :, 1:] - h[:, :, :1])], 2) for h in hands]
        x_BTJC = torch.cat([body, *seen], 2).clamp(-self.farthest, self.farthest)
        return seq._replace(x=torch.where(found_BTJ1, x_BTJC, 0.0).flatten(2))


class Features(nn.Module):
    """Features `(B, T, F)` of another model, such as CiCo's I3D (1,024 numbers for each frame), as they are."""

    medium, rate = "features", RATE
    stride, lookahead = 1, 0

    def __init__(self, width: int):
        super().__init__()
        self.shape = (width,)

    def init_state(self, batch: int, capacity: int = 0) -> State:
        """Nothing is remembered."""
        return {}

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        """See above."""
        return seq._replace(x=seq.masked.float())


class Mixed(nn.Module):
    """Features of two models side by side `(B, T, 2 F)`, weighed: `mix` of the first and the rest of the second.

    CiCo (arXiv 2303.12793, section 3.2): an encoder that learned from another corpus, and one that was trained on this
    one by pseudo-labels (`mmx.make.pseudo_labels`); it takes 0.8 of the first (How2Sign, CSL-Daily), 0.9 (PHOENIX).
    """

    medium, rate = "features", RATE
    stride, lookahead = 1, 0

    def __init__(self, width: int, mix: float):
        super().__init__()
        self.shape, self.mix = (2 * width,), mix

    def init_state(self, batch: int, capacity: int = 0) -> State:
        """Nothing is remembered."""
        return {}

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        """`(B, T, F)`."""
        first, second = seq.masked.float().chunk(2, -1)
        return seq._replace(x=self.mix * first + (1 - self.mix) * second)
