"""`avs ablate`: run a grid of variants, tasks and seeds, and print its tables."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from avslib.cli.options import Quiet, console, require_beside

if TYPE_CHECKING:
    from avslib.study.records import RunRecord
    from avslib.study.sweep.grid import Job


def ablate_command(
    grid: Annotated[Path, typer.Argument(metavar="GRID.yaml", help="For example configs/ablate-mini.yaml.")],
    seeds: Annotated[int | None, typer.Option(min=1, help="Number of seeds, from 0 on; default: the grid's.")] = None,
    fast: Annotated[bool, typer.Option("--fast", help="Apply the overrides under `fast` in the grid.")] = False,
    executor: Annotated[str, typer.Option(help="local, serial (this process), dask://HOST:PORT or slurm.")] = "local",
    processes: Annotated[int | None, typer.Option(min=1, help="Trainings at a time; default: as fit here.")] = None,
    out: Annotated[Path | None, typer.Option(help="Records, tables; default: build/ablate/GRID[-fast].")] = None,
    work: Annotated[Path | None, typer.Option(help="Checkpoints, run states; default: work/ in --out.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder in AVSBench layout, to replace the grid's.")] = None,
    quiet: Quiet = False,
) -> None:
    """Run a grid of trainings: skip finished ones, resume interrupted ones, and continue after a failed one."""
    from avslib.study.sweep.engine import run_grid

    options = {"console": console, "progress": not quiet, "lesson": run_lesson}
    try:
        result = run_grid(grid, out, work, data, seeds, fast, executor, processes, **options)
    except KeyboardInterrupt:
        console.print("\nstopped: finished runs are kept; the same command goes on from here")
        raise typer.Exit(130) from None
    raise typer.Exit(1 if result.failed else 0)


def run_lesson(job: "Job", folder: Path, number: int, fast: bool) -> "RunRecord":
    """See `tools.notebooks.run_lesson`; raises AvsError where there is no checkout."""
    require_beside("tools", "a grid with notebook:")
    from tools import notebooks

    return notebooks.run_lesson(job, folder, number, fast)
