"""What a session says when a modality is lost and back."""

import numpy as np
import torch

from mmx.models.lips_and_sound import LIPS, Config, build
from mmx.seq import Seq
from mmx.streaming.client.microphone import Captured
from mmx.streaming.client.presence import Presence


def told(sound_there: list[bool], face_there: list[bool], at_once: int) -> list[str]:
    """Of seconds, so many of which come at once."""
    presence = Presence(build(Config(width=16, heads=2, hidden=16)).recorded)
    out = []
    for i in range(0, len(sound_there), at_once):
        samples = np.repeat(np.float32(sound_there[i : i + at_once]), 16_000)
        x = torch.tensor(face_there[i : i + at_once]).repeat_interleave(25)[None, :, None, None].expand(1, -1, 48, 48)
        lips = Seq(x.to(torch.uint8), torch.tensor([x.shape[1]]), 25.0)
        out += presence.told(Captured(samples, float(i), False, {LIPS: lips}))
    return out


def test_a_loss_is_told_however_much_comes_at_once() -> None:
    on = [True] * 7
    lost = [True, True, False, False, True, True, True]
    for at_once in (1, 2, 7):
        told_of_face, told_of_sound = told(on, lost, at_once), told(lost, on, at_once)
        assert told_of_face == ["no picture for 1 s: goes on with the sound alone", "the picture is back"]
        assert told_of_sound == ["no sound for 1 s: goes on with the picture alone", "the sound is back"]
    assert not told(on, on, 7)


def test_nothing_that_comes_is_no_return() -> None:
    nothing = Captured(np.zeros(0, np.float32), 3.0, True, {})
    presence = Presence(build(Config(width=16, heads=2, hidden=16)).recorded)
    lips = Seq(torch.ones(1, 75, 48, 48, dtype=torch.uint8), torch.tensor([75]), 25.0)
    assert presence.told(Captured(np.zeros(48_000, np.float32), 0.0, False, {LIPS: lips}))
    assert not presence.told(nothing)
