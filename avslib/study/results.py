"""Results as a data frame and as tables: Paper | Ours on AVSBench, methods and baselines on Mini-AVS; never mixed.

    scores = frame("results/runs")
    scores[scores.split == "test"].groupby(["task", "method", "baseline"]).J.agg(["mean", "std"])
    print(table(load_records("results/runs"), "s4", data="mini"))

A number is printed only when a run.json stands behind it.
"""

import csv
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd

from avslib.core.errors import RecordError
from avslib.study.records import NOT_THE_VARIANT, RunRecord, load_records, variant_hash
from avslib.study.tables import Data, Format, Table, render

SPLITS = {"mini": ("test", "test_unseen"), "avsbench": ("test",)}
# How published tables name what our configuration names.
BACKBONES = {"pvt_v2_b5": "PVTv2-B5", "resnet50": "ResNet-50"}
KEY = ("method", "backbone", "image_size")
METHODS = {"ecmvae": "ECMVAE", "deterministic": "TPAVI"}
# metrics of `avslib.training.listening`, and what tables call them
LISTENING = {"J_not_empty": "J not empty", "J_empty": "J empty", "lit_empty": "lit empty", "lit_silent": "lit silent"}
LISTENING |= {"lit_off_screen": "lit off screen", "sel": "sel", "time": "time"}
ABOUT_LISTENING = (
    "J not empty, J empty: over frames with and without a sounding object in view. Lit empty: share of the latter in "
    "which more than 1 % of the pixels are predicted; lit silent, lit off screen: of those where nothing sounds, or "
    "something out of view. Sel: probability that a sounding object is brighter than a silent one in the same frame; "
    "time: that an object is brighter in its sounding than in its silent seconds; 0.5 is chance."
)


@dataclass(frozen=True)
class Value:
    """A metric of one method, a score for each seed."""

    scores: tuple[float, ...]

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.scores) if self.scores else None

    @property
    def sd(self) -> float | None:
        """Sample standard deviation; None for one seed."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else None

    def text(self, scale: float, digits: int) -> str:
        spread = "" if self.sd is None else f" ± {scale * self.sd:.{digits}f}"
        return f"{scale * self.mean:.{digits}f}{spread}"


@dataclass(frozen=True)
class Row:
    """One method, or one baseline evaluated beside it, over its seeds; `values`: by split and metric."""

    method: str
    baseline: str
    dataset: str
    config: dict[str, Any]
    seeds: tuple[int, ...]
    runs: tuple[str, ...]
    values: dict[str, dict[str, Value]]
    label: str

    def cell(self, split: str, name: str, scale: float = 1, digits: int = 3) -> str:
        value = self.values.get(split, {}).get(name)
        return "" if value is None else value.text(scale, digits)


def frame(records: Iterable[RunRecord] | str | Path) -> pd.DataFrame:
    """One row per run, baseline ("" for the model itself) and split; a column per metric (0 to 1, NaN: undefined).

    Other columns: id, created, data, task, dataset, method, variant (:func:`avslib.study.records.variant_hash`), seed.
    `records` may be the folder to load them from, as :func:`avslib.study.records.load_records` does.
    """
    rows = []
    for r in load_records(records) if isinstance(records, str | Path) else records:
        run = {name: getattr(r, name) for name in ("id", "created", "data", "task", "method", "seed")}
        run |= {"dataset": r.dataset.id, "variant": variant_hash(r.config)}
        for baseline, splits in {"": r.metrics, **r.baselines}.items():
            rows += [{**run, "baseline": baseline, "split": split, **scores} for split, scores in splits.items()]
    return pd.DataFrame(rows)


def published() -> list[dict[str, str]]:
    """Published results on AVSBench as they stand in the sources named in each row (J and F in percent)."""
    text = (resources.files("avslib") / "assets/paper/results.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def summarise(records: Iterable[RunRecord], task: str, data: str = "mini") -> list[Row]:
    """Mean and spread over the seeds of each method, each followed by its baselines.

    Runs are averaged when they differ in the seed only; of two runs with one seed the later counts. Raises AvsError for
    a record that no file holds.
    """
    groups: dict[tuple[str, str, str], dict[int, RunRecord]] = {}
    for record in sorted(records, key=lambda record: record.created):
        if record.path is None:
            raise RecordError(f"run record {record.id} was not saved: call write_record before making a table of it")
        if (record.task, record.data) == (task, data):
            key = (record.method, record.dataset.id, variant_hash(record.config))
            groups.setdefault(key, {})[record.seed] = record
    shared = [{name for run in runs.values() for name in run.baselines} for runs in groups.values()]
    rows = []
    for key in sorted(groups, key=lambda key: (key[0] != "ecmvae", key)):
        runs = [groups[key][seed] for seed in sorted(groups[key])]
        rivals = [next(iter(others.values())).config for other, others in groups.items() if other[:2] == key[:2]]
        name = key[0] + _difference(runs[0].config, rivals, key[2])
        for baseline in ["", *dict.fromkeys(name for run in runs for name in run.baselines)]:
            chosen = [run for run in runs if not baseline or baseline in run.baselines]
            many = sum(baseline in names for names in shared) > 1
            label = f"{name}: {baseline}" if many else baseline or name
            values = _over_seeds([run.baselines[baseline] if baseline else run.metrics for run in chosen])
            seeds, ids = tuple(run.seed for run in chosen), tuple(run.id for run in chosen)
            rows.append(Row(key[0], baseline, key[1], chosen[0].config, seeds, ids, values, label))
    return rows


def _difference(config: dict[str, Any], rivals: Sequence[dict[str, Any]], variant: str) -> str:
    """What distinguishes a configuration from others of the same name: up to two fields, else its hash."""
    values = pd.DataFrame([flat_config(other) for other in [config, *rivals]]).map(repr)
    names = [name for name in values if values[name].nunique() > 1 and name not in NOT_THE_VARIANT]
    fields = [f"{name.split('.')[-1]}={flat_config(config).get(name)}" for name in names]
    return "" if not fields else f" ({', '.join(fields)})" if len(fields) < 3 else f" ({variant[:6]})"


def flat_config(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration as one mapping, ``section.field`` -> value; a part of it may be in this form already."""
    sections = ((key, value if isinstance(value, dict) else {"": value}) for key, value in config.items())
    return {f"{key}.{name}".rstrip("."): value for key, section in sections for name, value in section.items()}


