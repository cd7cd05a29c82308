"""`avs doctor`: what is here, and what each missing part would enable."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

console = Console()


def doctor_command(
    data: Annotated[
        list[Path] | None, typer.Option(help="Folder in AVSBench layout; default: all of build/data.")
    ] = None,
    vggish: Annotated[Path | None, typer.Option(help="File of the released VGGish weights.")] = None,
) -> None:
    """Print versions, devices, free disk and memory, and the data and weights that are found."""
    from avslib.cli.doctor import examine

    table = Table("", "", "found", "what it enables")
    group = ""
    for finding in examine(data or (), vggish):
        shown = finding.group if finding.group != group else ""
        group = finding.group
        table.add_row(shown, finding.name, finding.found or "[yellow]none[/yellow]", finding.enables)
    console.print(table)
