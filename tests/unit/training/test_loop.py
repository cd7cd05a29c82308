"""Training: it learns, resumes to the bit, reads the same whatever the workers, and loses nothing."""

import csv
import os
import signal

import pytest
import torch
from safetensors.torch import load_file

from avslib.core.errors import AvsError, Preempted
from avslib.data.loading import EpochSampler, FlippedClips
from avslib.training.guards import StopOnSigterm
from avslib.training.loop import train
from avslib.training.setup import open_split
from avslib.training.state import HISTORY, STATE, History, RunState
from avslib.variants import variant
from avslib.weights.checkpoints import load_checkpoint


def final_weights(folder):
    return torch.load(folder / STATE, weights_only=True)["model"]


def same(first, second):
    return all(torch.equal(first[k], second[k]) for k in first)


def rows(folder):
    with open(folder / HISTORY, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module", params=["s4", "ms3"])
def uninterrupted(request, tmp_path_factory):
    from avslib.config import load_config

    config = load_config("mini", request.getfixturevalue("tiny_values") | {"data.task": request.param})
    out = tmp_path_factory.mktemp("run") / request.param
    train(config, out, progress=False)
    return config, out


@pytest.fixture(scope="module")
def tiny_values(mini_data):
    from tests.helpers.tiny import TINY

    return TINY | {"data.root": str(mini_data)}


@pytest.mark.parametrize("last", [False, True], ids=["in the middle", "at the end"])
def test_sigterm_ends_after_the_step_and_resumes_to_the_bit(uninterrupted, tmp_path, monkeypatch, last):
    config, out = uninterrupted
    add, final = History.add, int(rows(out)[-1]["step"])

    def terminate(self, **row):
        add(self, **row)
        if "val_J" in row and row["step"] == final if last else "loss" in row:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(Preempted, match=r"state is saved.*--resume"):
        patch.setattr(History, "add", terminate)
        train(config, tmp_path / "run", progress=False)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    train(config, tmp_path / "run", resume=True, progress=False)
    assert same(final_weights(out), final_weights(tmp_path / "run")) and rows(out) == rows(tmp_path / "run")


def test_a_second_sigterm_acts_at_once():
    seen = []
    before = signal.signal(signal.SIGTERM, lambda *_: seen.append(1))
    try:
        with StopOnSigterm() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.requested and not seen
            os.kill(os.getpid(), signal.SIGTERM)
            assert seen == [1]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_the_state_keeps_the_scale_of_fp16_gradients(tiny, tmp_path):
    model = torch.nn.Linear(2, 1)
    optimizer, scaler = torch.optim.Adam(model.parameters()), torch.amp.GradScaler("cpu", init_scale=64.0)
    RunState(step=1).save(tmp_path, tiny, model, optimizer, scaler)
    fresh = torch.amp.GradScaler("cpu")
    fresh.load_state_dict(RunState.open(tmp_path, tiny, resume=True)[1]["scaler"])
    assert fresh.get_scale() == 64.0


class Killed(Exception):
    pass


def stop_after(monkeypatch, step):
    """End training as a kill would: nothing runs after the state of `step` is on disk."""
    save = RunState.save

    def save_and_stop(self, *args):
        save(self, *args)
        if self.step >= step:
            raise Killed

    monkeypatch.setattr(RunState, "save", save_and_stop)


@pytest.mark.parametrize("step", [3, 4])
def test_resumed_run_equals_the_uninterrupted_one_to_the_bit(uninterrupted, tmp_path, monkeypatch, step):
    config, out = uninterrupted
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_after(patch, step)
        train(config, tmp_path / "run", progress=False)
    train(config, tmp_path / "run", resume=True, progress=False)
    assert same(final_weights(out), final_weights(tmp_path / "run"))
    assert same(load_file(out / "best/model.safetensors"), load_file(tmp_path / "run/best/model.safetensors"))
    assert rows(out) == rows(tmp_path / "run")


def test_run_stopped_by_its_row_function_resumes_to_the_bit(uninterrupted, tmp_path):
    config, out = uninterrupted
    seen = []

    def stop(row):
        seen.append(row)
        if row["step"] >= 4 and "loss" in row:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run", progress=False, on_row=stop)
    assert seen[-1]["step"] == 4 and seen[-1]["epoch"] == 0 and seen[-1]["loss"] > 0
    train(config, tmp_path / "run", resume=True, progress=False, on_row=seen.append)
    assert same(final_weights(out), final_weights(tmp_path / "run"))
    assert rows(out) == rows(tmp_path / "run") and set(seen[-1]) == {"step", "epoch", "val_J", "val_F"}


def test_same_seed_same_weights_with_worker_processes(uninterrupted, tmp_path):
    config, out = uninterrupted
    train(config.replace({"data.workers": 2}), tmp_path / "run", progress=False)
    assert same(final_weights(out), final_weights(tmp_path / "run"))


def test_accumulated_gradients_change_the_weights_every_few_steps_and_resume_to_the_bit(tiny, tmp_path, monkeypatch):
    config = tiny.replace({"train.accumulate": 3, "train.checkpoint_every": 1, "train.epochs": 2})
    train(config, tmp_path / "whole", progress=False)
    state = torch.load(tmp_path / "whole" / STATE, weights_only=True)
    # 4 steps per epoch: the weights change after the third and, with what there is, at the end
    assert state["run"]["step"] == 8 and state["optimizer"]["state"][0]["step"] == 4
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_after(patch, 1)  # no state is saved between two changes of the weights
        train(config, tmp_path / "run", progress=False)
    assert torch.load(tmp_path / "run" / STATE, weights_only=True)["run"]["step"] == 3
    train(config, tmp_path / "run", resume=True, progress=False)
    assert same(final_weights(tmp_path / "whole"), final_weights(tmp_path / "run"))
    assert rows(tmp_path / "whole") == rows(tmp_path / "run")


def test_corrected_objective_resumes_to_the_bit_with_the_codes_it_remembers(tiny, tmp_path, monkeypatch):
    config = tiny.replace({**variant("corrected"), "train.checkpoint_every": 1, "train.epochs": 2})
    train(config, tmp_path / "whole", progress=False)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_after(patch, 3)
        train(config, tmp_path / "run", progress=False)
    assert torch.load(tmp_path / "run" / STATE, weights_only=True)["earlier"].keys() >= {"vs", "vac_y"}
    train(config, tmp_path / "run", resume=True, progress=False)
    assert same(final_weights(tmp_path / "whole"), final_weights(tmp_path / "run"))
    assert rows(tmp_path / "whole") == rows(tmp_path / "run") and float(rows(tmp_path / "run")[0]["seg_samples"]) > 0


def test_ms3_trains_on_a_second_drawn_for_each_epoch(tiny):
    config = tiny.replace({"data.task": "ms3", "data.train_frames": 1})
    dataset = open_split(config, "train")
    clips = FlippedClips(dataset, config.data, seed=0)
    seconds = {clips.seconds(epoch, 0).start for epoch in range(40)}
    assert seconds == set(range(config.data.frames))
    item, second = clips[2, 0], clips.seconds(2, 0)
    whole = dataset[0]
    assert torch.equal(item["audio"], whole["audio"][second]) and item["mask"].sum() == whole["mask"][second].sum()


def test_last_checkpoint_is_kept_where_asked(tiny, tmp_path):
    trained = train(tiny.replace({"train.keep": "last", "train.epochs": 3}), tmp_path / "run", progress=False)
    assert trained.best_epoch == 2
    assert same(load_file(trained.checkpoint / "model.safetensors"), final_weights(tmp_path / "run"))


def test_trainings_of_one_process_may_differ_in_precision(tiny, tmp_path):
    for precision in ("bf16", "no"):
        config = tiny.replace({"train.precision": precision, "train.epochs": 1, "data.max_clips": 2})
        assert train(config, tmp_path / precision, progress=False).checkpoint.is_dir()


def test_another_seed_gives_other_weights(uninterrupted, tmp_path):
    config, out = uninterrupted
    train(config.replace({"train.seed": 1, "train.epochs": 1}), tmp_path / "run", progress=False)
    assert not same(final_weights(out), final_weights(tmp_path / "run"))


def test_loss_falls_on_a_few_clips(tiny, tmp_path):
    more = {"model.backbone": "tf_efficientnet_lite0", "train.epochs": 12, "train.lr": 3e-3, "data.max_clips": 4}
    train(tiny.replace(more), tmp_path / "run", progress=False)
    losses = [float(row["loss"]) for row in rows(tmp_path / "run") if row["loss"]]
    assert losses[-1] < 0.7 * losses[0]


def test_best_checkpoint_is_the_best_epoch(uninterrupted):
    config, out = uninterrupted
    scores = [float(row["val_J"]) for row in rows(out) if row["val_J"]]
    state = torch.load(out / STATE, weights_only=True)
    assert (
        state["run"]["best_j"] == pytest.approx(max(scores), abs=1e-5)
        and load_checkpoint(out / "best").config == config
    )


def test_second_run_into_a_folder_is_refused(uninterrupted):
    config, out = uninterrupted
    with pytest.raises(AvsError, match="--resume"):
        train(config, out, progress=False)


def test_resuming_with_another_config_names_the_field(uninterrupted):
    config, out = uninterrupted
    with pytest.raises(AvsError, match=r"train\.lr differs"):
        train(config.replace({"train.lr": 0.5}), out, resume=True, progress=False)


def test_folder_with_other_files_is_refused(tiny, tmp_path):
    (tmp_path / "thesis.txt").write_text("precious", encoding="utf-8")
    with pytest.raises(AvsError, match="not empty"):
        train(tiny, tmp_path, progress=False)


def test_loss_that_is_not_finite_stops_with_a_sentence_and_keeps_the_batch(tiny, tmp_path):
    with pytest.raises(AvsError, match=r"not finite.*The batch of step \d+, where it began"):
        train(tiny.replace({"train.lr": 1e30, "train.clip_grad": None}), tmp_path / "run", progress=False)
    kept = torch.load(tmp_path / "run" / "nonfinite_0.pt", weights_only=True)
    assert kept["step"] > 1 and len(kept["clips"]) == len(kept["batch"]["image"]) == tiny.train.batch_size


def test_frozen_backbone_keeps_its_weights(tiny, tmp_path):
    before = load_file(
        train(
            tiny.replace({"train.epochs": 1, "train.backbone_lr_factor": 0}), tmp_path / "a", progress=False
        ).checkpoint
        / "model.safetensors"
    )
    after = load_file(
        train(tiny.replace({"train.backbone_lr_factor": 0}), tmp_path / "b", progress=False).checkpoint
        / "model.safetensors"
    )
    names = [n for n in before if n.startswith("backbone") and n.endswith("weight") and ".bn" not in n]
    assert names and all(torch.equal(before[n], after[n]) for n in names)


def test_seed_gives_the_same_first_weights_whether_the_network_listens(tiny, tmp_path):
    for name, audio in (("with", True), ("without", False)):
        config = tiny.replace({"model.use_audio": audio, "train.lr": 1e-12, "train.weight_decay": 0})
        train(config, tmp_path / name, progress=False)
    heard, deaf = (final_weights(tmp_path / name)["prior.decoder.head_in.weight"] for name in ("with", "without"))
    assert torch.allclose(heard, deaf, atol=1e-6)


def test_train_clips_may_be_shorter_than_scored_ones(tiny, tmp_path):
    config = tiny.replace({"data.train_frames": 1, "data.frames": 2})
    assert [open_split(config, split).frames for split in ("train", "val")] == [1, 2]
    train(config, tmp_path / "run", progress=False)
    assert rows(tmp_path / "run")[-1]["val_J"]


def test_order_depends_on_seed_and_epoch_alone():
    first, second = EpochSampler(20, 3), EpochSampler(20, 3)
    second.epoch = 1
    assert list(first) == list(EpochSampler(20, 3)) and [i for _, i in first] != [i for _, i in second]
    assert sorted(i for _, i in second) == list(range(20))


@pytest.mark.parametrize(
    ("task", "flip", "patterns"),
    [
        ("s4", "clip", {(0,) * 5, (1,) * 5}),
        ("s4", "official", {(0,) * 5, (1, 0, 0, 0, 0)}),
        ("ms3", "clip", {(0,) * 5, (1,) * 5}),
    ],
)
def test_flips_follow_their_rule(tiny, task, flip, patterns):
    config = tiny.replace({"data.task": task, "data.flip": flip, "data.flip_probability": 0.5}).data
    clips = FlippedClips([], config, seed=0)
    assert {tuple(clips.coins(e, i).int().tolist()) for e in range(5) for i in range(20)} == patterns


def test_released_ms3_flips_each_frame_by_its_own_coin(tiny):
    config = tiny.replace({"data.task": "ms3", "data.flip": "official", "data.flip_probability": 0.5}).data
    seen = {tuple(FlippedClips([], config, 0).coins(0, i).int().tolist()) for i in range(200)}
    assert len(seen) > 20


def test_flip_turns_image_and_mask_together(tiny):
    dataset = open_split(tiny.replace({"data.task": "ms3"}), "train")
    clips = FlippedClips(dataset, tiny.replace({"data.flip_probability": 1}).data, seed=0)
    plain, flipped = dataset[0], clips[(0, 0)]
    assert torch.equal(flipped["image"].flip(-1), plain["image"]) and torch.equal(
        flipped["mask"].flip(-1), plain["mask"]
    )
