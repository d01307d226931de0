"""Writing files so that a reader never sees half of one."""

import contextlib
import errno
import os
import re
import secrets
import stat
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mmx.errors import OutputError

if TYPE_CHECKING:
    from torch import Tensor

SAMPLE = Path(__file__).parent / "assets" / "sample.flac"
"""A recording that ships with mmx, of a few seconds."""
SAMPLE_TEXT = "he was not an ill disposed young man"

# What to do about each cause; anything else gets the general advice below.
_REMEDIES = {
    errno.EACCES: "choose a folder that you may write to, or change its permissions",
    errno.EPERM: "choose a folder that you may write to, or change its permissions",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.ENOSPC: "the disk is full; free some space or choose a folder on another disk",
    errno.EDQUOT: "your disk quota is used up; free some space or choose a folder on another disk",
    errno.EISDIR: "a folder has this name; choose another name",
    errno.ENOTDIR: "a part of the path is a file, not a folder; choose another folder",
    errno.EEXIST: "a part of the path is a file, not a folder; choose another folder",
    errno.ENAMETOOLONG: "the name is too long for this file system; choose a shorter one",
}
_SURROGATE = re.compile("[\ud800-\udfff]")
_GENERAL_REMEDY = "check that the folder exists and that its disk is working, or choose another folder"


def absolute(source: str) -> Path:
    """The path from the root, without `..`, and with links as they are."""
    return Path(os.path.abspath(source))  # noqa: PTH100


def readable(name: str) -> str:
    """A name, or a text with names in it, that can be shown and written as UTF-8.

    What no text can hold of a name, bytes that are no UTF-8, is written as %E9: two names never become one.
    """
    if not _SURROGATE.search(name):
        return name
    try:
        text = os.fsencode(name).decode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # halves of pairs that no system made
        text = name.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return _SURROGATE.sub(lambda m: f"%{ord(m[0]) - 0xDC00:02X}", text)


def file_name(name: str) -> str:
    """A name that any file system takes, also where the system's own encoding (LC_ALL=C) lacks its letters."""
    plain = readable(name)
    if plain == name and _encodable(name):
        return name
    return os.fsdecode(plain.encode("utf-8"))


def _encodable(name: str) -> bool:
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return True


def atomic_write(path: str | os.PathLike[str], content: str | bytes) -> Path:
    """Write a file so that it holds either its old content or all of the new one, never a part.

    The content goes to a temporary file in the same folder (a rename is atomic only within one file system),
    is flushed to the disk and then renamed over the target. Missing folders are created. A link is followed,
    so that the file it points to is replaced and not the link. Devices and pipes cannot be renamed over; they
    are written to directly.

    Args:
        path: The file to write. An existing file keeps its permissions.
        content: Text, written as UTF-8 with "\\n" line ends on every system, or bytes.

    Returns:
        The path as given.

    Raises:
        OutputError: The file cannot be written; the message names the file, the cause and a remedy. The old
            content is intact.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    try:
        target = Path(os.path.realpath(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        mode = target.stat().st_mode if target.exists() else None
        if mode is None or stat.S_ISREG(mode):
            _replace(target, data, mode)
        elif stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
        else:
            target.write_bytes(data)
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        raise cannot_write(path, error) from error
    return Path(path)


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A new file in the folder of `path`, with its ending, that takes its place at the end, as `atomic_write` does.

    For what is written as it is made. Where the block raises, nothing is left of it.

    Raises:
        OutputError: the file cannot be written; the old content is intact.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".mmx-{secrets.token_hex(6)}{target.suffix}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        yield temporary
        with open(temporary, "rb") as file:
            _sync(file.fileno())
        if target.exists():
            with contextlib.suppress(OSError):
                temporary.chmod(stat.S_IMODE(target.stat().st_mode))
        temporary.replace(target)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_tensors(path: str | os.PathLike[str], tensors: "Mapping[str, Tensor]", metadata: dict[str, str]) -> None:
    """Write a safetensors file. Raises `OutputError` where the library, whose errors are its own, cannot."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(dict(tensors), str(path), metadata)
    except SafetensorError as error:
        raise cannot_write(path, ValueError(str(error))) from error
    except OSError as error:
        raise cannot_write(path, error) from error


def try_folder(folder: Path) -> None:
    """Make the folder and write a file there, so that an error is told before the work. Raises `OutputError`."""
    probe = folder / f".mmx-{os.getpid()}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _replace(probe, b"", None)
        probe.unlink(missing_ok=True)
    except (OSError, ValueError) as error:
        raise cannot_write(folder, error) from error


def _replace(target: Path, data: bytes, mode: int | None) -> None:
    """Write `data` beside `target`, then rename it over `target`; the temporary file never stays behind."""
    # Not derived from the target's name: that may already have the longest length a file system takes.
    temporary = target.with_name(f".mmx-{secrets.token_hex(6)}.tmp")
    try:
        # "x" and not mkstemp: the file gets the user's usual permissions (umask), mkstemp's would be private.
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            _sync(file.fileno())
        if mode is not None:
            # Permissions cannot be set everywhere (FAT, some network shares); the content matters more.
            with contextlib.suppress(OSError):
                temporary.chmod(stat.S_IMODE(mode))
        temporary.replace(target)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _sync(descriptor: int) -> None:
    """Flush to the disk, except where the file system knows no such thing."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise


def flush(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk; Windows cannot flush what is open for reading only."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cannot_write(path: str | os.PathLike[str], error: OSError | ValueError) -> OutputError:
    """Turn a system error at writing to `path` into one that says what to do."""
    remedy = _REMEDIES.get(getattr(error, "errno", None) or 0, _GENERAL_REMEDY)
    if isinstance(error, UnicodeEncodeError):
        remedy = (
            f"the system's encoding of names ({error.encoding}) lacks letters of this one; set PYTHONUTF8=1 or "
            "LC_ALL=C.UTF-8, or choose another name"
        )
    cause = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return OutputError(f"Cannot write {readable(str(path))!r}: {cause}. What to do: {remedy}.")


def drop_output() -> None:
    """Point standard output at nothing: what is still buffered must not fail again when Python ends."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
