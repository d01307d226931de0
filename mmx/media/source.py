"""What FFmpeg is handed: an open, seekable binary file, whatever the source was.

The file is opened in Python, so that a name is only a name and never an address.
"""

from __future__ import annotations

import io
import itertools
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np

from mmx.errors import InputError, MediaError, nearest

if TYPE_CHECKING:
    import torch

KINDS = "wav, flac, mp3, m4a, ogg, opus, webm, mp4, mkv and whatever else FFmpeg reads"

_FILMS = ".webm .mp4 .mkv .mov .avi .m4v .ts .3gp .flv .mpg .mpeg .wmv .mts .m2ts .3g2 .vob .ogv"
_SOUND = ".wav .flac .mp3 .m4a .aac .ogg .oga .opus .wma .aiff .aif .amr .m4b .caf .au .mka .mp2 .wv .weba .spx .ac3"
FILMS = frozenset(_FILMS.split())
"""Endings of recordings that may have moving pictures."""
MEDIA = FILMS | frozenset(_SOUND.split())
"""Endings of the recordings that a folder is searched for."""

SPOOL_BYTES = 64 * 2**20
"""A stream that cannot seek is copied to memory up to here, and to a temporary file beyond."""


def recordings(folder: Path, endings: frozenset[str] = MEDIA) -> list[Path]:
    """The files with these endings in a folder and below it, by name; no hidden ones (`._talk.wav` of macOS)."""
    found = (p for p in folder.rglob("*") if p.suffix.lower() in endings and is_there(p))
    return sorted(p for p in found if not any(name.startswith(".") for name in p.relative_to(folder).parts))


def names_a_film(source: Any) -> bool:
    """Whether a source is a path, or an open file, whose name ends as that of a recording that may have pictures."""
    name = source if isinstance(source, str | os.PathLike) else getattr(source, "name", "")
    return isinstance(name, str | os.PathLike) and Path(name).suffix.lower() in FILMS


def is_there(path: Path) -> bool:
    """A file, or a link that leads nowhere: the reader of it reports that something is missing."""
    return path.is_file() or (path.is_symlink() and not path.exists())


