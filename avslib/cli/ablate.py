"""`avs ablate`: run a grid of variants, tasks and seeds, and print its tables."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from avslib.cli.options import Quiet, console

if TYPE_CHECKING:
    from avslib.study.records import RunRecord
    from avslib.study.sweep.grid import Job


def ablate_command(
    grid: Annotated[Path, typer.Argument(metavar="GRID.yaml", help="For example configs/ablate-mini.yaml.")],
    seeds: Annotated[int | None, typer.Option(min=1, help="How many, counted from 0; default: the grid's.")] = None,
    fast: Annotated[bool, typer.Option("--fast", help="With the grid's fast: overrides, for a quick look.")] = False,
    executor: Annotated[str, typer.Option(help="local, serial (this process), dask://HOST:PORT or slurm.")] = "local",
    processes: Annotated[int | None, typer.Option(min=1, help="At once; default: by cores and memory.")] = None,
    out: Annotated[Path | None, typer.Option(help="Records and tables; default: build/ablate/GRID[-fast].")] = None,
    work: Annotated[Path | None, typer.Option(help="Checkpoints and states; default: work/ in --out.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder in AVSBench layout in place of the grid's data.")] = None,
    quiet: Quiet = False,
) -> None:
    """Run a grid of trainings: finished ones are skipped, interrupted ones go on, failed ones do not stop the rest."""
    from avslib.study.sweep.engine import run_grid

    options = {"console": console, "progress": not quiet, "lesson": run_lesson}
    try:
        result = run_grid(grid, out, work, data, seeds, fast, executor, processes, **options)
    except KeyboardInterrupt:
        console.print("\nstopped: finished runs are kept; the same command goes on from here")
        raise typer.Exit(130) from None
    raise typer.Exit(1 if result.failed else 0)


def run_lesson(job: "Job", folder: Path, number: int, fast: bool) -> "RunRecord":
    """Execute a copy of a lesson with the job's parameters; returns the record of its run of this configuration.

    Raises AvsError when the lesson fails, or leaves no record of this run.
    """
    import torch

    from avslib.core.errors import SweepError
    from avslib.course.execute import find, run_notebook
    from avslib.study.records import load_records, portable, variant_hash
    from avslib.study.sweep.grid import OWN_FIELDS, flat
    from avslib.variants import variant

    path, config, own = find([str(number)])[0], job.config.model_dump(mode="json"), variant(job.variant)
    # whatever the lesson sets by itself, the job's values stand; except those of the variant, since the lesson trains
    # the full model under the same overrides
    given = {name: value for name, value in flat(config).items() if own.get(name, ...) != value}
    overrides = [f"{name}={json.dumps(value)}" for name, value in given.items() if name not in OWN_FIELDS]
    (folder / path.name).unlink(missing_ok=True)  # other workers, with other paths, may have begun a copy
    os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())  # for the kernel
    parameters = {"VARIANT": job.variant, "SEED": job.seed, "TASK": job.task, "FAST": fast, "OVERRIDES": overrides}
    run_notebook(path, folder, parameters | {"DATA_ROOT": job.config.data.root})
    for record in load_records(folder / "runs"):
        if (record.seed, variant_hash(record.config)) == (job.seed, variant_hash(portable(config))):
            return record
    raise SweepError(f"{path.name}: left no record of {job.method}, seed {job.seed}, in {folder / 'runs'}")
