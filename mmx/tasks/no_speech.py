"""Why a recording has no text: an empty file is right for silence, but a person must be told which it was."""

import math

from mmx.tasks.result import Note
from mmx.tasks.windows import File

QUIET_DB = -80.0
"""Peak, against full scale, below which a recording is as good as silent."""


def no_speech_note(file: File) -> list[Note]:
    """The warning of a recording, or of a channel, in which nothing was heard, with the likely reason; else none."""
    if any(segment.text.strip() for segment in file.segments):
        return []
    if file.peak is None:
        return [Note(0.0, file.duration_s, "warning", "nothing was read in it: the model wrote no text")]
    where = f" on the {file.channel} channel" if file.channel else ""
    return [Note(0.0, file.duration_s, "warning", f"no speech was detected{where}: {_why(file, file.peak)}")]


def _why(file: File, peak: float) -> str:
    if peak == 0.0:
        return "there is only silence, no signal at all"
    peak_db = 20 * math.log10(peak)
    level = f"the loudest sample is at {peak_db:.0f} dB of full scale"
    if peak_db < QUIET_DB:
        return f"it is as good as silent, {level}"
    dropped = [n for n in file.notes if n.action == "dropped"]
    if dropped:
        first = dropped[0]
        return f"what was written from {first.start_s:.1f} to {first.end_s:.1f} s was dropped ({first.reason})"
    skipped_s = sum(n.end_s - n.start_s for n in file.notes if n.action == "skipped")
    if skipped_s > 0.99 * file.duration_s:
        return f"no voice was found, {level}; --no-vad takes all of it for speech"
    return f"the model wrote nothing, {level}"
