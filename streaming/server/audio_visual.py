"""What a client sends where the model fuses sound with a mouth and both are to be read: moments, on one clock.

A moment is as long as one of the model's pictures, 40 ms: its sound, then the mouth of its picture. So both are one row
of equal units, which takes the way of frames (`mmx.streaming.server.frames`): journaled, acknowledged by its number,
gone on with by a later connection. A moment without a picture has that of the one before, for a second; then it is
black, which the model takes for absent.

Letters: N samples, T moments, H height, W width.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mmx.clip import SPEECH, Input
from mmx.errors import InputError
from mmx.media.audio import SAMPLE_RATE
from mmx.model import Model
from mmx.seq import Seq
from mmx.streaming.server.frames import LOST_S, FrameFormat, bad, decoded_picture, from_base64, images_of, slot
from mmx.streaming.server.sight import Sight

NAME = "moments/int16+uint8"
"""As a session tells it, and its journal keeps it."""


@dataclass(frozen=True)
class AudioVisualFormat:
    """The moments of a model.

    Attributes:
        modality: of the pictures.
        what: the model reads of them.
    """

    modality: str
    what: Input
    name = NAME

    @property
    def rate(self) -> float:
        """Moments a second."""
        return float(self.what.rate or 0)

    @property
    def samples(self) -> int:
        """Of a moment."""
        return round(SAMPLE_RATE / self.rate)

    @property
    def width(self) -> int:
        """Bytes of a moment."""
        return 2 * self.samples + math.prod(self.what.shape)

    def has_pictures(self, message: Mapping[str, Any]) -> bool:
        """Every message does: one without has the last picture of the connection."""
        return True

    def sight(self) -> Sight:
        """What cuts the mouth out of a connection's pictures."""
        return Sight(self.what)

    def clip(self, data: bytes) -> dict[str, Seq]:
        """Moments as a model reads them."""
        x_TB = np.frombuffer(data, "u1").reshape(-1, self.width)
        sound_N = x_TB[:, : 2 * self.samples].copy().view("<i2").reshape(-1).astype(np.float32) * np.float32(2**-15)
        mouths_THW = x_TB[:, 2 * self.samples :].reshape(-1, *self.what.shape).copy()
        return {
            SPEECH: Seq(torch.from_numpy(sound_N)[None], torch.tensor([len(sound_N)]), SAMPLE_RATE, final=False),
            self.modality: Seq(torch.from_numpy(mouths_THW)[None], torch.tensor([len(x_TB)]), self.rate, final=False),
        }

    def raw(self, message: Mapping[str, Any], count: int, sight: Sight | None = None) -> bytes:
        """The moments of `input_frames.append`, given how many came before.

        Args:
            message: of the client: `audio`, and the `images` in its time.
            count: moments that came before.
            sight: cuts the mouth; without it all moments are without a picture.

        Raises:
            ApiError: it is none for this model.
        """
        size = 2 * self.samples
        sound = from_base64(message.get("audio"), "audio")
        if not sound or len(sound) % size:
            raise bad("audio", f"16-bit samples at 16 kHz in whole moments of {self.samples}", f"{len(sound)} bytes")
        looks = sight is not None and not sight.trouble
        pictures = self._pictures(message, count, len(sound) // size) if looks else {}
        out = bytearray()
        for i in range(len(sound) // size):
            if sight is not None and i in pictures:
                _look(sight, pictures[i], count + i)
            out += sound[i * size : (i + 1) * size] + self._held(sight, count + i)
        return bytes(out)

    def _held(self, sight: Sight | None, place: int) -> bytes:
        """The last mouth, while it is not too long ago."""
        if sight is None or sight.last is None or place - sight.place >= LOST_S * self.rate:
            return bytes(self.width - 2 * self.samples)
        return sight.last.tobytes()

    def _pictures(self, message: Mapping[str, Any], count: int, moments: int) -> dict[int, np.ndarray]:
        """Of a message, by moment; the last of several."""
        found = {}
        for image, time_ms in images_of(message, least=0):
            place = slot(time_ms, self.rate) - count
            if not 0 <= place < moments:
                raise bad("times_ms", "times in that of the audio beside them", time_ms)
            found[place] = image
        return {i: decoded_picture(from_base64(image, "images"), ()) for i, image in found.items()}


def _look(sight: Sight, picture_HW3: np.ndarray, place: int) -> None:
    """Cut the mouth; where what finds it is not installed, the sound goes on alone."""
    try:
        sight.frame(picture_HW3, place)
    except InputError as e:
        sight.trouble = str(e)


Frames = FrameFormat | AudioVisualFormat
"""What a session takes in the place of sound alone."""


def audio_visual_format(model: Model) -> AudioVisualFormat | None:
    """Of a model that fuses sound with lips; None for others."""
    others = {name: what for name, what in model.recorded.items() if name != SPEECH}
    if model.fuse is None or SPEECH not in model.recorded or len(others) != 1:
        return None
    name, what = next(iter(others.items()))
    whole = what.rate and SAMPLE_RATE % what.rate == 0
    return AudioVisualFormat(name, what) if what.shows == "mouth" and len(what.shape) == 2 and whole else None
