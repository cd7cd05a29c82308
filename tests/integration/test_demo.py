"""The main job at its smallest: every file that the demo promises is there, and its table speaks of its own runs."""

import io
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from avslib.study.demo import demo
from avslib.study.records import load_records


@pytest.fixture
def smallest(monkeypatch):
    import avslib.data.mini.build as build
    import avslib.study.demo as module
    from avslib.config import load_config

    splits = {"train": 4, "val": 1, "test": 2, "test_unseen": 1}
    monkeypatch.setitem(build.SIZES, "small", {"s4": splits, "ms3": splits})
    quick = {"data.workers": 0, "train.batch_size": 4, "train.epochs": 1}
    monkeypatch.setattr(module, "load_config", lambda name, values: load_config(name, values | quick))


def test_demo_trains_scores_and_draws_and_leaves_git_status_clean(smallest, tmp_path, monkeypatch):
    shutil.copy(Path(__file__).parents[2] / ".gitignore", tmp_path)
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "--quiet"], check=True)
    said = Console(file=io.StringIO(), width=500)
    records = demo((3,), progress=False, console=said)
    spent = r"minutes: composing [\d.]+, training and scoring S4 [\d.]+, training and scoring MS3 [\d.]+, pictures and"
    assert re.search(spent, said.file.getvalue())
    seen = subprocess.check_output(["git", "status", "--porcelain", "--untracked-files=all"], text=True)
    assert seen.split() == ["??", ".gitignore"]
    tasks, methods = ("ms3", "s4"), ("ecmvae", "without_audio")
    span = {"ms3": ", fusion_span=second", "s4": ""}
    assert [(r.task, r.method) for r in records] == [(task, m + span[task]) for task in tasks for m in methods]
    out, work = Path("build/demo/results"), Path("build/demo")
    assert load_records(out / "runs") == records
    assert (out / "learning_curves_mini-s4.png").is_file() and (out / "learning_curves_mini-ms3.png").is_file()
    assert "does the method follow the sound?" in (out / "table_ms3.md").read_text(encoding="utf-8")
    for task in tasks:
        text = (out / f"table_{task}.md").read_text(encoding="utf-8")
        assert all(name in text for name in ("without_audio", "audio shuffled", "all objects in view"))
        for figure in ("contact_sheet", "learning_curves", "comparison"):
            assert Image.open(out / f"{figure}_{task}.png").width > 300
    # some versions of filelock touch their file
    kept = [path for folder in ("data", "runs") for path in (work / folder).rglob("*") if path.suffix != ".lock"]
    times = {path: path.stat().st_mtime_ns for path in kept}
    assert demo((3,), progress=False) == records
    after = {path for folder in ("data", "runs") for path in (work / folder).rglob("*") if path.suffix != ".lock"}
    assert {path: path.stat().st_mtime_ns for path in after} == times
