"""One run of a sweep, executed in whichever process: train, score, publish; or leave a note of why it failed."""

import contextlib
import datetime
import json
import os
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from filelock import FileLock

from avslib.config import load_config
from avslib.core.errors import AvsError, DataError, SweepError
from avslib.core.files import atomic_path
from avslib.study.records import RECORD, RunRecord, load_records, variant_hash, write_record
from avslib.study.run import dataset_info, run
from avslib.study.sweep.grid import Job
from avslib.training.state import STATE
from avslib.variants import variant

# a Dask worker may have several threads, and a run owns the process's seeds and thread count
_ONE_AT_A_TIME = threading.Lock()


def run_job(
    job: Job,
    out: str | Path,
    work: str | Path,
    threads: int = 1,
    *,
    notebook: int | None = None,
    fast: bool = False,
    baselines: bool = True,
    command: str | None = None,
) -> dict[str, Any]:
    """Train and score a run in `work`/<id>, going on from what is there, and publish its record to `out`/runs/<id>.

    Args:
        threads: of torch.
        notebook: execute a copy of this lesson for it; else `avslib.study.run.run`.
        fast: parameter FAST of the notebook.
        baselines: score shuffled sound and all objects in view, too.
        command: the sweep's command line, for the record.

    Returns:
        id, state ("done" or "failed"), seconds, and error ("" where there is none). What goes wrong is written to
        `out`/failed/<id>.json, and never raised.
    """
    out, work, start = Path(out), Path(work), time.perf_counter()
    error = ""
    try:
        if not Path(str(job.config.data.root)).is_dir():
            raise DataError(
                f"data.root {job.config.data.root}: no such folder on this machine; every worker must see "
                "the data, the work folder and the results under the same paths"
            )
        work.mkdir(parents=True, exist_ok=True)
        # the worker of a sweep that was killed a moment ago may still be at this run
        with _ONE_AT_A_TIME, FileLock(work / f".{job.id}.lock"):
            if find_finished(job, out) is None:
                with _threads(threads):
                    record = _in_notebook(job, notebook, work, fast) if notebook is not None else None
                    _publish(record or _train(job, work, baselines), out / "runs" / job.id, job, command)
            (work / job.id / STATE).unlink(missing_ok=True)
            failure_path(out, job).unlink(missing_ok=True)
    except Exception as reason:
        error = record_failure(out, job, reason, threads)
    seconds = round(time.perf_counter() - start, 1)
    return {"id": job.id, "state": "failed" if error else "done", "seconds": seconds, "error": error}


def find_finished(job: Job, out: str | Path) -> RunRecord | None:
    """The published record of this very run, if there is one: same task, seed, data, method and variant."""
    folder = Path(out) / "runs" / job.id
    wanted = job.key(dataset_info(str(job.config.data.root), job.task)[1].id)
    return finished_runs(folder).get(wanted) if folder.is_dir() else None


def finished_runs(folder: str | Path) -> dict[tuple, RunRecord]:
    """Records under a folder by the key that `Job.key` gives; of two with one key the later counts."""
    records = sorted(load_records(folder), key=lambda record: record.created) if Path(folder).is_dir() else []
    return {(r.task, r.seed, r.dataset.id, r.method, variant_hash(r.config)): r for r in records}


def failure_path(out: str | Path, job: Job) -> Path:
    """Where the note of a failed run is."""
    return Path(out) / "failed" / f"{job.id}.json"


def record_failure(out: str | Path, job: Job, reason: BaseException, threads: int = 1) -> str:
    """Write why a run failed and the command that repeats it; returns the error in one line."""
    error = str(reason) if isinstance(reason, AvsError) else f"{type(reason).__name__}: {reason}"
    values = {
        "id": job.id,
        "task": job.task,
        "method": job.method,
        "seed": job.seed,
        "error": error,
        "traceback": "".join(traceback.format_exception(reason)),
        "command": job.command(threads),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    with atomic_path(failure_path(out, job)) as part:
        part.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return " ".join(error.split())


def _train(job: Job, work: Path, baselines: bool) -> RunRecord:
    # a worker runs one job after another, and accelerate keeps the first one's precision
    AcceleratorState._reset_state(reset_partial_state=True)
    if not (work / job.id / STATE).is_file():  # what an earlier sweep published has no say in this one
        (work / job.id / RECORD).unlink(missing_ok=True)
    return run(job.config, work / job.id, resume=True, progress=False, method=job.method, baselines=baselines)


def _in_notebook(job: Job, number: int, work: Path, fast: bool) -> RunRecord:
    """Execute a copy of a lesson with the job's parameters; the record of its run of just this configuration."""
    from avslib.course.execute import find, run_notebook

    folder, path = work / job.id, find([str(number)])[0]
    own = variant(job.variant)
    # a lesson makes itself small with FAST: then every field is given, so that the job's own sizes stand; but for those
    # of the variant, since the lesson trains the full model under the same overrides
    changed = job.changes(None if fast else load_config(job.preset).replace(own))
    changed = {name: value for name, value in changed.items() if name not in own or own[name] != value}
    (folder / path.name).unlink(missing_ok=True)  # a copy that other workers, with other paths, may have begun
    run_notebook(
        path,
        folder,
        {
            "VARIANT": job.variant,
            "SEED": job.seed,
            "TASK": job.task,
            "PRESET": job.preset,
            "FAST": fast,
            "OVERRIDES": [f"{name}={json.dumps(value)}" for name, value in changed.items()],
            "DATA_ROOT": str(job.config.data.root),
        },
    )
    _, seed, dataset, _, wanted = job.key(dataset_info(str(job.config.data.root), job.task)[1].id)
    for record in load_records(folder / "runs"):
        if (record.seed, record.dataset.id, variant_hash(record.config)) == (seed, dataset, wanted):
            return record
    raise SweepError(
        f"{path.name}: left no run record of {job.method}, seed {seed}, in {folder / 'runs'}; its run "
        "must follow from VARIANT, SEED, TASK, PRESET and OVERRIDES"
    )


def _publish(record: RunRecord, target: Path, job: Job, command: str | None) -> None:
    """Copy what a run leaves; the record last, since it is what marks a run as finished."""
    from avslib.study.run import PUBLISHED, publish

    publish(record.path.parent, target, [name for name in PUBLISHED if name != "run.json"])
    # a worker's own command line says nothing; a lesson knows neither the axes nor a name of one's own
    names = {"id": job.id, "method": job.method} | ({"command": command} if command else {})
    write_record(target, record.model_copy(update=names))


@contextlib.contextmanager
def _threads(number: int) -> Iterator[None]:
    """torch with so many threads, here and in processes started here; the record's peak memory counts from now."""
    before, environment = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    torch.set_num_threads(number)
    os.environ["OMP_NUM_THREADS"] = str(number)
    with contextlib.suppress(OSError):  # Linux alone can forget the peak of this process's earlier runs
        Path("/proc/self/clear_refs").write_text("5")
    try:
        yield
    finally:
        torch.set_num_threads(before)
        if environment is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = environment
