"""`avs ablate`: run a grid of variants, tasks and seeds, and print its tables."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from avslib.cli.data import Quiet

console = Console()


def ablate_command(
    grid: Annotated[Path, typer.Argument(metavar="GRID.yaml", help="For example configs/ablate-mini.yaml.")],
    seeds: Annotated[int | None, typer.Option(min=1, help="How many, counted from 0; default: the grid's.")] = None,
    fast: Annotated[bool, typer.Option("--fast", help="With the grid's fast: overrides, for a quick look.")] = False,
    executor: Annotated[
        str, typer.Option(help="local (processes here), serial (this process), dask://HOST:PORT, or slurm.")
    ] = "local",
    processes: Annotated[
        int | None, typer.Option(min=1, help="How many runs at once; default: what cores and memory allow.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Records and tables; default: build/ablate/<grid name>[-fast].")
    ] = None,
    work: Annotated[Path | None, typer.Option(help="Checkpoints and states; default: work/ in --out.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder in AVSBench layout in place of the grid's data.")] = None,
    quiet: Quiet = False,
) -> None:
    """Run a grid of trainings: finished ones are skipped, interrupted ones go on, failed ones do not stop the rest."""
    from avslib.study.sweep.engine import run_grid

    try:
        result = run_grid(grid, out, work, data, seeds, fast, executor, processes, console=console, progress=not quiet)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    raise typer.Exit(1 if result.failed else 0)
