"""`avs demo`: the main job, from data to tables and pictures."""

from pathlib import Path
from typing import Annotated

import typer

from avslib.cli.options import Quiet, console


def demo_command(
    seed: Annotated[list[int] | None, typer.Option(help="Training seed; repeat it for mean and sd.")] = None,
    out: Annotated[Path, typer.Option(help="Records, tables and pictures.")] = Path("build/demo/results"),
    work: Annotated[Path, typer.Option(help="Data and checkpoints.")] = Path("build/demo"),
    quiet: Quiet = False,
) -> None:
    """The main job: build Mini-AVS, train the full ECMVAE on S4 and MS3, score, print the table, draw the pictures."""
    from avslib.study.demo import demo

    demo(seeds=tuple(seed or [0]), out=out, work=work, progress=not quiet, console=console)
