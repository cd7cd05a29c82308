"""The ablation table: every variant beside the full model, with intervals, from run records only.

    print(ablation_table(load_records("results/ablation/runs"), "s4", "md"))

A variant is called better or worse only where the interval of its paired difference excludes zero.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from avslib.core.errors import UsageError
from avslib.study.comparisons import FULL, Comparison, compare, comparison_frame, settings
from avslib.study.intervals import DRAWS, LEVEL
from avslib.study.records import RunRecord
from avslib.study.results import SPLITS, Row
from avslib.study.tables import FORMATS, Table, render, signed
from avslib.variants import VARIANTS

PERCENT = f"{100 * LEVEL:.0f} %"
STUDY = "avs ablate configs/ablate-mini.yaml --out results/ablation --work build/ablate/study"
TITLES = {"mini": "Mini-AVS, {} {}: ablation (not comparable with AVSBench)", "avsbench": "AVSBench, {} {}: ablation"}


def ablation_table(
    records: Sequence[RunRecord],
    task: Literal["s4", "ms3"],
    fmt: Literal["md", "csv", "rich", "latex", "html"] = "md",
    full: str = FULL,
    *,
    data: Literal["mini", "avsbench"] = "mini",
    order: Sequence[str] = tuple(VARIANTS),
    found: Mapping[str, Sequence[Comparison]] | None = None,
) -> Any:
    """One table per test split: J of each variant with its interval over clips, the paired difference, the claim, F, n.

    Text, or a ``rich.console.Group`` for "rich". The CSV is one table of plain numbers, and only it holds the run ids.
    `found`: the comparisons, where they were already made.

    Raises:
        AvsError: as :func:`avslib.study.comparisons.compare`; unknown task, data set or format.
    """
    if task not in ("s4", "ms3") or data not in SPLITS or fmt not in FORMATS:
        raise UsageError(
            f"ablation table {task}, {data}, {fmt}: task is s4 or ms3, data mini or avsbench, format "
            f"{', '.join(FORMATS)}"
        )
    found = compare(records, task, data=data, full=full, order=order) if found is None else found
    if fmt == "csv":
        return comparison_frame(found).to_csv(index=False, float_format="%.5f", lineterminator="\n")
    tables = [_table(TITLES[data].format(task.upper(), split), made, full) for split, made in found.items()]
    tables = tables or [_table(TITLES[data].format(task.upper(), "test"), [], full)]
    tables[-1].notes.extend(_notes([row for rows in found.values() for row in rows], records, full))
    return render(tables, fmt)


def _table(title: str, rows: Sequence[Comparison], full: str) -> Table:
    cells = {
        "Variant": [c.row.label for c in rows],
        "J": [c.row.cell(c.split, "J") for c in rows],
        f"{PERCENT} over clips": [f"[{c.j.low:.3f}, {c.j.high:.3f}]" for c in rows],
        f"J minus {full}": [signed(c.difference.estimate) if c.difference else "" for c in rows],
        f"{PERCENT} over clips, seeds": [c.difference.text() if c.difference else "" for c in rows],
        "Claim": [c.claim for c in rows],
        "F": [c.row.cell(c.split, "F") for c in rows],
        "n": [str(len(c.row.seeds)) for c in rows],
    }
    return Table(title, pd.DataFrame(cells))


def _notes(rows: Sequence[Comparison], records: Sequence[RunRecord], full: str) -> list[str]:
    if not rows:
        return [f"No run record yet: `{STUDY}`."]
    differences = sum(row.difference is not None for row in rows)
    methods = list({id(row.row): row.row for row in rows}.values())
    used = [record for record in records if any(record.id in row.runs for row in methods)]
    notes = [
        f"Data: {methods[0].dataset}. {_size(methods, used)}",
        f"J and F from 0 to 1, mean ± sample sd over n seeds. Intervals: {PERCENT}, percentile bootstrap of {DRAWS} "
        "draws. Over clips: the J of clips drawn again, seeds as they are. Of a difference: clips and seeds drawn "
        "again, both methods on the same clips and, where their seeds are the same, with the same seeds; with one seed "
        "clips alone.",
    ]
    if differences:
        chance = f"{differences * (1 - LEVEL):.1f}"
        notes.append(
            f'"better" and "worse" stand only where the interval of the difference excludes 0. Of {differences} such '
            f"intervals about {chance} would exclude it by chance if all variants were {full}'s equals."
        )
    elif methods[0].method != full:
        notes.append(f"No run of {full}: there is nothing to compare with.")
    return [*notes, _origin(used)]


def _size(rows: Sequence[Row], records: Sequence[RunRecord]) -> str:
    """How large the runs are, and what they start from."""
    own = settings(rows[0])
    clips = next(record for record in records if record.id in rows[0].runs).dataset.clips.get("train", 0)
    clips = min(clips, own["data.max_clips"] or clips)
    starts = {row.label: _start(settings(row)) for row in rows}
    usual = Counter(starts.values()).most_common(1)[0][0]
    others = "; ".join(f"{label}: {start}" for label, start in starts.items() if start != usual)
    epochs = f"{own['train.epochs']} epoch{'s' * (own['train.epochs'] != 1)}"
    shorter = f" ({own['data.train_frames']} in training)" if own["data.train_frames"] else ""
    return (
        f"Size of each run: {own['model.image_size']} px, {own['data.frames']} frames a clip{shorter}, {epochs} "
        f"of {clips} train clips, batch {own['train.batch_size']}; {rows[0].label} has the backbone "
        f"{own['model.backbone']}. Start: {usual}{f' ({others})' if others else ''}."
    )


def _start(config: dict[str, Any]) -> str:
    if config["train.init_from"]:
        modules = config.get("train.init_modules")
        return f"weights of {config['train.init_from']}" + (f" ({', '.join(modules)})" if modules else "")
    return "ImageNet weights of the backbone" if config["model.pretrained"] else "random weights"


def _origin(records: Sequence[RunRecord]) -> str:
    commits = sorted({f"{r.git.commit[:8]}{' with changes' * bool(r.git.dirty)}" for r in records if r.git.commit})
    parts = Path(os.path.commonpath([record.path.parent.resolve().parent for record in records])).parts
    # from results/ on, so that the text does not depend on where the checkout lies
    start = len(parts) - 1 - parts[::-1].index("results") if "results" in parts else len(parts) - 1
    code = f", code of commit {', '.join(commits)}" if commits else ""
    where = "/".join(parts[start:])
    return f"{len(records)} run records in {where}{code}; their ids are in the CSV form of this table."
