"""The robustness table and figure, from run records only.

print(robustness_table(load_records("results/robustness")))
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from avslib.core.errors import RecordError, UsageError
from avslib.study.intervals import DRAWS, Interval, clip_scores, difference_interval, mean_interval
from avslib.study.plots import COLOURS, styled_axes
from avslib.study.records import RunRecord
from avslib.study.robustness_conditions import CONDITIONS, OWN, snr_of
from avslib.study.tables import FORMATS, Table, render

TITLES = {"mini": "Robustness on Mini-AVS (not comparable with AVSBench)", "avsbench": "Robustness on AVSBench"}
SCORES = ("J", "F", "falsely_lit")
RUN = ("label", "checkpoint", "method", "task", "split", "condition")
COLUMNS = [*RUN, *SCORES, "J_minus_own", "low", "high", "run"]
# colour, marker and line style of each checkpoint in the figure
LOOKS = (
    ("blue", "o", "-"),
    ("vermilion", "s", "--"),
    ("green", "^", "-."),
    ("purple", "D", ":"),
    ("black", "v", "-"),
    ("orange", "P", "--"),
)


def checkpoints(records: Iterable[RunRecord], data: str = "mini") -> dict[str, tuple[RunRecord, str]]:
    """Label -> (record, split) of each checkpoint, S4 first; of two records of one configuration the later counts.

    Raises:
        AvsError: a record that `avs robustness` did not make.
    """
    latest: dict[tuple, RunRecord] = {}
    for record in sorted(records, key=lambda record: (record.created, record.id)):
        if "falsely_lit" not in record.definitions:
            raise RecordError(
                f"{record.path or record.id}: not a record of the robustness evaluation; make it with `avs robustness`"
            )
        for split in record.metrics if record.data == data else ():
            latest[record.task != "s4", record.selection, split, record.dataset.id, record.config_hash] = record
    found = [(f"{key[1]}, {latest[key].task.upper()} {key[2]}", latest[key], key[2]) for key in sorted(latest)]
    labels = [label for label, *_ in found]
    return {
        f"{label} ({record.id[-8:]})" if labels.count(label) > 1 else label.removesuffix(" test"): (record, split)
        for label, record, split in found
    }


def robustness_frame(records: Iterable[RunRecord], data: str = "mini") -> pd.DataFrame:
    """A row per checkpoint, split and condition: J, F, falsely_lit, J minus J under own sound with its interval.

    Column `label` names the checkpoint with its task and split. Raises AvsError as :func:`checkpoints`, or when
    clips.csv does not fit its record.
    """
    rows = []
    for label, (r, split) in checkpoints(records, data).items():
        own = clip_scores([r], split)
        scored = {OWN: r.metrics[split]} | {name: found[split] for name, found in r.baselines.items() if split in found}
        for condition in sorted(scored, key=_rank):
            change = Interval(np.nan, np.nan, np.nan)
            if condition != OWN:
                change = difference_interval(clip_scores([r], split, condition), own, same_seeds=True)
            scores = [scored[condition].get(name) for name in SCORES]
            rows.append([label, r.selection, r.method, r.task, split, condition, *scores, *change, r.id])
    return pd.DataFrame(rows, columns=COLUMNS).astype(dict.fromkeys(SCORES, float))


def _rank(condition: str) -> tuple[int, float]:
    """Own sound, noise from little to much, the others as in `CONDITIONS`."""
    snr = snr_of(condition)
    return (1, -snr) if snr is not None else (0, 0) if condition == OWN else (2, CONDITIONS.index(condition))


def robustness_table(
    records: Iterable[RunRecord],
    fmt: Literal["md", "csv", "latex", "html", "rich"] = "md",
    data: Literal["mini", "avsbench"] = "mini",
) -> Any:
    """One table per checkpoint and task, one row per condition: J, F, falsely lit, and the change in J (95 % interval).

    "csv" is one table of plain numbers, a row per condition and checkpoint.

    Raises:
        AvsError: as `robustness_frame`; another format.
    """
    if fmt not in FORMATS or data not in TITLES:
        raise UsageError(
            f"robustness table: format {fmt!r}, data {data!r}; expected {', '.join(FORMATS)}, and mini or avsbench"
        )
    records = list(records)
    rows = robustness_frame(records, data)
    if fmt == "csv":
        return rows.drop(columns="label").to_csv(index=False, float_format="%.5f", lineterminator="\n")
    tables = [_table(f"{TITLES[data]}: {label}", part) for label, part in rows.groupby("label", sort=False)]
    tables = tables or [_table(TITLES[data], rows)]
    tables[-1].notes.extend(_notes(checkpoints(records, data)))
    return render(tables, fmt)


def _table(title: str, rows: pd.DataFrame) -> Table:
    scores = rows[list(SCORES)].map(lambda value: "" if np.isnan(value) else f"{value:.3f}")
    cells = pd.concat([rows[["condition"]], scores], axis=1)
    intervals = (Interval(*ends) for ends in rows[["J_minus_own", "low", "high"]].itertuples(index=False))
    cells["change"] = ["" if np.isnan(ends.low) else ends.text() for ends in intervals]
    return Table(title, cells.set_axis(["Condition", "J", "F", "falsely lit", "change in J"], axis=1))


def _notes(found: dict[str, tuple[RunRecord, str]]) -> list[str]:
    if not found:
        return ["No run record yet: `avs robustness CHECKPOINT --data DIR --task s4`."]
    records = {label: record for label, (record, _) in found.items()}
    meanings = next(iter(records.values())).definitions
    scores = [f"{name}: {meanings[name]}" for name in SCORES if name in meanings]
    played = [f"{name}: {text}" for name, text in meanings.items() if name not in SCORES]
    datasets = ", ".join(dict.fromkeys(record.dataset.id for record in records.values()))
    return [
        f"Data: {datasets}; from 0 to 1. {'. '.join(scores)}.".replace("falsely_lit", "falsely lit"),
        f"Change in J: of J minus J under own sound the 95 % percentile bootstrap interval; {DRAWS} draws of clips.",
        f"Conditions. {'. '.join(played)}.",
        *(f"{label}: {record.notes}" for label, record in records.items() if "left out" in record.notes),
    ]


def robustness_figure(records: Iterable[RunRecord], task: str = "s4", data: str = "mini", *, dpi: int = 110) -> Any:
    """Draw J and the share falsely lit: on the left over the SNR in dB, on the right under the other conditions.

    One colour, marker and line style per checkpoint; bars at J are 95 % bootstrap intervals over clips.
    Returns a matplotlib Figure. Raises AvsError when no record is of this task and data.
    """
    records = [record for record in records if record.task == task]
    rows = robustness_frame(records, data)
    if rows.empty:
        raise RecordError(f"robustness figure: no run record of {task} on {data}; make one with `avs robustness`")
    rows["falsely_lit"] *= 100
    found = checkpoints(records, data)
    clips = [
        clip_scores([found[r.label][0]], r.split, r.condition if r.condition != OWN else "") for r in rows.itertuples()
    ]
    j = rows.assign(J=[list(scores[0]) for scores in clips]).explode("J").astype({"J": float})
    figure, axes = styled_axes(9.5, 6.6, 2, 2, dpi=dpi, sharey="row", width_ratios=(1, 1.1))
    names = sorted(rows.condition.unique(), key=_rank)
    ladder = [name for name in names if name == OWN or snr_of(name) is not None]
    for column, order in enumerate((ladder, [name for name in names if name not in ladder])):
        joined = order is ladder
        _points(axes[0, column], j, "J", order, joined=joined, errorbar=lambda x: mean_interval(np.array([x]))[1:])
        _points(axes[1, column], rows, "falsely_lit", order, joined=joined, errorbar=None)
    for axis, label in zip(axes[:, 0], ("J (mask of the own sound)", "pixels falsely lit (%)"), strict=True):
        axis.set_ylabel(label)
        axis.set_ylim(bottom=-0.03 * axis.get_ylim()[1])
    axes[1, 0].set_xlabel("SNR of the own sound in white noise (dB)")
    axes[1, 1].set_xlabel("condition")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    for axis in axes.flat:
        axis.get_legend().remove()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), fontsize=9, frameon=False)
    return figure


def _points(axis: Any, rows: pd.DataFrame, score: str, order: Sequence[str], *, joined: bool, errorbar: Any) -> None:
    """Each checkpoint's line (over the SNR) or marks, a little apart from the others'."""
    import seaborn as sns

    labels = list(rows.label.unique())
    colours, markers, dashes = zip(*(LOOKS[i % len(LOOKS)] for i in range(len(labels))), strict=True)
    sns.pointplot(
        rows[rows.condition.isin(order)],
        x="condition",
        y=score,
        hue="label",
        order=order,
        hue_order=labels,
        palette=[COLOURS[colour] for colour in colours],
        markers=list(markers),
        linestyles=list(dashes) if joined else "none",
        dodge=0.12 * (len(labels) - 1),
        errorbar=errorbar,
        markersize=5,
        linewidth=1.5,
        err_kws={"linewidth": 1},
        ax=axis,
    )
    axis.set(xlabel=None, ylabel=None)
    axis.set_xticks(range(len(order)), [_tick(name) for name in order], fontsize=8)


def _tick(name: str) -> str:
    """A label in two lines at most."""
    if name == OWN:
        return "no noise"
    snr = snr_of(name)
    return (
        f"{snr:g}"
        if snr is not None
        else name.replace("sound of another clip", "another\nclip's").replace(" ", "\n", 1)
    )