class File:
    """What FFmpeg reads from: an open binary file, checked at each read; 0 is where it stood when given."""

    def __init__(self, file: BinaryIO, label: str) -> None:
        self._file, self._label = file, label
        self._start = file.tell()
        # Some formats are told apart only by a name's ending. No more of the name than that reaches FFmpeg.
        ending = Path(label).suffix
        self.name = "media" + (ending if re.fullmatch(r"\.[A-Za-z0-9]{1,8}", ending) else "")
        self.size = file.seek(0, os.SEEK_END) - self._start
        self.head = b""
        if self.size > 0:
            self.seek(0)
            self.head = self.read(4096)
        self.seek(0)

    def read(self, count: int) -> bytes:
        data = self._file.read(count)
        if not isinstance(data, bytes | bytearray):
            raise InputError(f"{self._label}: read() gave {type(data).__name__}, expected bytes; open it with 'rb'.")
        if len(data) > count:  # PyAV would copy past the end of its buffer
            raise InputError(f"{self._label}: read({count}) gave {len(data)} bytes, expected at most {count}.")
        return bytes(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._file.seek(offset + (self._start if whence == os.SEEK_SET else 0), whence)
        return self.tell()

    def tell(self) -> int:
        return self._file.tell() - self._start

    @property
    def stands_late(self) -> bool:
        """Whether the file was given after its beginning, as one that was just written."""
        return self._start > 0


def as_array(source: object) -> np.ndarray | None:
    """`source` as a numpy array if it is one or is a tensor, else None."""
    if isinstance(source, np.ndarray):
        return source
    loaded: Any = sys.modules.get("torch")  # a tensor can only exist where torch is loaded already
    if loaded is not None and isinstance(source, loaded.Tensor):
        tensor = cast("torch.Tensor", source).detach().cpu()
        return (tensor.float() if tensor.is_floating_point() else tensor).numpy()  # numpy has no bfloat16
    return None


def open_file(source: object) -> tuple[BinaryIO, str, str, bool]:
    """A seekable file of `source`, what messages call it, its short name, whether closing it is up to us."""
    if isinstance(source, bytes | bytearray | memoryview):
        return io.BytesIO(source), "bytes", "bytes", True
    if isinstance(source, str) and source == "-":
        return _open_stdin()
    if isinstance(source, str | os.PathLike):
        path = os.fsdecode(source)
        file = _open_path(path)
        file, ours = (file, True) if file.seekable() else _spooled(file, path, close=True)
        return file, path, Path(path).name, ours
    if not hasattr(source, "read"):
        kind = type(source).__name__
        raise InputError(f"expected a path, '-', an open binary file, bytes, an array or a tensor, got {kind}.")
    file = cast(BinaryIO, source)
    if isinstance(file, io.TextIOBase):
        raise InputError("expected a binary file, got one opened in text mode: open it with 'rb'.")
    given = getattr(file, "name", None)
    label = given if isinstance(given, str) and given else "file object"
    seekable = hasattr(file, "seek") and (not hasattr(file, "seekable") or file.seekable())
    file, ours = (file, False) if seekable else _spooled(file, label)
    return file, label, Path(label).name, ours


@contextmanager
def reopened(source: Any) -> Iterator[Callable[[], Any]]:
    """What gives `source` again each time it is called, for reading it several times: a pipe is copied once."""
    if not (hasattr(source, "read") or (isinstance(source, str) and source == "-")):
        yield lambda: source
        return
    file, label, _, ours = open_file(source)
    start = file.tell()

    def again() -> Any:
        file.seek(start)
        return SimpleNamespace(name=label, read=file.read, seek=file.seek, tell=file.tell)

    try:
        yield again
    finally:
        if ours:
            file.close()


def _open_stdin() -> tuple[BinaryIO, str, str, bool]:
    """As `open_file`, of stdin."""
    if sys.stdin is None or sys.stdin.isatty():
        raise InputError("expected media on stdin, and nothing is piped in: try `cat talk.mp3 | mmx ... -`.")
    file = sys.stdin.buffer
    file, ours = (file, False) if file.seekable() else _spooled(file, "stdin")
    return file, "stdin", "stdin", ours


def _spooled(file: BinaryIO, label: str, *, close: bool = False) -> tuple[BinaryIO, bool]:
    """A seekable copy of a stream (an mp4 may keep its index at the end), deleted when closed; and True."""
    spool = tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES)  # noqa: SIM115 (the reader closes it)
    try:
        shutil.copyfileobj(file, spool)
        spool.seek(0)
    except BaseException as error:
        spool.close()
        if isinstance(error, TypeError):
            raise InputError(f"{label}: expected bytes, got text; open it with 'rb'.") from error
        if isinstance(error, OSError):
            folder = tempfile.gettempdir()
            raise MediaError(f"{label}: cannot copy the stream to {folder} ({error}): set TMPDIR.") from error
        raise
    finally:
        if close:
            file.close()
    return cast(BinaryIO, spool), True


def _open_path(path: str) -> BinaryIO:
    """Open a local file for reading, or say why not and what to do about it."""
    if not path:
        raise InputError("expected a path, got an empty one.")
    try:
        return open(path, "rb")
    except (FileNotFoundError, NotADirectoryError) as error:
        scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", path)
        if scheme:
            raise InputError(
                f"{path}: {scheme[1]} addresses are not opened, only local files. Download it first "
                "(curl -LO, yt-dlp) and give the file."
            ) from error
        raise MediaError(_missing(path)) from error
    except IsADirectoryError as error:
        raise MediaError(f"{path}: expected a file, got a folder. Give the files in it, one by one.") from error
    except PermissionError as error:
        if Path(path).is_dir():  # what Windows says of a folder
            raise MediaError(f"{path}: expected a file, got a folder. Give the files in it, one by one.") from error
        raise MediaError(f"{path}: no permission to read it. Change its mode (chmod u+r) or owner.") from error
    except (OSError, ValueError) as error:  # a name too long, a NUL in it, a dead network drive
        raise MediaError(f"{path!r}: cannot be opened: {error}.") from error


