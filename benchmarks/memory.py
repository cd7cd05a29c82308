"""Peak memory of one candidate, measured in a process of its own, and what still fits.

The process is forked from a small server that has only imported the libraries, so nothing of an earlier candidate (its
heap, its threads' caches) counts, and neither do the libraries.
"""

import contextlib
import gc
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import psutil
import torch

from avslib.core.errors import MemoryLimitError
from avslib.study.records import peak_memory
from benchmarks.candidates import Candidate
from benchmarks.record import BenchSettings
from benchmarks.timing import timed

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
    """Build the candidate's work in a fresh process and run it `runs` times.

    Raises:
        AvsError: the process died, usually because memory ran out.
    """
    context = get_context("forkserver" if sys.platform == "linux" else "spawn")
    if sys.platform == "linux":
        context.set_forkserver_preload(["benchmarks.memory", "benchmarks.work"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(_child, kind, candidate, settings, clips, runs, torch.get_num_threads()).result()
        except (BrokenProcessPool, torch.OutOfMemoryError):
            raise MemoryLimitError(
                f"avs bench: {candidate.name} ({kind}, batch {clips}) ran out of memory; choose a smaller --batch"
            ) from None


def _child(kind: str, candidate: Candidate, settings: BenchSettings, clips: int, runs: int, threads: int) -> Measured:
    from benchmarks.work import start

    with contextlib.suppress(OSError):  # if memory runs out, the system should end this process, not its parent
        (PROCESS / "oom_score_adj").write_text("1000", encoding="ascii")
    torch.set_num_threads(threads)
    before = _reset_peak(settings.device)
    work = start(kind, candidate, settings, clips)
    _reset_peak(settings.device)  # what building needs for a moment does not count, what it leaves does
    seconds = [timed(work) for _ in range(runs)]
    peak = torch.cuda.max_memory_allocated() if settings.device == "cuda" else _status("VmHWM") - before
    return Measured(max(peak, 0), seconds[1:])


def _reset_peak(device: str) -> int:
    """Set the high-water mark back to what is in use now, which is returned for a CPU."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return 0
    gc.collect()
    with contextlib.suppress(OSError):  # where this is not allowed, the mark is that of the fork
        (PROCESS / "clear_refs").write_text("5", encoding="ascii")
    return _status("VmRSS")


def _status(name: str) -> int:
    if not (PROCESS / "status").exists():  # not Linux
        return peak_memory()
    lines = (PROCESS / "status").read_text(encoding="ascii").splitlines()
    return next(int(x.split()[1]) * 1024 for x in lines if x.startswith(f"{name}:"))
