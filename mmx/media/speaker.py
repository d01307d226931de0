"""Which of several faces speaks, and whether the sound of a video is in step with its mouth.

Letters: N samples.
"""

from typing import Any

import numpy as np

from mmx.errors import MediaError
from mmx.media.faces import Track
from mmx.media.mouth import RATE, Faces, Mouth, choose
from mmx.media.sync import loudness, offset

NEAR_S = 0.2
"""Offset of sound and picture within which a mouth is believed to be the one that is heard."""


def speaking(faces: Faces, samples_N: np.ndarray | None) -> Track:
    """The face whose mouth moves with the sound.

    Raises:
        MediaError: there is no face or no sound, or no mouth goes with it; then a face has to be named.
    """
    if len(faces.tracks) < 2:
        return choose(faces, "largest")
    if samples_N is None:
        raise MediaError(f"{faces.name}: expected sound to tell who speaks, got none: choose a face by number")
    heard_T = loudness(samples_N)
    best: tuple[float, Track] | None = None
    for track in faces.tracks:
        found = offset(track.opening(faces.frames), heard_T)
        if found is not None and abs(found.seconds) <= NEAR_S and found.sure:
            best = max(best or (0.0, track), (found.correlation, track), key=lambda pair: pair[0])
    if best is None:
        raise MediaError(
            f"{faces.name}: expected a mouth that moves with the sound, got {len(faces.tracks)} faces of which none "
            "does: choose one by number"
        )
    return best[1]


def offset_of(mouth: Mouth, samples_N: np.ndarray | None) -> dict[str, Any]:
    """What is known of the offset of sound and mouth: nothing where it cannot be told."""
    found = None if samples_N is None else offset(mouth.opening, loudness(samples_N, RATE))
    if found is None or not found.sure:
        return {}
    return {"sound_late_s": round(found.seconds, 3), "sound_correlation": round(found.correlation, 3)}
