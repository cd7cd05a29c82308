"""`avs notebooks`: run the course by papermill, renew the stored outputs, build the book."""

from pathlib import Path
from typing import Annotated

import typer

from avslib.cli.options import NAMES, console, say
from tools.book import build_book
from tools.notebooks import find, parameters, run_copies
from tools.refresh_notebooks import refresh

HELP = "Run the numbered notebooks, refresh stored outputs, build the book."
OPTIONS = {"no_args_is_help": True, "pretty_exceptions_enable": False, "add_completion": False}
app = typer.Typer(help=HELP, context_settings=NAMES, **OPTIONS)
PARAMETER = r"Set a parameter, as typed (a list as \[a, b]); may be repeated."

Chosen = Annotated[list[str] | None, typer.Argument(metavar="[NN]...", help="Numbers or names; default: all.")]
Parameters = Annotated[list[str] | None, typer.Option("-p", "--parameter", metavar="NAME=VALUE", help=PARAMETER)]
Solutions = Annotated[bool, typer.Option("--solutions", help="Take the solutions instead of the lessons.")]


@app.command("list")
def list_command(chosen: Chosen = None, solutions: Solutions = False) -> None:
    """List the notebooks and their parameters with the defaults."""
    for path in find(chosen or [], solutions=solutions):
        console.print(f"[bold]{path.stem}[/bold]")
        for name, value in parameters(path).items():
            say(f"  {name} = {value!r}")


@app.command("run")
def run_command(
    chosen: Chosen = None,
    parameter: Parameters = None,
    fast: Annotated[bool | None, typer.Option("--fast/--full", help="Short for -p FAST=True or False.")] = None,
    device: Annotated[
        str | None, typer.Option(help="Short for -p DEVICE=NAME: auto, cpu, cuda, cuda:N or mps.")
    ] = None,
    params: Annotated[Path | None, typer.Option(help="YAML file, such as notebooks/params/paper.yaml.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the copies, one subfolder each.")] = Path("build/notebooks"),
    solutions: Solutions = False,
) -> None:
    """Execute copies of notebooks with other parameters; the notebooks themselves are not changed."""
    short = {"FAST": fast, "DEVICE": device}
    texts, code = [*(f"{name}={x}" for name, x in short.items() if x is not None), *(parameter or [])], 0
    for done, sentence in run_copies(chosen or [], texts, params, out, solutions, progress=console.is_terminal):
        code = code if done else 1
        say(sentence)
    say(f"executed copies: {out}")
    raise typer.Exit(code)


@app.command("refresh")
def refresh_command(chosen: Chosen = None, solutions: Solutions = False) -> None:
    """Execute notebooks with their defaults and store the outputs in place (for those who change them)."""
    for path in find(chosen or [], solutions=solutions):
        refresh(path)
        say(f"{path.stem}: {path.stat().st_size / 1000:.0f} kB")


@app.command("book")
def book_command(out: Annotated[Path, typer.Option(help="Folder for the site.")] = Path("build/book")) -> None:
    """Build the HTML book from the notebooks and their stored outputs, with navigation and search."""
    say(f"open {build_book(out)}")


def main(arguments: list[str]) -> None:
    """The command `avs notebooks`, to which `avslib.cli.doors` leads."""
    app(join_pairs(arguments), prog_name="avs notebooks")


def join_pairs(arguments: list[str]) -> list[str]:
    """The arguments, where papermill's form ``-p NAME VALUE`` becomes ``-p NAME=VALUE``."""
    joined: list[str] = []
    for argument in arguments:
        if joined[-2:-1] in (["-p"], ["--parameter"]) and "=" not in joined[-1]:
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined
