"""How time and memory grow with seconds a clip, image size and batch, and how straight these lines are.

Every point is measured in a process of its own. The reference is followed as far as a few gigabytes allow: its matrix
grows with the square of seconds and pixels.
"""

from collections.abc import Iterator, Sequence

from benchmarks.candidates import OURS, REFERENCE, Candidate
from benchmarks.memory import measure
from benchmarks.record import BenchSettings, Row
from benchmarks.timing import fit_line, r_squared, spread

# axis -> the values of ours in inference and in training, and of the reference in inference
AXES: dict[str, dict[str, Sequence[int]]] = {
    "T": {"inference": (1, 5, 10, 20, 40, 60), "train": (1, 5, 20, 40, 60), "reference": (1, 2, 5, 8, 10)},
    "size": {"inference": (224, 320, 448, 672, 896), "train": (224, 320, 448), "reference": (96, 160, 224, 256)},
    "batch": {"inference": (1, 2, 4, 8), "train": (1, 2, 4, 8), "reference": (1, 2, 3)},
}
UNITS = {"T": "second", "size": "megapixel", "batch": "clip"}
QUICK = {"T": (1, 2, 3), "size": (64, 96, 128), "batch": (1, 2, 3)}
REPEATS = 4


def section_growth(settings: BenchSettings) -> list[Row]:
    """A row a point, then a row for the straight line of each curve: slope, intercept and R^2, in ``values``.

    Training runs with checkpointing, so that 60 seconds fit; the line of `size` is over megapixels, that of the others
    over their own values.
    """
    kinds = "inference", "train", "reference"
    return [row for axis in AXES for kind in kinds for row in _curve(axis, kind, settings)]


def _curve(axis: str, kind: str, settings: BenchSettings) -> Iterator[Row]:
    reference, training = kind == "reference", kind == "train"
    candidate = Candidate(REFERENCE, "reference", False) if reference else Candidate(OURS)
    if training:
        candidate = Candidate("ours, checkpointing", checkpointing=True)
    points = QUICK[axis] if settings.quick else AXES[axis][kind]
    rows = []
    for value in points:
        changes = {"T": {"frames": value}, "size": {"size": value}, "batch": {}}[axis]
        clips = value if axis == "batch" else 1
        found = measure(
            "train" if training else "inference",
            candidate,
            settings.model_copy(update=changes),
            clips,
            2 if training else REPEATS,
        )
        seconds = spread(found.seconds)
        rows.append(
            Row(
                case=f"{'training step' if training else 'inference'} against {axis}",
                name=candidate.name,
                batch=clips,
                seconds=seconds,
                clips_per_second=clips / seconds.median,
                peak_bytes=found.peak,
                values={"axis": axis, "x": value},
            )
        )
    yield from rows
    values = {"axis": axis} | line_values(axis, rows)
    yield Row(case=f"{rows[0].case}: straight line", name=candidate.name, values=values)


def line_values(axis: str, rows: Sequence[Row]) -> dict[str, float]:
    """Least squares of median time and of peak memory against the axis: slopes a unit, intercepts, and R^2 of both."""
    x = [row.values["x"] ** 2 / 1e6 if axis == "size" else row.values["x"] for row in rows]
    seconds, peaks = [row.seconds.median for row in rows], [row.peak_bytes / 1e9 for row in rows]
    found = {}
    for name, y in (("seconds", seconds), ("GB", peaks)):
        line, slope = fit_line(x, y), f"{name} a {UNITS[axis]}"
        found |= {slope: line.slope, f"{name} at 0": line.intercept, f"R2 of {name}": r_squared(x, y)}
    return found
