"""How long a recording really is, without decoding it."""

from typing import BinaryIO

from mmx.errors import MmxError
from mmx.media.container import open_container
from mmx.media.source import File


def measured_s(file: BinaryIO, track: int | None = None) -> float:
    """Seconds of sound by the packets of a audio track, whatever the header says; 0 where they do not tell.

    Args:
        file: read from its start; where it stood, it stands afterwards.
        track: which audio track, from 1 on; the default one when None.
    """
    import av

    before = file.tell()
    try:
        file.seek(0)
        container = open_container(File(file, "upload"), "upload", track)
        try:
            base = float(container.stream.time_base or 0)
            return sum((packet.duration or 0) * base for packet in container.opened.demux(container.stream))
        finally:
            container.close()
    except (MmxError, av.FFmpegError, ValueError, OSError):
        return 0.0  # it is heard until it is too long
    finally:
        file.seek(before)
