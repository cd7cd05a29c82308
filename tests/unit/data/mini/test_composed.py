"""Train clips that are composed as they are read: those of a build, new ones in each epoch, resumed to the bit."""

import json
import shutil

import pytest
import torch

from avslib.audio.encoders import build_audio_encoder
from avslib.core.errors import AvsError, ConfigError, RecordError
from avslib.data.avsbench import AVSBench
from avslib.data.embeddings import embed_dataset
from avslib.data.loading import train_loader
from avslib.data.mini import build_mini
from avslib.data.mini.composed import ComposedClips
from avslib.training.loop import train
from avslib.training.setup import open_composed
from avslib.training.state import HISTORY, STATE, RunState

SEED, SIZE, TRAIN = 3, 64, {"s4": {"train": 3, "train_ambiguous": 1}, "ms3": {"train": 2, "train_empty": 2}}


def build(folder, times, task):
    counts = {split: times * count for split, count in TRAIN[task].items()}
    build_mini(folder, seed=SEED, counts={task: counts}, image_size=SIZE, workers=1, progress=False)
    return folder


@pytest.mark.parametrize("frames", [5, 2])
@pytest.mark.parametrize("task", TRAIN)
def test_clips_are_those_of_builds_with_the_same_numbers(task, frames, tmp_path):
    encoder, found = build_audio_encoder("soundnet"), {}
    clips = ComposedClips(build(tmp_path / "build", 1, task), task, SIZE, frames, encoder)
    dataset = AVSBench(build(tmp_path / "larger", 2, task), task, "train", SIZE, frames)
    dataset = dataset.with_audio(embed_dataset(dataset, encoder, tmp_path / "cache", progress=False))
    for epoch in range(2):
        found |= {item["name"]: item for item in (clips.window(i, slice(None), epoch) for i in range(len(clips)))}
    assert set(clips.names) < set(found) == set(dataset.names) and len(clips) == 4
    for expected in dataset:
        item = found[expected["name"]]
        assert item.keys() == expected.keys()
        assert all(torch.equal(item[name], expected[name]) for name in ("image", "mask", "annotated"))
        torch.testing.assert_close(item["audio"], expected["audio"], rtol=1e-4, atol=1e-5)


def test_batches_do_not_depend_on_workers_and_no_epoch_repeats_a_clip(tiny):
    config = tiny.replace({"data.compose": True, "data.task": "ms3", "data.train_frames": 2})
    clips, epochs = open_composed(config), {}
    for workers in (0, 2):
        loader = train_loader(clips, config.replace({"data.workers": workers}).data, 4, seed=0)
        for epoch in range(2):
            loader.sampler.epoch = epoch
            epochs[workers, epoch] = list(loader)
    for epoch in range(2):
        for one, two in zip(epochs[0, epoch], epochs[2, epoch], strict=True):
            assert one["name"] == two["name"] and one["image"].shape[:2] == (4, 2)
            assert all(torch.equal(one[key], two[key]) for key in ("image", "mask", "audio", "annotated"))
    names = [name for epoch in range(2) for batch in epochs[0, epoch] for name in batch["name"]]
    assert len(set(names)) == len(names) == 2 * len(clips)


def test_a_training_on_composed_clips_resumes_to_the_bit_with_other_workers(tiny, tmp_path, monkeypatch):
    config, save = tiny.replace({"data.compose": True}), RunState.save
    train(config, tmp_path / "whole", progress=False)

    def save_and_stop(self, *args):
        save(self, *args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(RunState, "save", save_and_stop)
        train(config, tmp_path / "part", progress=False)
    train(config.replace({"data.workers": 1}), tmp_path / "part", resume=True, progress=False)
    weights = [torch.load(tmp_path / run / STATE, weights_only=True)["model"] for run in ("whole", "part")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert (tmp_path / "whole" / HISTORY).read_text() == (tmp_path / "part" / HISTORY).read_text()


def test_max_clips_and_a_model_without_sound(tiny):
    clips = open_composed(tiny.replace({"data.compose": True, "data.max_clips": 2, "model.use_audio": False}))
    item = clips.window(1, slice(None), 5)
    assert len(clips) == 2 and item["name"] == "s4_train_00041" and not item["audio"].any()


def test_refuses_what_cannot_be_composed(tiny, tmp_path, mini_data):
    with pytest.raises(ConfigError, match=r"data\.compose"):
        tiny.replace({"data.compose": True, "data.packed": "folder"})
    with pytest.raises(AvsError, match=r"data\.root"):
        open_composed(tiny.replace({"data.compose": True, "data.root": None}))
    with pytest.raises(RecordError, match=r"manifest\.json"):
        open_composed(tiny.replace({"data.compose": True, "data.root": str(tmp_path)}))
    shutil.copy(mini_data / "manifest.json", tmp_path)
    old = json.loads((tmp_path / "manifest.json").read_text("utf-8")) | {"assets": "of an earlier version"}
    (tmp_path / "manifest.json").write_text(json.dumps(old), encoding="utf-8")
    with pytest.raises(RecordError, match="built by a different version"):
        open_composed(tiny.replace({"data.compose": True, "data.root": str(tmp_path)}))
