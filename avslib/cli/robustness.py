"""`avs robustness`: a checkpoint under silence, noise, other clips' sounds, and without sound or image."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from avslib.cli.data import Quiet, Task

console = Console()


def robustness_command(
    checkpoint: Annotated[
        str, typer.Argument(metavar="CHECKPOINT", help="Folder or file of `avs train`, or the name of a shipped one.")
    ],
    data: Annotated[Path, typer.Option(help="Folder in AVSBench layout (a Mini-AVS build is one).")],
    task: Annotated[Task, typer.Option(help="s4 or ms3.")] = "s4",
    split: Annotated[
        list[str] | None, typer.Option(help="test (default), test_unseen or val; may be given several times.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of noise, exchanged and off-screen sounds.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder of the run records.")] = Path("results/robustness"),
    quiet: Quiet = False,
) -> None:
    """Score a checkpoint when the sound is noisy, another, silent or missing: J, F and the share falsely lit."""
    from avslib.study.robustness import robustness
    from avslib.study.robustness_table import robustness_table

    record = robustness(checkpoint, data, task, out, splits=split or ["test"], seed=seed, progress=not quiet)
    console.print(robustness_table([record], "rich", record.data))
    console.print(f"run record: {record.path}", soft_wrap=True, markup=False)
