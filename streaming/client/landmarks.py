"""Pictures in the place of poses: a film or a camera for a model that reads points of a body, by an extractor; and a
camera's pictures in the place of mouths, for a model that reads lips.

Letters: T frames, H height, W width, P points, C coordinates.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from mmx.clip import Clip, Input
from mmx.media.live_mouth import LiveMouth


class Extractor(Protocol):
    """Finds the points of a body in pictures."""

    def points(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """`(T, P, C)` of RGB pictures `(T, H, W, 3)` that follow each other; points that are not found are 0."""
        ...


def posed(inputs: Mapping[str, Input]) -> dict[str, Input]:
    """What is read of a film for what a model reads: RGB pictures in their own size where it reads poses."""
    return {
        n: replace(i, medium="video", shape=(), points=(), extractor="") if i.medium == "pose" else i
        for n, i in inputs.items()
    }


def seen(clip: Clip, extractor: Extractor, poses: Mapping[str, Input]) -> Clip:
    """A clip with points in the place of the pictures of the modalities that are poses."""
    out = dict(clip)
    for name in poses.keys() & clip.keys():
        pictures = clip[name].x[0]
        found = extractor.points(pictures.numpy()) if len(pictures) else np.zeros((0, *poses[name].shape), np.float32)
        out[name] = clip[name]._replace(x=torch.from_numpy(found)[None])
    return out


def whole(inputs: Mapping[str, Input]) -> dict[str, Input]:
    """What is read of a camera for what a model reads: RGB pictures in their own size where it reads mouths."""
    return {n: replace(i, shape=(), shows="") if i.shows else i for n, i in inputs.items()}


def cut_to(clip: Clip, mouths: Mapping[str, LiveMouth]) -> Clip:
    """A clip with mouths in the place of the whole pictures of some modalities."""
    out = dict(clip)
    for name in mouths.keys() & clip.keys():
        crops = mouths[name].crops(clip[name].x[0].numpy())
        out[name] = clip[name]._replace(x=torch.from_numpy(crops)[None])
    return out
