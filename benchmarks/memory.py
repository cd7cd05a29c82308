"""Peak memory of one candidate, measured in a process of its own, and what still fits.

The process is forked from a small server that has only imported the libraries, so that nothing of an earlier candidate
(its heap, its threads' caches) counts, and the libraries themselves do not count either.
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
from benchmarks.timing import Line, fit_line, timer

SHARE = 0.85
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Measured:
    """Peak in bytes above the bare process, and seconds of each run after the first."""

    peak: int
    seconds: list[float]


def available_memory(device: str) -> int:
    """Bytes that a candidate can have without pushing others out."""
    if device == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info()[0]
    return psutil.virtual_memory().available


def measure(kind: str, candidate: Candidate, settings: BenchSettings, clips: int, runs: int = 1) -> Measured:
    """Build the candidate's work in a fresh process and run it `runs` times.

    Raises:
        AvsError: the process died, most often for want of memory.
    """
    method = "forkserver" if sys.platform == "linux" else "spawn"
    context = get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(["benchmarks.memory", "benchmarks.work"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(_child, kind, candidate, settings, clips, runs, torch.get_num_threads()).result()
        except (BrokenProcessPool, torch.OutOfMemoryError):
            raise MemoryLimitError(
                f"avs bench: {candidate.name} ({kind}, batch {clips}) ran out of "
                "memory, or was killed for it; choose a smaller --batch"
            ) from None


def _child(kind: str, candidate: Candidate, settings: BenchSettings, clips: int, runs: int, threads: int) -> Measured:
    from benchmarks.work import start

    _die_first()
    torch.set_num_threads(threads)
    cuda = settings.device == "cuda"
    before = _reset_peak(cuda)
    work, seconds = start(kind, candidate, settings, clips), []
    _reset_peak(cuda)  # what building takes for a moment does not count, what it leaves does
    for _ in range(runs):
        begin = timer()
        work()
        seconds.append(timer() - begin)
    peak = torch.cuda.max_memory_allocated() if cuda else _peak() - before
    return Measured(max(peak, 0), seconds[1:])


def _die_first() -> None:
    """Where memory does run out, this process is to go, and not the one that asked."""
    score = Path("/proc/self/oom_score_adj")
    if score.exists():
        score.write_text("1000", encoding="ascii")


def _reset_peak(cuda: bool) -> int:
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        return 0
    gc.collect()
    if not _STATUS.exists():
        return peak_memory()
    with contextlib.suppress(OSError):  # where it is not allowed, the mark is that of the fork
        _CLEAR.write_text("5", encoding="ascii")  # 5: set the high-water mark back to what is resident now
    return _field("VmRSS")


def _peak() -> int:
    return _field("VmHWM") if _STATUS.exists() else peak_memory()


def _field(name: str) -> int:
    line = next(x for x in _STATUS.read_text(encoding="ascii").splitlines() if x.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def batches_for_line(peaks: Line, budget: float, wanted: int) -> list[int]:
    """Batches to fit a line to where `wanted` does not fit: a third, two thirds and all of the largest that does.

    >>> batches_for_line(Line(intercept=2.0, slope=5.0, points=[1, 2]), budget=18.0, wanted=4)
    [1, 2, 3]
    """
    largest = max(1, min(wanted, int((budget - peaks.intercept) / peaks.slope) if peaks.slope > 0 else wanted))
    return sorted({max(1, largest // 3), max(1, 2 * largest // 3), largest})


def estimate_peaks(kind: str, candidate: Candidate, settings: BenchSettings) -> Line:
    """Peak in bytes against the batch, from batches 1 and 2."""
    peaks = [measure(kind, candidate, settings, clips).peak for clips in (1, 2)]
    return fit_line([1, 2], peaks)