def _missing(path: str) -> str:
    """The message for a file that is not there: what the folder has instead."""
    folder = Path(path).parent
    if Path(path).is_symlink():
        return (
            f"{path}: no such file: it is a link to {str(Path(path).readlink())!r}, which is not there. Mend the link."
        )
    if not folder.is_dir():
        return f"{path}: no such file: the folder {str(folder)!r} does not exist. Check the path."
    try:
        names = [entry.name for entry in itertools.islice(folder.iterdir(), 2000)]
    except OSError:
        names = []
    hint = nearest(Path(path).name, names) or f" Check the name, or look into {str(folder.absolute())!r}."
    return f"{path}: no such file.{hint}"


def reason(error: BaseException) -> str:
    """FFmpeg's words for an error, without its numbers."""
    return str(getattr(error, "strerror", None) or error)


def unreadable(media: File) -> str:
    """Why FFmpeg opens no container here, from the first bytes: cut-off mp4, text, or something else."""
    if media.head[4:8] == b"ftyp":
        try:
            lacks_index = b"moov" not in _boxes(media)
        except OSError:
            lacks_index = False
        if lacks_index:
            return (
                "the mp4 is cut off: its index (moov) is missing, as after an interrupted recording or "
                "download. Copy the file again, or repair it with a tool such as untrunc."
            )
    try:
        text = media.head[:200].decode("utf-8")
    except UnicodeDecodeError:
        text = ""
    if len(text) > 3 and all(letter.isprintable() or letter in "\r\n\t\f" for letter in text):
        return f"expected audio or video ({KINDS}), got text that begins {text[:40]!r}: give the media file."
    return f"expected audio or video ({KINDS}), got something else or a damaged file: play it, or convert it."


def _boxes(media: File) -> list[bytes]:
    """The types of an mp4's top-level boxes, at most 1000."""
    types: list[bytes] = []
    at = 0
    while at + 8 <= media.size and len(types) < 1000:
        media.seek(at)
        header = media.read(16)
        length = int.from_bytes(header[:4], "big")
        if length == 1:  # the real length follows, in 64 bits
            length = int.from_bytes(header[8:16], "big")
        types.append(header[4:8])
        if length < 8:  # 0: to the end of the file
            break
        at += length
    return types


def trailing_wav_bytes(media: File) -> int:
    """Bytes of a WAV file behind the sound that its header declares which are no chunk, so sound as well; else 0.

    A header that claims less than there is was never corrected after the recording. Less than 0.5 s is a filling.
    """
    if media.head[:4] != b"RIFF" or media.head[8:12] != b"WAVE":
        return 0
    at, byte_rate = 12, 0
    while at + 8 <= media.size:
        media.seek(at)
        head = media.read(24)
        kind, size = head[:4], int.from_bytes(head[4:8], "little")
        if kind == b"fmt ":
            byte_rate = int.from_bytes(head[16:20], "little")
        at += 8 + size + size % 2
        if kind == b"data":
            media.seek(min(at, media.size))
            after = media.read(8)
            rest = media.size - at
            chunk = after[:4].isalnum() or after[:4].strip(b" \0").isalnum()  # LIST, "id3 ", ...
            return rest if size and byte_rate and rest > byte_rate / 2 and not chunk else 0
    return 0


_OGG_PAGE = 27 + 255 + 255 * 255
"""Bytes of the longest page."""


def incomplete_ogg(media: File) -> bool:
    """Whether the last page of an Ogg file goes on beyond the file's end. (Many whole files do not mark their end.)"""
    if media.head[:4] != b"OggS":
        return False
    media.seek(max(0, media.size - _OGG_PAGE))
    tail = media.read(_OGG_PAGE)
    at = tail.rfind(b"OggS\0")
    if at < 0:
        return False
    table = tail[at + 27 : at + 27 + tail[at + 26]] if at + 26 < len(tail) else b""
    whole = at + 26 < len(tail) and len(table) == tail[at + 26] and at + 27 + len(table) + sum(table) <= len(tail)
    return not whole
