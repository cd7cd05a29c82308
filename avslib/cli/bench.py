"""`avs bench`: the door to ``benchmarks/``, which lies beside the package in a checkout."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from avslib.cli.options import TaskName, console, require_beside, say
from avslib.core.errors import OutputError

PARTS = "ceilings, fusion, metrics, inference, train, parts (the default: all of these), growth, feeding"


def bench_command(
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where to measure.")] = "cpu",
    backbone: Annotated[str, typer.Option(help="timm name: resnet50, pvt_v2_b5, or any other.")] = "resnet50",
    batch: Annotated[int, typer.Option(min=1, help="Clips per training step.")] = 4,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of whole steps; small parts take 3 times as many.")] = 3,
    part: Annotated[list[str] | None, typer.Option(help=f"{PARTS}; may be repeated.")] = None,
    compile: Annotated[
        bool, typer.Option("--compile", help="Also torch.compile: minutes, and a C++ compiler.")
    ] = False,
    quick: Annotated[bool, typer.Option("--quick", help="A tiny network, which tries the command in seconds.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record instead of tables.")] = False,
    data: Annotated[Path | None, typer.Option(help="Folder in AVSBench layout, for part feeding.")] = None,
    task: Annotated[TaskName, typer.Option(help="Task of that folder: s4 or ms3.")] = "s4",
    out: Annotated[Path | None, typer.Option(help="Default: results/bench, or build/bench with --quick.")] = None,
) -> None:
    """Measure speed and memory beside a plain reference form, in one run; write a record."""
    require_beside("benchmarks", "avs bench")
    from benchmarks.record import BenchSettings, write_bench_record
    from benchmarks.report import section_table, target_table, verdicts
    from benchmarks.run import bench, record_path

    chosen = {"device": device, "backbone": backbone, "batch": batch, "rounds": rounds, "quick": quick}
    settings = BenchSettings(**chosen, compile=compile, data=None if data is None else str(data), task=task)
    path = record_path(out or Path("build/bench" if quick else "results/bench"), settings, part or ())
    if path.exists() and not quick:  # a quick one measures nothing
        raise OutputError(f"{path}: already holds a record; name another folder by --out, or remove it first")
    show = None if as_json else lambda name, rows: console.print(section_table(name, rows))
    record = bench(settings, part or (), show)
    write_bench_record(path, record)
    if as_json:
        print(path.read_text(encoding="utf-8"), end="")
        return
    if found := verdicts(settings, record.sections):
        console.print(target_table(found))
    say(f"record: {path}")
