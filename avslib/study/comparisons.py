"""Every variant beside the full model: which run records may be compared, and their paired differences."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from avslib.config import Config
from avslib.core.errors import RecordError
from avslib.study.intervals import Interval, clip_scores, difference_interval, mean_interval
from avslib.study.records import NOT_THE_VARIANT, RunRecord
from avslib.study.results import SPLITS, Row, flat_config, summarise
from avslib.variants import VARIANTS

FULL = "ecmvae"
# What variants are about; the rest is the size of a study, which must be one for all.
OF_A_VARIANT = ("model.", "loss.", "data.flip", "data.posterior", "train.init_", "preset")
SCORES = ["J", "J_sd", "J_low", "J_high", "difference", "difference_low", "difference_high"]
COLUMNS = ["split", "variant", *SCORES, "claim", "F", "F_sd", "n", "runs"]
SWITCHES = {field for changes in VARIANTS.values() for field in changes}


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
        if self.difference is None:
            return ""
        if len(self.row.seeds) < 2:
            # its interval says nothing about seeds, over which a claim must hold as well
            return "one seed: none"
        if not self.difference.excludes_zero:
            return "not told apart"
        return "better" if self.difference.low > 0 else "worse"


def compare(
    records: Sequence[RunRecord],
    task: str,
    *,
    data: str = "mini",
    full: str = FULL,
    order: Sequence[str] = tuple(VARIANTS),
) -> dict[str, list[Comparison]]:
    """Comparisons by split: the full model, then the variants of `order`, then others by name; {} without records.

    Raises:
        AvsError: runs of different data or size, two configurations of the full model, or clips that do not fit
            (:func:`avslib.study.intervals.clip_scores`).
    """
    rows = [row for row in summarise(records, task, data) if not row.baseline]
    ranks = {name: rank for rank, name in enumerate([full, *order])} | {full: -1}
    rows.sort(key=lambda row: (ranks.get(row.method, len(ranks)), _natural(row.label)))
    reference = _reference(rows, full)
    by_id = {record.id: record for record in records}
    found: dict[str, list[Comparison]] = {}
    for split in SPLITS[data]:
        scored = [row for row in rows if "J" in row.values.get(split, {})]
        found[split] = [_comparison(row, reference, split, by_id) for row in scored]
    return {split: made for split, made in found.items() if made}


def _comparison(row: Row, full: Row | None, split: str, by_id: dict[str, RunRecord]) -> Comparison:
    runs = [by_id[name] for name in row.runs]
    if full is None or row is full or "J" not in full.values.get(split, {}):
        return Comparison(row, split, mean_interval(clip_scores(runs, split)))
    both = clip_scores([*runs, *(by_id[name] for name in full.runs)], split)
    mine, theirs = both[: len(runs)], both[len(runs) :]
    difference = difference_interval(mine, theirs, same_seeds=row.seeds == full.seeds)
    shared = [(mine[i], theirs[full.seeds.index(seed)]) for i, seed in enumerate(row.seeds) if seed in full.seeds]
    return Comparison(row, split, mean_interval(mine), difference, tuple(float((a - b).mean()) for a, b in shared))


def comparison_frame(found: Mapping[str, Sequence[Comparison]]) -> pd.DataFrame:
    """The numbers of :func:`compare`, a row per split and variant; NaN where there is none."""
    rows = []
    for c in (c for made in found.values() for c in made):
        j, f = (c.row.values[c.split].get(name) for name in ("J", "F"))
        scores = [j.mean, j.sd, *c.j[1:], *(c.difference or [None] * 3)]
        spread = [f.mean, f.sd] if f else [None, None]
        rows.append([c.split, c.row.label, *scores, c.claim, *spread, len(c.row.seeds), " ".join(c.row.runs)])
    return pd.DataFrame(rows, columns=COLUMNS)


def _natural(label: str) -> list[Any]:
    """latent_dim=4 before latent_dim=16."""
    return [(part.isdigit(), int(part) if part.isdigit() else part) for part in re.split(r"(\d+)", label)]


def _reference(rows: Sequence[Row], full: str) -> Row | None:
    """The full model's row, after a check that it may be compared with the others."""
    found = [row for row in rows if row.method == full]
    fault, datasets = "", sorted({row.dataset for row in rows})
    if len(datasets) > 1:
        fault = f"runs on {' and on '.join(datasets)}: differences need one data set"
    elif len(found) > 1:
        fault = f"{' and '.join(row.label for row in found)}: two configurations of the full model"
    first = next(iter(found or rows), None)
    for row in rows if not fault else ():
        mine, theirs = settings(row), settings(first)
        names = [n for n in sorted(mine | theirs) if mine.get(n) != theirs.get(n) and not _may_differ(n)]
        if names:
            fault = f"{names[0]} is {mine.get(names[0])} in {row.label} and {theirs.get(names[0])} in {first.label}: "
            fault += "only runs of one size may be compared"
            break
    if fault:
        raise RecordError(f"ablation table: {fault}; give the folder of one study by --runs")
    return found[0] if found else None


def settings(row: Row) -> dict[str, Any]:
    """``section.field`` -> value of a row's runs; a field that a later version added has its default."""
    return flat_config(Config().model_dump(mode="json")) | flat_config(row.config)


def _may_differ(name: str) -> bool:
    if name in NOT_THE_VARIANT:
        return True
    return name != "model.image_size" and (name.startswith(OF_A_VARIANT) or name in SWITCHES)
