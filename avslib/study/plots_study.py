"""Figures of a study: differences between variants and the full model, with their intervals."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from avslib.core.errors import UsageError
from avslib.study.comparisons import FULL, Comparison
from avslib.study.intervals import LEVEL
from avslib.study.plots import COLOURS, save_figure

LOOKS = {"test": ("blue", "o"), "test_unseen": ("orange", "s")}


def forest_plot(
    found: Mapping[str, Sequence[Comparison]], path: str | Path, *, title: str = "", full: str = FULL
) -> Path:
    """Write the figure of :func:`differences_figure`."""
    return save_figure(differences_figure(found, title=title, full=full), path)


def differences_figure(found: Mapping[str, Sequence[Comparison]], *, title: str = "", full: str = FULL) -> Any:
    """Draw J of each variant minus J of the full model: mean, interval, and the difference of each shared seed.

    found: of :func:`avslib.study.comparisons.compare`. A split has its colour and marker; a marker is filled where the
    interval excludes zero. Returns a matplotlib Figure. Raises AvsError when nothing is compared.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    made = {split: [c for c in rows if c.difference] for split, rows in found.items()}
    labels = list(dict.fromkeys(c.row.label for rows in made.values() for c in rows))
    if not labels:
        raise UsageError(f"forest_plot: no variant is compared with {full}; pass compare() of records that hold both")
    seeds = {c.row.label: len(c.row.seeds) for rows in made.values() for c in rows}
    figure = Figure(figsize=(8, 1.5 + 0.5 * len(labels)), dpi=100, layout="constrained")
    axis = figure.subplots()
    axis.axvline(0, color=COLOURS["black"], linewidth=1, zorder=1)
    handles = []
    for i, (split, rows) in enumerate(made.items()):
        colour, marker = LOOKS[split]
        colour, shift = COLOURS[colour], 0.32 * (i - (len(made) - 1) / 2)
        for c in rows:
            place = labels.index(c.row.label) + shift
            ends = [c.difference.low, c.difference.high]
            axis.plot(ends, [place] * 2, color=colour, linestyle="-", linewidth=2, zorder=2)
            axis.plot(
                c.difference.estimate,
                place,
                marker,
                color=colour,
                markersize=7,
                zorder=4,
                markerfacecolor=colour if c.difference.excludes_zero else "white",
            )
            if len(c.by_seed) > 1:
                axis.plot(
                    c.by_seed,
                    [place + 0.13] * len(c.by_seed),
                    marker,
                    color=colour,
                    markersize=3,
                    alpha=0.45,
                    markeredgewidth=0,
                    zorder=3,
                )
        handles.append(Line2D([], [], color=colour, marker=marker, linewidth=2, label=split))
    empty = {"color": "grey", "marker": "o", "linestyle": ""}
    handles += [
        Line2D([], [], markerfacecolor="white", label="not told apart: the interval holds 0", **empty),
        Line2D([], [], markersize=3, alpha=0.6, label="one seed", **empty),
    ]
    axis.set_yticks(range(len(labels)), [f"{label} (n = {seeds[label]})" for label in labels], fontsize=9)
    axis.set_ylim(len(labels) - 0.5, -0.5)
    axis.set_xlabel(f"J minus J of {full} (J from 0 to 1; bars: {100 * LEVEL:.0f} % over clips and seeds)")
    axis.set_title(title, fontsize=10, loc="left")
    axis.grid(axis="x", alpha=0.3)
    for place in range(1, len(labels), 2):
        axis.axhspan(place - 0.5, place + 0.5, color="grey", alpha=0.07, linewidth=0)
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    return figure
