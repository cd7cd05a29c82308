"""The robustness table, from run records alone.

print(robustness_table(load_records("results/robustness")))
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from avslib.core.errors import RecordError, UsageError
from avslib.study.intervals import DRAWS, Interval, clip_scores, difference_interval, mean_interval
from avslib.study.records import RunRecord
from avslib.study.robustness_conditions import CONDITIONS, OWN, snr_of
from avslib.study.tables import FORMATS, Table

HEADS = ["Condition", "J", "F", "falsely lit", "change in J"]
TITLES = {"mini": "Robustness on Mini-AVS (not comparable with AVSBench)", "avsbench": "Robustness on AVSBench"}


@dataclass(frozen=True)
class Column:
    """The scores of one checkpoint on one split of one task."""

    record: RunRecord
    split: str
    label: str

    def scores(self, condition: str) -> dict[str, float | None] | None:
        """J, F and falsely_lit; None where the condition was left out."""
        found = self.record.metrics if condition == OWN else self.record.baselines.get(condition, {})
        return found.get(self.split)

    def interval(self, condition: str) -> Interval:
        """J, with its 95 % interval over clips."""
        return mean_interval(clip_scores([self.record], self.split, "" if condition == OWN else condition))

    def difference(self, condition: str) -> Interval:
        """J minus J under the clips' own sound, over the same clips drawn again."""
        played, own = (clip_scores([self.record], self.split, name) for name in (condition, ""))
        return difference_interval(played, own, same_seeds=True)


def columns_of(records: Iterable[RunRecord], data: str = "mini") -> list[Column]:
    """One column a checkpoint, task and split, S4 first; of two records of one configuration and data the later counts.

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
            # S4 sorts before MS3
            latest[record.task != "s4", record.selection, split, record.dataset.id, record.config_hash] = record
    found = [(f"{key[1]}, {latest[key].task.upper()} {key[2]}", latest[key], key[2]) for key in sorted(latest)]
    labels = [label for label, *_ in found]
    return [
        Column(record, split, f"{label} ({record.id[-8:]})" if labels.count(label) > 1 else label.removesuffix(" test"))
        for label, record, split in found
    ]


def conditions_of(columns: Sequence[Column]) -> list[str]:
    """The conditions that any column has: own sound, noise from little to much, the others."""
    found = {name for column in columns for name in [OWN, *column.record.baselines]}
    noisy = sorted((name for name in found if snr_of(name) is not None), key=snr_of, reverse=True)
    return [OWN, *noisy, *(name for name in CONDITIONS if name in found - {OWN} and name not in noisy)]


def robustness_table(
    records: Iterable[RunRecord],
    fmt: Literal["md", "csv", "latex", "html", "rich"] = "md",
    data: Literal["mini", "avsbench"] = "mini",
) -> Any:
    """One table a checkpoint and task: a row a condition; J, F, falsely lit, and the 95 % interval of J minus that
    under the own sound. "csv" is one table of plain numbers, a row a condition and checkpoint.

    Raises:
        AvsError: as `columns_of`; another format; clips.csv does not fit its record.
    """
    if fmt not in FORMATS or data not in TITLES:
        raise UsageError(
            f"robustness table: format {fmt!r}, data {data!r}; expected {', '.join(FORMATS)}, and mini or avsbench"
        )
    columns = columns_of(records, data)
    if fmt == "csv":
        return FORMATS[fmt](_numbers(columns))
    parts = [_table(column, f"{TITLES[data]}: {column.label}") for column in columns]
    parts = parts or [Table(TITLES[data], HEADS, [])]
    parts[-1].notes.extend(_notes(columns))
    made = list(map(FORMATS[fmt], parts))
    if fmt != "rich":
        return "\n".join(made)
    from rich.console import Group

    return Group(*made)


def _table(column: Column, title: str) -> Table:
    return Table(title, HEADS, [[name, *_cells(column, name)] for name in conditions_of([column])])


def _cells(column: Column, condition: str) -> list[str]:
    scores = column.scores(condition)
    values = ["" if scores.get(n) is None else f"{scores[n]:.3f}" for n in ("J", "F", "falsely_lit")]
    made = None if condition == OWN else column.difference(condition)
    return [*values, "" if made is None else f"[{_signed(made.low)}, {_signed(made.high)}]"]


def _signed(value: float) -> str:
    return f"{value:+.3f}" if value else "0.000"


def _numbers(columns: Sequence[Column]) -> Table:
    heads = [
        "checkpoint",
        "method",
        "task",
        "split",
        "condition",
        "J",
        "F",
        "falsely_lit",
        "J_minus_own",
        "low",
        "high",
        "run",
    ]
    rows = []
    for column in columns:
        for condition in conditions_of([column]):
            scores = column.scores(condition)
            if scores is not None:
                values = [scores.get(name) for name in ("J", "F", "falsely_lit")]
                values += [None] * 3 if condition == OWN else list(column.difference(condition))
                r = column.record
                rows.append(
                    [
                        r.selection,
                        r.method,
                        r.task,
                        column.split,
                        condition,
                        *("" if v is None else f"{v:.5f}" for v in values),
                        r.id,
                    ]
                )
    return Table("", heads, rows)


def _notes(columns: Sequence[Column]) -> list[str]:
    if not columns:
        return ["No run record yet: `avs robustness CHECKPOINT --data DIR --task s4`."]
    told = columns[0].record.definitions
    datasets = ", ".join(dict.fromkeys(column.record.dataset.id for column in columns))
    meanings = [f"{name}: {told[name]}" for name in ("J", "F", "falsely_lit") if name in told]
    played = [f"{name}: {text}" for name, text in told.items() if name not in ("J", "F", "falsely_lit")]
    left = [f"{column.label}: {column.record.notes}" for column in columns if "left out" in column.record.notes]
    return [
        f"Data: {datasets}; from 0 to 1. {'. '.join(meanings)}.".replace("falsely_lit", "falsely lit"),
        f"Change in J: of J minus J under own sound the 95 % percentile bootstrap interval; {DRAWS} draws of clips.",
        f"Conditions. {'. '.join(played)}.",
        *left,
    ]
