"""Locks between processes that write to one folder, on one machine or on a disk that several share."""

import errno
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from avslib.core.errors import OutputError
from avslib.core.files import report_full_disk

LOCK = ".lock"
PATIENCE = 10.0  # seconds: a process that was just killed or asked to stop may take some to exit
NO_FOLDER = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR}


@contextmanager
def locked(path: str | Path, what: str, patience: float | None = None) -> Iterator[bool]:
    """Hold the lock file `path` against other processes, and other calls in this one, until the block ends.

    The system releases the lock when the process ends in any way; the empty file stays, since removing it could let
    two in. Yields False where the folder cannot be written, and, after a warning, where the disk lacks locks. Raises
    OutputError naming `what` runs there where another process holds the lock longer than `patience` seconds; None waits
    until it finishes, after a warning.
    """
    path = Path(path)
    lock = FileLock(path)
    try:
        with report_full_disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            _acquire(lock, path.parent, what, patience)
    except (OSError, NotImplementedError) as error:
        if getattr(error, "errno", None) not in NO_FOLDER:  # where nobody can write, no lock is needed
            warnings.warn(f"{path}: cannot lock it ({error}); start nothing else in this folder", stacklevel=3)
    try:
        yield lock.is_locked
    finally:
        lock.release()


def _acquire(lock: FileLock, folder: Path, what: str, patience: float | None) -> None:
    try:
        lock.acquire(timeout=3 if patience is None else patience)
    except Timeout:
        if patience is None:
            warnings.warn(f"{folder}: waiting for {what} in another process", stacklevel=5)
            lock.acquire()
            return
        raise OutputError(
            f"{folder}: {what} is running there in another process; wait for it to finish, or choose a different folder"
        ) from None
