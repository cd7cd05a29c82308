"""Further parts of avs bench that are asked for by name: batches, profile and daily."""

import pytest

from avslib.core.errors import MemoryLimitError
from benchmarks import batches, daily
from benchmarks.batches import BATCHES, section_batches
from benchmarks.daily import section_daily
from benchmarks.memory import Measured
from benchmarks.operations import TOP, section_profile
from benchmarks.record import BenchSettings
from benchmarks.timing import OURS, REFERENCE

QUICK = BenchSettings(backbone="test_efficientnet", batch=1, rounds=1, quick=True)


@pytest.mark.parametrize("warns", [True, False], ids=["by the line", "by an error"])
def test_batches_end_where_memory_does_and_the_reference_goes_on_by_lines(monkeypatch, warns):
    def measured(kind, candidate, settings, clips, runs):
        size = (10 if candidate.form == "reference" else 1) * 10**9
        if size * clips > 45 * 10**9:
            assert not warns
            raise MemoryLimitError("out of memory")
        return Measured(size * clips, [1.0 + clips] * (runs - 1))

    monkeypatch.setattr(batches, "measure", measured)
    monkeypatch.setattr(batches, "available_memory", lambda device: (60 if warns else 1000) * 10**9)
    monkeypatch.setattr(batches, "QUICK", BATCHES)
    rows = {(row.batch, row.name): row for row in section_batches(QUICK)}
    assert {batch for batch, _ in rows} == {1, 2, 4, 8, 16, 32}
    found = rows[32, REFERENCE]
    assert found.extrapolated_from == [1, 2, 4] and found.peak_bytes == pytest.approx(320e9)
    assert rows[4, REFERENCE].extrapolated_from == [] and found.seconds.median == pytest.approx(33)
    assert rows[32, OURS].peak_ratio == pytest.approx(10) and rows[32, OURS].ratio.median == pytest.approx(1)
    assert rows[2, OURS].flops == pytest.approx(2 * rows[1, OURS].flops) and rows[2, OURS].matmul_share > 0


def test_profile_lists_what_takes_longest():
    rows = section_profile(QUICK)
    whole, *top = rows[: TOP + 1]
    assert whole.name == OURS and whole.values["device busy"] > 0 and len(rows) == 2 * (TOP + 1)
    shares = [row.values["share of the device's time"] for row in top]
    assert shares == sorted(shares, reverse=True) and sum(shares) <= 1.001
    assert any("convolution" in row.name for row in top)


def test_daily_holds_each_time_against_another(monkeypatch):
    few = {"import json": ("import json", "", 0), "a": ("import csv, json", "import json", 1.5)}
    monkeypatch.setattr(daily, "IMPORTS", few)
    monkeypatch.setattr(daily, "RATE", 5)
    monkeypatch.setattr(daily, "VIDEO", {1: 60})
    base, own, build, read, composed, video = section_daily(QUICK)
    assert own.values["of"] == "import json" and own.values["times"] == pytest.approx(
        own.seconds.median / base.seconds.median
    )
    for row in (build, read, composed):
        assert row.values["times"] == pytest.approx(row.seconds.median / base.seconds.median)
    assert video.seconds.median > 0 and sum(video.values.values()) == pytest.approx(1)
