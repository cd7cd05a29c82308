"""Run records of a made-up study, with the J of their clips, for tests of tables and figures."""

import re
from statistics import fmean

import numpy as np

from avslib.config import load_config
from avslib.study.records import load_records, new_record, write_record
from avslib.variants import VARIANTS


def squeezed(markdown):
    """The Markdown without the padding of its cells."""
    return re.sub(" +", " ", markdown)


def study_record(method, seed, test, task="s4", dataset="d0", overrides=(), **fields):
    """(record, rows of clips.csv) of a run whose clips have the J of `test` (by name) on both test splits."""
    own = VARIANTS.get(method, {}) | dict(overrides) | {"data.task": task, "train.seed": seed}
    config = load_config("demo", own).model_dump(mode="json")
    clips = [{"name": n, "split": s, "J": j} for s in ("test", "test_unseen") for n, j in test.items()]
    metrics = {s: {"J": fmean(test.values()), "F": 0.5} for s in ("test", "test_unseen")}
    given = {"data": "mini", "dataset": {"id": dataset, "clips": {"train": 40, "test": len(test)}}}
    given |= {"metrics": metrics, "selection": "best J on val", "wall_seconds": 1.0, "created": "2026-01-01T00:00:00"}
    given |= {"git": {"commit": "0123456789abcdef", "dirty": False}}
    return new_record(task=task, method=method, seed=seed, config=config, **given | fields), clips


def write_study(folder, offsets, seeds=3, clips=30, **options):
    """Records of methods by their offset in J from 0.5; clips differ, seeds differ less. Returns them, read back."""
    rng = np.random.default_rng(0)
    base = rng.normal(0.5, 0.1, clips)
    for method, offset in offsets.items():
        for seed in range(seeds):
            values = np.clip(base + offset + rng.normal(0, 0.01) + rng.normal(0, 0.02, clips), 0, 1)
            test = {f"c{i:02}": round(float(v), 6) for i, v in enumerate(values)}
            record, rows = study_record(method, seed, test, **options)
            write_record(folder / record.id, record, rows)
    return load_records(folder)
