"""Files written whole or not at all, and locked against other processes.

A file is written beside its name, flushed to the disk and renamed. If the process or the machine dies, the name holds
either the old content or the new one, never a part of it.
"""

import errno
import filecmp
import hashlib
import os
import re
import shutil
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from avslib.core.errors import AvsError, DiskFullError, OutputError

FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
# errors of file systems that cannot flush a single file
NO_FLUSH = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EROFS, errno.EPERM, errno.EACCES}
LOCK = ".lock"
PATIENCE = 10.0  # seconds: a process that was just killed or asked to stop may take some to exit
NO_FOLDER = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR}


@contextmanager
def atomic_path(path: str | Path, *, replace: bool = True, flush: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success, delete it on failure.

    The caller may create a file or a folder there; a folder at `path` cannot be replaced. For many small files in a row
    switch `flush` off, and call `flush_to_disk` for their folder.

    Raises DiskFullError, with the previous file intact; OutputError where, without `replace`, `path` has other content.
    """
    path = Path(path)
    with report_full_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # 50 characters of the name at most: the longest valid name would become too long
        temporary = path.with_name(f".{path.name[:50]}.{uuid.uuid4().hex}.part")
        try:
            yield temporary
            if replace or not path.exists():
                if flush:
                    flush_to_disk(temporary)
                os.replace(temporary, path)
                if flush and os.name != "nt":  # Windows cannot open a folder, and flushes names itself
                    _flush(path.parent)
            elif path.is_dir() or temporary.is_dir() or not filecmp.cmp(path, temporary, shallow=False):
                raise OutputError(f"{path}: already exists with different content; remove it, or choose a new name")
        finally:
            _remove(temporary)


@contextmanager
def report_full_disk(path: str | Path) -> Iterator[None]:
    """Turn any library's error for a full disk into a `DiskFullError` that names `path`."""
    try:
        yield
    except AvsError:
        raise
    except Exception as error:
        if not _means_full(error):
            raise
        folder = next(p for p in Path(path).absolute().parents if p.is_dir())
        free = f"{shutil.disk_usage(folder).free / 1e6:.0f} MB are free"
        why = f"the disk is full, or a quota or the largest file size is reached ({free})"
        advice = "free some space and start again, the previous file is intact"
        raise DiskFullError(f"{path}: not written: {why}; {advice}") from error


def _means_full(error: BaseException | None) -> bool:
    while error is not None:
        # safetensors gives the number only in its text
        number = re.search(r"\(os error (\d+)\)", str(error))
        if getattr(error, "errno", None) in FULL or (number and int(number[1]) in FULL):
            return True
        error = error.__cause__ or error.__context__
    return False


def flush_to_disk(path: str | Path) -> None:
    """Return when the file or folder `path`, with everything in it, is on the disk."""
    path = Path(path)
    if path.is_dir() and hasattr(os, "sync"):
        os.sync()  # faster than file by file
    else:
        for file in filter(Path.is_file, [path, *path.rglob("*")]):
            _flush(file)


def _flush(path: Path) -> None:
    try:
        handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in NO_FLUSH:
            raise


def _remove(path: Path) -> None:
    with suppress(OSError):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def files_below(root: str | Path) -> list[Path]:
    """All files in a folder and below it, sorted; folders behind links are entered, each folder once."""
    paths, entered = [], set()
    for folder, below, names in os.walk(root, followlinks=True):
        below.sort()
        if (real := os.path.realpath(folder)) in entered:
            below.clear()
        else:
            paths += [Path(folder, name) for name in names]
        entered.add(real)
    return sorted(paths)


def sha256_file(path: str | Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def locked(path: str | Path, what: str, patience: float | None = None) -> Iterator[bool]:
    """Hold the lock file `path` against other processes, and other calls in this one, until the block ends.

    The system releases the lock when the process ends in any way; the empty file stays, since removing it could let
    two in. Yields False where the folder cannot be written, and, after a warning, where the disk lacks locks. Raises
    OutputError where another process does `what` for longer than `patience` seconds; None waits, after a warning.
    """
    path = Path(path)
    lock = FileLock(path)
    try:
        with report_full_disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=3 if patience is None else patience)
            except Timeout:
                if patience is not None:
                    advice = "wait for it to finish, or choose a different folder"
                    raise OutputError(f"{path.parent}: {what} is running there in another process; {advice}") from None
                warnings.warn(f"{path.parent}: waiting for {what} in another process", stacklevel=4)
                lock.acquire()
    except (OSError, NotImplementedError) as error:
        if getattr(error, "errno", None) not in NO_FOLDER:  # where nobody can write, no lock is needed
            warnings.warn(f"{path}: cannot lock it ({error}); run nothing else in this folder", stacklevel=3)
    try:
        yield lock.is_locked
    finally:
        lock.release()


@contextmanager
def new_folder(out: Path, what: str, patience: float | None = None) -> Iterator[Path]:
    """Yield a temporary folder that becomes `out` on success and is deleted on failure.

    Processes that do `what` to one folder take turns as in `locked`. Raises OutputError unless `out` is new or empty.
    """
    # the lock lies beside the folder, which does not exist yet
    with locked(out.with_name(f".{out.name}.lock"), what, patience), atomic_path(out) as part:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise OutputError(f"{out}: exists and is not an empty folder; choose a new one")
        part.mkdir()
        yield part
        if out.is_dir():  # a folder cannot be replaced in one step
            out.rmdir()
