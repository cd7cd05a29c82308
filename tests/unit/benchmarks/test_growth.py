"""The parts of avs bench that are asked for by name: growth and feeding."""

import itertools

import pytest

from avslib.core.errors import AvsError
from benchmarks import growth
from benchmarks.feeding import section_feeding, wait_share
from benchmarks.growth import AXES, growth_figure, section_growth
from benchmarks.memory import Measured
from benchmarks.record import BenchSettings, new_bench_record
from benchmarks.report import verdicts
from benchmarks.run import bench

SETTINGS = BenchSettings(backbone="resnet18", batch=2, rounds=1, quick=True)


@pytest.fixture
def rows(monkeypatch):
    """Growth of a machine on which a clip costs 1 s and 2 GB a second and 224 pixels squared, and 3 s and 1 GB once."""

    def measured(kind, candidate, settings, clips, runs):
        work = clips * settings.frames * settings.image_size**2 / 224**2
        return Measured(int((1 + 2 * work) * 1e9), [3 + work] * (runs - 1))

    monkeypatch.setattr(growth, "measure", measured)
    return section_growth(BenchSettings())


def test_every_point_of_every_axis_is_measured(rows):
    found = [(row.values["axis"], row.values["x"]) for row in rows if "x" in row.values]
    assert found == [(axis, x) for axis, kinds in AXES.items() for points in kinds.values() for x in points]


def test_lines_have_the_slopes_of_the_machine(rows):
    lines = {(row.case, row.name): row.values for row in rows if "x" not in row.values}
    line = lines["inference against T: straight line", "ours"]
    assert line["seconds a second"] == pytest.approx(1) and line["seconds at 0"] == pytest.approx(3)
    assert line["GB a second"] == pytest.approx(2) and line["R2 of seconds"] == pytest.approx(1)
    size = lines["training step against size: straight line", "ours, checkpointing"]
    assert size["seconds a megapixel"] == pytest.approx(5 / 224**2 * 1e6)
    straight, fits = verdicts(BenchSettings(backbone="pvt_v2_b5"), {"growth": rows})
    assert straight.met and straight.value == pytest.approx(1)
    assert not fits.met and fits.value == pytest.approx(1 + 2 * 8 * 5)


def test_figure_has_a_panel_for_each_axis_and_measure(rows):
    figure = growth_figure(new_bench_record(BenchSettings(), {"growth": rows}, 1.0))
    assert len(figure.axes) == 6 and {p.get_xlabel() for p in figure.axes[3:]} >= {"clips per batch"}
    with pytest.raises(AvsError, match="no part growth"):
        growth_figure(new_bench_record(BenchSettings(), {}, 1.0))


def test_waiting_is_the_share_of_time_before_a_batch_comes():
    now = [0.0]

    def batches():
        for k in itertools.count():
            now[0] += 100 if k == 0 else 1
            yield k

    def step(batch):
        now[0] += 3

    assert wait_share(batches(), step, 5, lambda: now[0]) == (0.25, 4)


def test_feeding_needs_data():
    with pytest.raises(AvsError, match="with --data"):
        section_feeding(SETTINGS)


def test_unknown_part_is_reported_with_all_names():
    with pytest.raises(AvsError, match="growth, feeding"):
        bench(SETTINGS, ["speed"])
