"""Scores of samples against what is known of a perfect, a blind and a deaf sampler."""

import numpy as np
import pytest
import torch

from avslib.core.errors import AvsError
from avslib.data.avsbench import AVSBench
from avslib.data.mini.build import build_mini
from avslib.data.mini.compose import compose_clip
from avslib.study.ambiguity import ambiguity_scores, read_twins


@pytest.fixture
def masks():
    truth, twin, other = torch.zeros(3, 1, 12, 12, dtype=torch.bool)
    truth[:, :4], twin[:, 4:8], other[:, 8:] = True, True, True
    return truth, twin, other


def scored(samples, truth, twin):
    return {k: v.item() for k, v in ambiguity_scores(torch.stack(samples).float(), truth, twin).items()}


def test_a_perfect_sampler_finds_both_and_one_mask_only_does_not(masks):
    truth, twin, other = masks
    perfect = scored([truth, twin] * 4, truth, twin)
    # distances of different samples: 16 of the 28 pairs are of two masks
    assert perfect["ged2"] == pytest.approx(0.5 + 0.5 - 16 / 28 - 0.5)
    assert perfect["best"] == perfect["both_found"] == perfect["covers_twin"] == 1 and perfect["J"] == 0.5
    one = scored([truth], truth, twin)
    assert one["ged2"] == pytest.approx(0 + 1 - 0 - 0.5) and one["both_found"] == 0 and one["J"] == 1
    both = scored([truth | twin], truth, twin)
    assert both["ged2"] == pytest.approx(0.5) and both["covers_twin"] == 1
    deaf = scored([truth, twin, other], truth, twin)
    assert deaf["covers_twin"] == pytest.approx(2 / 3) and deaf["ged2"] < one["ged2"]


def test_ged_is_numpys(masks):
    truth, twin, _ = masks
    p = torch.rand(5, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    lit, a, b = (p > 0.5).numpy()[:, 0], truth.numpy()[0], twin.numpy()[0]

    def d(x, y):
        return 1 - (x & y).sum() / (x | y).sum()

    pairs = [d(lit[i], lit[j]) for i in range(5) for j in range(5) if i != j]
    expected = np.mean([d(x, a) for x in lit]) + np.mean([d(x, b) for x in lit]) - np.mean(pairs) - d(a, b) / 2
    assert ambiguity_scores(p, truth, twin)["ged2"].item() == pytest.approx(expected, abs=1e-6)


def test_builds_hold_the_twin_of_each_ambiguous_clip_and_old_ones_say_so(tmp_path):
    manifest = build_mini(
        tmp_path / "data", counts={"s4": {"train": 1, "train_ambiguous": 1, "ambiguous": 2}}, workers=1
    )
    assert manifest["version"] == 2
    names = AVSBench(tmp_path / "data", "s4", "train").names
    assert names == ["s4_train_00000", "s4_train_ambiguous_00000"]
    dataset = AVSBench(tmp_path / "data", "s4", "ambiguous")
    for index, name in enumerate(dataset.names):
        composed = compose_clip("s4", "ambiguous", index)
        objects = composed.record["objects"]
        pair = [o for o in objects if o["category"] == composed.category]
        assert len(pair) == 2 and pair[0]["file"] != pair[1]["file"]
        twin = read_twins(tmp_path / "data", dataset, name).numpy()
        assert (twin == composed.twin_masks).all() and not (twin & dataset[index]["mask"][:, 0].bool().numpy()).any()
    with pytest.raises(AvsError, match=r"no such folder; only split 'ambiguous'"):
        read_twins(tmp_path, dataset, "s4_test_00000")


def test_the_coin_is_fair_and_blind():
    twins = [compose_clip("s4", "ambiguous", i, size=32).record for i in range(60)]
    nearer = []
    for record in twins:
        pair = [i for i, o in enumerate(record["objects"]) if o["category"] == record["category"]]
        nearer.append(record["twin"] == max(pair))
    assert 18 <= sum(nearer) <= 42


def test_empty_train_clips_join_the_train_split(tmp_path):
    build_mini(tmp_path / "data", counts={"ms3": {"train": 1, "train_empty": 2}}, workers=1)
    dataset = AVSBench(tmp_path / "data", "ms3", "train")
    assert dataset.names == ["ms3_train_00000", "ms3_train_empty_00000", "ms3_train_empty_00001"]
    assert [bool(dataset[i]["mask"].any()) for i in range(3)] == [True, False, False]
    assert dataset.waveform(2).abs().max() > 5 * dataset.waveform(1).abs().max()  # off screen, and silent
