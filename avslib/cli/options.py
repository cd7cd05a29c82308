"""Options that mean the same in several commands, and what commands do alike."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from avslib.core.errors import InstallError

console = Console()
NAMES = {"help_option_names": ["-h", "--help"]}

CHECKPOINT = "Checkpoint folder or file of `avs train`, or the name of a shipped one."
OVERRIDE = "Set a field of the configuration (`avs config` lists them); may be repeated."

Task = Annotated[Literal["s4", "ms3"], typer.Option(help="s4: single source; ms3: several sources.")]
Data = Annotated[Path, typer.Option(help="Folder in AVSBench layout (a Mini-AVS build is one).")]
Splits = Annotated[list[str] | None, typer.Option(help="val, test (default) or test_unseen; may be repeated.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Number of processes; default: one for each CPU.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]
BFloat16 = Annotated[bool, typer.Option("--bf16", help="Compute in bfloat16: faster where supported, about 3 digits.")]
Device = Annotated[str, typer.Option(help="auto (the fastest there is), cpu, cuda, cuda:N or mps.")]
Overrides = Annotated[list[str] | None, typer.Option("-o", "--override", metavar="SECTION.FIELD=VALUE", help=OVERRIDE)]


def say(text: str) -> None:
    """Print `text` as it is: paths are neither wrapped nor read as markup."""
    console.print(text, soft_wrap=True, markup=False, highlight=False)


def require_beside(folder: str, command: str) -> None:
    """Raise an InstallError unless `folder` can be imported and is the one beside the package, in a checkout."""
    beside, found = Path(__file__).resolve().parents[2] / folder, find_spec(folder)
    if found is None or beside not in [Path(path).resolve() for path in found.submodule_search_locations or ()]:
        raise InstallError(f"{command} needs {folder}/ of a checkout: install the package from one (pip install -e .)")
