"""Lessons find the committed records in a checkout, and say how to get one."""

from types import SimpleNamespace

import pytest

from avslib.core.errors import AvsError
from avslib.study.records import load_records
from course import committed, lesson


def test_records_of_the_checkout():
    assert {record.data for record in load_records(committed.committed_runs())} == {"mini"}


def test_a_run_of_ones_own_is_not_taken_for_a_committed_one(tmp_path, monkeypatch):
    own, known = SimpleNamespace(id="mini-s4-ecmvae-s7-00000000"), SimpleNamespace(id="mini-s4-ecmvae-s0-350928da")
    monkeypatch.setattr(committed, "load_records", lambda _: [own, known])
    assert committed.committed_records() == [known]


def test_without_a_checkout_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(lesson, "base_folder", lambda: tmp_path)
    with pytest.raises(AvsError, match="only in the repository"):
        committed.committed_runs()
