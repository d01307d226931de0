"""Crops of a mouth as files: a small film with the sound, and a contact sheet to look at.

Letters: T frames, H height, W width, N samples.
"""

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from mmx.errors import MediaError
from mmx.files import replacing
from mmx.media.audio import read_audio
from mmx.media.mouth import RATE, SIZE, Mouth
from mmx.media.write import Coder

SEEN, BRIDGED, LOST = (40, 170, 60), (240, 180, 0), (220, 30, 30)
"""Colours of the frames around crops: found, bridged, lost."""
COLUMNS, TILES, EDGE = 12, 60, 4
"""Of a contact sheet: crops in a row, crops in all, pixels of the frame around each."""


def write_film(
    path: Path, crops_THW: np.ndarray, samples_N: np.ndarray | None = None, sound_rate: int = 16_000
) -> Path:
    """Write crops as a film `.mkv`, losslessly (FFV1, grey), with sound (FLAC) where there is some.

    Args:
        path: replaced as a whole or not at all.
        crops_THW: bytes, at `RATE`.
        samples_N: mono, in [-1, 1], on the same clock.
        sound_rate: samples a second.
    """
    import av

    with replacing(path) as temporary, av.open(str(temporary), "w", format="matroska") as out:
        film: Any = out.add_stream("ffv1", rate=round(RATE))
        film.height, film.width, film.pix_fmt = *crops_THW.shape[1:], "gray"
        sound: Any = None if samples_N is None else out.add_stream("flac", rate=sound_rate, layout="mono")
        coder = None if sound is None else Coder(sound, sound_rate)
        per_frame = sound_rate / RATE
        for t, crop in enumerate(crops_THW):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(crop), "gray")
            frame.pts, frame.time_base = t, Fraction(1, round(RATE))
            out.mux(film.encode(frame))
            if coder is not None and samples_N is not None:
                end = len(samples_N) if t == len(crops_THW) - 1 else round((t + 1) * per_frame)
                for packet in coder.push(samples_N[round(t * per_frame) : end]):
                    out.mux(packet)
        out.mux(film.encode())
        if coder is not None:
            for packet in coder.finish():
                out.mux(packet)
    return path


def sound_of(source: Any) -> np.ndarray | None:
    """The sound of a recording at 16 kHz; None where it has none."""
    try:
        return read_audio(source)
    except MediaError:
        return None


def contact_sheet(mouth: Mouth) -> np.ndarray:
    """Crops from the first to the last frame, from left to right and from top to bottom, `(H, W, 3)` of bytes.

    A frame around each says whether the mouth was found (green), bridged (yellow) or lost (red, and the crop black).
    """
    count = min(TILES, len(mouth.crops))
    chosen = np.linspace(0, len(mouth.crops) - 1, count).round().astype(int)
    side, rows = SIZE + 2 * EDGE, math.ceil(count / COLUMNS)
    sheet = np.full((rows * side, min(count, COLUMNS) * side, 3), 255, np.uint8)
    for k, t in enumerate(chosen):
        top, left = k // COLUMNS * side, k % COLUMNS * side
        sheet[top : top + side, left : left + side] = SEEN if mouth.seen[t] else BRIDGED if mouth.bridged[t] else LOST
        inner = slice(top + EDGE, top + EDGE + SIZE), slice(left + EDGE, left + EDGE + SIZE)
        sheet[inner] = mouth.crops[t][..., None]
    return sheet


def write_png(path: Path, picture_HW3: np.ndarray) -> Path:
    """Write a picture of bytes as a PNG file."""
    import av

    with replacing(path) as temporary, av.open(str(temporary), "w", format="image2", options={"update": "1"}) as out:
        stream: Any = out.add_stream("png", rate=1)
        stream.height, stream.width, stream.pix_fmt = *picture_HW3.shape[:2], "rgb24"
        out.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture_HW3), "rgb24")))
        out.mux(stream.encode())
    return path