def _over_seeds(runs: Sequence[dict[str, dict[str, float | None]]]) -> dict[str, dict[str, Value]]:
    found: dict[str, dict[str, Value]] = {}
    for split in dict.fromkeys(split for run in runs for split in run):
        scores = pd.DataFrame([run.get(split, {}) for run in runs], dtype=float)
        found[split] = {n: Value(tuple(scores[n].dropna())) for n in scores if scores[n].notna().any()}
    return found


def table(records: Iterable[RunRecord], task: str, data: Data = "mini", fmt: Format = "md") -> Any:
    """The table of one task on one data set: text, or a ``rich.console.Group`` for "rich".

    mini: one row per method or baseline, J, F and F_legacy (0 to 1) on both test splits, mean ± sd over seeds, and for
    MS3 a second table that shows whether a method follows the sound.
    avsbench: the published rows (percent) with their sources beside ours, which stay empty until a record exists.
    """
    rows = summarise(records := list(records), task, data)
    scores = (_avsbench_table if data == "avsbench" else _mini_table)(rows, task)
    follows = _listening_table(rows, task) if (data, task) == ("mini", "ms3") else []
    shown = {run for row in rows for run in row.runs}
    if older := sorted(r.id for r in records if (r.task, r.data) == (task, data) and r.id not in shown):
        scores.notes.append(f"Left out, since a later run has the same variant and seed: {', '.join(older)}.")
    if fmt == "csv" and follows:  # one table for a program
        cells = scores.cells.merge(follows.pop().cells, how="left", on="Method").fillna("")
        scores = Table(scores.title, cells)
    return render([scores, *follows], fmt)


def _metric_names(rows: Sequence[Row], split: str) -> list[str]:
    legacy = {name for row in rows for name in row.values.get(split, {}) if name.startswith("F_legacy")}
    return ["J", "F", *sorted(legacy)]


