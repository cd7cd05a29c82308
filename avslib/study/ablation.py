"""Every variant beside the full model: paired differences with intervals, as table and figure, from run records only.

    print(ablation_table(load_records("results/ablation/runs"), "s4", "md"))

A variant is called better or worse only where the interval of its paired difference excludes zero.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import seaborn as sns

from avslib.config import Config
from avslib.core.errors import RecordError, UsageError
from avslib.study.ambiguity import SPLIT as AMBIGUOUS
from avslib.study.intervals import DRAWS, LEVEL, Interval, clip_scores, difference_interval, mean_interval, signed
from avslib.study.plots import COLOURS, interval_points, styled_axes
from avslib.study.records import NOT_THE_VARIANT, RunRecord, load_clips
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
# scores that clips.csv may hold, and what tables call them
SCORES = {"J": "J", "time_in_clip": "time, mean over clips", "ged2": "GED²", "best": "best of 8 J"}
SCORES |= {"both_found": "both found", "covers_twin": "covers a twin"}
LOWER_IS_BETTER = {"ged2"}
COLUMNS = ["split", "variant", "score", "value", "sd", "low", "high", "difference", "difference_low", "difference_high"]
COLUMNS += ["claim", "F", "F_sd", "n", "runs"]
# Colour and marker of each split in the figure.
LOOKS = {"test": ("blue", "o"), "test_unseen": ("orange", "s"), AMBIGUOUS: ("green", "D")}


@dataclass(frozen=True)
class Comparison:
    """One variant on one split: its J (or a different `score`) over clips, of each seed, and minus that of the full
    model (None for the full model). `by_seed`: the differences of the seeds that a variant and the full model share.
    """

    row: Row
    split: str
    j: Interval
    of_seeds: Value
    score: str = "J"
    difference: Interval | None = None
    by_seed: tuple[float, ...] = ()

    @property
    def claim(self) -> str:
        """What may be said of it beside the full model."""
        if self.difference is None or len(self.row.seeds) < 2:  # one seed's interval says nothing about other seeds
            return "one seed: none" if self.difference else ""
        if not self.difference.excludes_zero:
            return "no significant difference"
        return "better" if (self.difference.low > 0) != (self.score in LOWER_IS_BETTER) else "worse"


Compared = Mapping[str, Sequence[Comparison]]


def compare(
    records: Sequence[RunRecord], task: str, *, data: Data = "mini", score: str = "J"
) -> dict[str, list[Comparison]]:
    """Comparisons by split: the full model, the variants in their order, then others by name; {} without records.
    Where a study has axes, each run is compared with the full model at the same point of them.

    Raises AvsError for runs of different data or size, two configurations of the full model, or clips that do not fit.
    """
    rows = [row for row in summarise(records, task, data) if not row.baseline]
    rank = {name: place for place, name in enumerate([FULL, *VARIANTS])}

    def padded(text: str) -> str:  # latent_dim=4 before latent_dim=16
        return re.sub(r"\d+", lambda m: m[0].zfill(9), text)

    rows.sort(key=lambda row: (padded(_point(row)), rank.get(_variant(row), len(rank)), padded(row.label)))
    _check_comparable(rows)
    by_id, found = {record.id: record for record in records}, {}
    for split in (*SPLITS[data], AMBIGUOUS):
        scored = [row for row in rows if _has(by_id[row.runs[0]], split, score)]
        full = {_point(row): row for row in scored if _variant(row) == FULL}
        if scored:
            found[split] = [_comparison(row, full.get(_point(row)), split, by_id, score) for row in scored]
    return found


def _variant(row: Row) -> str:
    return row.method.partition(", ")[0]


def _point(row: Row) -> str:
    """Where a run of a grid is on its axes: what follows the variant's name."""
    return row.method.partition(", ")[2]


def _has(record: RunRecord, split: str, score: str) -> bool:
    if score == "J":
        return "J" in record.metrics.get(split, {})
    return any(c["split"] == split and not math.isnan(c.get(score, math.nan)) for c in load_clips(record))


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


