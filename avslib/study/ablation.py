"""Every variant beside the full model: paired differences with intervals, as table and figure, from run records only.

    print(ablation_table(load_records("results/ablation/runs"), "s4", "md"))

A variant is called better or worse only where the interval of its paired difference excludes zero.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import seaborn as sns

from avslib.config import Config
from avslib.core.errors import RecordError, UsageError
from avslib.study.intervals import DRAWS, LEVEL, Interval, clip_scores, difference_interval, mean_interval, signed
from avslib.study.plots import COLOURS, interval_points, styled_axes
from avslib.study.records import NOT_THE_VARIANT, RunRecord
from avslib.study.results import SPLITS, Row, Value, flat_config, summarise
from avslib.study.tables import Data, Format, Table, render
from avslib.variants import VARIANTS

FULL = "ecmvae"
PERCENT = f"{100 * LEVEL:.0f} %"
STUDY = "avs ablate configs/ablate-mini.yaml --out results/ablation --work build/ablate/study"
TITLES = {"mini": "Mini-AVS, {} {}: ablation (not comparable with AVSBench)", "avsbench": "AVSBench, {} {}: ablation"}
# What variants are about; the rest is the size of a study, which must be one for all.
OF_A_VARIANT = ("model.", "loss.", "data.flip", "data.posterior", "train.init_", "preset")
MAY_DIFFER = {*NOT_THE_VARIANT, *(field for changes in VARIANTS.values() for field in changes)}
HEADS = ["Variant", "J", f"{PERCENT} over clips", f"J minus {FULL}", f"{PERCENT} over clips, seeds", "Claim", "F", "n"]
COLUMNS = ["split", "variant", "J", "J_sd", "J_low", "J_high", "difference", "difference_low", "difference_high"]
COLUMNS += ["claim", "F", "F_sd", "n", "runs"]
# Colour and marker of each split in the figure.
LOOKS = {"test": ("blue", "o"), "test_unseen": ("orange", "s")}


@dataclass(frozen=True)
class Comparison:
    """One variant on one split: its J over clips, and J minus that of the full model (None for the full model).

    `by_seed`: the differences of the seeds that a variant and the full model share.
    """

    row: Row
    split: str
    j: Interval
    difference: Interval | None = None
    by_seed: tuple[float, ...] = ()

    @property
    def claim(self) -> str:
        """What may be said of it beside the full model."""
        if self.difference is None or len(self.row.seeds) < 2:  # one seed's interval says nothing about other seeds
            return "one seed: none" if self.difference else ""
        if not self.difference.excludes_zero:
            return "no significant difference"
        return "better" if self.difference.low > 0 else "worse"


Compared = Mapping[str, Sequence[Comparison]]


def compare(records: Sequence[RunRecord], task: str, *, data: Data = "mini") -> dict[str, list[Comparison]]:
    """Comparisons by split: the full model, the variants in their order, then others by name; {} without records.

    Raises AvsError for runs of different data or size, two configurations of the full model, or clips that do not fit.
    """
    rows = [row for row in summarise(records, task, data) if not row.baseline]
    rank = {name: place for place, name in enumerate([FULL, *VARIANTS])}
    # latent_dim=4 before latent_dim=16
    rows.sort(key=lambda row: (rank.get(row.method, len(rank)), re.sub(r"\d+", lambda m: m[0].zfill(9), row.label)))
    _check_comparable(rows)
    by_id = {record.id: record for record in records}
    found = {}
    for split in SPLITS[data]:
        scored = [row for row in rows if "J" in row.values.get(split, {})]
        full = scored[0] if scored and scored[0].method == FULL else None
        if scored:
            found[split] = [_comparison(row, full, split, by_id) for row in scored]
    return found


def _check_comparable(rows: Sequence[Row]) -> None:
    fault, datasets, full = "", sorted({row.dataset for row in rows}), [row for row in rows if row.method == FULL]
    if len(datasets) > 1:
        fault = f"runs on {' and on '.join(datasets)}: differences need one data set"
    elif len(full) > 1:
        fault = f"{' and '.join(row.label for row in full)}: two configurations of the full model"
    for row in rows if not fault else ():
        mine, theirs = _settings(row), _settings(rows[0])
        names = [name for name in sorted(mine | theirs) if mine.get(name) != theirs.get(name) and _is_size(name)]
        if names and not fault:
            fault = f"{names[0]} is {mine.get(names[0])} in {row.label} and {theirs.get(names[0])} in {rows[0].label}: "
            fault += "only runs of one size may be compared"
    if fault:
        raise RecordError(f"ablation table: {fault}; give the folder of one study by --runs")


def _is_size(name: str) -> bool:
    return name == "model.image_size" or not (name in MAY_DIFFER or name.startswith(OF_A_VARIANT))


def _settings(row: Row) -> dict[str, Any]:
    """``section.field`` -> value of a row's runs; a field that a later version added has its default."""
    return flat_config(Config().model_dump(mode="json")) | flat_config(row.config)