def _mini_table(rows: Sequence[Row], task: str) -> Table:
    datasets = sorted({row.dataset for row in rows})
    cells: dict[str, list[str]] = {"Method": [row.label for row in rows]}
    if len(datasets) > 1:
        cells["Data"] = [row.dataset for row in rows]
    for split in SPLITS["mini"]:
        cells |= {f"{name} {split}": [row.cell(split, name) for row in rows] for name in _metric_names(rows, split)}
    cells |= {"n": [str(len(row.seeds)) for row in rows], "Runs": [", ".join(row.runs) for row in rows]}
    note = f"Data: {', '.join(datasets)}. Mean ± sample sd over n seeds."
    if not rows:
        train = f"avs train --preset mini --data DIR --task {task}"
        note = f"No run record yet: `avs data build-mini --out DIR`, then `{train}`."
    return Table(f"Mini-AVS, {task.upper()} (not comparable with AVSBench)", pd.DataFrame(cells), [note])


def _listening_table(rows: Sequence[Row], task: str) -> list[Table]:
    scored = [row for row in rows if "J_not_empty" in row.values.get("test", {})]
    cells: dict[str, list[str]] = {"Method": [row.label for row in scored]}
    for split in SPLITS["mini"]:
        columns = {f"{label} {split}": [row.cell(split, name) for row in scored] for name, label in LISTENING.items()}
        cells |= {head: column for head, column in columns.items() if any(column)}
    title = f"Mini-AVS, {task.upper()}: does the method follow the sound?"
    return [Table(title, pd.DataFrame(cells), [ABOUT_LISTENING])] if scored else []


def _avsbench_table(rows: Sequence[Row], task: str) -> Table:
    ours = [row for row in rows if not row.baseline]
    left, names, made = ours, _metric_names(ours, "test"), []
    for paper in published():
        found = [row for row in ours if _published_key(row) == tuple(map(paper.get, KEY))]
        left = [row for row in left if row not in found]
        head = {"Method": f"{paper['method']} ({paper['year']})", "Backbone": paper["backbone"]}
        head |= {"Size": paper["image_size"], "Paper J": paper[f"{task}_miou"], "Paper F": paper[f"{task}_f"]}
        head |= {"Source": "; ".join(filter(None, (paper["source"], paper["note"])))}
        made += [head | _ours(row, names) for row in found or [None]]
    for row in left:
        _, backbone, size = _published_key(row)
        part = flat_config(row.config).get("data.max_clips")
        label = f"{row.label}, first {part} clips of each split" if part else row.label
        made.append({"Method": label, "Backbone": backbone, "Size": size} | _ours(row, names))
    epochs = " -o train.epochs=30" if task == "ms3" else ""
    train = f"avs train --preset paper --data DIR --task {task}{epochs} -o model.audio_weights=VGGISH.PTH"
    notes = [
        "J and F in percent, as published; ours: mean ± sample sd over n seeds, split test, chosen on val.",
        f"Ours is empty until someone runs `{train}` on AVSBench (for ResNet-50 with `-o model.backbone=resnet50`).",
    ]
    return Table(f"AVSBench, {task.upper()}", pd.DataFrame(made).fillna(""), notes)


def _ours(row: Row | None, names: Sequence[str]) -> dict[str, str]:
    made = {f"Ours {name}": row.cell("test", name, 100, 2) if row else "" for name in names}
    return made | {"n": str(len(row.seeds)) if row else "", "Runs": ", ".join(row.runs) if row else ""}


def _published_key(row: Row) -> tuple[str, str, str]:
    model = row.config["model"]
    # a run on a part of the clips never stands beside a published score
    method = "" if flat_config(row.config).get("data.max_clips") else METHODS.get(row.method, row.method)
    return method, BACKBONES.get(model["backbone"], model["backbone"]), str(model["image_size"])


def published_row(config: Any, task: str) -> dict[str, str] | None:
    """ECMVAE's published J and F (percent) with this configuration's backbone and size; None if there are none."""
    key = ("ECMVAE", BACKBONES.get(config.model.backbone, config.model.backbone), str(config.model.image_size))
    rows = [row for row in published() if tuple(map(row.get, KEY)) == key]
    return {"J": rows[0][f"{task}_miou"], "F": rows[0][f"{task}_f"], "source": rows[0]["source"]} if rows else None
