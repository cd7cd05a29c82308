"""Unexpected errors become a sentence here, by the standard library only, since torch may be what is broken."""

import errno
import importlib.metadata
import json
import platform
import re
import sys
import tempfile
import traceback

from avslib.core.errors import (
    NO_MEMORY,
    AvsError,
    DiskFullError,
    InstallError,
    InternalError,
    MemoryLimitError,
    OutputError,
)

OURS = {"avslib", "benchmarks", "course", "tools", "__main__"}


def as_avs_error(error: Exception) -> AvsError:
    """The sentence for an exception that reached the command line, for the user to act on.

    An unexpected one is a bug: its traceback, command and versions go to a file in the temporary folder.
    """
    first = (str(error).strip().splitlines() or ["no message"])[0]
    if isinstance(error, AvsError):
        return error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFullError(f"{error.filename or 'disk'}: {error.strerror}; make room and run the command again")
    words = isinstance(error, RuntimeError) and re.search(NO_MEMORY, str(error))
    if words or isinstance(error, MemoryError):
        return MemoryLimitError("memory ran out; use a smaller batch or size, or close other programs")
    if package := _broken_package(error):
        return InstallError(f"the package {package} cannot be imported ({first}); install it, or avslib, again")
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return OutputError(f"{error.filename}: {error.strerror}; name a file or folder that can be read and written")
    return InternalError(f"unexpected {type(error).__name__}: {first}; this is a bug: report it with {_report(error)}")


def _broken_package(error: Exception) -> str:
    """The package of others that is missing, or at whose import the error was raised; "" if there is none."""
    missing = error.name or "" if isinstance(error, ImportError) else ""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__) if frame.f_code.co_name == "<module>"]
    modules = [frame.f_globals["__name__"] for frame in reversed(frames)]  # the innermost is the one that is broken
    packages = [name.partition(".")[0] for name in (missing, *modules)]
    return next((package for package in packages if package and package not in OURS), "")


def _report(error: Exception) -> str:
    """Path of the report, or what to do where it cannot be written."""
    facts = {
        "command": sys.argv[1:],
        "platform": f"{platform.platform()}, Python {platform.python_version()}",
        "packages": {one.metadata["Name"]: one.version for one in importlib.metadata.distributions()},
    }
    options = {"prefix": "avs-error-", "suffix": ".txt", "encoding": "utf-8", "errors": "replace", "delete": False}
    try:
        with tempfile.NamedTemporaryFile("w", **options) as stream:
            stream.write(json.dumps(facts, indent=1) + "\n" + "".join(traceback.format_exception(error)))
            return stream.name
    except OSError:
        return "the traceback that avs -v prints"
