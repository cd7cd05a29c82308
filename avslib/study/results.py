"""Tables made from run records: Paper | Ours on AVSBench, methods and baselines on Mini-AVS; never both in one table.

    records = load_records("results/runs")
    print(table(records, "s4", data="mini"))

A number is printed only when a run.json stands behind it.
"""

import csv
import io
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from avslib.core.errors import RecordError, UsageError
from avslib.core.files import atomic_path
from avslib.study.records import NOT_THE_VARIANT, RunRecord, variant_hash
from avslib.study.tables import FORMATS, Table, fill_marks

SPLITS = {"mini": ("test", "test_unseen"), "avsbench": ("test",)}
# How published tables name what our configuration names.
BACKBONES = {"pvt_v2_b5": "PVTv2-B5", "resnet50": "ResNet-50"}
METHODS = {"ecmvae": "ECMVAE", "deterministic": "TPAVI"}


@dataclass(frozen=True)
class Value:
    """Mean over seeds, sample standard deviation (None for one seed), number of seeds."""

    mean: float
    sd: float | None
    n: int

    def text(self, scale: float, digits: int) -> str:
        spread = "" if self.sd is None else f" ± {scale * self.sd:.{digits}f}"
        return f"{scale * self.mean:.{digits}f}{spread}"


@dataclass(frozen=True)
class Row:
    """One method, or one baseline evaluated beside it, over its seeds."""

    method: str
    baseline: str
    dataset: str
    config: dict[str, Any]
    seeds: tuple[int, ...]
    runs: tuple[str, ...]
    values: dict[str, dict[str, Value]]
    label: str


