"""How long a recording really is, without decoding it."""

from typing import TYPE_CHECKING, Any, BinaryIO, cast

from mmx.media_container import SEALED

if TYPE_CHECKING:
    from av.container.input import InputContainer


def measured_s(file: BinaryIO) -> float:
    """Seconds of sound by the packets of the first sound track, whatever the header says; 0 where they do not tell.

    Args:
        file: read from its start; where it stood, it stands afterwards.
    """
    import av

    before = file.tell()
    try:
        file.seek(0)
        opened = av.open(cast(Any, file), "r", options=SEALED, metadata_errors="replace")
        with cast("InputContainer", opened) as container:
            stream = container.streams.audio[0]
            base = float(stream.time_base or 0)
            return sum((packet.duration or 0) * base for packet in container.demux(stream))
    except (av.FFmpegError, ValueError, OSError, IndexError):
        return 0.0  # it is heard until it is too long
    finally:
        file.seek(before)
