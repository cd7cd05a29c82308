"""How time and memory grow with seconds per clip, image size and batch, and how straight these lines are.

Every point is measured in a process of its own. The reference is followed as far as a few gigabytes allow: its matrix
grows with the square of seconds and pixels.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from avslib.core.errors import RecordError
from avslib.study.plots import save_figure
from benchmarks.candidates import Candidate
from benchmarks.memory import measure
from benchmarks.record import BenchRecord, BenchSettings, Row, spread
from benchmarks.timing import OURS, REFERENCE, line

# axis -> the values of ours in inference and in training, and of the reference in inference
AXES: dict[str, dict[str, Sequence[int]]] = {
    "T": {"inference": (1, 5, 10, 20, 40, 60), "train": (1, 5, 20, 40, 60), "reference": (1, 2, 5, 8, 10)},
    "size": {"inference": (224, 320, 448, 672, 896), "train": (224, 320, 448), "reference": (96, 160, 224, 256)},
    "batch": {"inference": (1, 2, 4, 8), "train": (1, 2, 4, 8), "reference": (1, 2, 3)},
}
UNITS = {"T": "second", "size": "megapixel", "batch": "clip"}
LABELS = {"T": "T, seconds per clip", "size": "side of the image, pixels", "batch": "clips per batch"}
QUICK = {"T": (1, 2, 3), "size": (64, 96, 128), "batch": (1, 2, 3)}


def section_growth(settings: BenchSettings) -> list[Row]:
    """A row per point, then a row for the straight line of each curve: slope, intercept and R^2, in ``values``.

    Training runs with checkpointing, so that 60 seconds fit. The line of `size` is over megapixels.
    """
    return [
        row for axis in AXES for kind in ("inference", "train", "reference") for row in _curve(axis, kind, settings)
    ]


def _curve(axis: str, kind: str, settings: BenchSettings) -> Iterator[Row]:
    candidate, work, runs = {
        "inference": (Candidate(OURS), "inference", 4),
        "train": (Candidate("ours, checkpointing", checkpointing=True), "train", 2),
        "reference": (Candidate(REFERENCE, "reference", False), "inference", 4),
    }[kind]
    case = f"{'training step' if work == 'train' else 'inference'} against {axis}"
    rows = []
    for value in QUICK[axis] if settings.quick else AXES[axis][kind]:
        clips = value if axis == "batch" else 1
        changes = {"T": {"frames": value}, "size": {"size": value}, "batch": {}}[axis]
        found = measure(work, candidate, settings.model_copy(update=changes), clips, runs)
        seconds, values = spread(found.seconds), {"axis": axis, "x": value}
        rates = {"seconds": seconds, "clips_per_second": clips / seconds.median}
        rows.append(Row(case=case, name=candidate.name, batch=clips, peak_bytes=found.peak, values=values, **rates))
    yield from rows
    yield Row(case=f"{case}: straight line", name=candidate.name, values={"axis": axis} | _line_values(axis, rows))


def _line_values(axis: str, rows: Sequence[Row]) -> dict[str, float]:
    """Least squares of median time and of peak memory against the axis."""
    x = [row.values["x"] ** 2 / 1e6 if axis == "size" else row.values["x"] for row in rows]
    measures = {"seconds": [row.seconds.median for row in rows], "GB": [row.peak_bytes / 1e9 for row in rows]}
    found = {}
    for name, y in measures.items():
        slope, intercept, r_squared = line(x, y)
        found |= {f"{name} a {UNITS[axis]}": slope, f"{name} at 0": intercept, f"R2 of {name}": r_squared}
    return found


def growth_plot(record: BenchRecord, path: str | Path) -> Path:
    """Write the figure of :func:`growth_figure`."""
    return save_figure(growth_figure(record), path)


def growth_figure(record: BenchRecord) -> Any:
    """Time (above) and peak memory (below) against seconds, image size and batch, as a matplotlib Figure.

    Raises AvsError for a record without growth.
    """
    import seaborn as sns
    from matplotlib.figure import Figure

    if "growth" not in record.sections:
        raise RecordError("growth_plot: the record has no part growth; create one with avs bench --part growth")
    points = [row for row in record.sections["growth"] if "x" in row.values]
    frame = pd.DataFrame(
        {
            "axis": row.values["axis"],
            "x": row.values["x"],
            "what": f"{row.case.split(' against')[0]}, {row.name}",
            "seconds": row.seconds.median,
            "peak memory, GB": row.peak_bytes / 1e9,
        }
        for row in points
    )
    figure, s = Figure(figsize=(11, 6.5), dpi=100, layout="constrained"), record.settings
    axes = figure.subplots(2, len(AXES), sharex="col")
    for column, axis in enumerate(AXES):
        part = frame[frame["axis"] == axis]
        for panel, measure_name in zip(axes[:, column], ("seconds", "peak memory, GB"), strict=True):
            style = {"markers": ["o", "s", "X"], "palette": "colorblind", "legend": column == 0 and panel is axes[0, 0]}
            sns.lineplot(part, x="x", y=measure_name, hue="what", style="what", dashes=False, ax=panel, **style)
            panel.set(xlabel=LABELS[axis], ylabel=measure_name if column == 0 else "", ylim=(0, None))
            sns.despine(ax=panel)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    axes[0, 0].get_legend().remove()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.suptitle(f"{s.backbone}, {s.device}: one clip of 5 s at {s.image_size} px unless the axis varies it")
    return figure
