"""`avs table`: tables from run records, and the committed tables and figures of a checkout."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from avslib.cli.options import Task, console, require_beside
from avslib.core.errors import UsageError


def table_command(
    task: Task = "s4",
    data: Annotated[Literal["mini", "avsbench"], typer.Option(help="The two never share a table.")] = "mini",
    runs: Annotated[Path | None, typer.Option(help="Run records; default: results/[ablation/]runs.")] = None,
    format: Annotated[Literal["rich", "md", "csv", "latex", "html"], typer.Option(help="rich: a terminal.")] = "rich",
    ablation: Annotated[bool, typer.Option("--ablation", help="Every variant beside the full model.")] = False,
    write: Annotated[bool, typer.Option("--write", help="Rewrite every committed table and figure.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Name those that are stale; exit code 1 if any.")] = False,
) -> None:
    """Print a table of run records: Paper | Ours, methods on Mini-AVS, or an ablation; our cells need a run."""
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

    root = Path()
    if not check:
        changed = write(root)
        print("\n".join(f"{path}: written" for path in changed) or "nothing changed: all was up to date")
    elif found := stale(root):
        print("\n".join(f"{path}: stale" for path in found))
        print("update them with `avs table --write`")
        raise typer.Exit(1)
