"""Writing and hashing files so that nothing half-written is ever left under its final name, and nothing is lost.

A file is written beside its name, flushed to the disk and renamed: whatever ends the process, or the machine, the name
stands for the old content or for the new one, and never for a part of it.
"""

import errno
import filecmp
import hashlib
import itertools
import os
import platform
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import psutil

from avslib.core.errors import AvsError, DiskFullError, OutputError

FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
# a file system that cannot flush one file has no more to give
NO_FLUSH = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EROFS, errno.EPERM, errno.EACCES}
MANY_FILES = 32
PART = re.compile(r"\..*\.(?:([0-9a-f]{8})-)?(\d+)(?:-\d+)?\.part")
FORGOTTEN = 7 * 24 * 3600  # seconds after which nobody writes to a temporary file any more

_count = itertools.count()
_tidied: set[str] = set()


@contextmanager
def atomic_path(path: str | Path, *, replace: bool = True, flush: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success, delete it on failure.

    The caller may create a file or a folder there. A file at `path` is replaced; a folder at `path` is an error,
    since a folder cannot be replaced in one step. What a killed process left beside it is removed.

    Args:
        replace: False keeps a file that is there: one with the same bytes stands for the new one.
        flush: False leaves it to the system when the bytes reach the disk, for many small files in a row; flush their
            folder afterwards by `flush_to_disk`.

    Raises:
        DiskFullError: the disk is full, or a quota is reached; what was at `path` before is whole.
        OutputError: `replace` is off, and `path` holds something else.
    """
    path = Path(path)
    with told_when_full(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _tidy(path.parent)
        # at most 50 characters of the name: with them a name of the greatest length would be too long
        temporary = path.with_name(f".{path.name[:50]}.{_this_system()}-{os.getpid()}-{next(_count)}.part")
        try:
            yield temporary
            if replace or not _is_there(path, temporary):
                if flush:
                    flush_to_disk(temporary)
                os.replace(temporary, path)
                if flush:
                    _flush_names(path.parent)
        finally:
            _remove(temporary)


@contextmanager
def told_when_full(path: str | Path) -> Iterator[None]:
    """Let a full disk, in whichever way a library tells it, become a `DiskFullError` that names `path`."""
    try:
        yield
    except AvsError:
        raise
    except Exception as error:
        if not _means_full(error):
            raise
        folder = next(p for p in Path(path).absolute().parents if p.is_dir())
        raise DiskFullError(
            f"{path}: not written: the disk is full, or a quota or the largest size of a file is reached "
            f"({shutil.disk_usage(folder).free / 1e6:.0f} MB are free); make room and start again, what was there "
            "before is whole"
        ) from error


def _means_full(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        # safetensors tells the number in its text alone
        if (told := re.search(r"\(os error (\d+)\)", str(error))) and int(told[1]) in FULL:
            return True
        error = error.__cause__ or error.__context__
    return False


def flush_to_disk(path: str | Path) -> None:
    """Return when what is at `path`, a file or a folder with all that is in it, is on the disk.

    A file takes some milliseconds; a folder of many files is flushed with everything else that the system has to write.
    """
    path = Path(path)
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    if len(files) > MANY_FILES and hasattr(os, "sync"):
        os.sync()
        return
    for file in files:
        _flush(file)
    for folder in {p.parent for p in files} - {path.parent}:
        _flush_names(folder)


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


def _flush_names(folder: Path) -> None:
    """A name in a folder is on the disk when the folder is; Windows, which cannot open one, sees to that itself."""
    if os.name != "nt":
        _flush(folder)


def _is_there(path: Path, new: Path) -> bool:
    """Whether `path` has the content of `new` already. Raises OutputError where it has another."""
    if not path.exists():
        return False
    if path.is_file() and new.is_file() and filecmp.cmp(path, new, shallow=False):
        return True
    raise OutputError(f"{path}: is there already and holds something else; name another, or remove it first")


def _remove(path: Path) -> None:
    with suppress(OSError):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _tidy(folder: Path) -> None:
    """Remove, once a process and folder, temporary files whose writer is dead, or of another system and a week old."""
    if str(folder.absolute()) in _tidied:
        return
    _tidied.add(str(folder.absolute()))
    with suppress(OSError):
        for entry in os.scandir(folder):
            if (name := PART.fullmatch(entry.name)) is None:
                continue
            dead = name[1] == _this_system() and not psutil.pid_exists(int(name[2]))
            if dead or time.time() - entry.stat().st_mtime > FORGOTTEN:
                _remove(Path(entry.path))


@cache
def _this_system() -> str:
    """What tells a process number here from the same one on another machine or in another container."""
    parts = [platform.node()]
    with suppress(OSError):
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"), os.readlink("/proc/self/ns/pid")]
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:8]


def sha256_file(path: str | Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
