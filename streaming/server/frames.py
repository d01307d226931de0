"""What a client sends where the model reads no sound: frames of pictures or points, at the model's rate.

They take the way of samples: raw frames that follow each other, journaled, acknowledged by their number. Pictures are
brought to the model's rate and size as they come, or points are found in them where the model reads these, so that
nothing of a connection is needed to go on with a session, and no picture is kept for a model of points.

Letters: T frames, J points, C coordinates, H height, W width.
"""

import base64
import binascii
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mmx.clip import Input, frame_at
from mmx.errors import MmxError
from mmx.seq import Seq
from mmx.streaming.server.settings import ApiError
from mmx.streaming.server.sight import Sight

LOST_S = 1.0
"""Time without a frame from which on zeros stand for what is lost; before that, the next frame does."""
MOST_LOST_S = 30.0
"""... and a client that skips more has a wrong clock."""
MOST_IMAGES = 64
"""In one message."""


@dataclass(frozen=True)
class FrameFormat:
    """The frames of a model.

    Attributes:
        modality: that they are of.
        what: the model reads.
    """

    modality: str
    what: Input

    @property
    def rate(self) -> float:
        """Frames a second."""
        return float(self.what.rate or 0)

    @property
    def dtype(self) -> np.dtype:
        """Of a number: bytes in pictures, else little-endian float32."""
        return np.dtype("u1" if self.what.medium == "video" else "<f4")

    @property
    def name(self) -> str:
        """As a session tells it."""
        return "frames/uint8" if self.what.medium == "video" else "frames/float32"

    @property
    def width(self) -> int:
        """Bytes of a frame."""
        return math.prod(self.what.shape) * self.dtype.itemsize

    def has_pictures(self, message: Mapping[str, Any]) -> bool:
        """Whether a message brings pictures, which the model reads, or points that are found in them."""
        return "images" in message and (self.what.medium == "video" or bool(self.what.extractor))

    def sight(self) -> Sight | None:
        """What finds points in a connection's pictures; None where pictures are read."""
        return Sight(self.what) if self.what.extractor else None

    def clip(self, data: bytes) -> dict[str, Seq]:
        """Raw frames as a model reads them."""
        x = np.frombuffer(data, self.dtype).reshape(-1, *self.what.shape).copy()
        return {self.modality: Seq(torch.from_numpy(x)[None], torch.tensor([len(x)]), self.rate, final=False)}

    def raw(self, message: Mapping[str, Any], count: int, sight: Sight | None = None) -> bytes:
        """The frames of `input_frames.append`, given how many came before.

        Args:
            message: of the client.
            count: frames that came before.
            sight: finds the points of a model that reads these; none where no pictures come.

        Raises:
            ApiError: it is none for this model.
        """
        modality = message.get("modality", self.modality)
        if modality != self.modality:
            raise bad("modality", f"{self.modality}, which the model reads", modality)
        if "points" in message and self.what.medium != "video":
            return self._points(message, count)
        if "images" in message and (self.what.medium == "video" or sight is not None):
            return self._images(message, count, sight)
        field = "images" if self.what.medium == "video" else "points"
        raise bad(field, f"{field}, as the model reads {self.what.medium}", sorted(message.keys() - {"type"}))

    def _points(self, message: Mapping[str, Any], count: int) -> bytes:
        data = from_base64(message["points"], "points")
        if not data or len(data) % self.width:
            raise bad("points", f"whole frames of {self.width} bytes, float32 of shape {self.what.shape}", len(data))
        start_ms = message.get("start_ms")
        return data if start_ms is None else bytes(self.width * self._gap("start_ms", start_ms, count)) + data

    def _images(self, message: Mapping[str, Any], count: int, sight: Sight | None) -> bytes:
        out = bytearray()
        for image, time_ms in images_of(message):
            so_far = count + len(out) // self.width
            missing = self._gap("times_ms", time_ms, so_far)
            if slot(time_ms, self.rate) < so_far:
                continue  # another picture stands there
            shape = self.what.shape if sight is None else ()
            picture = decoded_picture(from_base64(image, "images"), shape)
            frame = (picture if sight is None else sight.frame(picture).astype(self.dtype)).tobytes()
            lost = missing >= LOST_S * self.rate
            out += (bytes(self.width) if lost else frame) * missing + frame
        return bytes(out)

    def _gap(self, field: str, time_ms: Any, count: int) -> int:
        """Frames between the last that came and a time."""
        missing = slot(time_ms, self.rate, field) - count
        if missing > MOST_LOST_S * self.rate:
            raise bad(field, f"times that skip at most {MOST_LOST_S:g} s, after {count / self.rate:.3f} s", time_ms)
        return max(0, missing)


def slot(time_ms: Any, rate: float, field: str = "times_ms") -> int:
    """The frame at a time. Raises `ApiError` where it is none."""
    if not isinstance(time_ms, int | float) or isinstance(time_ms, bool) or not math.isfinite(time_ms):
        raise bad(field, "milliseconds since the session began", time_ms)
    return frame_at(time_ms / 1000, rate)


def images_of(message: Mapping[str, Any], least: int = 1) -> list[tuple[Any, Any]]:
    """The pictures of a message with their times. Raises `ApiError` where they are none."""
    images, times = message.get("images", []), message.get("times_ms", [])
    if not isinstance(images, list) or not least <= len(images) <= MOST_IMAGES:
        raise bad("images", f"a list of {least} to {MOST_IMAGES} pictures in base64", images)
    if not isinstance(times, list) or len(times) != len(images):
        raise bad("times_ms", f"the times of {len(images)} pictures", times)
    return list(zip(images, times, strict=True))


def decoded_picture(data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """A JPEG or PNG in the shape that is read. Raises `ApiError` for anything else."""
    import av

    from mmx.media.video import Picture

    try:
        with av.open(io.BytesIO(data), "r") as container:
            if container.format.name not in ("jpeg_pipe", "png_pipe"):
                raise ValueError(container.format.name)
            frame = next(container.decode(video=0))
            return Picture(shape or None, [], "picture", 1.0).of(frame)
    except (av.FFmpegError, OSError, ValueError, IndexError, StopIteration, MmxError) as e:
        raise ApiError(
            400, "invalid_image", f"expected pictures in JPEG or PNG, got {len(data)} bytes of something else ({e})",
            param="images",
        ) from e  # fmt: skip


def from_base64(text: Any, field: str) -> bytes:
    """The bytes of a field. Raises `ApiError` where it is no base64."""
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, binascii.Error, ValueError):
        raise bad(field, "base64", text) from None


def bad(field: str, expected: str, got: Any) -> ApiError:
    """What to raise for a field of a message."""
    return ApiError(400, "invalid_value", f"expected {expected} for {field}, got {str(got)[:60]!r}", param=field)
