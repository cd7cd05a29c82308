"""A sweep from grid file to tables: what is finished is skipped, what was begun goes on, what fails is written down."""

import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from avslib.core.errors import AvsError, SweepError
from avslib.core.files import atomic_path
from avslib.data.mini.build import build_mini
from avslib.study.ablation import ablation_table
from avslib.study.records import RunRecord, load_records, portable
from avslib.study.results import table
from avslib.study.run import dataset_info
from avslib.study.sweep.executors import check_executor, execute
from avslib.study.sweep.grid import Grid, Job, MiniData, jobs, load_grid
from avslib.study.sweep.jobs import finished_runs, record_failure, run_job
from avslib.study.sweep.live import Board, RunStatus
from avslib.training.evaluate import test_splits
from avslib.training.setup import open_split
from avslib.training.state import STATE


@dataclass
class SweepResult:
    """Records of a grid's finished runs, in the grid's order, and the error of each run that failed, by its id."""

    records: list[RunRecord]
    failed: dict[str, str]


def sweep(grid_path: str | Path, **options: Any) -> list[RunRecord]:
    """`run_grid`, for those who want the records alone."""
    return run_grid(grid_path, **options).records


def run_grid(
    grid_path: str | Path,
    out: str | Path | None = None,
    work: str | Path | None = None,
    data: str | Path | None = None,
    seeds: int | Sequence[int] | None = None,
    fast: bool = False,
    executor: str = "local",
    processes: int | None = None,
    console: Console | None = None,
    progress: bool = True,
) -> SweepResult:
    """Run what is not finished yet of a grid, print a table a task and write it to `out`/table_<task>.md.

    Called again after an interruption, it goes on where it was. In a script, call it under
    ``if __name__ == "__main__":``, since worker processes import the script.

    Args:
        grid_path: see `avslib.study.sweep.grid.Grid`.
        out: records in runs/, notes of failed runs in failed/; default: build/ablate/<grid name>[-fast].
        work: a folder a run for checkpoints and states; default: `out`/work.
        data: folder in AVSBench layout in place of the grid's.
        seeds: how many, or which, in place of the grid's.
        fast: with the grid's `fast` overrides.
        executor: local, serial, dask://HOST:PORT or slurm.
        processes: how many at once, in place of what cores and memory allow.
        progress: show how far the runs are.

    Raises:
        AvsError: a grid, data folder or executor that cannot work. A run that fails raises nothing.
        KeyboardInterrupt: after a word on how to go on.
    """
    console, grid = console or Console(quiet=True), load_grid(grid_path)
    check_executor(executor, processes)
    root = Path(data).expanduser().resolve() if data else grid.root
    todo = jobs(grid, seeds, fast, root)
    out = Path(out or Path("build/ablate") / f"{grid.name}{'-fast' if fast else ''}").expanduser().resolve()
    work = Path(work).expanduser().resolve() if work else out / "work"
    # bars of their own would go to rich's global console, which in a notebook is a widget
    bars = progress and console.is_terminal
    if data is None and isinstance(grid.data, MiniData):
        build_mini(root, grid.data.mini, seed=grid.data.seed, progress=bars)
    datasets = {task: dataset_info(root, task)[1].id for task in grid.tasks}

    before = finished_runs(out / "runs")
    status = {job.id: _status(job, root, work) for job in todo}
    left = []
    for job in todo:
        if record := before.get(job.key(datasets[job.task])):
            _set_finished(status[job.id], record, "done before")
            (work / job.id / STATE).unlink(missing_ok=True)
        else:
            left.append(job)
    console.print(_headline(grid, todo, left), highlight=False)
    failed: dict[str, str] = {}
    if left:
        _prepare(left, bars)
        call = partial(
            run_job,
            out=out,
            work=work,
            threads=grid.threads,
            notebook=grid.notebook,
            fast=fast,
            baselines=grid.baselines,
            command=_command(),
        )
        options = {"grid": grid, "root": root, "work": work, "processes": processes, "console": console}
        failed = _run(executor, left, call, status, Board(list(status.values()), console, progress), options)
    found = finished_runs(out / "runs")
    records = [found[key] for job in todo if (key := job.key(datasets[job.task])) in found]
    _tables(records, out, console)
    for name, error in failed.items():
        console.print(f"failed: {name}: {error}", markup=False, highlight=False, soft_wrap=True)
    if failed:
        note = f"{len(failed)} of {len(todo)} runs failed; tracebacks and commands: {out / 'failed'}"
        console.print(f"{note}; the same command tries them again", highlight=False, soft_wrap=True, markup=False)
    return SweepResult(records, failed)


