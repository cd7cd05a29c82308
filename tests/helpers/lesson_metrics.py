"""The metrics that a notebook wrote lie in their ranges; as a plugin of pytest, after each notebook that nbval runs."""

import json
import os
from pathlib import Path

import pytest
import yaml

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


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    if item.path.suffix == ".ipynb":  # what tests.conftest has set would keep a kernel from showing its figures
        os.environ.pop("MPLBACKEND", None)


def pytest_runtest_teardown(item, nextitem):
    if item.path.suffix == ".ipynb" and (nextitem is None or nextitem.path != item.path):
        from course.lesson import METRICS  # as a plugin this is imported before tests.conftest has installed its hook

        name = item.path.stem
        written = ROOT / "build" / "notebooks" / name / METRICS
        assert_in_bounds(name, json.loads(written.read_text(encoding="utf-8")))
