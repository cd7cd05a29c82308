"""The figure of the robustness evaluation: J and the share falsely lit, over the SNR and under the other conditions."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from avslib.core.errors import RecordError, UsageError
from avslib.core.files import atomic_path
from avslib.study.plots import COLOURS
from avslib.study.records import RunRecord
from avslib.study.robustness_conditions import OWN, snr_of
from avslib.study.robustness_table import Column, columns_of, conditions_of

LOOKS = (
    ("blue", "o", "-"),
    ("vermilion", "s", "--"),
    ("green", "^", "-."),
    ("purple", "D", ":"),
    ("black", "v", "-"),
    ("orange", "P", "--"),
)
PANELS = (("J", "J (mask of the own sound)"), ("falsely_lit", "pixels falsely lit (%)"))


def robustness_plot(records: Iterable[RunRecord], path: str | Path, task: str = "s4", data: str = "mini") -> Path:
    """Write the figure of :func:`robustness_figure`, as PNG, SVG or PDF by the path's suffix."""
    figure = robustness_figure(records, task, data)
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    plain = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    if kind not in plain:
        raise UsageError(f"{path}: cannot draw into a .{kind} file; use .png, .svg or .pdf")
    with atomic_path(path) as part:
        figure.savefig(part, format=kind, metadata=plain[kind])
    return path


def robustness_figure(records: Iterable[RunRecord], task: str = "s4", data: str = "mini", *, dpi: int = 110) -> Any:
    """Draw J and the share falsely lit: on the left over the SNR in dB, on the right under the other conditions.

    One colour, marker and line style a checkpoint; bars at J are 95 % bootstrap intervals over clips.
    Returns a matplotlib Figure. Raises AvsError when no record is of this task and data.
    """
    from matplotlib.figure import Figure

    columns = [column for column in columns_of(records, data) if column.record.task == task]
    if not columns:
        raise RecordError(f"robustness figure: no run record of {task} on {data}; make one with `avs robustness`")
    conditions = conditions_of(columns)
    ladder = [name for name in conditions if name == OWN or snr_of(name) is not None]
    others = [name for name in conditions if name not in ladder]
    figure = Figure(figsize=(9.5, 6.6), dpi=dpi, layout="constrained")
    axes = figure.subplots(2, 2, sharey="row", width_ratios=(1, 1.1))
    for row, (metric, label) in zip(axes, PANELS, strict=True):
        for axis, names in zip(row, (ladder, others), strict=True):
            for number, column in enumerate(columns):
                _draw(axis, column, number - (len(columns) - 1) / 2, names, metric, LOOKS[number % len(LOOKS)])
            axis.set_xticks(range(len(names)), [_tick(name) for name in names], fontsize=8)
            axis.set_xlim(-0.5, len(names) - 0.5)
            axis.grid(alpha=0.3)
        top = max(axis.dataLim.ymax for axis in row)
        row[0].set_ylim(-0.03 * top, 1.08 * top)
        row[0].set_ylabel(label)
    axes[1, 0].set_xlabel("SNR of the own sound in white noise (dB)")
    axes[1, 1].set_xlabel("condition")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), fontsize=9, frameon=False)
    return figure


def _draw(axis: Any, column: Column, place: float, names: list[str], metric: str, look: tuple[str, str, str]) -> None:
    """One checkpoint's line (over the SNR) or marks, a little apart from the others'."""
    colour, marker, dash = look
    values = [(column.scores(name) or {}).get(metric) for name in names]
    heights = np.array([np.nan if value is None else value for value in values])
    scale = 100 if metric == "falsely_lit" else 1
    x = np.arange(len(names)) + 0.12 * place
    joined = {"linestyle": dash} if OWN in names else {"linestyle": "none"}
    axis.plot(x, heights * scale, color=COLOURS[colour], marker=marker, markersize=5, label=column.label, **joined)
    if metric == "J":
        for at, name in zip(x, names, strict=True):
            if column.scores(name) is not None:
                axis.plot([at, at], column.interval(name)[1:], color=COLOURS[colour], linewidth=1)


def _tick(name: str) -> str:
    """A label in two lines at most."""
    snr = snr_of(name)
    if snr is not None:
        return f"{snr:g}"
    if name == OWN:
        return "no noise"
    return name.replace("sound of another clip", "another\nclip's").replace(" ", "\n", 1)
