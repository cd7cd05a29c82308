"""2,000 steps hold on to nothing: memory, handles, threads, processes and files stay; the logs stay small."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.tiny import TINY

ROOT = Path(__file__).resolve().parents[2]
STEPS, RSS_BOUND, GPU_BOUND, LOG_BOUND = 2000, 5.0, 1.0, 100.0


@pytest.mark.long
def test_nothing_grows_in_2000_steps(tmp_path, reliability_record):
    from avslib.data.mini import build_mini

    data, temporary = tmp_path / "data", tmp_path / "temporary"
    splits = {"train": 200, "val": 3, "test": 3, "test_unseen": 2}
    build_mini(data, counts={"s4": splits, "ms3": splits | {"train": 1}}, image_size=64, workers=2, progress=False)
    temporary.mkdir()
    more = {"data.workers": 2, "train.checkpoint_every": 50, "train.tensorboard": True}
    overrides = [f"{name}={json.dumps(value)}" for name, value in (TINY | more).items() if name != "train.epochs"]
    done = subprocess.run(
        [sys.executable, "tests/helpers/long_run.py", str(data), str(tmp_path / "run"), str(STEPS), *overrides],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(temporary), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    )
    numbers = json.loads(done.stdout.splitlines()[-1])
    reliability_record("long_run", **numbers)
    growth = numbers["growth"]
    assert numbers["steps"] >= STEPS and growth["rss_mb_per_1000_steps"] < RSS_BOUND
    assert growth["gpu_mb_per_1000_steps"] < GPU_BOUND
    kept = ("handles", "threads", "children", "shared_memory_files", "temporary_files")
    assert {name: growth[name] for name in kept if growth[name] > 0} == {}
    assert numbers["history_mb_at_a_million_steps"] + numbers["tensorboard_mb_at_a_million_steps"] < LOG_BOUND