def published() -> list[dict[str, str]]:
    """Published results on AVSBench as they stand in the sources named in each row (J and F in percent)."""
    text = (resources.files("avslib") / "assets/paper/results.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(io.StringIO(text)))


def summarise(records: Iterable[RunRecord], task: str, data: str = "mini") -> list[Row]:
    """Mean and spread over the seeds of each method, each followed by its baselines.

    Runs are averaged only when they share data and configuration but for the seed; of two runs with one seed the
    later counts. Raises AvsError for a record that no file holds.
    """
    groups: dict[tuple[str, str, str], dict[int, RunRecord]] = {}
    for record in sorted(records, key=lambda record: record.created):
        if record.path is None:
            raise RecordError(
                f"run record {record.id} is in no file: save it with write_record before it enters a table"
            )
        if (record.task, record.data) == (task, data):
            key = (record.method, record.dataset.id, variant_hash(record.config))
            groups.setdefault(key, {})[record.seed] = record
    rows = []
    for key in sorted(groups, key=lambda key: (key[0] != "ecmvae", key)):
        (method, dataset, variant), by_seed = key, groups[key]
        runs = [by_seed[seed] for seed in sorted(by_seed)]
        rivals = [next(iter(runs.values())).config for other, runs in groups.items() if other[:2] == key[:2]]
        name = method + _difference(runs[0].config, rivals, variant)
        for baseline in ["", *dict.fromkeys(name for run in runs for name in run.baselines)]:
            chosen = [run for run in runs if not baseline or baseline in run.baselines]
            values = _over_seeds([run.baselines[baseline] if baseline else run.metrics for run in chosen])
            shared = sum(any(baseline in run.baselines for run in runs.values()) for runs in groups.values()) > 1
            label = name if not baseline else f"{name}: {baseline}" if shared else baseline
            rows.append(
                Row(
                    method,
                    baseline,
                    dataset,
                    chosen[0].config,
                    tuple(run.seed for run in chosen),
                    tuple(run.id for run in chosen),
                    values,
                    label,
                )
            )
    return rows


def _difference(config: dict[str, Any], rivals: Sequence[dict[str, Any]], variant: str) -> str:
    """What tells a configuration from others under the same name: up to two fields, else its hash."""
    flat = [flat_config(rival) for rival in rivals]
    names = [name for name in dict.fromkeys(n for f in flat for n in f) if name not in NOT_THE_VARIANT]
    telling = [name for name in names if len({repr(f.get(name)) for f in flat}) > 1]
    mine = flat_config(config)
    told = ", ".join(f"{name.split('.')[-1]}={mine.get(name)}" for name in telling)
    return "" if not telling else f" ({told})" if len(telling) < 3 else f" ({variant[:6]})"


def flat_config(config: dict[str, Any]) -> dict[str, Any]:
    """A record's configuration as one mapping, ``section.field`` -> value."""
    sections = ((key, value if isinstance(value, dict) else {"": value}) for key, value in config.items())
    return {f"{key}.{name}".rstrip("."): value for key, section in sections for name, value in section.items()}


def _over_seeds(runs: Sequence[dict[str, dict[str, float | None]]]) -> dict[str, dict[str, Value]]:
    pooled: dict[str, dict[str, list[float]]] = {}
    for metrics in runs:
        for split, values in metrics.items():
            for name, value in values.items():
                if value is not None:
                    pooled.setdefault(split, {}).setdefault(name, []).append(value)
    return {
        split: {
            name: Value(statistics.fmean(found), statistics.stdev(found) if len(found) > 1 else None, len(found))
            for name, found in names.items()
        }
        for split, names in pooled.items()
    }


def table(
    records: Iterable[RunRecord],
    task: Literal["s4", "ms3"],
    data: Literal["mini", "avsbench"] = "mini",
    fmt: Literal["md", "csv", "rich", "latex", "html"] = "md",
) -> Any:
    """The table of one task on one data set: text, or a ``rich.table.Table`` for "rich".

    mini: one row a method or baseline, J, F and F_legacy (0 to 1) on both test splits, mean ± sd over seeds.
    avsbench: the published rows (percent) with their sources beside ours, which stay empty until a record exists.
    """
    if task not in ("s4", "ms3") or data not in SPLITS or fmt not in FORMATS:
        raise UsageError(
            f"table {task}, {data}, {fmt}: task is s4 or ms3, data mini or avsbench, format {', '.join(FORMATS)}"
        )
    rows = summarise(records, task, data)
    return FORMATS[fmt](_mini_table(rows, task) if data == "mini" else _avsbench_table(rows, task))


def _metric_names(rows: Sequence[Row], split: str) -> list[str]:
    legacy = sorted({name for row in rows for name in row.values.get(split, {}) if name.startswith("F_legacy")})
    return ["J", "F", *legacy]


def _cell(row: Row, split: str, name: str, scale: float, digits: int) -> str:
    value = row.values.get(split, {}).get(name)
    return "" if value is None else value.text(scale, digits)


def _mini_table(rows: Sequence[Row], task: str) -> Table:
    columns = [(split, name) for split in SPLITS["mini"] for name in _metric_names(rows, split)]
    datasets = sorted({row.dataset for row in rows})
    body = []
    for row in rows:
        cells = [_cell(row, split, name, 1, 3) for split, name in columns]
        where = [row.dataset] if len(datasets) > 1 else []
        body.append([row.label, *where, *cells, str(len(row.seeds)), ", ".join(row.runs)])
    notes = [f"Data: {datasets[0]}. Mean ± sample sd over n seeds."] if len(datasets) == 1 else []
    if not rows:
        commands = f"`avs data build-mini --out DIR`, then `avs train --preset mini --data DIR --task {task}`"
        notes = [f"No run record yet: {commands}."]
    headers = ["Method", *(["Data"] if len(datasets) > 1 else []), *(f"{name} {split}" for split, name in columns)]
    return Table(f"Mini-AVS, {task.upper()} (not comparable with AVSBench)", [*headers, "n", "Runs"], body, notes)


def _avsbench_table(rows: Sequence[Row], task: str) -> Table:
    ours = [row for row in rows if not row.baseline]
    names = _metric_names(ours, "test")
    body, used = [], set()
    for paper in published():
        key = (paper["method"], paper["backbone"], paper["image_size"])
        found = [row for row in ours if _published_key(row) == key]
        used.update(map(id, found))
        source = "; ".join(filter(None, (paper["source"], paper["note"])))
        left = [
            f"{paper['method']} ({paper['year']})",
            paper["backbone"],
            paper["image_size"],
            paper[f"{task}_miou"],
            paper[f"{task}_f"],
            source,
        ]
        body += [left + _ours(row, names) for row in found] or [left + [""] * (len(names) + 2)]
    for row in ours:
        if id(row) not in used:
            _, backbone, size = _published_key(row)
            part = f", first {_part(row)} clips of each split" if _part(row) else ""
            body.append([row.label + part, backbone, size, "", "", "", *_ours(row, names)])
    epochs = " -o train.epochs=30" if task == "ms3" else ""
    train = f"avs train --preset paper --data DIR --task {task}{epochs} -o model.audio_weights=VGGISH.PTH"
    notes = ["J and F in percent, as published; ours: mean ± sample sd over n seeds, split test, chosen on val."]
    for label, option in (("PVTv2-B5", ""), ("ResNet-50", " -o model.backbone=resnet50")):
        filled = any(_published_key(row) == ("ECMVAE", label, "224") for row in ours)
        if not filled:
            notes.append(f"Ours is empty for ECMVAE, {label}, until someone runs `{train}{option}` on AVSBench.")
    headers = ["Method", "Backbone", "Size", "Paper J", "Paper F", "Source"]
    return Table(f"AVSBench, {task.upper()}", [*headers, *(f"Ours {n}" for n in names), "n", "Runs"], body, notes)


def _published_key(row: Row) -> tuple[str, str, str]:
    model = row.config.get("model", {})
    backbone = str(model.get("backbone", ""))
    # a run on a part of the clips never stands beside a published figure
    method = "" if _part(row) else METHODS.get(row.method, row.method)
    return method, BACKBONES.get(backbone, backbone), str(model.get("image_size", ""))


def _part(row: Row) -> int | None:
    return row.config.get("data", {}).get("max_clips")


def published_row(config: Any, task: str) -> dict[str, str] | None:
    """ECMVAE's published figures (percent) with this configuration's backbone and size; None without any."""
    m = config.model
    key = ("ECMVAE", BACKBONES.get(m.backbone, m.backbone), str(m.image_size))
    rows = [row for row in published() if (row["method"], row["backbone"], row["image_size"]) == key]
    return {"J": rows[0][f"{task}_miou"], "F": rows[0][f"{task}_f"], "source": rows[0]["source"]} if rows else None


def _ours(row: Row, names: Sequence[str]) -> list[str]:
    return [*(_cell(row, "test", name, 100, 2) for name in names), str(len(row.seeds)), ", ".join(row.runs)]


def fill_tables(path: str | Path, records: Sequence[RunRecord], check: bool = False) -> bool:
    """Write the tables between ``<!-- table:mini-s4 -->`` and ``<!-- /table:mini-s4 -->`` marks of a Markdown file.

    Marks of other tables (:mod:`tools.generated`) are left alone. Returns whether the file was stale; with `check` it
    is left as it is. Raises AvsError for a mark without its end.
    """
    path = Path(path)
    text = path.read_text(encoding="utf-8")
    tables = {f"{data}-{task}": partial(table, records, task, data) for data in SPLITS for task in ("s4", "ms3")}
    new = fill_marks(text, tables, str(path))
    if new != text and not check:
        with atomic_path(path) as part:
            part.write_text(new, encoding="utf-8", newline="\n")
    return new != text
