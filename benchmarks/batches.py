"""A training step from one clip to a full GPU: the plain reference as far as memory allows, ours, and its options."""

from avslib.core.errors import MemoryLimitError
from benchmarks.candidates import candidates
from benchmarks.memory import Measured, available_memory, measure
from benchmarks.record import BenchSettings, Row
from benchmarks.steps import SHARE, step_demand, through_points
from benchmarks.timing import OURS, compared, line

BATCHES, QUICK = (1, 2, 4, 8, 16, 32, 64), (1, 2)
LEFT_OUT = ("ours, channels first", "ours, checkpointing", "reference, float32")


def section_batches(settings: BenchSettings) -> list[Row]:
    """Time, peak memory and shares of the ceilings at each batch; a candidate ends where memory does.

    The reference goes on along straight lines through the batches that fit. Candidates run one after the other.
    """
    found = {c.name: c for c in candidates(settings, training=True) if c.name not in LEFT_OUT}
    needs = step_demand("train", found, 1, settings)
    points: dict[str, dict[int, Measured]] = {name: {} for name in found}
    rows, sizes = [], QUICK if settings.quick else BATCHES
    for name, candidate in found.items():
        for clips in (n for n in sizes if _fits(n, points[name], settings)):
            try:
                points[name][clips] = measure("train", candidate, settings, clips, settings.rounds + 1)
            except MemoryLimitError:
                break
    for clips in points[OURS]:
        present = [n for n, known in points.items() if clips in known or (known and found[n].form == "reference")]
        lines = {n: list(points[n]) for n in present if clips not in points[n]}
        at = {n: through_points(clips, points[n]) if n in lines else points[n][clips] for n in present}
        rows += compared(
            f"training step, batch {clips}",
            {n: m.seconds for n, m in at.items()},
            settings,
            clips=clips,
            peaks={n: m.peak for n, m in at.items()},
            needs={n: (flops * clips, traffic and traffic * clips) for n, (flops, traffic) in needs.items()},
            precision={n: found[n].products(settings.device) for n in present},
            extrapolated_from=lines,
        )
    return rows


def _fits(clips: int, known: dict[int, Measured], settings: BenchSettings) -> bool:
    """Whether a straight line through the peaks of smaller batches stays within the available memory."""
    if len(known) < 2:
        return True
    slope, intercept, _ = line(list(known), [m.peak for m in known.values()])
    return intercept + slope * clips <= SHARE * available_memory(settings.device)
