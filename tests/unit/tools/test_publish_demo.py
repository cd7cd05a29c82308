"""Publishing the demo copies its tables and pictures, and nothing else."""

import pytest

from avslib.core.errors import UsageError
from tools.publish_demo import publish_demo


def test_tables_and_pictures_are_copied_once(tmp_path):
    source, target = tmp_path / "build", tmp_path / "results"
    (source / "runs").mkdir(parents=True)
    for name in ("a.png", "table.md", "run.json"):
        (source / name).write_text(name)
    assert [path.name for path in publish_demo(source, target)] == ["a.png", "table.md"]
    assert publish_demo(source, target) == [] and sorted(p.name for p in target.iterdir()) == ["a.png", "table.md"]
    with pytest.raises(UsageError, match=r"run\.py demo"):
        publish_demo(tmp_path / "none", target)
