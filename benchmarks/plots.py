"""Figure of a bench record: how time and memory grow."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from avslib.core.errors import RecordError
from avslib.study.plots import COLOURS, save_figure
from benchmarks.growth import AXES
from benchmarks.record import BenchRecord, Row
from benchmarks.timing import fit_line

LABELS = {"T": "T, seconds a clip", "size": "side of the image, pixels", "batch": "clips a batch"}
MEASURES = {"seconds": lambda row: row.seconds.median, "peak memory, GB": lambda row: row.peak_bytes / 1e9}
LOOKS = {"ours": ("blue", "o"), "ours, checkpointing": ("orange", "s"), "reference": ("black", "x")}


def growth_plot(record: BenchRecord, path: str | Path) -> Path:
    """Write the figure of :func:`growth_figure`."""
    return save_figure(growth_figure(record), path)


def growth_figure(record: BenchRecord) -> Any:
    """Time (above) and peak memory (below) against seconds, image size and batch: points measured, lines fitted.

    Lines of ours are straight in the axis (in pixels for the size); the reference gets a parabola through its points,
    dotted beyond the last of them. Returns a matplotlib Figure. Raises AvsError for a record without growth.
    """
    from matplotlib.figure import Figure

    if "growth" not in record.sections:
        raise RecordError("growth_plot: the record has no part growth; make one with avs bench --part growth")
    figure = Figure(figsize=(11, 6.5), dpi=100, layout="constrained")
    axes = figure.subplots(2, len(AXES), sharex="col")
    for column, axis in enumerate(AXES):
        rows = [row for row in record.sections["growth"] if row.values["axis"] == axis and "x" in row.values]
        for case, name in dict.fromkeys((row.case, row.name) for row in rows):
            curve = [row for row in rows if (row.case, row.name) == (case, name)]
            label = f"{case.split(' against')[0]}, {name}"
            for panel, measure in zip(axes[:, column], MEASURES.values(), strict=True):
                _draw(panel, axis, curve, [measure(row) for row in curve], label)
        for panel, measure in zip(axes[:, column], MEASURES.values(), strict=True):
            panel.set_ylim(0, 1.1 * max(measure(row) for row in rows))  # dotted lines may leave the panel
        axes[1, column].set_xlabel(LABELS[axis])
    for panel, name in zip(axes[:, 0], MEASURES, strict=True):
        panel.set_ylabel(name)
    for panel in axes.flat:
        panel.spines[["top", "right"]].set_visible(False)
    axes[0, 0].legend(frameon=False, fontsize=8)
    s = record.settings
    figure.suptitle(f"{s.backbone}, {s.device}: one clip of 5 s at {s.image_size} px where nothing else is said")
    return figure


def _draw(panel: Any, axis: str, rows: Sequence[Row], y: Sequence[float], label: str) -> None:
    import numpy as np

    colour, marker = LOOKS[rows[0].name]
    x = [int(row.values["x"]) for row in rows]
    panel.plot(x, y, marker, color=COLOURS[colour], label=label, markersize=5, linestyle="none")
    power = 2 if axis == "size" else 1
    if rows[0].name == "reference":  # in T and in pixels: a matrix of their square
        curve = np.polynomial.Polynomial.fit(np.asarray(x) ** power, y, 1 if axis == "batch" else 2)
        inside, beyond = np.linspace(x[0], x[-1], 60), np.linspace(x[-1], 2 * x[-1], 60)
        panel.plot(inside, curve(inside**power), color=COLOURS[colour], linewidth=1)
        panel.plot(beyond, curve(beyond**power), ":", color=COLOURS[colour], linewidth=1)
        return
    line, grid = fit_line([v**power for v in x], list(y)), np.linspace(x[0], x[-1], 60)
    panel.plot(grid, [line.at(v**power) for v in grid], color=COLOURS[colour], linewidth=1)
