"""The main job at its smallest: every file that the demo promises is there, and its table speaks of its own runs."""

import pytest
from PIL import Image

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


def test_demo_trains_scores_and_draws(smallest, tmp_path):
    records = demo((3,), tmp_path / "out", tmp_path / "work", progress=False)
    assert sorted((r.task, r.method) for r in records) == [
        ("ms3", "ecmvae"),
        ("ms3", "without_audio"),
        ("s4", "ecmvae"),
        ("s4", "without_audio"),
    ]
    assert {r.id for r in load_records(tmp_path / "out/runs")} == {r.id for r in records}
    assert (tmp_path / "out/learning_curves_mini-s4.png").is_file()
    for task in ("s4", "ms3"):
        text = (tmp_path / f"out/table_{task}.md").read_text(encoding="utf-8")
        assert all(name in text for name in ("without_audio", "audio shuffled", "all objects in view"))
        for figure in ("contact_sheet", "learning_curves", "comparison"):
            assert Image.open(tmp_path / f"out/{figure}_{task}.png").width > 300
    # some versions of filelock touch their file
    kept = [path for path in (tmp_path / "work").rglob("*") if path.suffix != ".lock"]
    times = {path: path.stat().st_mtime_ns for path in kept}
    assert {r.id for r in demo((3,), tmp_path / "out", tmp_path / "work", progress=False)} == {r.id for r in records}
    after = {path for path in (tmp_path / "work").rglob("*") if path.suffix != ".lock"}
    assert {path: path.stat().st_mtime_ns for path in after} == times
