"""Scoring: independent of batch size and resolution of the network, baselines honest, records complete."""

import csv

import numpy as np
import pytest
import torch
from torch.utils.data import Subset

from avslib.core.errors import AvsError
from avslib.data.avsbench import AVSBench
from avslib.data.loading import shuffle_audio
from avslib.models.ecmvae import ECMVAE
from avslib.study.records import load_records
from avslib.study.run import ALL_OBJECTS, SHUFFLED, run, score
from avslib.training.evaluate import all_objects, evaluate, predict_batches, test_splits
from avslib.training.setup import open_split

test_splits.__test__ = False


@pytest.fixture
def model(tiny):
    torch.manual_seed(0)
    return ECMVAE(tiny).eval()


def test_scores_do_not_depend_on_the_batch_size(model, tiny):
    dataset = open_split(tiny, "test")
    one, three = evaluate(model, dataset, batch_size=1), evaluate(model, dataset, batch_size=3)
    assert one.metrics == pytest.approx(three.metrics, abs=1e-6) and one.clips == pytest.approx(three.clips, abs=1e-6)


def test_without_a_mask_there_is_a_sentence_and_no_score(model, tiny):
    names = open_split(tiny, "test").names
    for options, count in (({"masks": False}, 3), ({"skip": names}, 0)):
        with pytest.raises(AvsError, match=f"split 'test': none of its {count} clips has a mask"):
            evaluate(model, AVSBench(tiny.data.root, "s4", "test", 64, **options))


def test_the_train_split_of_mini_avs_is_scored_on_its_masks(model, tiny):
    """A build keeps no outlines of all objects for it."""
    scores = score(model, tiny, "train")
    assert set(scores) == {"", SHUFFLED}
    dataset, ious = open_split(tiny, "train"), []
    for rows, logits in predict_batches(model, dataset, frames=dataset.frames, batch_size=1):
        lit, mask = (logits[0] > 0).numpy(), rows["mask"][0].numpy() > 0  # only the first frame has a mask
        ious.append((lit & mask).sum() / (lit | mask).sum() if mask.any() else (~lit).mean())
    assert scores[""].metrics["J"] == pytest.approx(np.mean(ious), abs=1e-6)


def test_masks_are_compared_at_224_whatever_the_network_sees(tiny):
    item = open_split(tiny, "test")[0]
    assert item["image"].shape[-1] == 64 and item["mask"].shape[-1] == 224


def test_clip_scores_average_to_j(model, tiny):
    scores = evaluate(model, open_split(tiny, "test"))
    assert sum(scores.clips.values()) / len(scores.clips) == pytest.approx(scores.metrics["J"])


def test_frames_without_annotation_do_not_count(model, tiny):
    dataset = open_split(tiny, "train")  # of S4: only the first frame of each clip has a mask
    scores, expected = evaluate(model, dataset, batch_size=3), {}
    for rows, logits in predict_batches(model, dataset, frames=5):
        for i, name in enumerate(rows["name"]):
            predicted, truth = logits[5 * i, 0].sigmoid().numpy() > 0.5, rows["mask"][5 * i, 0].numpy() > 0
            expected[name] = (predicted & truth).sum() / (predicted | truth).sum()
    assert all(truth.any() for truth in (item["mask"][0] for item in dataset))
    assert scores.clips == pytest.approx(expected, abs=1e-6)
    assert scores.metrics["J"] == pytest.approx(np.mean([*expected.values()]), abs=1e-6)


def test_samples_depend_on_the_clip_alone_and_average_probabilities(tiny):
    torch.manual_seed(0)
    model = ECMVAE(tiny).eval()
    for branch_code in (model.prior.encode_sv, model.prior.encode_c):
        torch.nn.init.constant_(branch_code.head.logvar.bias, 4.0)
    data = Subset(open_split(tiny, "val"), range(3))

    def probabilities(samples, batch_size):
        runs = predict_batches(model, data, frames=tiny.data.frames, batch_size=batch_size, samples=samples)
        return torch.cat([logits.sigmoid() for _, logits in runs])

    one, two, mean = probabilities(1, 3), probabilities(2, 3), probabilities(0, 3)
    assert torch.allclose(two, probabilities(2, 1), atol=1e-6)
    assert not torch.allclose(one, mean, atol=1e-6) and not torch.allclose(two, one, atol=1e-6)


def test_all_objects_cover_every_sounding_one(tiny, mini_data):
    dataset = open_split(tiny, "test")
    scores = all_objects(dataset, mini_data)
    assert 0.1 < scores.metrics["J"] < 1


def test_shuffled_audio_leaves_no_clip_its_own():
    audio = {str(i): torch.full((5, 2), float(i)) for i in range(9)}
    shuffled = shuffle_audio(audio)
    assert all(not torch.equal(audio[k], shuffled[k]) for k in audio)
    assert sorted(v[0, 0].item() for v in shuffled.values()) == list(range(9))


def test_data_without_unseen_split_has_one_test_split(mini_data, tmp_path):
    lines = (mini_data / "Single-source/s4_meta_data.csv").read_text(encoding="utf-8").splitlines()
    seen = [line for line in lines if "test_unseen" not in line]
    (tmp_path / "s4_meta_data.csv").write_text("\n".join(seen), encoding="utf-8")
    assert test_splits(mini_data, "s4") == ["test", "test_unseen"] and test_splits(tmp_path, "s4") == ["test"]


def test_run_writes_a_record_with_scores_and_baselines(tiny, tmp_path):
    run(tiny.replace({"train.epochs": 1}), tmp_path / "run", progress=False)
    record = load_records(tmp_path)[0]
    assert record.data == "mini" and set(record.metrics) == {"val", "test", "test_unseen"}
    assert set(record.baselines) == {SHUFFLED, ALL_OBJECTS} and record.dataset.clips["train"] == 8
    with open(tmp_path / "run/clips.csv", newline="", encoding="utf-8") as stream:
        js = [float(row["J"]) for row in csv.DictReader(stream) if row["split"] == "test" and not row["baseline"]]
    assert sum(js) / len(js) == pytest.approx(record.metrics["test"]["J"], abs=1e-5)


def test_network_without_audio_ignores_it_and_has_no_shuffled_baseline(tiny, tmp_path):
    record = run(tiny.replace({"train.epochs": 1, "model.use_audio": False}), tmp_path / "run", progress=False)
    assert record.method == "without_audio" and not record.baselines
