"""`avs notebooks`: run the course by papermill, renew the stored outputs, build the book."""

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from avslib.cli.options import console, require_beside, say
from avslib.core.errors import AvsError, UsageError

app = typer.Typer(help="Run the numbered notebooks, renew their stored outputs, build the book.", no_args_is_help=True)
# a notebook runs in its own folder, but the user names paths from the current one
PATHS = ("DATA_ROOT", "OUT_DIR", "AUDIO_WEIGHTS", "VGGISH_WEIGHTS", "VIDEO")

Chosen = Annotated[list[str] | None, typer.Argument(metavar="[NN]...", help="Numbers or names; default: all.")]
Parameters = Annotated[
    list[str] | None, typer.Option("-p", "--parameter", metavar="NAME=VALUE", help="Set one; may be repeated.")
]
Solutions = Annotated[bool, typer.Option("--solutions", help="The notebooks with solutions instead.")]


@app.command("list")
def list_command(chosen: Chosen = None, solutions: Solutions = False) -> None:
    """Show the notebooks and their parameters with the defaults."""
    from avslib.course.execute import find, parameters

    for path in find(chosen or [], solutions=solutions):
        console.print(f"[bold]{path.stem}[/bold]")
        for name, value in parameters(path).items():
            say(f"  {name} = {value!r}")


@app.command("run")
def run_command(
    chosen: Chosen = None,
    parameter: Parameters = None,
    fast: Annotated[bool | None, typer.Option("--fast/--full", help="Short for -p FAST=True or False.")] = None,
    params: Annotated[Path | None, typer.Option(help="YAML file, such as notebooks/params/paper.yaml.")] = None,
    out: Annotated[Path, typer.Option(help="A folder for each notebook is made there.")] = Path("build/notebooks"),
    solutions: Solutions = False,
) -> None:
    """Execute copies of notebooks with other parameters; the notebooks themselves are not changed."""
    from avslib.course.execute import check_parameters, find, given_for, read_parameters, run_notebook

    by_file = read_parameters(params) if params else {}
    own = ({} if fast is None else {"FAST": fast}) | dict(_parse(text) for text in parameter or [])
    given = {path: given_for(path, by_file) | own for path in find(chosen or [], solutions=solutions)}
    for path, values in given.items():
        check_parameters(path, values)
    if "OUT_DIR" in own and len(given) > 1:
        raise UsageError("OUT_DIR: several notebooks would share one folder; use --out DIR, which has one for each")
    failed = 0
    for path, values in given.items():
        try:
            folder = out.resolve() / ("solutions" if solutions else "") / path.stem
            result = run_notebook(path, folder, values, progress=console.is_terminal)
        except AvsError as error:
            failed += 1
            say(f"{path.stem}: failed: {error}")
            continue
        metrics = [f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in result["metrics"].items()]
        say(f"{path.stem}: " + ", ".join([f"{result['checks']} checks", f"{result['seconds']:.0f} s", *metrics]))
    say(f"executed copies: {out}")
    raise typer.Exit(1 if failed else 0)


@app.command("refresh")
def refresh_command(chosen: Chosen = None, solutions: Solutions = False) -> None:
    """Execute notebooks with their defaults and store the outputs in place (for those who change them)."""
    require_beside("tools", "avs notebooks refresh")
    from avslib.course.execute import find
    from tools.refresh_notebooks import refresh

    for path in find(chosen or [], solutions=solutions):
        refresh(path)
        say(f"{path.stem}: {path.stat().st_size / 1000:.0f} kB")


@app.command("book")
def book_command(
    out: Annotated[Path, typer.Option(help="Folder for the site; open its index.html.")] = Path("build/book"),
) -> None:
    """Build the HTML book from the notebooks and their stored outputs, with navigation and search."""
    require_beside("tools", "avs notebooks book")
    from tools.book import build_book

    say(f"open {build_book(out)}")


def _parse(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"parameter {text!r}: expected NAME=VALUE, for example -p SEED=1 (or -p NAME VALUE)")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        parsed = value
    if name in PATHS and parsed:
        return name, str(Path(str(parsed)).resolve())
    return name, "" if parsed is None else parsed


def join_pairs(arguments: list[str]) -> list[str]:
    """papermill's own form ``-p NAME VALUE`` as ``-p NAME=VALUE``, which typer can read.

    >>> join_pairs(["run", "-p", "SEED", "1", "-p", "FAST=True", "07"])
    ['run', '-p', 'SEED=1', '-p', 'FAST=True', '07']
    """
    joined, rest = [], list(arguments)
    while rest:
        joined.append(rest.pop(0))
        if joined[-1] in ("-p", "--parameter") and rest and "=" not in rest[0] and len(rest) > 1:
            joined.append(f"{rest.pop(0)}={rest.pop(0)}")
    return joined