def _run(
    executor: str, left: list[Job], call: partial, status: dict[str, RunStatus], board: Board, options: dict[str, Any]
) -> dict[str, str]:
    """Execute jobs and keep the board up to date; errors by id."""
    out, threads, failed = call.keywords["out"], call.keywords["threads"], {}
    events = execute(executor, left, call, started=partial(setattr, board, "workers"), **options)
    try:
        with board:
            for job, outcome in events:
                if job is not None:
                    error = _take(status[job.id], job, outcome, out, threads)
                    failed |= {job.id: error} if error else {}
                board.draw()
    except KeyboardInterrupt:
        done = sum(run.state in ("done", "done before") for run in status.values())
        board.console.print(
            f"\nstopped: {done} of {len(status)} runs are finished and kept; the same command goes on from here"
        )
        raise
    finally:
        events.close()
    return failed


def _take(run: RunStatus, job: Job, outcome: Any, out: Path, threads: int) -> str:
    """Enter what became of a job; returns its error, or ""."""
    if outcome is None:
        run.state, run.began = "running", time.monotonic()
        return ""
    run.look()
    run.seconds = time.monotonic() - run.began if isinstance(outcome, BaseException) else outcome["seconds"]
    records = [] if isinstance(outcome, BaseException) else list(finished_runs(out / "runs" / job.id).values())
    if isinstance(outcome, BaseException):
        error = record_failure(out, job, outcome, threads)
    elif outcome["state"] == "done" and not records:
        lost = SweepError(f"the worker finished, but its record is not in {out}: workers must see that folder, too")
        error = record_failure(out, job, lost, threads)
    else:
        error = outcome["error"]
    if error:
        run.state, run.note = "failed", error
    else:
        _set_finished(run, records[-1], "done")
    return error


def _set_finished(run: RunStatus, record: RunRecord, state: str) -> None:
    run.state, run.step, run.val_j = state, run.steps, record.metrics.get("val", {}).get("J")
    scores = [f"{split} J {values['J']:.3f}" for split, values in record.metrics.items() if values.get("J") is not None]
    run.note = ", ".join(scores)


def _status(job: Job, root: Path, work: Path) -> RunStatus:
    clips = dataset_info(root, job.task)[1].clips.get("train", 0)
    c = job.config
    clips = min(clips, c.data.max_clips or clips)
    # as the loader counts: the last, smaller batch is left out
    steps = c.train.epochs * max(clips // c.train.batch_size, 1)
    return RunStatus(job.task, job.method, job.seed, work / job.id, steps)


def _prepare(left: Sequence[Job], progress: bool) -> None:
    """Fill the cache of audio embeddings once, before processes would all wait for the first one to do it."""
    seen = set()
    for job in left:
        d, m = job.config.data, job.config.model
        key = (d.model_dump_json(), m.audio_encoder, m.audio_weights)
        if not m.use_audio or key in seen:
            continue
        seen.add(key)
        # what is wrong here is told by the runs that need it, and the others go on
        with suppress(AvsError, OSError):
            for split in ("train", "val", *test_splits(str(d.root), d.task)):
                open_split(job.config, split, progress=progress)


def _tables(records: list[RunRecord], out: Path, console: Console) -> None:
    """The ablation table of each task, of all records in `out`: other grids may have been run into it, too."""
    for task in dict.fromkeys(record.task for record in records):
        chosen = [record for record in load_records(out / "runs") if record.task == task]
        data = chosen[0].data
        try:
            made = {fmt: ablation_table(chosen, task, fmt, data=data) for fmt in ("rich", "md")}
        except AvsError as error:
            console.print(f"without intervals: {error}", markup=False, highlight=False, soft_wrap=True)
            made = {fmt: table(chosen, task, data, fmt) for fmt in ("rich", "md")}
        console.print(made["rich"])
        with atomic_path(out / f"table_{task}.md") as part:
            part.write_text(made["md"], encoding="utf-8")
    if records:
        console.print(f"records and tables: {out}", highlight=False, soft_wrap=True, markup=False)


def _headline(grid: Grid, todo: Sequence[Job], left: Sequence[Job]) -> str:
    methods, seeds = len({job.method for job in todo}), len({job.seed for job in todo})
    text = f"{grid.name}: {len(todo)} runs ({methods} methods, {len(grid.tasks)} tasks, {seeds} seeds)"
    return text + (f", {len(todo) - len(left)} done before" if len(left) < len(todo) else "")


def _command() -> str:
    """This process's command line as run records keep it."""
    return shlex.join(portable([Path(sys.argv[0]).stem.replace("cli", "avs"), *sys.argv[1:]]))
