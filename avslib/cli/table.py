"""`avs table`: tables from run records, and the committed tables and figures of a checkout."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from avslib.cli.data import Task
from avslib.core.errors import InstallError, UsageError

console = Console()


def table_command(
    task: Annotated[Task, typer.Option(help="s4 or ms3.")] = "s4",
    data: Annotated[Literal["mini", "avsbench"], typer.Option(help="The two never share a table.")] = "mini",
    runs: Annotated[
        Path | None,
        typer.Option(
            help="Folder of run records; default: results/runs, results/ablation/runs with --ablation.",
            show_default=False,
        ),
    ] = None,
    format: Annotated[
        Literal["rich", "md", "csv", "latex", "html"], typer.Option(help="Where it is shown; rich: this terminal.")
    ] = "rich",
    ablation: Annotated[
        bool, typer.Option("--ablation", help="Every variant beside the full model, with intervals and claims.")
    ] = False,
    write: Annotated[
        bool, typer.Option("--write", help="Rewrite every committed table and figure of the checkout here.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Name the committed tables and figures that are stale; exit code 1 if any.")
    ] = False,
) -> None:
    """Print a table of run records: Paper | Ours, methods on Mini-AVS, or an ablation; our cells need a run."""
    if write or check:
        if (write and check) or ablation or runs:
            raise UsageError(
                "avs table: --write and --check go over all committed tables; give one without other options"
            )
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
    sys.path.append(str(Path.cwd()))  # tools/ belongs to the checkout, not to the package
    try:
        from tools.generated import stale, write
    except ModuleNotFoundError as error:
        if error.name.split(".")[0] not in ("tools", "benchmarks"):
            raise
        raise InstallError(
            "avs table --write and --check need tools/generated.py of a checkout; run them in its folder"
        ) from None
    root = Path()
    if not check:
        changed = write(root)
        print("\n".join(f"{path}: written" for path in changed) or "nothing changed: all was up to date")
    elif found := stale(root):
        print("\n".join(f"{path}: stale" for path in found))
        print("update them with `avs table --write`")
        raise typer.Exit(1)
