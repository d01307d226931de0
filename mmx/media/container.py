"""A container opened with FFmpeg's libraries: the track to read, of sound or pictures, and what it says of its length.

The file is opened in Python and FFmpeg is handed the open object with every protocol forbidden: a name like
``concat:a|b`` is only a name, and a playlist inside a file opens nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from mmx.errors import InputError, MediaError
from mmx.media.source import File, incomplete_ogg, open_file, reason, trailing_wav_bytes, unreadable

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container.input import InputContainer
    from av.video.stream import VideoStream

GAP_S = 0.1
"""Timestamps this far ahead of the samples are a hole, filled with silence; less is rounding or jitter."""

# FFmpeg may open nothing by itself: "none" names no protocol.
SEALED = {"protocol_whitelist": "none"}

# How files begin that only name other files or addresses, which are never followed.
PLAYLISTS = (b"#EXTM3U", b"ffconcat version", b"<MPD", b"v=0\r\no=", b"v=0\no=", b"[playlist]")


TrackT = TypeVar("TrackT", bound="AudioStream | VideoStream")


@dataclass
class Container(Generic[TrackT]):
    """An open container and the stream of it that is read.

    Attributes:
        label: what messages call it.
        media: the file underneath.
        warnings: what is seen to be wrong with the file at its opening.
        header_lies: whether its length is known to be wrong.
        cut_off: whether its last bytes are the beginning of something.
    """

    label: str
    media: File
    opened: InputContainer
    stream: TrackT
    warnings: list[str]
    header_lies: bool = False
    cut_off: bool = False

    @property
    def format(self) -> str:
        """FFmpeg's name of the format."""
        return self.opened.format.name

    @property
    def origin_s(self) -> Fraction:
        """Timestamp of time 0, seconds. A slightly negative start is a codec's warm-up and stays outside."""
        starts = [s.start_time * s.time_base for s in _timed(self.opened) if s.start_time is not None and s.time_base]
        start_s = min(starts, default=Fraction(0))
        return Fraction(start_s) if start_s > 0 or start_s < -GAP_S else Fraction(0)

    @property
    def declared_s(self) -> float | None:
        """Length in seconds that the header declares, of the container, else of the audio stream."""
        opened, stream = self.opened, self.stream
        if self.header_lies:
            return None
        if opened.duration is not None and opened.duration > 0:
            # Matroska's is a point in time, that of the end.
            return max(0.0, opened.duration / 1_000_000 - (float(self.origin_s) if self._in_matroska else 0.0))
        if stream.duration is not None and stream.time_base is not None:
            return float(stream.duration * stream.time_base)
        return None

    @property
    def expected_s(self) -> float | None:
        """Where the sound should end, where the header knows: to tell a file that was cut off."""
        declared_s, stream, head = self.declared_s, self.stream, self.media.head
        if self.header_lies or self.format == "aac":  # of AAC alone, FFmpeg guesses from the first packets' bit rate
            return None
        if head[:4] == b"RIFF" and declared_s is not None:  # FFmpeg corrects a length beyond the file's end
            size = int.from_bytes(head[4:8], "little") + 8
            streamed = size >= 0x7FFF_0000  # written to a pipe: the length was not known
            return declared_s if streamed else declared_s * max(1.0, size / self.media.size)
        if stream.duration is not None and stream.time_base is not None:
            return float(stream.duration * stream.time_base) + self._late_s
        tag = re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", stream.metadata.get("DURATION", ""))
        if tag:  # of Matroska: a point in time, too
            return int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3]) - float(self.origin_s)
        # Beside a film, the container's length may be the film's.
        return declared_s if len(_timed(self.opened)) == 1 else None

    @property
    def _in_matroska(self) -> bool:
        return self.format.startswith("matroska")

    @property
    def _late_s(self) -> float:
        """How long after the start of the presentation the sound begins."""
        stream = self.stream
        if stream.start_time is None or stream.time_base is None:
            return 0.0
        return max(0.0, float(stream.start_time * stream.time_base - self.origin_s))

    def close(self) -> None:
        """Close it; the file underneath stays open."""
        self.opened.close()


def open_container(media: File, label: str, track: int | None = None) -> Container[AudioStream]:
    """Open a file and choose its audio track, by number from 1 on, else the default one.

    Raises:
        MediaError: says what the file is instead.
    """
    beyond, cut = trailing_wav_bytes(media) if media.size > 0 else 0, incomplete_ogg(media)
    opened = _open_sealed(media, label, "sound", {**SEALED, "ignore_length": "1"} if beyond else SEALED)
    try:
        stream = _pick_stream(opened, label, track)
    except BaseException:
        opened.close()
        raise
    warnings = _tracks_left_out(opened, stream, track)
    if beyond:
        warnings.append(f"its header declares {beyond} bytes of audio fewer than follow: all of them are read")
    return Container(label, media, opened, stream, warnings, header_lies=bool(beyond), cut_off=cut)


def open_pictures(media: File, label: str) -> Container[VideoStream]:
    """Open a file and choose its moving pictures: the default stream, else the first; no cover picture.

    Raises:
        MediaError: says what the file is instead.
    """
    opened = _open_sealed(media, label, "video", SEALED)
    try:
        stream = _pick_pictures(opened, label)
    except BaseException:
        opened.close()
        raise
    return Container(label, media, opened, stream, [], cut_off=incomplete_ogg(media))


