"""Interleaved timing: each candidate runs once per round, so other load on the machine affects all of them alike."""

from collections.abc import Callable, Mapping, Sequence

import torch
from scipy import stats

from benchmarks.ceilings import ceilings
from benchmarks.record import BenchSettings, Row, spread

REFERENCE, OURS = "reference", "ours"


def timed(run: Callable[[], object], number: int = 1) -> float:
    """Seconds per call over `number` calls; waits for the GPU."""
    from torch.utils.benchmark import Timer  # warns where there is CUDA without a GPU; tables import this module

    return Timer("run()", globals={"run": run}, num_threads=torch.get_num_threads()).timeit(number).mean


def interleave(
    runs: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    warmup: bool = True,
    repeats: Mapping[str, int] | None = None,
    measure: Callable[[Callable[[], object], int], float] = timed,
) -> dict[str, list[float]]:
    """Seconds per call of each candidate in each round; every other round goes through them backwards.

    Args:
        repeats: calls of a candidate per round, whose mean counts: for what is too short for one call.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values() if warmup else ():
        run()
    for index in range(rounds):
        for name in list(runs)[:: -1 if index % 2 else 1]:
            seconds[name].append(measure(runs[name], (repeats or {}).get(name, 1)))
    return seconds


def line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float, float]:
    """Slope, intercept and R^2 of the least-squares line; through the origin for a single point.

    >>> [round(v, 6) for v in line([1, 2, 3], [3.0, 5.0, 7.0])]
    [2.0, 1.0, 1.0]
    """
    if len(x) == 1:
        return y[0] / x[0], 0.0, 1.0
    found = stats.linregress(x, y)
    return float(found.slope), float(found.intercept), float(found.rvalue**2)


def compared(
    case: str,
    seconds: Mapping[str, Sequence[float]],
    settings: BenchSettings,
    *,
    clips: int | None = None,
    peaks: Mapping[str, int] | None = None,
    needs: Mapping[str, tuple[float, float | None]] | None = None,
    precision: Mapping[str, str] | None = None,
    against: Mapping[str, str] | None = None,
    **more: Mapping[str, object],
) -> list[Row]:
    """A row per candidate: its time, its ratio to the candidate it is held against, and what else is known by name.

    Args:
        needs: FLOPs and bytes of traffic, for the shares of the measured ceilings.
        precision: the ceiling of the products, float32 by default.
        against: the candidate whose time is divided by this one's; the reference by default.
        more: further fields of `Row`, each by candidate.
    """
    peaks, needs, against = peaks or {}, needs or {}, against or {}
    rates = {name: spread(x).median for name, x in ceilings(settings.device, settings.quick).items()} if needs else {}
    rows = []
    for name, values in seconds.items():
        other, found = against.get(name, REFERENCE), spread(values)
        before = seconds.get(other, values)
        if len(before) != len(values):  # an extrapolated reference has rounds of its own
            before = [spread(before).median] * len(values)
        flops, traffic = needs.get(name, (None, None))
        rate = rates.get((precision or {}).get(name, "float32"))
        row = Row(
            case=case,
            name=name,
            batch=clips,
            seconds=found,
            clips_per_second=clips / found.median if clips else None,
            ratio=None if name in (other, REFERENCE) else spread([a / b for a, b in zip(before, values, strict=True)]),
            peak_bytes=peaks.get(name),
            peak_ratio=peaks[other] / max(peaks[name], 1) if name in peaks and name.startswith(OURS) else None,
            flops=flops,
            traffic_bytes=traffic,
            matmul_share=flops / found.median / rate if flops and rate else None,
            memory_share=traffic / found.median / rates["memory"] if traffic else None,
            **{field: by_name[name] for field, by_name in more.items() if name in by_name},
        )
        rows.append(row)
    return rows
