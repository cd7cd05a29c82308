"""`avs bench`: time and memory of the reference form, of ours, and of ours with each option, side by side."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from avslib.cli.data import Task
from avslib.core.errors import OutputError

console = Console()


def bench_command(
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where to measure.")] = "cpu",
    backbone: Annotated[str, typer.Option(help="timm name: resnet50, pvt_v2_b5, or any other.")] = "resnet50",
    batch: Annotated[int, typer.Option(min=1, help="Clips a training step.")] = 4,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of whole steps; small parts take 3 times as many.")] = 3,
    part: Annotated[
        list[str] | None,
        typer.Option(
            help="ceilings, fusion, metrics, inference, train, parts (the default is all of these), growth or feeding; "
            "may be given several times."
        ),
    ] = None,
    compile: Annotated[
        bool, typer.Option("--compile", help="torch.compile among the options: takes minutes, and a C++ compiler.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="A tiny network: tries the command in seconds, measures nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record, and no table.")] = False,
    data: Annotated[Path | None, typer.Option(help="Folder in AVSBench layout, that part feeding reads.")] = None,
    task: Annotated[Task, typer.Option(help="Of that folder: s4 or ms3.")] = "s4",
    out: Annotated[
        Path | None, typer.Option(help="Folder of the record; default: results/bench, or build/bench with --quick.")
    ] = None,
) -> None:
    """Measure speed and memory beside a plain reference form, in one run; write a record."""
    from benchmarks.record import BenchSettings, write_bench_record
    from benchmarks.report import section_table, target_table, verdicts
    from benchmarks.run import bench, record_path

    settings = BenchSettings(
        device=device,
        backbone=backbone,
        batch=batch,
        rounds=rounds,
        quick=quick,
        compile=compile,
        data=None if data is None else str(data),
        task=task,
    )
    path = record_path(out or Path("build/bench" if quick else "results/bench"), settings, part or ())
    if path.exists() and not quick:  # a quick one measures nothing
        raise OutputError(f"{path}: holds a record already; name another folder by --out, or remove it first")
    show = None if as_json else lambda name, rows: console.print(section_table(name, rows))
    record = bench(settings, part or (), show)
    write_bench_record(path, record)
    if as_json:
        print(path.read_text(encoding="utf-8"), end="")
        return
    if found := verdicts(settings, record.sections):
        console.print(target_table(found))
    console.print(f"record: {path}", soft_wrap=True, markup=False)
