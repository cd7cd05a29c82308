"""`avs demo`, `robustness` and `table`: studies of several runs, and their tables."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from avslib.cli.options import CHECKPOINT, Data, Device, Quiet, Splits, Task, console, require_beside, say
from avslib.core.errors import UsageError


def demo_command(
    seed: Annotated[list[int] | None, typer.Option(help="Training seed; may be repeated.")] = None,
    task: Annotated[Literal["s4", "ms3", "both"], typer.Option(help="Task of the demo.")] = "both",
    out: Annotated[Path, typer.Option(help="Folder of records, tables and pictures.")] = Path("build/demo/results"),
    work: Annotated[Path, typer.Option(help="Folder of data and checkpoints.")] = Path("build/demo"),
    quiet: Quiet = False,
) -> None:
    """Build Mini-AVS, train the full ECMVAE on S4 and MS3, score it, print the table and draw pictures: 8 minutes."""
    from avslib.data.mini.compose import TASKS
    from avslib.study.demo import demo

    demo(tuple(seed or [0]), out, work, tasks=TASKS if task == "both" else (task,), progress=not quiet, console=console)


def robustness_command(
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT", help=CHECKPOINT)],
    data: Data,
    task: Task = "s4",
    split: Splits = None,
    seed: Annotated[int, typer.Option(help="Random seed for noise, exchanged and off-screen sounds.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder of the run records.")] = Path("results/robustness"),
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Score a checkpoint when sound is noisy, exchanged, silent or missing: J, F, share of pixels wrongly marked."""
    from avslib.study.robustness import robustness, robustness_table

    options = {"splits": split or ["test"], "seed": seed, "device": device, "progress": not quiet}
    record = robustness(checkpoint, data, task, out, **options)
    console.print(robustness_table([record], "rich", record.data))
    say(f"run record: {record.path}")


def table_command(
    task: Task = "s4",
    data: Annotated[Literal["mini", "avsbench"], typer.Option(help="Data of the runs; a table has only one.")] = "mini",
    runs: Annotated[Path | None, typer.Option(help="Run records; default: results/\\[ablation/]runs.")] = None,
    format: Annotated[Literal["rich", "md", "csv", "latex", "html"], typer.Option(help="rich: a terminal.")] = "rich",
    ablation: Annotated[bool, typer.Option("--ablation", help="Compare each variant with ecmvae.")] = False,
    write: Annotated[bool, typer.Option("--write", help="Rewrite every committed table and figure.")] = False,
    check: Annotated[bool, typer.Option("--check", help="List stale ones; exit code 1 if any.")] = False,
) -> None:
    """Print a table of run records: methods on Mini-AVS, published and own scores on AVSBench, or an ablation."""
    if write or check:
        if (write and check) or ablation or runs:
            raise UsageError("avs table: give only --write or --check, without other options")
        _committed(check)
        return
    from avslib.study.ablation import ablation_table
    from avslib.study.records import load_records
    from avslib.study.results import table

    folder = runs or Path("results/ablation/runs" if ablation else "results/runs")
    # without a record, the paper's rows and the command that fills ours still stand
    records = load_records(folder) if folder.is_dir() or runs or (data == "mini" and not ablation) else []
    made = ablation_table(records, task, format, data=data) if ablation else table(records, task, data, format)
    console.print(made) if format == "rich" else print(made, end="")


def _committed(check: bool) -> None:
    require_beside("tools", f"avs table --{'check' if check else 'write'}")
    from tools.generated import stale, write

    found = stale(Path()) if check else write(Path())
    for path in found:
        print(f"{path}: {'stale; update it with `avs table --write`' if check else 'written'}")
    if check and found:
        raise typer.Exit(1)
