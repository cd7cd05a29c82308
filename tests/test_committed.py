"""Lessons find the committed records in a checkout or a clone, and say how to get them."""

import pytest

from avslib.course import committed
from avslib.errors import AvsError
from avslib.records import load_records


def test_records_of_the_checkout():
    assert {record.data for record in load_records(committed.committed_runs())} == {"mini"}


def test_without_a_checkout_a_clone_is_found_or_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(committed, "base_folder", lambda: tmp_path)
    with pytest.raises(AvsError, match=r"git clone .* avslib-repository"):
        committed.committed_runs()
    runs = tmp_path / committed.CLONE / "results" / "runs"
    runs.mkdir(parents=True)
    assert committed.committed_runs() == runs
