"""Recordings of examples, whatever they hold: read as a model takes them, all media of an example on one clock."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from mmx.clip import Input, frame_at
from mmx.errors import InputError, MediaError
from mmx.media.audio import NOT_FINITE, SAMPLE_RATE, open_audio
from mmx.media.clips import ClipReader, open_clip
from mmx.media.pose import Numbers, open_numbers
from mmx.media.video import open_video
from mmx.train.manifest import MIN_S, Example

SLACK_S = 0.1
"""By which a recording may be longer than it is declared: codecs fill their last frame."""
NUMBERS_RATE = 25.0
"""Frames a second of a .npy file, which says none, where no model is asked."""
SOUND = {"speech": Input("audio", float(SAMPLE_RATE))}


def read_recording(example: Example, inputs: Mapping[str, Input] = SOUND) -> dict[str, Tensor]:
    """The samples or frames `(N, *)` of an example by modality, of its part of the recordings.

    Raises:
        InputError: a recording is missing, unreadable or not finite, or has nothing there.
    """
    name = _named(example)
    start_s, stop_s = example.start_s, None if example.duration_s is None else example.start_s + example.duration_s
    try:
        with open_clip(_sources(example, inputs), inputs) as reader:
            parts = _part(reader, inputs, start_s, stop_s)
        flaws = [w for w in reader.warnings if NOT_FINITE in w or "not finite" in w]
    except MediaError as e:
        raise InputError(f"expected a recording in {name}, got {e}: mend it or remove its row") from e
    if flaws:
        raise InputError(f"expected finite samples in {name}, got: {flaws[0]}. Record it again or remove its row")
    for modality, x in parts.items():
        seconds = len(x) / float(inputs[modality].rate or 1)
        if not len(x) or (example.duration_s is not None and seconds < example.duration_s - SLACK_S):
            wanted = "something" if example.duration_s is None else f"{example.duration_s:g} s"
            raise InputError(
                f"expected {wanted} from {start_s:g} s on for {modality} in {name}, got {seconds:.2f} s: correct "
                "start_s and duration_s, or remove its row"
            )
    return parts


def _part(reader: ClipReader, inputs: Mapping[str, Input], start_s: float, stop_s: float | None) -> dict[str, Tensor]:
    """What lies between two times of a recording, which is read no further than that."""
    pieces: dict[str, list[Tensor]] = {name: [] for name in inputs}
    at: dict[str, int] = defaultdict(int)
    bounds = {
        name: (frame_at(start_s, float(i.rate or 1)), None if stop_s is None else frame_at(stop_s, float(i.rate or 1)))
        for name, i in inputs.items()
    }
    for clip in reader:
        for name, seq in clip.items():
            first, last = (None if t is None else max(0, t - at[name]) for t in bounds[name])
            pieces[name].append(seq.x[0][first:last])
            at[name] += int(seq.lengths[0])
        if all(last is not None and at[name] >= last for name, (_, last) in bounds.items()):
            break
    return {name: torch.cat(rows) if rows else torch.zeros(0) for name, rows in pieces.items()}


def read_target(path: str, medium: str, rate: float, example: Example) -> Tensor:
    """The samples or frames `(N, *)` of a whole recording that is to be made; errors as of `read_recording`."""
    whole = Example("", "", example.src_lang, example.tgt_lang, example.id, media={medium: path})
    return read_recording(whole, {medium: Input(cast(Any, medium), rate)})[medium]


def _named(example: Example) -> str:
    paths = list(example.media.values())
    return f"{example.id or Path(paths[0]).name} ({', '.join(paths)})"


def _sources(example: Example, inputs: Mapping[str, Input]) -> dict[str, str]:
    """Paths by medium; of a film, sound is read too where there is no other."""
    wanted = {i.medium for i in inputs.values()}
    found = {medium: path for medium, path in example.media.items() if medium in wanted}
    if "audio" in wanted and "audio" not in found and "video" in example.media:
        found["audio"] = example.media["video"]
    return found


def duration_s(example: Example, inputs: Mapping[str, Input] = SOUND) -> float:
    """Seconds of an example: what its row says, else what its files declare, else what they hold."""
    if example.duration_s is not None:
        return example.duration_s
    wanted = {i.medium: float(i.rate or 1) for i in inputs.values()}
    declared = [_declared_s(m, path, wanted[m]) for m, path in _sources(example, inputs).items()]
    known = [seconds for seconds in declared if seconds is not None]
    if not known:
        rows = read_recording(example, inputs)
        return max(len(x) / float(inputs[name].rate or 1) for name, x in rows.items())
    return max(known) - example.start_s


def require_content(examples: Sequence[Example]) -> None:
    """Open every recording, so that one that cannot be used is told before hours of training and not after.

    Raises:
        InputError: a recording is missing or unreadable, or ends before an example of it does.
    """
    ends: dict[str, float | None] = {}
    for example in examples:
        for medium, path in (*example.media.items(), *example.makes.items()):
            if path not in ends:
                ends[path] = _declared_s(medium, path, None)
            if example.media.get(medium) != path:
                continue
            end, wanted = ends[path], example.start_s + (example.duration_s or MIN_S)
            if end is not None and wanted > end + SLACK_S and medium in ("audio", "video"):
                raise InputError(
                    f"expected {medium} until {wanted:g} s in {path} ({example.id or 'without an id'}), got "
                    f"{end:.2f} s of it: correct start_s and duration_s, or remove its row"
                )


def open_medium(medium: str, path: str, rate: float | None = None, shape: tuple[int, ...] = ()) -> Any:
    """A reader of one medium of a file, whatever model will read it: blocks of frames, `duration_s`, `warnings`."""
    if medium == "audio":
        return open_audio(path)
    if medium == "video":
        return open_video(path, rate=rate, shape=shape or None)
    return open_numbers(path, medium=cast(Numbers, medium), rate=rate or NUMBERS_RATE, shape=shape)


def _declared_s(medium: str, path: str, rate: float | None) -> float | None:
    """Seconds that a recording declares to last, if it does."""
    try:
        with open_medium(medium, path, rate) as reader:
            return reader.duration_s
    except MediaError as e:
        what = "speech" if medium == "audio" else medium
        raise InputError(
            f"expected {what} in {path}, got {e} Mend it or remove its row; `mmx data check` lists all such"
        ) from e
