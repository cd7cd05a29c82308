"""Intervals agree with SciPy and with a loop, cover what they should, and are refused where clips do not match."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from avslib.core.errors import AvsError
from avslib.study.intervals import Interval, clip_scores, difference_interval, mean_interval
from avslib.study.records import load_records, write_record
from tests.helpers.study_records import study_record


def scores(seeds=3, clips=40, mean=0.5):
    rng = np.random.default_rng([seeds, clips, int(100 * mean)])
    return mean + 0.1 * rng.normal(size=(1, clips)) + 0.05 * rng.normal(size=(seeds, clips))


def scipys(values, statistic=np.mean):
    data = values if isinstance(values, tuple) else (values,)
    found = stats.bootstrap(data, statistic, paired=len(data) > 1, n_resamples=20000, method="percentile", rng=1)
    return tuple(found.confidence_interval)


def test_interval_over_clips_is_scipys():
    x = scores()
    found = mean_interval(x)
    assert found.estimate == pytest.approx(x.mean())
    assert found[1:] == pytest.approx(scipys(x.mean(axis=0)), abs=0.004)


def test_paired_interval_with_one_seed_is_scipys():
    x, y = scores(1), scores(1, mean=0.45)
    found = difference_interval(x, y, same_seeds=True)
    want = scipys((x[0], y[0]), lambda a, b, axis: a.mean(axis) - b.mean(axis))
    assert found[1:] == pytest.approx(want, abs=0.004)
    assert found == pytest.approx(difference_interval(x, y, same_seeds=False))


@pytest.mark.parametrize("same", [True, False])
def test_clips_and_seeds_are_drawn_as_a_loop_draws_them(same):
    rng = np.random.default_rng(0)
    x, y = scores(4, 12) + rng.normal(0, 0.05, (4, 1)), scores(4, 12, mean=0.4)
    drawn = []
    for _ in range(8000):
        clips, a = rng.integers(0, 12, 12), rng.integers(0, 4, 4)
        b = a if same else rng.integers(0, 4, 4)
        drawn.append(x[np.ix_(a, clips)].mean() - y[np.ix_(b, clips)].mean())
    found = difference_interval(x, y, same_seeds=same)
    assert found[1:] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.006)


@settings(max_examples=20, deadline=None)
@given(st.floats(-1, 1), st.integers(1, 4), st.booleans())
def test_interval_moves_with_the_scores_and_vanishes_against_itself(shift, seeds, same):
    x, y = scores(seeds, 9), scores(seeds, 9, mean=0.3)
    here, there = (difference_interval(x + by, y, same_seeds=same, draws=200) for by in (0, shift))
    assert there == pytest.approx(np.add(here, shift))
    swapped = difference_interval(y, x, same_seeds=True, draws=200)
    assert difference_interval(x, y, same_seeds=True, draws=200) == pytest.approx(-np.array(swapped)[[0, 2, 1]])
    assert difference_interval(x, x, same_seeds=True, draws=200) == (0, 0, 0)
    assert not Interval(0.0, 0.0, 0.0).excludes_zero


def test_interval_covers_the_truth_about_as_often_as_it_says():
    def covers(rng):
        x, y = (0.2 * rng.normal(size=(1, 60)) + 0.1 * rng.normal(size=(5, 60)) for _ in "xy")
        found = difference_interval(x, y, same_seeds=True, draws=300)
        return not found.excludes_zero

    rng = np.random.default_rng(7)
    assert 0.90 <= np.mean([covers(rng) for _ in range(400)]) <= 0.99


def test_seeds_widen_the_interval():
    x = np.tile(scores(1), (5, 1))
    steady = difference_interval(x, x - 0.05, same_seeds=True)
    noisy = difference_interval(x + np.linspace(-0.1, 0.1, 5)[:, None], x - 0.05, same_seeds=True)
    assert steady.excludes_zero and not noisy.excludes_zero


def test_clip_scores_are_rows_by_run_and_columns_by_name(tmp_path):
    for seed in (0, 1):
        record, clips = study_record("ecmvae", seed, {"b": 0.25 + seed / 2, "a": 0.75})
        write_record(tmp_path / record.id, record, clips)
    records = load_records(tmp_path)
    assert clip_scores(records, "test").tolist() == [[0.75, 0.25], [0.75, 0.75]]
    with pytest.raises(AvsError, match="no clip of split val"):
        clip_scores(records, "val")


def test_clips_that_do_not_fit_are_refused(tmp_path):
    given = {"one": {"a": 0.5, "b": 0.5}, "two": {"a": 0.5, "c": 0.5}}
    for seed, (name, values) in enumerate(given.items()):
        write_record(tmp_path / name, *study_record("ecmvae", seed, values))
    records = load_records(tmp_path)
    with pytest.raises(AvsError, match=r"its clips of test differ .*for example b"):
        clip_scores(records, "test")
    path = tmp_path / "one" / "clips.csv"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("a,test,,0.5", "a,test,,0.6"), encoding="utf-8")
    with pytest.raises(AvsError, match=r"not the file that was written with run.json"):
        clip_scores(records, "test")
    for record in records:  # as older ones are
        record.clips_sha256 = ""
    with pytest.raises(AvsError, match=r"mean J on test is 0.5500, but run.json says 0.5000"):
        clip_scores(records[:1], "test")
    path.write_text(text + "a,test,,0.5\n", encoding="utf-8")
    with pytest.raises(AvsError, match="a clip twice"):
        clip_scores(records[:1], "test")
    with pytest.raises(AvsError, match="expected the same clips"):
        difference_interval(scores(2), scores(3), same_seeds=True)
