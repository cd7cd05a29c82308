"""Everything that tools/gpu/check.py does on a GPU, on the CPU with small sizes."""

import json

import pytest

from tools.gpu import check


@pytest.mark.long
def test_the_whole_check_is_rehearsed(monkeypatch, tmp_path):
    monkeypatch.setattr(check, "WORK", tmp_path / "work")
    assert check.main(["--rehearse", "--minutes", "60", "--out", str(tmp_path / "out")]) == 0
    steps = json.loads((tmp_path / "out/check.json").read_text("utf-8"))["steps"]
    assert {step["part"] for step in steps.values()} == {1, 2, 3}
