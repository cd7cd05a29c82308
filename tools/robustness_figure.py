"""The figure of the robustness records: J and the share falsely lit under every condition."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from avslib.core.errors import RecordError
from avslib.study.intervals import clip_scores, mean_interval
from avslib.study.plots import interval_points, styled_axes
from avslib.study.records import RunRecord
from avslib.study.robustness import rank, robustness_frame
from avslib.study.robustness_conditions import OWN
from avslib.study.tables import Data

# colour and marker of each checkpoint
LOOKS = (("blue", "o"), ("vermilion", "s"), ("green", "^"), ("purple", "D"), ("black", "v"))


def robustness_figure(records: Iterable[RunRecord], task: str = "s4", data: Data = "mini", *, dpi: int = 110) -> Any:
    """A matplotlib Figure of J with its 95 % bootstrap interval over clips, and of the share falsely lit, by condition.

    Raises AvsError when no record is of this task and data.
    """
    found = {record.id: record for record in records if record.task == task}
    rows = robustness_frame(found.values(), data)
    if rows.empty:
        raise RecordError(f"robustness figure: no run record of {task} on {data}; make one with `avs robustness`")
    runs = [(found[r.run], r.split, "" if r.condition == OWN else r.condition) for r in rows.itertuples()]
    j = pd.DataFrame(mean_interval(clip_scores([record], split, baseline)) for record, split, baseline in runs)
    lit = pd.DataFrame({"estimate": 100 * rows.falsely_lit, "low": np.nan, "high": np.nan})
    looks = {label: LOOKS[i % len(LOOKS)] for i, label in enumerate(rows.label.unique())}
    order = sorted(rows.condition.unique(), key=rank)
    figure, axes = styled_axes(9.5, 6.6, 2, dpi=dpi, sharex=True)
    panels = {"J (mask of the own sound)": j, "pixels falsely lit (%)": lit}
    for axis, (label, points) in zip(axes[:, 0], panels.items(), strict=True):
        interval_points(axis, rows[["label", "condition"]].join(points), "condition", "label", looks, order, dodge=0.12)
        axis.set(xlabel=None, ylabel=label, ylim=(-0.03 * axis.get_ylim()[1], None))
    axes[1, 0].get_legend().remove()
    axes[1, 0].set_xticks(range(len(order)), [name.replace(" ", "\n", 1) for name in order], fontsize=8)
    return figure
