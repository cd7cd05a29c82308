"""`avs robustness`: a checkpoint under silence, noise, other clips' sounds, and without sound or image."""

from pathlib import Path
from typing import Annotated

import typer

from avslib.cli.options import CHECKPOINT, Data, Quiet, Splits, Task, console, say


def robustness_command(
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT", help=CHECKPOINT)],
    data: Data,
    task: Task = "s4",
    split: Splits = None,
    seed: Annotated[int, typer.Option(help="Random seed for noise, exchanged and off-screen sounds.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder of the run records.")] = Path("results/robustness"),
    quiet: Quiet = False,
) -> None:
    """Score a checkpoint when the sound is noisy, exchanged, silent or missing: J, F and the share falsely lit."""
    from avslib.study.robustness import robustness, robustness_table

    record = robustness(checkpoint, data, task, out, splits=split or ["test"], seed=seed, progress=not quiet)
    console.print(robustness_table([record], "rich", record.data))
    say(f"run record: {record.path}")
