"""Files of Debian packages, for recipes of data: nothing is installed, only the files that are read are unpacked."""

import fnmatch
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

from mmx.errors import InputError


def fetch(package: str, keep: Sequence[str], raw: Path) -> str:
    """Get a Debian package, unless it is in `raw` already, and unpack the files wanted.

    Args:
        package: Its name.
        keep: Patterns of the files to unpack, to `raw/package`.
        raw: The folder for packages (`raw/*.deb`).

    Returns:
        The package's file name, which has its version.

    Raises:
        InputError: A Debian tool is not there or failed, or the package has no such file.
    """
    found = sorted(raw.glob(f"{package}_*.deb"))
    if not found:
        _call(["apt-get", "download", "-q", package], raw)
        found = sorted(raw.glob(f"{package}_*.deb"))
    if not found:
        raise InputError(f"Expected apt-get to leave {package}_VERSION.deb in {str(raw)!r}; it left none.")
    if not (raw / package).exists():
        temporary = raw / f".{package}.part"
        shutil.rmtree(temporary, ignore_errors=True)
        if not _unpack(found[-1], keep, temporary):
            raise InputError(f"{found[-1].name} has no file like {', '.join(keep)}. Is it of Debian 12?")
        temporary.rename(raw / package)
    return unquote(found[-1].name)


def _unpack(deb: Path, keep: Sequence[str], folder: Path) -> int:
    """Unpack the files of a package that match a pattern; return how many."""
    count = 0
    command = [_tool("dpkg-deb"), "--fsys-tarfile", str(deb)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE) as process,
        tarfile.open(fileobj=process.stdout, mode="r|") as archive,
    ):
        for member in archive:
            if member.isreg() and any(fnmatch.fnmatch(member.name, pattern) for pattern in keep):
                _write(archive, member, folder)
                count += 1
    if process.returncode:
        raise InputError(f"dpkg-deb could not unpack {deb.name}. What to do: delete it, so that it is got again.")
    return count


def _write(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    """Write a file of an archive below a folder (`extract` has its safe filter from Python 3.11.4 on only)."""
    path = folder / member.name
    content = archive.extractfile(member)
    if content is None or ".." in Path(member.name).parts or Path(member.name).is_absolute():
        raise InputError(f"Expected files below the folder in the archive, got {member.name!r}. Is it of Debian 12?")
    path.parent.mkdir(parents=True, exist_ok=True)
    with content, path.open("wb") as out:
        shutil.copyfileobj(content, out)


def _tool(name: str) -> str:
    """Return a Debian tool's path."""
    path = shutil.which(name)
    if path is None:
        raise InputError(f"{name!r} is not there. What to do: run this on Debian 12, or in a container of it.")
    return path


def _call(command: list[str], folder: Path) -> None:
    """Run a Debian tool in a folder."""
    done = subprocess.run([_tool(command[0]), *command[1:]], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        cause = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise InputError(
            f"{' '.join(command)} failed: {' '.join(cause)} What to do: run `apt-get update`, check the network and "
            f"that this is Debian 12, or put the package into {str(folder)!r} by hand."
        )
