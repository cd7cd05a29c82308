"""The stored samples of lesson 14: whose they are, and that they show what the lesson says."""

import pytest

from avslib.core.errors import AvsError
from avslib.study.ambiguity import SAMPLES, ambiguity_scores
from course.committed import committed_samples
from tools.ambiguity_samples import VARIANTS, collect, load_samples


def test_masks_are_two_objects_and_only_the_corrected_samples_differ():
    clips = load_samples(committed_samples())
    assert clips.truth.flatten(1).any(1).all() and clips.twin.flatten(1).any(1).all()
    assert not (clips.truth & clips.twin).any()
    spread = {name: clips.samples[name].std(0).mean() for name in VARIANTS}
    assert spread["deterministic"] == 0 < spread["ecmvae"] < spread["corrected"]
    found = {name: ambiguity_scores(x, clips.truth, clips.twin)["ged2"].mean() for name, x in clips.samples.items()}
    assert {len(x) for x in clips.samples.values()} == {SAMPLES} and found["corrected"] < found["ecmvae"]


def test_a_folder_without_the_checkpoints_is_named(tmp_path):
    with pytest.raises(AvsError, match="0 checkpoints of deterministic, seed 0; expected the folder of one sweep"):
        collect(tmp_path)
