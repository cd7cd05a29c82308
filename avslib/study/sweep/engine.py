"""A sweep from grid file to tables: finished runs are skipped, interrupted ones go on, failed ones leave a note."""

import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import track

from avslib.core.errors import AvsError, UsageError
from avslib.core.files import atomic_path
from avslib.data.mini.build import build_mini
from avslib.study.ablation import ablation_table
from avslib.study.records import RunRecord, load_records, portable
from avslib.study.representation import CODES, codes_table
from avslib.study.results import table
from avslib.study.run import dataset_info
from avslib.study.sweep.grid import Job, MiniData, jobs, load_grid
from avslib.study.sweep.start_run import finished_runs, record_failure, run_job, train_job
from avslib.study.sweep.workers import check_executor, execute

PLAIN = {"markup": False, "highlight": False, "soft_wrap": True}  # paths and errors are printed as they are


@dataclass
class SweepResult:
    """Records of a grid's finished runs, in the grid's order, and the error of each run that failed, by its id."""

    records: list[RunRecord]
    failed: dict[str, str]


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
    lesson: Callable[[Job, Path, int, bool], RunRecord] | None = None,
) -> SweepResult:
    """Run what is not finished yet of a grid, print a table for each task and write it to `out`/table_<task>.md.

    Called again after an interruption, it resumes. In a script, call it under ``if __name__ == "__main__":``, since
    worker processes import the script. Raises AvsError for a grid, data folder or executor that cannot work; a run that
    fails leaves a note. Arguments that are not listed are the options of ``avs ablate``.

    Args:
        out: records in runs/, notes of failed runs in failed/; default: build/ablate/<grid name>[-fast].
        work: a folder for each run's checkpoints and state; default: `out`/work.
        lesson: executes a run of a grid that has `notebook`: called with the job, its folder, the number and `fast`.
    """
    console, grid = console or Console(quiet=True), load_grid(grid_path)
    check_executor(executor)
    by_lesson = grid.notebook is not None
    if by_lesson and lesson is None:
        raise UsageError(f"grid {grid.name}: notebook: runs of a lesson need `avs ablate`, or the argument lesson")
    root = Path(data).expanduser().resolve() if data else grid.root
    todo = jobs(grid, seeds, fast, root)
    out = Path(out or Path("build/ablate") / f"{grid.name}{'-fast' if fast else ''}").expanduser().resolve()
    work = Path(work).expanduser().resolve() if work else out / "work"
    for folder in (out, work):
        folder.mkdir(parents=True, exist_ok=True)
    if data is None and isinstance(grid.data, MiniData):
        build_mini(root, grid.data.mini, seed=grid.data.seed, progress=progress and console.is_terminal)
    datasets = {task: dataset_info(root, task)[1].id for task in grid.tasks}
    keys = {job.id: job.key(datasets[job.task]) for job in todo}
    before = finished_runs(out / "runs")
    left = [job for job in todo if keys[job.id] not in before]
    console.print(f"{grid.name}: {len(todo)} runs, {len(todo) - len(left)} done before", highlight=False)

    train = partial(train_job, baselines=grid.baselines)
    if by_lesson:
        train = partial(lesson, number=grid.notebook, fast=fast)
    command = shlex.join(portable([Path(sys.argv[0]).stem.replace("cli", "avs"), *sys.argv[1:]]))
    call = partial(run_job, train=train, out=out, work=work, threads=grid.threads, command=command)
    failed, hidden = {}, not progress or not (console.is_terminal or console.is_jupyter)
    with closing(execute(executor, left, call, grid, processes, console)) as events:
        shown = track(events if left else [], "runs", total=len(left), console=console, disable=hidden)
        for number, (job, result) in enumerate(shown, len(todo) - len(left) + 1):
            try:
                record = result()
                scores = [f"{split} J {v['J']:.3f}" for split, v in record.metrics.items() if v.get("J") is not None]
                note = f"{', '.join(scores)} ({record.wall_seconds:.0f} s)"
            except Exception as error:
                failed[job.id] = record_failure(out, job, error)
                note = f"failed: {failed[job.id]}"
            if progress:
                console.print(f"{number}/{len(todo)} {job.task}, {job.method}, seed {job.seed}: {note}", **PLAIN)
    found = finished_runs(out / "runs")
    records = [found[key] for key in keys.values() if key in found]
    _tables(records, out, console)
    if failed:
        console.print(f"{len(failed)} of {len(todo)} runs failed; tracebacks: {out / 'failed'}", **PLAIN)
    return SweepResult(records, failed)


def _tables(records: list[RunRecord], out: Path, console: Console) -> None:
    """The ablation table of each task, of all records in `out`: other grids may have been run into it, too."""
    for task in dict.fromkeys(record.task for record in records):
        chosen = [record for record in load_records(out / "runs") if record.task == task]
        try:
            shown, text = (ablation_table(chosen, task, data=chosen[0].data, fmt=fmt) for fmt in ("rich", "md"))
        except AvsError as error:
            console.print(f"without intervals: {error}", **PLAIN)
            shown, text = (table(chosen, task, chosen[0].data, fmt) for fmt in ("rich", "md"))
        if any(CODES in record.metrics for record in chosen):
            text += "\n" + codes_table(chosen, task)
        console.print(shown)
        with atomic_path(out / f"table_{task}.md") as part:
            part.write_text(text, encoding="utf-8")
    console.print(f"records and tables: {out}", **PLAIN)
