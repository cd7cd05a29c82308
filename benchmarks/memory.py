"""Peak memory of one candidate, and what still fits.

On a CPU a candidate has a process of its own, forked from a small server that has only imported the libraries, so
nothing of an earlier candidate (its heap, its threads' caches) counts, and neither do the libraries. A GPU's allocator
counts the bytes in use exactly, in any process.
"""

import contextlib
import gc
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import psutil
import torch

from avslib.core.errors import MemoryLimitError
from avslib.study.records import peak_memory
from benchmarks.candidates import Candidate
from benchmarks.record import BenchSettings
from benchmarks.timing import timed

T = TypeVar("T")
PROCESS = Path("/proc/self")


@dataclass(frozen=True)
class Measured:
    """Peak in bytes above the bare process, and seconds of each run after the first."""

    peak: int
    seconds: list[float]


def available_memory(device: str) -> int:
    """Bytes that a candidate can use without pushing others out."""
    if device == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info()[0]
    return psutil.virtual_memory().available


def measure(kind: str, candidate: Candidate, settings: BenchSettings, clips: int, runs: int = 1) -> Measured:
    """Build the candidate's work and run it `runs` times, on a CPU in a fresh process.

    Raises:
        AvsError: memory ran out, or the process died, usually for that reason.
    """
    ran_out = MemoryLimitError(
        f"avs bench: {candidate.name} ({kind}, batch {clips}) ran out of memory; choose a smaller --batch"
    )
    if settings.device == "cuda":
        available_memory(settings.device)  # frees what earlier candidates left
        try:
            return _run(kind, candidate, settings, clips, runs)
        except torch.OutOfMemoryError:
            raise ran_out from None
    context = get_context("forkserver" if sys.platform == "linux" else "spawn")
    if sys.platform == "linux":
        context.set_forkserver_preload(["benchmarks.memory", "benchmarks.work"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(_child, kind, candidate, settings, clips, runs, torch.get_num_threads()).result()
        except BrokenProcessPool:
            raise ran_out from None


def _child(kind: str, candidate: Candidate, settings: BenchSettings, clips: int, runs: int, threads: int) -> Measured:
    with contextlib.suppress(OSError):  # if memory runs out, the system should end this process, not its parent
        (PROCESS / "oom_score_adj").write_text("1000", encoding="ascii")
    torch.set_num_threads(threads)
    return _run(kind, candidate, settings, clips, runs)


def _run(kind: str, candidate: Candidate, settings: BenchSettings, clips: int, runs: int) -> Measured:
    from benchmarks.work import start

    before = in_use(settings.device)
    work = start(kind, candidate, settings, clips)
    # what building needs for a moment does not count, what it leaves does
    peak, seconds = peak_of(settings.device, lambda: [timed(work) for _ in range(runs)])
    return Measured(max(peak - before, 0), seconds[1:])


def in_use(device: str) -> int:
    """Bytes in use now: allocated on the GPU, or resident in this process."""
    gc.collect()
    return torch.cuda.memory_allocated() if device == "cuda" else _status("VmRSS")


def peak_of(device: str, run: Callable[[], T]) -> tuple[int, T]:
    """Most bytes in use while `run` ran, those in use before included, and its result."""
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        with contextlib.suppress(OSError):  # where this is not allowed, the mark is that of the fork
            (PROCESS / "clear_refs").write_text("5", encoding="ascii")
    result = run()
    return torch.cuda.max_memory_allocated() if device == "cuda" else _status("VmHWM"), result


def _status(name: str) -> int:
    if not (PROCESS / "status").exists():  # not Linux
        return peak_memory()
    lines = (PROCESS / "status").read_text(encoding="ascii").splitlines()
    return next(int(x.split()[1]) * 1024 for x in lines if x.startswith(f"{name}:"))
