"""The folder in which live sessions outlive their server: one server's, and nobody else's to read."""

import os
import re
import stat
from pathlib import Path
from typing import IO

from mmx.errors import InputError

LOCK = ".mmx-serve.lock"
_OURS = re.compile(r"[\w-]+\.(session\.json|log\.jsonl|\d+\.journal|.+\.safetensors)|\.mmx-.*")


def private_opener(path: str, flags: int) -> int:
    """For `open`: a file that is new may be read by its owner only."""
    return os.open(path, flags, 0o600)


class StateFolder:
    """The folder, locked for this process until `unlock`, however the process ends.

    Args:
        path: made where it is missing.

    Raises:
        InputError: another server has it, it cannot be used, or others may read it and it holds other things.
    """

    def __init__(self, path: Path):
        self.path = path
        self._file: IO[bytes] | None = None
        self.lock()

    def lock(self) -> None:
        """Take the folder; does nothing where it is taken already."""
        if self._file is not None:
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._close_to_others()
            file = open(self.path / LOCK, "ab", opener=private_opener)  # noqa: SIM115 - open while it is locked
        except OSError as e:
            raise InputError(
                f"expected a state folder to write into, got {self.path}: {e.strerror}: choose another --state-dir"
            ) from e
        try:
            _lock(file)
        except OSError as e:
            file.close()
            raise InputError(
                f"expected a state folder that no other server uses, got {self.path}: stop that server, or choose "
                "another --state-dir"
            ) from e
        self._file = file

    def unlock(self) -> None:
        """Let another server take it."""
        if self._file is not None:
            self._file.close()  # which gives up the lock
            self._file = None

    def _close_to_others(self) -> None:
        """The names in it are the secret names of sessions."""
        if os.name == "nt":
            return
        if self.path.stat().st_mode & 0o077:
            if any(not _OURS.fullmatch(p.name) for p in self.path.iterdir()):
                raise InputError(
                    f"expected a state folder that only its owner may read, got {self.path}, which holds other files, "
                    "too: choose an empty --state-dir"
                )
            self.path.chmod(0o700)
        for path in self.path.iterdir():
            if _OURS.fullmatch(path.name) and stat.S_IMODE(path.lstat().st_mode) & 0o077 and not path.is_symlink():
                path.chmod(0o600)


def _lock(file: IO[bytes]) -> None:
    """Raise `OSError` where another process has it; the system lets go of it when this one ends."""
    if os.name == "nt":
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
