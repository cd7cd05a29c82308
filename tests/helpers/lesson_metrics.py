"""The metrics that a notebook wrote lie in their ranges; as a plugin of pytest, after each notebook that nbval runs."""

import json
from pathlib import Path

import yaml

from course.lesson import METRICS

ROOT = Path(__file__).resolve().parents[2]
# the range that each metric must lie in, by notebook; see the file's head
BOUNDS = yaml.safe_load((ROOT / "tests" / "notebook_metrics.yaml").read_text(encoding="utf-8"))


def assert_in_bounds(name: str, result: dict) -> None:
    """`result` is what the notebook `name` wrote into its metrics file."""
    assert result["checks"] > 0 and result["fast"]
    bounds = BOUNDS[name]
    assert set(bounds) == set(result["metrics"])
    for metric, (low, high) in bounds.items():
        assert low <= result["metrics"][metric] <= high, f"{metric}: {json.dumps(result['metrics'])}"


def pytest_runtest_teardown(item, nextitem):
    if item.path.suffix == ".ipynb" and (nextitem is None or nextitem.path != item.path):
        name = item.path.stem
        written = ROOT / "build" / "notebooks" / name / METRICS
        assert_in_bounds(name, json.loads(written.read_text(encoding="utf-8")))
