"""Writing files so that a half-written one is never left under its final name, and hashing them.

A file is written beside its name, flushed to the disk and renamed. If the process or the machine dies, the name holds
either the old content or the new one, never a part of it.
"""

import errno
import filecmp
import hashlib
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from avslib.core.errors import AvsError, DiskFullError, OutputError

FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
# errors of file systems that cannot flush a single file
NO_FLUSH = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EROFS, errno.EPERM, errno.EACCES}
ABANDONED = 24 * 3600  # seconds without a change after which a temporary file is taken for a killed process's


@contextmanager
def atomic_path(path: str | Path, *, replace: bool = True, flush: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success, delete it on failure.

    The caller may create a file or a folder there. A folder at `path` is an error, since it cannot be replaced in one
    step; so is other content there without `replace`. For many small files in a row switch `flush` off, and call
    `flush_to_disk` for their folder. What killed processes left is removed after a day.

    Raises:
        DiskFullError: the disk is full or a quota is reached; the previous file at `path` is intact.
        OutputError: without `replace`, `path` holds something else.
    """
    path = Path(path)
    with report_full_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path.parent.absolute())
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
        free = shutil.disk_usage(folder).free / 1e6
        raise DiskFullError(
            f"{path}: not written: the disk is full, or a quota or the largest file size is reached ({free:.0f} MB are "
            "free); free some space and start again, the previous file is intact"
        ) from error


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


@cache  # once for each folder and process
def _remove_abandoned(folder: Path) -> None:
    with suppress(OSError):
        for path in folder.glob(".*.part"):
            if time.time() - path.stat().st_mtime > ABANDONED:
                _remove(path)


def sha256_file(path: str | Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
