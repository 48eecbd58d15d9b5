"""What stands beside the ledger's file: one lock, one ballast, and nothing that others can read.

A process that holds the lock is the one that writes. The lock goes when the process dies, whatever is left of the file.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from packer.errors import LedgerError, LedgerFull, LedgerInUse, LedgerReadOnly

# Room that is given up when the disk is full, so that the answers which are already paid for can still be written. One
# MiB was measured to take 320 replies of 20 labels; 256 requests may be in flight, and records are longer than labels.
BALLAST_BYTES = 4 << 20
_BLOCK = 1 << 18


class Lock:
    """The lock file: held as long as this process lives, and removed by `release`."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    def release(self) -> None:
        """Remove the file and let the next process in."""
        # removed while it is still held: whoever waits finds that the name is gone, see take_lock
        with contextlib.suppress(OSError):  # a lock file that stays is free all the same
            self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


def take_lock(path: Path) -> Lock:
    """The lock of the ledger at `path`. Raises `LedgerInUse` with the pid of the process that holds it."""
    name = Path(f"{path}.lock")
    while True:
        with _os_explained(path, "its lock file cannot be made"):
            descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        lock = Lock(name, descriptor)
        try:
            with _os_explained(path, "its lock file cannot be locked"):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except LedgerError as error:
            holder = _holder(os.pread(descriptor, 300, 0))
            os.close(descriptor)
            if isinstance(error.__cause__, BlockingIOError):
                raise LedgerInUse(path, f"in use by {holder}; let it end, or name another file") from None
            raise
        # the process before may have removed the file after we opened it: then ours is a lock on nothing
        if identity(name) != identity(descriptor):
            os.close(descriptor)
            continue
        try:
            with _os_explained(path, "its lock file cannot be written"):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"{os.getpid()} {socket.gethostname()}\n".encode(), 0)
        except LedgerError:
            lock.release()
            raise
        return lock


def _holder(content: bytes) -> str:
    pid, _, host = content.decode("utf-8", "replace").strip().partition(" ")
    if not pid.isdecimal():
        return "another process"
    return f"process {pid} on {host}" + (" (this very one)" if int(pid) == os.getpid() else "")


def check_path(path: Path, *, read_only: bool) -> bool:
    """Whether a regular file is there; raises for anything else, and where none could be made."""
    with _os_explained(path, "cannot be looked at"):
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:
            if read_only:
                raise LedgerError(path, "there is no such file") from None
            if not path.parent.is_dir():
                raise LedgerError(path, f"its folder {path.parent} does not exist; make it first") from None
            return False
    if stat.S_ISLNK(mode):
        # the log and the lock would stand beside the link, and another name would mean another lock
        raise LedgerError(path, f"is a symbolic link; name the file itself: {path.resolve()}")
    if stat.S_ISDIR(mode):
        raise LedgerError(path, "is a folder; name a file in it")
    if not stat.S_ISREG(mode):
        raise LedgerError(path, "is no regular file; name another one")
    return True


def create_private(path: Path) -> None:
    """An empty file that only its owner can read."""
    # before SQLite opens it, which would make it readable for all; -wal and -shm take over its mode
    with _os_explained(path, "cannot be made"):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))


def make_ballast(path: Path) -> None:
    """Set room aside on the ledger's disk. Raises `LedgerFull` where there is none."""
    ballast = _ballast_path(path)
    with _os_explained(path, "its ballast file cannot be made"):
        ballast.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            with open(os.open(ballast, flags, 0o600), "wb") as file:  # noqa: PTH123  pathlib cannot set the mode
                # random, because a file system that compresses would give zeros no room
                block = os.urandom(_BLOCK)
                file.writelines(block for _ in range(BALLAST_BYTES // _BLOCK))
        except OSError:
            ballast.unlink(missing_ok=True)
            raise


def drop_ballast(path: Path) -> None:
    """Give the room back."""
    with contextlib.suppress(OSError):  # nothing is lost but a file that should be gone
        _ballast_path(path).unlink(missing_ok=True)


def identity(file: Path | int) -> tuple[int, int] | None:
    """The device and inode of a file, by its name or its descriptor; None where the name stands for nothing."""
    try:
        status = os.fstat(file) if isinstance(file, int) else file.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def file_size(path: Path) -> int:
    """Its bytes, 0 where there is no such file."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _ballast_path(path: Path) -> Path:
    return Path(f"{path}.ballast")


@contextlib.contextmanager
def _os_explained(path: Path, what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        number = error.errno if isinstance(error, OSError) else None
        message = f"{what}: {error.strerror if isinstance(error, OSError) else error}"
        if number in {errno.ENOSPC, errno.EDQUOT}:
            raise LedgerFull(path, message) from error
        if number in {errno.EACCES, errno.EPERM, errno.EROFS}:
            raise LedgerReadOnly(path, message) from error
        raise LedgerError(path, message) from error
