"""A film with another sound: its pictures are copied as they are, what is heard is new.

Letters: N samples.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmx.errors import InputError, MediaError
from mmx.files import replacing
from mmx.media.container import open_pictures, opened
from mmx.media.write import BLOCK, Coder

if TYPE_CHECKING:
    from mmx.media.audio import Source

CODECS = {".mp4": "aac", ".m4v": "aac", ".mov": "aac", ".mkv": "libopus", ".webm": "libopus"}
"""The endings of films that are written, and the codec of the sound in each."""
OPUS_RATE = 48_000


def is_film(path: Path) -> bool:
    """Whether a file's ending names a film that `replace_audio` writes."""
    return path.suffix.lower() in CODECS


def replace_audio(source: "Source", target: Path, samples: NDArray[np.float32], rate: float) -> Path:
    """Write the film of `source` with `samples` `(N,)`, `rate` of them per second, as its only audio track.

    Args:
        source: a film, as `mmx.media.audio.open_audio` takes it; time 0 of its audio is that of the samples.
        target: a file with an ending of `CODECS`; written as a whole or not at all.
        samples: mono, in [-1, 1].
        rate: samples per second.

    Raises:
        InputError: the ending is of no film, or its format does not take these pictures.
        MediaError: the source has no moving pictures, or cannot be read.
        OutputError: the target cannot be written.
    """
    import av

    if not is_film(target):
        raise InputError(f"expected a film among {', '.join(CODECS)}, got {str(target)!r}")
    container, name, close = opened(source, open_pictures)
    try:
        with replacing(target) as temporary, av.open(str(temporary), "w") as out:
            _mux(container, out, samples, round(rate), target)
    except av.FFmpegError as error:
        raise MediaError(
            f"{name}: its pictures cannot be copied to {target.name}: {error}: try an .mkv file"
        ) from error
    finally:
        close()
    return target


def _mux(container: Any, out: Any, samples: NDArray[np.float32], rate: int, target: Path) -> None:
    """Copy the packets of the pictures, with the sound until each before it, as players read both at once."""
    try:
        pictures = out.add_stream_from_template(container.stream)
    except ValueError as error:
        kind = container.stream.codec_context.name
        raise InputError(f"expected pictures that {target.suffix} holds, got {kind}: write an .mkv film") from error
    codec = CODECS[target.suffix.lower()]
    sound = out.add_stream(codec, rate=OPUS_RATE if codec == "libopus" else rate, layout="mono")
    audio = _encoded(sound, samples, rate)
    waiting = next(audio, None)
    shift = round(container.origin_s / container.stream.time_base)
    for packet in container.opened.demux(container.stream):
        if packet.dts is None:  # the end of the stream
            continue
        packet.dts -= shift
        packet.pts = packet.dts if packet.pts is None else packet.pts - shift
        packet.stream = pictures
        until_s = float(packet.dts * packet.time_base)
        while waiting is not None and float((waiting.dts or 0) * waiting.time_base) <= until_s:
            out.mux(waiting)
            waiting = next(audio, None)
        out.mux(packet)
    while waiting is not None:
        out.mux(waiting)
        waiting = next(audio, None)


def _encoded(stream: Any, samples: NDArray[np.float32], rate: int) -> Iterator[Any]:
    """Packets of the sound."""
    coder = Coder(stream, rate)
    for start in range(0, len(samples), BLOCK):
        yield from coder.push(samples[start : start + BLOCK])
    yield from coder.finish()