def _comparison(row: Row, full: Row | None, split: str, by_id: dict[str, RunRecord]) -> Comparison:
    runs = [by_id[name] for name in row.runs]
    if full is None or row is full:
        return Comparison(row, split, mean_interval(clip_scores(runs, split)))
    both = clip_scores([*runs, *(by_id[name] for name in full.runs)], split)
    mine, theirs = both[: len(runs)], both[len(runs) :]
    difference = difference_interval(mine, theirs, same_seeds=row.seeds == full.seeds)
    shared = [(mine[i], theirs[full.seeds.index(seed)]) for i, seed in enumerate(row.seeds) if seed in full.seeds]
    return Comparison(row, split, mean_interval(mine), difference, tuple(float((a - b).mean()) for a, b in shared))


def comparison_frame(found: Compared) -> pd.DataFrame:
    """The numbers of :func:`compare`, a row per split and variant; NaN where there is none."""
    rows = []
    for c in (c for made in found.values() for c in made):
        j, f = (c.row.values[c.split].get(name, Value(())) for name in ("J", "F"))
        scores = [j.mean, j.sd, *c.j[1:], *(c.difference or [None] * 3), c.claim, f.mean, f.sd]
        rows.append([c.split, c.row.label, *scores, len(c.row.seeds), " ".join(c.row.runs)])
    return pd.DataFrame(rows, columns=COLUMNS)


def ablation_table(
    records: Sequence[RunRecord], task: str, fmt: Format = "md", *, data: Data = "mini", found: Compared | None = None
) -> Any:
    """One table per test split: J of each variant with its interval over clips, the paired difference, the claim, F, n.

    Text, or a ``rich.console.Group`` for "rich". The CSV is one table of plain numbers, and only it holds the run ids.
    `found`: the comparisons, where they were already made. Raises AvsError as :func:`compare`.
    """
    found = compare(records, task, data=data) if found is None else found
    if fmt == "csv":
        return comparison_frame(found).to_csv(index=False, float_format="%.5f", lineterminator="\n")
    tables = [_table(TITLES[data].format(task.upper(), split), rows) for split, rows in (found or {"test": []}).items()]
    tables[-1].notes.extend(_notes(found, records))
    return render(tables, fmt)


def _table(title: str, rows: Sequence[Comparison]) -> Table:
    cells = []
    for c in rows:
        difference = [signed(c.difference.estimate), c.difference.text()] if c.difference else ["", ""]
        j, f, n = c.row.cell(c.split, "J"), c.row.cell(c.split, "F"), str(len(c.row.seeds))
        cells.append([c.row.label, j, f"[{c.j.low:.3f}, {c.j.high:.3f}]", *difference, c.claim, f, n])
    return Table(title, pd.DataFrame(cells, columns=HEADS))


