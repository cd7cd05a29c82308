"""What `avs bench` and `avs data pack --measure` do with their options: measure, print, keep the record."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from avslib.cli.options import NAMES, Task, console
from avslib.core.errors import OutputError
from benchmarks.feeding import packed_speed
from benchmarks.record import BenchSettings, write_bench_record
from benchmarks.report import section_table, target_table, verdicts
from benchmarks.run import bench, record_path

PARTS = (
    "ceilings, fusion, metrics, inference, train, parts (the default: these); growth, feeding, batches, profile, daily"
)
app = typer.Typer(pretty_exceptions_enable=False, add_completion=False, context_settings=NAMES)


def main(arguments: list[str]) -> None:
    """The command `avs bench`, to which `avslib.cli.doors` leads."""
    app(arguments, prog_name="avs bench")


@app.command()
def bench_command(
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where to measure.")] = "cpu",
    backbone: Annotated[str, typer.Option(help="timm name, such as pvt_v2_b5; mini: preset mini.")] = "resnet50",
    batch: Annotated[int, typer.Option(min=1, help="Clips per training step.")] = 4,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of whole steps; small parts take 3 times as many.")] = 3,
    part: Annotated[list[str] | None, typer.Option(help=f"{PARTS}; may be repeated.")] = None,
    compile: Annotated[bool, typer.Option("--compile", help="Also torch.compile (slow to start).")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Tiny network: try the command in seconds.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record instead of tables.")] = False,
    data: Annotated[Path | None, typer.Option(help="Folder in AVSBench layout, for part feeding.")] = None,
    task: Task = "s4",
    out: Annotated[Path | None, typer.Option(help="Default: results/bench, or build/bench with --quick.")] = None,
) -> None:
    """Compare speed and memory with a plain reference form, in one run, and write a record."""
    chosen = {"device": device, "backbone": backbone, "batch": batch, "rounds": rounds, "quick": quick}
    settings = BenchSettings(**chosen, compile=compile, data=None if data is None else str(data), task=task)
    measure(settings, part or (), out, as_json)


def measure(settings: BenchSettings, parts: Sequence[str], out: Path | None, as_json: bool) -> None:
    """Run parts, print their tables or, with `as_json`, the record, and write the record into the folder `out`.

    Raises:
        AvsError: `out` holds a record of these settings already.
    """
    path = record_path(out or Path("build/bench" if settings.quick else "results/bench"), settings, parts)
    if path.exists() and not settings.quick:  # a quick one measures nothing
        raise OutputError(f"{path}: already holds a record; name a different folder with --out, or remove it first")
    show = None if as_json else lambda name, rows: console.print(section_table(name, rows))
    record = bench(settings, parts, show)
    write_bench_record(path, record)
    if as_json:
        print(path.read_text(encoding="utf-8"), end="")
        return
    if found := verdicts(settings, record.sections):
        console.print(target_table(found))
    console.print(f"record: {path}", soft_wrap=True, markup=False, highlight=False)


def packed_sentence(data: Path, task: str, packed: Path) -> str:
    """Speed of reading the train split of `data` from the shards in `packed`, against loose files."""
    speed, ratio = packed_speed(BenchSettings(data=str(data), task=task), packed)
    return f"train: packed {speed:.1f} clips/s; packed / loose {ratio:.2f}, read and decoded"