def _comparison(row: Row, full: Row | None, split: str, by_id: dict[str, RunRecord], score: str) -> Comparison:
    both = clip_scores([by_id[name] for name in (*row.runs, *(full.runs if full else ()))], split, metric=score)
    mine, theirs = both[: len(row.runs)], both[len(row.runs) :]
    value = row.values.get(split, {}).get(score) or Value(tuple(map(float, mine.mean(axis=1))))
    if full is None or row is full:
        return Comparison(row, split, mean_interval(mine), value, score)
    difference = difference_interval(mine, theirs, same_seeds=row.seeds == full.seeds)
    shared = [(mine[i], theirs[full.seeds.index(seed)]) for i, seed in enumerate(row.seeds) if seed in full.seeds]
    by_seed = tuple(float((a - b).mean()) for a, b in shared)
    return Comparison(row, split, mean_interval(mine), value, score, difference, by_seed)


def comparison_frame(found: Compared) -> pd.DataFrame:
    """The numbers of :func:`compare`, a row per split and variant; NaN where there is none."""
    rows = []
    for c in (c for made in found.values() for c in made):
        f = c.row.values[c.split].get("F", Value(()))
        scores = [c.of_seeds.mean, c.of_seeds.sd, *c.j[1:], *(c.difference or [None] * 3), c.claim, f.mean, f.sd]
        rows.append([c.split, c.row.label, c.score, *scores, len(c.row.seeds), " ".join(c.row.runs)])
    return pd.DataFrame(rows, columns=COLUMNS)


def ablation_table(
    records: Sequence[RunRecord],
    task: str,
    fmt: Format = "md",
    *,
    data: Data = "mini",
    found: Mapping[str, Compared] | None = None,
) -> Any:
    """One table per test split and score of clips: its mean for each variant with its interval over clips, the paired
    difference, the claim, n; F beside J.

    Text, or a ``rich.console.Group`` for "rich". The CSV is one table of plain numbers, and only it holds the run ids.
    `found`: the comparisons by score, where they were already made. Raises AvsError as :func:`compare`.
    """
    by_score = found or {score: compare(records, task, data=data, score=score) for score in SCORES}
    if fmt == "csv":
        rows = pd.concat([comparison_frame(made) for made in by_score.values()])
        return rows.to_csv(index=False, float_format="%.5f", lineterminator="\n")
    made = [(split, score, rows) for score, splits in by_score.items() for split, rows in splits.items()]
    tables = [
        _table(TITLES[data].format(task.upper(), split), score, rows)
        for split, score, rows in made or [("test", "J", [])]
    ]
    tables[-1].notes.extend(_notes([c for *_, rows in made for c in rows], records))
    return render(tables, fmt)


def _table(title: str, score: str, rows: Sequence[Comparison]) -> Table:
    cells = []
    for c in rows:
        difference = [signed(c.difference.estimate), c.difference.text()] if c.difference else ["", ""]
        value, f, n = c.of_seeds.text(1, 3), c.row.cell(c.split, "F"), str(len(c.row.seeds))
        cells.append([c.row.label, value, f"[{c.j.low:.3f}, {c.j.high:.3f}]", *difference, c.claim, f, n])
    name = SCORES[score]
    heads = ["Variant", name, f"{PERCENT} over clips", f"{name} minus {FULL}", f"{PERCENT} over clips, seeds", "Claim"]
    table = pd.DataFrame(cells, columns=[*heads, "F", "n"])
    return Table(title, table if score == "J" else table.drop(columns="F"))


def _notes(comparisons: Sequence[Comparison], records: Sequence[RunRecord]) -> list[str]:
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
    elif _variant(first) != FULL:
        notes.append(f"No run of {FULL}: there is nothing to compare with.")
    code = f", code of commit {', '.join(commits)}" if commits else ""
    return [*notes, f"{len(used)} run records{code}; their ids are in the CSV form of this table."]


def _start(config: dict[str, Any]) -> str:
    if start := config["train.init_from"]:
        return f"weights of {start} ({', '.join(config['train.init_modules'] or ['all modules'])})"
    return "ImageNet weights of the backbone" if config["model.pretrained"] else "random weights"


def differences_figure(found: Compared, *, title: str = "") -> Any:
    """A matplotlib Figure of J, or the score compared, minus that of the full model: mean, interval, and (small) the
    difference of each seed.

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
    what = f"{SCORES[made[0].score]} minus that of {FULL}"
    axis.set(ylabel=None, xlabel=f"{what}\n(bars: {PERCENT} over clips and seeds; dots: single seeds)")
    axis.set_title(title, fontsize=10, loc="left")
    return figure
