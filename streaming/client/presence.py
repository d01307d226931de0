"""What a session says when one of the modalities that its model fuses is lost, and when it is back; and whether
sound and mouth are out of step.

A model that fuses goes on with what remains. Lost is what such a model takes for absent: black pictures, sound of exact
zeros, points that are all 0, or nothing at all while another modality goes on. Room noise is no lost sound, and an
empty chair no lost picture.
"""

import math
from collections.abc import Iterator, Mapping

import torch

from mmx.clip import SPEECH, Input
from mmx.media.audio import SAMPLE_RATE as RATE
from mmx.media.sync import InStep
from mmx.seq import Seq
from mmx.streaming.client.microphone import Captured

LOST_S = 1.0
"""Seconds without anything after which it is said; a pause or a cut is shorter."""
PART_S = 0.2
"""Seconds that are judged at a time: who falls behind gets much at once, in which a modality may be lost and back."""
LOOK_S = 12.0
"""Seconds in which an offset of sound and picture is looked for."""
WORDS = {"audio": "sound", "video": "picture", "pose": "body"}


class Presence:
    """Follows what a source gives.

    Args:
        inputs: the modalities that the session has.
    """

    def __init__(self, inputs: Mapping[str, Input]):
        self._words = {name: WORDS.get(what.medium, what.medium) for name, what in inputs.items()}
        self._missing_s = dict.fromkeys(inputs, 0.0)
        self._lost: set[str] = set()
        self._inputs, self._step, self._followed_s = inputs, InStep(inputs), 0.0
        self._offset_told = False

    def told(self, heard: Captured) -> list[str]:
        """What is to be said of the next of it."""
        return [*self._in_step(heard), *(told for part in _parts(heard) for told in self._changes(part))]

    def _changes(self, heard: Captured) -> list[str]:
        """Which modality is lost or back, of a moment."""
        out = []
        for name in self._words:
            if _there(name, heard):
                self._missing_s[name] = 0.0
                if name in self._lost:
                    self._lost.remove(name)
                    out.append(f"the {self._words[name]} is back")
                continue
            self._missing_s[name] += heard.duration_s
            if self._missing_s[name] >= LOST_S and name not in self._lost:
                self._lost.add(name)
                out.append(f"no {self._words[name]} for {LOST_S:g} s: {self._rest()}")
        return out

    def _in_step(self, heard: Captured) -> list[str]:
        """Once, whether sound and mouth are apart; looked at anew in each stretch."""
        if self._offset_told or not self._step.follows:
            return []
        x = torch.from_numpy(heard.samples)[None]
        self._step.push({SPEECH: Seq(x, torch.tensor([x.shape[1]]), float(RATE)), **heard.others})
        self._followed_s += heard.duration_s
        if self._followed_s < LOOK_S:
            return []
        told = self._step.told()
        self._step, self._followed_s = InStep(self._inputs), 0.0
        self._offset_told = bool(told)
        return [told] if told else []

    def _rest(self) -> str:
        rest = [word for name, word in self._words.items() if name not in self._lost]
        return f"goes on with the {' and the '.join(rest)} alone" if rest else "nothing is left to go by"


def _parts(heard: Captured) -> Iterator[Captured]:
    """It in moments of about `PART_S`, none of nothing; no more of them than there are frames of any modality."""
    frames = {name: int(seq.lengths[0]) for name, seq in heard.others.items()}
    n = min([math.ceil(heard.duration_s / PART_S), *(t for t in (*frames.values(), len(heard.samples)) if t)])
    for i in range(n):
        others = {}
        for name, seq in heard.others.items():
            x = seq.x[:, i * frames[name] // n : (i + 1) * frames[name] // n]
            others[name] = seq._replace(x=x, lengths=torch.tensor([x.shape[1]]))
        samples = heard.samples[i * len(heard.samples) // n : (i + 1) * len(heard.samples) // n]
        yield Captured(samples, heard.start_s, heard.final, others)


def _there(name: str, heard: Captured) -> bool:
    """Whether there is anything of a modality; a source that has only not come to it yet is given the benefit."""
    if name == SPEECH:
        return bool(heard.samples.any()) or heard.duration_s < 1 / RATE
    seq = heard.others.get(name)
    return seq is not None and (not int(seq.lengths[0]) or bool(seq.x.any()))
