"""Figures of a study: differences between variants and the full model, with their intervals."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from avslib.core.errors import UsageError
from avslib.study.comparisons import FULL, Comparison
from avslib.study.intervals import LEVEL
from avslib.study.plots import COLOURS, styled_axes

PALETTE = {"test": COLOURS["blue"], "test_unseen": COLOURS["orange"]}
MARKERS = {"test": "o", "test_unseen": "s"}


def differences_figure(found: Mapping[str, Sequence[Comparison]], *, title: str = "", full: str = FULL) -> Any:
    """Draw J of each variant minus J of the full model: mean, interval, and the difference of each shared seed.

    found: of :func:`avslib.study.comparisons.compare`. A split has its colour and marker; a marker is filled where the
    interval excludes zero. Returns a matplotlib Figure. Raises AvsError when nothing is compared.
    """
    import seaborn as sns
    from matplotlib.lines import Line2D

    made = [c for rows in found.values() for c in rows if c.difference]
    if not made:
        raise UsageError(f"differences: no variant is compared with {full}; pass compare() of records that hold both")
    labels = {c.row.label: f"{c.row.label} (n = {len(c.row.seeds)})" for c in made}
    below = {split: 0.32 * (i - (len(found) - 1) / 2) for i, split in enumerate(found)}
    means = pd.DataFrame([c.difference for c in made]).assign(
        split=[c.split for c in made],
        place=[list(labels).index(c.row.label) + below[c.split] for c in made],
        claimed=[c.difference.excludes_zero for c in made],
        by_seed=[c.by_seed if len(c.by_seed) > 1 else () for c in made],
    )
    seeds = means.explode("by_seed", ignore_index=True).dropna(subset="by_seed")
    figure, ((axis,),) = styled_axes(8, 1.5 + 0.5 * len(labels))
    axis.axvline(0, color=COLOURS["black"], linewidth=1)
    axis.hlines(means.place, means.low, means.high, colors=means.split.map(PALETTE), linewidth=2)
    looks = {"hue": "split", "style": "split", "markers": MARKERS, "linewidth": 0, "legend": False, "ax": axis}
    sns.scatterplot(means, x="estimate", y="place", palette=PALETTE, s=60, zorder=3, **looks)
    if len(hollow := means[~means.claimed]):
        white = dict.fromkeys(PALETTE, "white")
        sns.scatterplot(hollow, x="estimate", y="place", palette=white, s=28, zorder=4, **looks)
    sns.scatterplot(seeds, x="by_seed", y=seeds.place + 0.14, palette=PALETTE, s=10, alpha=0.5, **looks)
    grey = {"color": "grey", "marker": "o", "linestyle": ""}
    handles = [Line2D([], [], color=PALETTE[s], marker=MARKERS[s], linewidth=2, label=s) for s in found]
    handles += [
        Line2D([], [], markerfacecolor="white", label="not told apart: the interval holds 0", **grey),
        Line2D([], [], markersize=3, alpha=0.6, label="one seed", **grey),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    axis.set_yticks(range(len(labels)), labels.values(), fontsize=9)
    axis.set_ylim(len(labels) - 0.5, -0.5)
    for place in range(1, len(labels), 2):
        axis.axhspan(place - 0.5, place + 0.5, color="grey", alpha=0.07, linewidth=0)
    axis.set(ylabel=None, xlabel=f"J minus J of {full} (J from 0 to 1; bars: {100 * LEVEL:.0f} % over clips and seeds)")
    axis.set_title(title, fontsize=10, loc="left")
    return figure
