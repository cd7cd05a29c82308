"""Errors that no part of avslib turned into a sentence, told in one all the same."""

import errno
import json
import os
import sys
import tempfile
import traceback
from pathlib import Path

from avslib.core.errors import AvsError, DiskFullError, InternalError, MemoryLimitError, OutputError


def told(error: Exception) -> AvsError:
    """The sentence for an exception that reached the command line.

    A file that the system refuses and memory that runs out are the user's to mend; anything else is a bug, and its
    traceback is kept in a file of the temporary folder, with versions and command, for the report.
    """
    if isinstance(error, AvsError):
        return error
    from avslib.training.guards import is_out_of_memory

    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFullError(f"{error.filename or 'disk'}: {error.strerror}; make room and give the command again")
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return OutputError(f"{error.filename}: {error.strerror}; name a file or folder that can be read and written")
    if is_out_of_memory(error):
        return MemoryLimitError("memory ran out; take a smaller batch or size, or close other programs")
    first = (str(error).strip().splitlines() or ["no message"])[0]
    return InternalError(f"unforeseen {type(error).__name__}: {first}; this is a bug: report it with {_keep(error)}")


def _keep(error: Exception) -> str:
    """Write the report; returns its path, or what to do where it cannot be written."""
    from avslib.study.records import environment, git_state

    report = [json.dumps({"command": sys.argv[1:], "git": git_state(), "environment": environment()}, indent=1)]
    report += traceback.format_exception(error)
    try:
        handle, name = tempfile.mkstemp(prefix="avs-error-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8", errors="replace") as stream:
            stream.write("\n".join(report))
    except OSError:
        return "the traceback that avs -v prints"
    return str(Path(name))
