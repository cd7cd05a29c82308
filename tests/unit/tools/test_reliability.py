"""What docs/RELIABILITY.md is printed from."""

import math

import pytest

from avslib.core.errors import RecordError
from tools.reliability import read_reliability_record, records_markdown, summary_markdown, write_reliability_record


def test_a_record_is_read_back(tmp_path):
    path = write_reliability_record(tmp_path, "resume", kill_points=20, by_kind={"saving": 7})
    assert read_reliability_record(path).figures == {"kill_points": 20, "by_kind": {"saving": 7}}


def test_an_edited_record_is_refused(tmp_path):
    path = write_reliability_record(tmp_path, "resume", bytes_lost=1)
    path.write_text(path.read_text().replace('"bytes_lost": 1', '"bytes_lost": 0'))
    with pytest.raises(RecordError, match="was edited"):
        read_reliability_record(path)


@pytest.mark.parametrize(
    "name,numbers", [("../resume", {"n": 1}), ("resume", {}), ("resume", {"n": math.nan}), ("resume", {"n": object()})]
)
def test_no_record_without_finite_numbers(tmp_path, name, numbers):
    with pytest.raises(RecordError, match="reliability record"):
        write_reliability_record(tmp_path, name, **numbers)
    assert not list(tmp_path.iterdir())


def test_the_page_adds_up_what_the_records_hold(tmp_path):
    assert "| bytes lost | no record yet |" in summary_markdown([])
    for name, numbers in {
        "resume": {"kill_points": 20, "bytes_lost": 0},
        "files": {"bytes_lost": 0, "recognised": 7},
        "fuzz": {"minutes": {"wav": 2, "png": 3.5}},
    }.items():
        write_reliability_record(tmp_path, name, **numbers)
    records = [read_reliability_record(path) for path in sorted(tmp_path.iterdir())]
    text = summary_markdown(records)
    assert "| bytes lost | 0 |" in text and "| minutes of fuzzing | 6 |" in text
    assert "| fuzz | minutes (wav 2, png 3.5) |" in records_markdown(records)
