"""How a sweep starts a run, in any process: train, score and publish it, or leave a note of why it failed."""

import json
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from accelerate.state import AcceleratorState
from filelock import FileLock

from avslib.core.errors import AvsError, SweepError
from avslib.core.files import atomic_path
from avslib.study.records import RECORD, RunRecord, load_records, variant_hash
from avslib.study.run import dataset_info, publish, run
from avslib.study.sweep.grid import Job
from avslib.training.state import STATE

# a Dask worker may have several threads, and a run owns the process's seeds and thread count
_ONE_AT_A_TIME = threading.Lock()


def run_job(
    job: Job, train: Callable[[Job, Path], RunRecord], out: Path, work: Path, threads: int, command: str
) -> RunRecord:
    """Run ``train(job, work/<id>)`` with so many `threads` of torch and publish its record to `out`/runs/<id>."""
    folder, target, before = work / job.id, out / "runs" / job.id, torch.get_num_threads()
    if not (work.is_dir() and out.is_dir()):
        raise SweepError(f"this worker does not see {work} or {out}; it must share the folders of the sweep")
    # the worker of a sweep that was killed a moment ago may still be at this run
    with _ONE_AT_A_TIME, FileLock(work / f".{job.id}.lock"):
        record = finished_runs(target).get(job.key(dataset_info(str(job.config.data.root), job.task)[1].id))
        if record is None:
            torch.set_num_threads(threads)
            with suppress(OSError):  # only Linux can reset the peak memory that this process's earlier runs reached
                Path("/proc/self/clear_refs").write_text("5")
            try:
                # a worker's own command line says nothing
                record = publish(train(job, folder), target, id=job.id, method=job.method, command=command)
            finally:
                torch.set_num_threads(before)
        (folder / STATE).unlink(missing_ok=True)
        (out / "failed" / f"{job.id}.json").unlink(missing_ok=True)
    return record


def train_job(job: Job, folder: Path, baselines: bool = True) -> RunRecord:
    """Train and score a run in `folder`, resuming what is there; `baselines`: see :func:`avslib.study.run.run`."""
    # a worker runs one job after another, and accelerate keeps the first one's precision
    AcceleratorState._reset_state(reset_partial_state=True)
    if not (folder / STATE).is_file():
        (folder / RECORD).unlink(missing_ok=True)  # left by an earlier sweep
    return run(job.config, folder, resume=True, progress=False, method=job.method, baselines=baselines)


def finished_runs(folder: str | Path) -> dict[tuple, RunRecord]:
    """Records under a folder by the key that `Job.key` gives; of two with one key the later counts."""
    records = sorted(load_records(folder), key=lambda record: record.created) if Path(folder).is_dir() else []
    return {(r.task, r.seed, r.dataset.id, r.method, variant_hash(r.config)): r for r in records}


def record_failure(out: Path, job: Job, reason: Exception) -> str:
    """Write `out`/failed/<id>.json: the run's configuration and why it failed; returns the error in one line."""
    error = str(reason) if isinstance(reason, AvsError) else f"{type(reason).__name__}: {reason}"
    trace, config = "".join(traceback.format_exception(reason)), job.config.model_dump(mode="json")
    note = {"id": job.id, "method": job.method, "error": error, "traceback": trace, "config": config}
    with atomic_path(out / "failed" / f"{job.id}.json") as part:
        part.write_text(json.dumps(note, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return " ".join(error.split())