def opened(
    source: Any, opening: Callable[[File, str], Container[TrackT]]
) -> tuple[Container[TrackT], str, Callable[[], None]]:
    """What `opening` makes of the file of a source, the recording's name, and what closes all that was opened here."""
    file, label, name, ours = open_file(source)
    try:
        container = opening(File(file, label), label)
    except BaseException:
        if ours:
            file.close()
        raise

    def on_close() -> None:
        container.close()
        if ours:
            file.close()

    return container, name, on_close


def _open_sealed(media: File, label: str, wanted: str, options: dict[str, str]) -> InputContainer:
    if media.size <= 0:
        hint = "rewind it with seek(0)" if media.stands_late else "copy or record it again"
        raise MediaError(f"{label}: expected {wanted}, got an empty file (0 bytes): {hint}.")
    if media.head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(PLAYLISTS) or b"<MPD" in media.head[:1024]:
        raise MediaError(
            f"{label}: expected {wanted}, got a playlist, which only names other files; those are not followed. "
            "Give the media files themselves."
        )
    opened = _open(media, label, options)
    if opened.format.name == "tty":  # FFmpeg draws any .txt as a film of a terminal
        opened.close()
        raise MediaError(f"{label}: {unreadable(media)}")
    return opened


def _open(media: File, label: str, options: dict[str, str]) -> InputContainer:
    import av

    media.seek(0)
    try:
        opened = av.open(cast(Any, media), "r", options=options, metadata_errors="replace")
    except (InputError, MediaError):
        raise
    except (av.FFmpegError, ValueError) as error:
        raise MediaError(f"{label}: {unreadable(media)} ({reason(error)})") from error
    except OSError as error:
        raise MediaError(f"{label}: cannot be read ({error}): check the disk or the network drive.") from error
    return cast("InputContainer", opened)


def _timed(container: InputContainer) -> list[Any]:
    """The streams that have a clock: sound and moving pictures, not a cover picture."""
    from av.stream import Disposition

    streams = [s for s in container.streams if s.type in ("audio", "video")]
    return [s for s in streams if not Disposition(s.disposition) & Disposition.attached_pic]


def _pick_stream(container: InputContainer, label: str, track: int | None) -> AudioStream:
    """The audio track asked for, else the one marked as default, else the first; refuses what cannot be decoded."""
    from av.stream import Disposition

    streams = list(container.streams.audio)
    if not streams:
        kinds = ", ".join(sorted({s.type for s in container.streams})) or "nothing"
        raise MediaError(
            f"{label}: expected an audio stream, got {container.format.name} with {kinds} only: it has no "
            "audio. Export it again with its audio, or give the audio as a file of its own."
        )
    if track is not None and track > len(streams):
        raise MediaError(f"{label}: expected a audio track that it has, got {track}: it has {_listed(streams)}.")
    default = next((s for s in streams if Disposition(s.disposition) & Disposition.default), streams[0])
    stream = default if track is None else streams[track - 1]
    context = stream.codec_context
    if context is None:
        raise MediaError(
            f"{label}: expected a codec that FFmpeg decodes, got an unknown one in {container.format.name}. "
            "Convert the file, for example to flac, with the program that made it."
        )
    if context.codec_tag in ("enca", "drms"):
        raise MediaError(
            f"{label}: its audio is encrypted (DRM, {context.codec_tag}): only its shop's player opens it. "
            "Give a file without protection."
        )
    return stream


def _pick_pictures(container: InputContainer, label: str) -> VideoStream:
    """The moving pictures marked as default, else the first; refuses what cannot be decoded."""
    from av.stream import Disposition

    streams = [s for s in _timed(container) if s.type == "video"]
    if not streams:
        kinds = ", ".join(sorted({s.type for s in container.streams})) or "nothing"
        raise MediaError(
            f"{label}: expected a video stream, got {container.format.name} with {kinds} only: it has no moving "
            "pictures. Give the film itself."
        )
    stream = next((s for s in streams if Disposition(s.disposition) & Disposition.default), streams[0])
    context = stream.codec_context
    if context is None:
        raise MediaError(
            f"{label}: expected a video codec that FFmpeg decodes, got an unknown one in {container.format.name}. "
            "Convert the file, for example to H.264 in mp4, with the program that made it."
        )
    if context.codec_tag in ("encv", "drmi"):
        raise MediaError(
            f"{label}: its pictures are encrypted (DRM, {context.codec_tag}): only its shop's player opens them. "
            "Give a file without protection."
        )
    return stream


def _listed(streams: list[AudioStream]) -> str:
    """The tracks by number, with language and title: 1 (fra), 2 (eng, "Commentary")."""
    named = []
    for number, stream in enumerate(streams, 1):
        title = stream.metadata.get("title")
        names = [stream.metadata.get("language", "unnamed"), *([f'"{title}"'] if title else [])]
        named.append(f"{number} ({', '.join(names)})")
    return ", ".join(named)


def _tracks_left_out(container: InputContainer, stream: AudioStream, track: int | None) -> list[str]:
    """The warning of a file with more sound than `stream`, such as a film in two languages; none was chosen then."""
    tracks = list(container.streams.audio)
    if len(tracks) == 1 or track is not None:
        return []
    chosen = tracks.index(stream) + 1
    return [f"{len(tracks)} audio tracks, {_listed(tracks)}: only track {chosen} is read; --track takes another"]
