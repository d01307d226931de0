"""Whether a recording is speech that mmx made: its mark, and what the file says of itself."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmx.mark.detector import FALSE_ALARM, RATE, Span, detect_blocks
from mmx.mark.pattern import KEY
from mmx.mark.provenance import Provenance, read
from mmx.media.audio import Source, open_audio

SHORTEST_S = 2.5
"""Below this length marked speech is often not sure enough: the mark was found in 3 of 12 seconds, in 9 of 12 pieces of
1.4 s, in 11 of 12 of 2 s and in all of 2.5 s."""


@dataclass(frozen=True)
class Marking:
    """What was found in a recording.

    Attributes:
        source: its name.
        found: whether it has the mark.
        probability: that it has, for somebody to whom both were as likely before.
        false_alarm: probability, at most, that chance alone gives so clear a result.
        payload: the number in the mark; None where none was found, or too little of it to tell.
        spans: the marked stretches.
        duration_s: of the recording.
        provenance: what the file says of itself; None where it says nothing, and for what is no file.
    """

    source: str
    found: bool
    probability: float
    false_alarm: float
    payload: int | None
    spans: tuple[Span, ...]
    duration_s: float
    provenance: Provenance | None = None

    @property
    def too_short(self) -> bool:
        """Whether nothing was found in sound so short that a mark may well be missed."""
        return not self.found and self.duration_s < SHORTEST_S

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as `mmx detect` writes it."""
        import dataclasses

        return {**dataclasses.asdict(self), "too_short": self.too_short}


def detect(
    source: Source,
    *,
    source_rate: int | None = None,
    track: int | None = None,
    key: str = KEY,
    false_alarm: float = FALSE_ALARM,
) -> Marking:
    """Look for the mark of mmx in a recording or film of any length, and read its provenance.

    Args:
        source: what `mmx.media.audio.open_audio` takes: a path, bytes, samples.
        source_rate: samples per second of an array; 8,000 when not given. Files declare their own.
        track: audio track of a file, from 1 on; its default one when None.
        key: of the pattern, where speech was marked with another one.
        false_alarm: above this probability of a false alarm nothing is said to be found.

    Raises:
        InputError, MediaError: as `open_audio`.
    """
    count = 0
    with open_audio(source, rate=RATE, source_rate=source_rate, track=track) as reader:

        def blocks() -> Any:
            nonlocal count
            for block in reader:
                count += len(block)
                yield block

        got, name = detect_blocks(blocks(), key, false_alarm), reader.name
    duration_s = count / RATE
    told = read(Path(source)) if isinstance(source, str | os.PathLike) and source != "-" else None
    spans = tuple(Span(s.start_s, min(s.end_s, duration_s)) for s in got.spans)
    return Marking(name, got.found, got.probability, got.false_alarm, got.payload, spans, duration_s, told)
