"""The sections of a bench, by name, and one run of several of them."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from avslib.core.errors import InstallError, UsageError
from benchmarks.batches import section_batches
from benchmarks.candidates import require_compiler
from benchmarks.ceilings import section_ceilings
from benchmarks.daily import section_daily
from benchmarks.feeding import section_feeding
from benchmarks.growth import section_growth
from benchmarks.operations import section_profile
from benchmarks.parts import section_fusion, section_metrics, section_parts
from benchmarks.record import BenchRecord, BenchSettings, Row, new_bench_record
from benchmarks.steps import section_inference, section_train

Section = Callable[[BenchSettings], list[Row]]
# name -> what measures it, in the order in which they run and are shown
SECTIONS: dict[str, Section] = {
    "ceilings": section_ceilings,
    "fusion": section_fusion,
    "metrics": section_metrics,
    "inference": section_inference,
    "train": section_train,
    "parts": section_parts,
}
# measured only when asked for: they take long, or need data
MORE: dict[str, Section] = {
    "growth": section_growth,
    "feeding": section_feeding,
    "batches": section_batches,
    "profile": section_profile,
    "daily": section_daily,
}


def bench(
    settings: BenchSettings, parts: Sequence[str] = (), on_section: Callable[[str, list[Row]], None] | None = None
) -> BenchRecord:
    """Measure the sections named by `parts` (none: all of `SECTIONS`), and make the record.

    Args:
        on_section: called with the rows of each section as soon as it is measured.

    Raises:
        AvsError: an unknown part, no such device, no compiler, a batch that does not fit.
    """
    if unknown := [part for part in parts if part not in SECTIONS | MORE]:
        raise UsageError(f"avs bench --part {unknown[0]}: unknown part; choose from {', '.join(SECTIONS | MORE)}")
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise InstallError("avs bench --device cuda: this machine has no CUDA device; use --device cpu")
    require_compiler(settings)
    start, sections = time.perf_counter(), {}
    for name, section in (SECTIONS | MORE).items():
        if name in (parts or SECTIONS):
            sections[name] = section(settings)
            if on_section:
                on_section(name, sections[name])
    return new_bench_record(settings, sections, time.perf_counter() - start)


def record_path(folder: Path, settings: BenchSettings, parts: Sequence[str] = ()) -> Path:
    """File of a run; a run of some parts, or a quick one, never replaces a whole one.

    >>> record_path(Path("out"), BenchSettings(), ["train"]).as_posix()
    'out/cpu-resnet50-b4-train.json'
    """
    chosen = [name for name in SECTIONS | MORE if name in parts]
    words = [settings.device, settings.backbone, f"b{settings.batch}"] + ["quick"] * settings.quick
    return folder / ("-".join(words + (chosen if chosen != list(SECTIONS) else [])) + ".json")
