"""How certain a mean and a difference are: bootstrap intervals over clips and training seeds.

Scores are arrays [seeds, clips]: the J of each clip in each run of one method, from 0 to 1. Intervals are percentiles
of 4000 draws from a generator with a fixed seed, so a table is the same on every machine. `scipy.stats.bootstrap` draws
over clips only, and from streams that change with its version.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from avslib.core.errors import RecordError
from avslib.study.records import RunRecord, load_clips

DRAWS = 4000
LEVEL = 0.95


class Interval(NamedTuple):
    """An estimate and the ends of its interval."""

    estimate: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0

    def text(self) -> str:
        """The ends with their signs, as tables print those of a difference."""
        return f"[{signed(self.low)}, {signed(self.high)}]"


def signed(value: float) -> str:
    """Three decimals with a sign, which a value that rounds to zero keeps: [+0.000, +0.003] does exclude zero."""
    return f"{value:+.3f}" if value else "0.000"


def clip_scores(
    records: Sequence[RunRecord], split: str, baseline: str = "", metric: str = "J"
) -> Float[np.ndarray, "seeds clips"]:
    """J, or a different `metric`, of each clip of a split: one row per record, in their order; one column per clip, in
    order of name.

    Raises AvsError when clips.csv lacks the split or holds a clip twice, runs scored different clips, or the clips'
    mean is not the J of the record (one of the two files was edited).
    """
    rows: list[dict[str, float]] = []
    for record in records:
        clips = [c for c in load_clips(record) if (c["split"], c["baseline"]) == (split, baseline)]
        found = [(c["name"], c[metric]) for c in clips if not math.isnan(c.get(metric, math.nan))]
        scores, fault = dict(sorted(found)), ""
        mean = sum(scores.values()) / max(len(scores), 1)
        kept = (record.baselines.get(baseline, {}) if baseline else record.metrics).get(split, {}).get(metric)
        if not scores or len(scores) < len(found):
            fault = f"holds {'a clip twice' if scores else 'no clip'} of split {split}; score the run again"
        elif rows and (odd := scores.keys() ^ rows[0].keys()):
            fault = f"its clips of {split} differ from those of {records[0].id} (for example {min(odd)})"
        elif kept is not None and abs(mean - kept) > 1e-4:
            fault = f"mean {metric} on {split} is {mean:.4f}, but run.json says {kept:.4f}; restore both files"
        if fault:
            raise RecordError(f"{record.path.parent if record.path else record.id}/clips.csv: {fault}")
        rows.append(scores)
    return np.array([list(scores.values()) for scores in rows])


@lru_cache(maxsize=4)  # a table asks for the same ones in each of its rows
def _weights(draws: int, *sizes: int) -> tuple[Float[np.ndarray, "draws size"], ...]:
    """For each size, how often each of so many things is drawn in that many draws with replacement, as shares of 1."""
    # Not default_rng: NumPy may change its streams with a version; those of RandomState are frozen (NEP 19).
    generator, found = np.random.RandomState(0), []
    for size in sizes:
        drawn = generator.randint(0, size, (draws, size), dtype=np.int64) + size * np.arange(draws)[:, None]
        found.append(np.bincount(drawn.ravel(), minlength=draws * size).reshape(draws, size) / size)
    return tuple(found)


def _interval(estimate: float, drawn: Float[np.ndarray, "draws"]) -> Interval:
    return Interval(float(estimate), *map(float, np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])))


def mean_interval(scores: Float[np.ndarray, "seeds clips"], draws: int = DRAWS) -> Interval:
    """Mean with its 95 % percentile bootstrap interval over clips, for the seeds at hand: only clips are redrawn.

    >>> mean_interval(np.array([[0.25, 0.25, 0.25, 0.25]]))
    Interval(estimate=0.25, low=0.25, high=0.25)
    """
    per_clip = scores.mean(axis=0)
    (clips,) = _weights(draws, len(per_clip))
    return _interval(per_clip.mean(), clips @ per_clip)


def difference_interval(
    method: Float[np.ndarray, "seeds clips"],
    reference: Float[np.ndarray, "others clips"],
    *,
    same_seeds: bool,
    draws: int = DRAWS,
) -> Interval:
    """Mean of `method` minus mean of `reference` with its 95 % percentile bootstrap interval, over clips and seeds.

    A claim must survive other clips and other training seeds, so both are redrawn, independently and with replacement
    (the pigeonhole bootstrap; Owen, Annals of Applied Statistics 1, 2007). Both methods get the same draw of clips, and
    with `same_seeds` (row i of both is one seed) of seeds. In simulated studies of 5 seeds and 80 clips it covers the
    truth in 93 to 99 % of cases; in 88 % where nearly all the spread is between seeds (77 % with 3). One seed says
    nothing about seeds. Raises AvsError for numbers of clips, or of equal seeds, that differ.
    """
    if method.shape[1] != reference.shape[1] or (same_seeds and len(method) != len(reference)):
        shapes = f"scores [seeds, clips] are {method.shape} and {reference.shape}"
        raise RecordError(f"{shapes}; expected the same clips, and the same seeds with same_seeds")
    clips, seeds, others = _weights(draws, method.shape[1], len(method), len(reference))
    drawn = seeds @ (method - reference) if same_seeds else seeds @ method - others @ reference
    return _interval(method.mean() - reference.mean(), (drawn * clips).sum(axis=1))
