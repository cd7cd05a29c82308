"""The ablation table: every variant beside the full model, with intervals, from run records alone.

    print(ablation_table(load_records("results/ablation/runs"), "s4", "md"))

A variant is called better or worse only where the interval of its paired difference excludes zero.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from avslib.core.errors import UsageError
from avslib.study.comparisons import FULL, Comparison, compare, settings
from avslib.study.intervals import DRAWS, LEVEL
from avslib.study.records import RunRecord
from avslib.study.results import SPLITS, Row
from avslib.study.tables import FORMATS, Table
from avslib.variants import VARIANTS

PERCENT = f"{100 * LEVEL:.0f} %"
STUDY = "avs ablate configs/ablate-mini.yaml --out results/ablation --work build/ablate/study"
TITLES = {"mini": "Mini-AVS, {} {} (not comparable with AVSBench)", "avsbench": "AVSBench, {} {}"}


def ablation_table(
    records: Sequence[RunRecord],
    task: Literal["s4", "ms3"],
    fmt: Literal["md", "csv", "rich", "latex", "html"] = "md",
    full: str = FULL,
    *,
    data: Literal["mini", "avsbench"] = "mini",
    order: Sequence[str] = tuple(VARIANTS),
) -> Any:
    """One table a test split, a row a variant: J with its interval over clips, the paired difference, the claim, F, n.

    Text, or a ``rich.console.Group`` for "rich". The CSV is one table of plain numbers, and alone holds the run ids.

    Raises:
        AvsError: as :func:`avslib.study.comparisons.compare`; unknown task, data set or format.
    """
    if task not in ("s4", "ms3") or data not in SPLITS or fmt not in FORMATS:
        raise UsageError(
            f"ablation table {task}, {data}, {fmt}: task is s4 or ms3, data mini or avsbench, format "
            f"{', '.join(FORMATS)}"
        )
    return render(compare(records, task, data=data, full=full, order=order), records, task, fmt, full, data=data)


def render(
    found: Mapping[str, Sequence[Comparison]],
    records: Sequence[RunRecord],
    task: str,
    fmt: str,
    full: str = FULL,
    *,
    data: str = "mini",
) -> Any:
    """As :func:`ablation_table`, of comparisons that are made."""
    if fmt == "csv":
        return FORMATS["csv"](_numbers(found))
    title = TITLES[data].format(task.upper(), "{}: ablation")
    tables = [_text(title.format(split), made, full) for split, made in found.items()]
    if tables:
        tables[-1].notes.extend(_notes([row for rows in found.values() for row in rows], records, full))
    else:
        tables = [Table(title.format("test"), _columns(full), [], [f"No run record yet: `{STUDY}`."])]
    made = [FORMATS[fmt](table) for table in tables]
    if fmt != "rich":
        return "\n".join(made)
    from rich.console import Group

    return Group(*made)


def _columns(full: str) -> list[str]:
    ends = [f"{PERCENT} over clips", f"{PERCENT} over clips, seeds"]
    return ["Variant", "J", ends[0], f"J minus {full}", ends[1], "Claim", "F", "n"]


def _text(title: str, rows: Sequence[Comparison], full: str) -> Table:
    body = []
    for made in rows:
        scores = made.row.values[made.split]
        j, f = (scores[name].text(1, 3) if name in scores else "" for name in ("J", "F"))
        difference, ends = "", ""
        if made.difference:
            difference, ends = _signed(made.difference.estimate), ", ".join(map(_signed, made.difference[1:]))
        over_clips = f"[{made.j.low:.3f}, {made.j.high:.3f}]"
        body.append(
            [made.row.label, j, over_clips, difference, ends and f"[{ends}]", made.claim, f, str(len(made.row.seeds))]
        )
    return Table(title, _columns(full), body)


def _signed(value: float) -> str:
    """With its sign, kept by what rounds to zero: [+0.000, +0.003] does exclude it."""
    return f"{value:+.3f}" if value else "0.000"


def _numbers(found: Mapping[str, Sequence[Comparison]]) -> Table:
    columns = [
        "split",
        "variant",
        "J",
        "J_sd",
        "J_low",
        "J_high",
        "difference",
        "difference_low",
        "difference_high",
        "claim",
        "F",
        "F_sd",
        "n",
        "runs",
    ]
    body = []
    for split, rows in found.items():
        for made in rows:
            j, f = (made.row.values[split].get(name) for name in ("J", "F"))
            spread = [getattr(f, "mean", None), getattr(f, "sd", None)]
            numbers = [[j.mean, j.sd, *made.j[1:]], [*(made.difference or [None] * 3)], spread]
            first, second, third = ([_plain(value) for value in part] for part in numbers)
            body.append(
                [
                    split,
                    made.row.label,
                    *first,
                    *second,
                    made.claim,
                    *third,
                    str(len(made.row.seeds)),
                    " ".join(made.row.runs),
                ]
            )
    return Table("", columns, body)


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.5f}"


def _notes(rows: Sequence[Comparison], records: Sequence[RunRecord], full: str) -> list[str]:
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
    others = [f"{label}: {start}" for label, start in starts.items() if start != usual]
    apart = f" ({'; '.join(others)})" if others else ""
    epochs = f"{own['train.epochs']} epoch{'s' * (own['train.epochs'] != 1)}"
    shorter = f" ({own['data.train_frames']} in training)" if own["data.train_frames"] else ""
    return (
        f"Size of each run: {own['model.image_size']} px, {own['data.frames']} frames a clip{shorter}, {epochs} "
        f"of {clips} train clips, batch {own['train.batch_size']}; {rows[0].label} has the backbone "
        f"{own['model.backbone']}. Start: {usual}{apart}."
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