def _notes(found: Compared, records: Sequence[RunRecord]) -> list[str]:
    comparisons = [c for rows in found.values() for c in rows]
    if not comparisons:
        return [f"No run record yet: `{STUDY}`."]
    first, differences = comparisons[0].row, sum(c.difference is not None for c in comparisons)
    used = [record for record in records if any(record.id in c.row.runs for c in comparisons)]
    commits = sorted({f"{r.git.commit[:8]}{' with changes' * bool(r.git.dirty)}" for r in used if r.git.commit})
    own = _settings(first)
    clips = next(record for record in used if record.id in first.runs).dataset.clips.get("train", 0)
    starts = {c.row.label: _start(_settings(c.row)) for c in comparisons}
    usual = starts[first.label]
    others = "".join(f"; {label}: {start}" for label, start in starts.items() if start != usual)
    notes = [
        f"Data: {first.dataset}. Size of each run: {own['model.image_size']} px, {own['data.frames']} frames per clip, "
        f"{min(clips, own['data.max_clips'] or clips)} train clips, epochs: {own['train.epochs']}, batch: "
        f"{own['train.batch_size']}, backbone: {own['model.backbone']}. Start: {usual}{others}.",
        f"J and F from 0 to 1, mean ± sample sd over n seeds. Intervals: {PERCENT} percentile bootstrap, {DRAWS} "
        "draws; of J over clips, of a paired difference over clips and seeds.",
    ]
    if differences:
        notes.append(
            f"Better and worse: the interval of the difference excludes 0. If all variants equalled {FULL}, about "
            f"{differences * (1 - LEVEL):.1f} of the {differences} intervals would exclude it by chance."
        )
    elif first.method != FULL:
        notes.append(f"No run of {FULL}: there is nothing to compare with.")
    code = f", code of commit {', '.join(commits)}" if commits else ""
    return [*notes, f"{len(used)} run records{code}; their ids are in the CSV form of this table."]


def _start(config: dict[str, Any]) -> str:
    if start := config["train.init_from"]:
        return f"weights of {start} ({', '.join(config['train.init_modules'] or ['all modules'])})"
    return "ImageNet weights of the backbone" if config["model.pretrained"] else "random weights"


def differences_figure(found: Compared, *, title: str = "") -> Any:
    """A matplotlib Figure of J minus J of the full model: mean, interval, and (small) the difference of each seed.

    Raises AvsError when nothing is compared.
    """
    made = [c for rows in found.values() for c in rows if c.difference]
    if not made:
        raise UsageError(f"differences: no variant is compared with {FULL}; pass compare() of records that hold both")
    rows = pd.DataFrame([c.difference for c in made]).assign(
        variant=[f"{c.row.label} (n = {len(c.row.seeds)})" for c in made],
        split=[c.split for c in made],
        seed=[c.by_seed if len(c.by_seed) > 1 else () for c in made],
    )
    looks = {split: LOOKS[split] for split in found}
    figure, ((axis,),) = styled_axes(8, 1.5 + 0.5 * rows.variant.nunique())
    axis.axvline(0, color=COLOURS["black"], linewidth=1)
    interval_points(axis, rows, "variant", "split", looks)
    seeds = rows.explode("seed").dropna(subset="seed").astype({"seed": float})
    palette = {split: COLOURS[look[0]] for split, look in looks.items()}
    dots = {"hue": "split", "hue_order": list(looks), "palette": palette, "dodge": True, "jitter": False, "size": 4}
    dots |= {"legend": False, "linewidth": 0.6, "edgecolor": "white", "zorder": 3}
    sns.stripplot(seeds, x="seed", y="variant", ax=axis, **dots)
    axis.set(ylabel=None, xlabel=f"J minus J of {FULL} (bars: {PERCENT} over clips and seeds; dots: single seeds)")
    axis.set_title(title, fontsize=10, loc="left")
    return figure
