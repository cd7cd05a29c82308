"""What `avs bench` and `avs data pack --measure` do with their options: measure, print, keep the record."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from avslib.core.errors import OutputError
from benchmarks.feeding import packed_speed
from benchmarks.record import BenchSettings, write_bench_record
from benchmarks.report import section_table, target_table, verdicts
from benchmarks.run import bench, record_path


def measure(settings: BenchSettings, parts: Sequence[str], out: Path | None, as_json: bool, console: Console) -> None:
    """Run parts, print their tables or, with `as_json`, the record, and write the record into the folder `out`.

    Raises:
        AvsError: `out` holds a record of these settings already.
    """
    path = record_path(out or Path("build/bench" if settings.quick else "results/bench"), settings, parts)
    if path.exists() and not settings.quick:  # a quick one measures nothing
        raise OutputError(f"{path}: already holds a record; name another folder by --out, or remove it first")
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
