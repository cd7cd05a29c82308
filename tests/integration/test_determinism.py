"""The same seed gives the same bits: whatever the workers, whatever else is drawn, and by operations that allow it."""

import json
import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from avslib.config import load_config
from avslib.core.seeds import (
    buffer_rng,
    clip_rng,
    dropout_seed,
    flip_rng,
    order_rng,
    own_generators,
    sample_seed,
    shard_rng,
    step_seed,
)
from avslib.data.packed import pack
from avslib.models.ecmvae import ECMVAE
from avslib.study.robustness import evaluate_robustness
from avslib.training import loop as training
from avslib.training import setup
from avslib.training.evaluate import Scores, evaluate, predict_batches
from avslib.training.loop import train
from avslib.training.setup import open_split
from avslib.training.state import HISTORY, STATE, RunState
from avslib.video.predictor import Predictor
from tests.helpers.tiny import TINY

TWO = {"train.epochs": 2}


@pytest.fixture(scope="module")
def packed(mini_data, tmp_path_factory):
    out = tmp_path_factory.mktemp("packed")
    for task in ("s4", "ms3"):
        pack(mini_data, out / task, task, ["train"], shard_mb=0.1, progress=False)
    return out


def configure(root, changes=(), **data):
    values = {
        "data.root": str(root),
        "model.image_size": 32,
        "train.eval_samples": 2,
        "train.epochs": 1,
        "data.flip_probability": 0.5,
    }
    return load_config("mini", TINY | values | {f"data.{k}": v for k, v in data.items()} | dict(changes))


def trained_bytes(config, out, **options):
    """All that a training leaves behind that its seed decides: weights, optimiser, scores, history."""
    train(config, out, progress=False, **options)
    state = torch.load(out / STATE, weights_only=True)
    moments = [value for group in state["optimizer"]["state"].values() for value in group.values()]
    tensors = [*state["model"].values(), *moments]
    scores = json.dumps([state["run"][name] for name in ("best_j", "best_epoch")])
    return b"".join(t.numpy().tobytes() for t in tensors) + scores.encode() + (out / HISTORY).read_bytes()


def weight_bytes(out):
    """The first part of `trained_bytes`."""
    return b"".join(t.numpy().tobytes() for t in torch.load(out / STATE, weights_only=True)["model"].values())


def differing(first, second):
    assert len(first) == len(second)
    return int((np.frombuffer(first, np.uint8) != np.frombuffer(second, np.uint8)).sum())


def global_states():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


def draw_from_all(row=None):
    return random.random(), np.random.rand(), torch.rand(3), torch.randperm(5)


@pytest.fixture(scope="module")
def expected(mini_data, tmp_path_factory):
    return trained_bytes(configure(mini_data), tmp_path_factory.mktemp("run") / "run")


# ---- the number of workers


@pytest.mark.parametrize("source", ["loose", "packed"])
def test_workers_change_no_bit(mini_data, packed, expected, tmp_path, source):
    files = {"packed": str(packed / "s4")} if source == "packed" else {}
    if files:
        expected = trained_bytes(configure(mini_data, **files), tmp_path / "0")
    assert differing(trained_bytes(configure(mini_data, workers=2, **files), tmp_path / "2"), expected) == 0


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_any_number_of_workers_changes_no_bit(mini_data, packed, tmp_path, reliability_record):
    workers, compared, bytes_compared, wrong = (1, 2, 3), 0, 0, 0
    for task in ("s4", "ms3"):
        for source in ("loose", "packed"):
            data = {"task": task} | ({"packed": str(packed / task)} if source == "packed" else {})
            name = f"{task}-{source}"
            first = trained_bytes(configure(mini_data, TWO, **data), tmp_path / name)
            for count in workers:
                again = trained_bytes(configure(mini_data, TWO, workers=count, **data), tmp_path / f"{name}-{count}")
                compared, bytes_compared = compared + 1, bytes_compared + len(again)
                wrong += differing(again, first)
    reliability_record(
        "determinism",
        trainings_compared=compared,
        worker_counts=[0, *workers],
        bytes_compared=bytes_compared,
        bytes_differing=wrong,
    )
    assert wrong == 0


SCRIPT = """
import json, sys
from avslib.config import load_config
from avslib.training.loop import train
train(load_config("mini", json.loads(sys.argv[1])), sys.argv[2], progress=False)
"""


@pytest.mark.long
@pytest.mark.parametrize("hash_seed", ["0", "1"])
def test_another_process_gives_the_same_bits(mini_data, expected, tmp_path, hash_seed):
    config = configure(mini_data).model_dump(mode="json", exclude={"preset"})
    values = {f"{section}.{name}": value for section, part in config.items() for name, value in part.items()}
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    command = [sys.executable, "-c", SCRIPT, json.dumps(values), str(tmp_path / "run")]
    subprocess.run(command, check=True, env=environment, timeout=300)
    assert expected.startswith(weight_bytes(tmp_path / "run"))


def test_evaluation_and_robustness_do_not_depend_on_workers(mini_data):
    config = configure(mini_data)
    torch.manual_seed(0)
    model, dataset = ECMVAE(config).eval(), open_split(config, "test")
    scores = [evaluate(model, dataset, samples=2, workers=workers) for workers in (0, 1, 2)]
    assert scores[0].metrics == scores[1].metrics == scores[2].metrics and scores[0].clips == scores[2].clips
    logits = [
        torch.cat([out for _, out in predict_batches(model, dataset, frames=5, samples=2, workers=workers)])
        for workers in (0, 2)
    ]
    assert torch.equal(*logits)
    alone, shared = (
        evaluate_robustness(model, configure(mini_data, workers=workers), "test", ["noise"], seed=3)
        for workers in (0, 2)
    )
    assert alone and all(alone[name].metrics == shared[name].metrics for name in alone)


def test_prediction_samples_come_from_their_seed_alone(mini_data):
    config = configure(mini_data)
    predictor, item = Predictor(ECMVAE(config)), open_split(config, "test")[0]
    first = predictor.samples(item["image"], item["audio"], 2, seed=5)
    draw_from_all()
    assert torch.equal(predictor.samples(item["image"], item["audio"], 2, seed=5), first)
    assert not torch.equal(predictor.samples(item["image"], item["audio"], 2, seed=6), first)


# ---- the seed plan


def test_the_plan_draws_what_it_always_drew():
    buffer = buffer_rng(3, 2, 0)
    assert order_rng(3, 2).permutation(6).tolist() == [4, 0, 1, 2, 3, 5]
    assert shard_rng(3, 2).permutation(6).tolist() == [5, 2, 4, 1, 3, 0]
    assert flip_rng(3, 2, 1).random(2).tolist() == [0.143294347674091, 0.9380098414842714]
    assert [buffer.randrange(100) for _ in range(4)] == [60, 15, 71, 68]
    assert [step_seed(3, 2), dropout_seed(3, 2, 1)] == [5737856171534892084, 6826802935108478168]
    assert sample_seed(1, "dog") == 58722164202930295
    assert clip_rng(3, "dog").standard_normal(2).tolist() == [0.5591432585025438, -0.3299943463402667]


def test_each_purpose_has_a_draw_of_its_own():
    drawn = [order_rng(1, 1), shard_rng(1, 1), flip_rng(1, 1, 1), order_rng(1, 2), order_rng(2, 1), flip_rng(1, 1, 2)]
    assert len({float(generator.random()) for generator in drawn}) == len(drawn)
    seeds = {draw(1, step) for step in range(50) for draw in (step_seed, lambda *n: dropout_seed(*n, 0))}
    assert len(seeds | {dropout_seed(1, 0, 1)}) == 101


class Enough(Exception):
    pass


def first_weights(config, out, monkeypatch):
    """Of a training, which ends there."""
    build, made = setup.first_model, []

    def keep(*args, **options):
        made.append(build(*args, **options).state_dict())
        raise Enough

    with monkeypatch.context() as patch, pytest.raises(Enough):
        patch.setattr(setup, "first_model", keep)
        train(config, out, progress=False)
    return torch.cat([value.flatten().double() for value in made[0].values()])


def test_first_weights_come_from_the_seed_alone(mini_data, packed, tmp_path, monkeypatch):
    first = first_weights(configure(mini_data), tmp_path / "a", monkeypatch)
    draw_from_all()
    others = {"train.batch_size": 3, "train.lr": 0.5, "train.epochs": 7, "data.workers": 1, "data.max_clips": 4}
    assert torch.equal(first_weights(configure(mini_data, others, task="ms3"), tmp_path / "b", monkeypatch), first)
    shards = configure(mini_data, packed=str(packed / "s4"))
    assert torch.equal(first_weights(shards, tmp_path / "c", monkeypatch), first)
    other = first_weights(configure(mini_data, {"train.seed": 9}), tmp_path / "d", monkeypatch)
    assert not torch.equal(other, first)


class WithDropout(ECMVAE):
    """Drops inputs, as the dropout and drop path of some of timm's backbones do, from torch's own generator."""

    def normalize(self, image):
        return F.dropout(super().normalize(image), 0.1, self.training)


@pytest.fixture
def with_dropout(monkeypatch):
    monkeypatch.setattr(setup, "ECMVAE", WithDropout)


@pytest.fixture(scope="module")
def expected_with_dropout(mini_data, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setup, "ECMVAE", WithDropout)
        return trained_bytes(configure(mini_data, TWO), tmp_path_factory.mktemp("run") / "run")


@pytest.mark.usefixtures("with_dropout")
def test_training_leaves_the_callers_generators_alone_and_they_it(mini_data, expected_with_dropout, tmp_path):
    draw_from_all()
    before = global_states()
    assert trained_bytes(configure(mini_data, TWO), tmp_path / "b", on_row=draw_from_all) == expected_with_dropout
    assert global_states()[2] == before[2]


@pytest.mark.usefixtures("with_dropout")
def test_training_does_not_depend_on_what_scoring_draws(mini_data, expected_with_dropout, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "evaluate", lambda *_, **__: draw_from_all() and Scores({"J": 0.0, "F": 0.0}, {}))
    train(configure(mini_data, TWO), tmp_path / "unscored", progress=False)
    assert expected_with_dropout.startswith(weight_bytes(tmp_path / "unscored"))


@pytest.mark.usefixtures("with_dropout")
def test_a_backbone_with_dropout_resumes_to_the_bit(mini_data, expected_with_dropout, tmp_path, monkeypatch):
    save = RunState.save

    def save_and_stop(self, *args):
        save(self, *args)
        raise Enough

    with monkeypatch.context() as patch, pytest.raises(Enough):
        patch.setattr(RunState, "save", save_and_stop)
        train(configure(mini_data, TWO), tmp_path / "stopped", progress=False)
    again = trained_bytes(configure(mini_data, TWO, workers=1), tmp_path / "stopped", resume=True)
    assert again == expected_with_dropout


def test_evaluation_draws_nothing_from_the_global_generators(mini_data):
    config = configure(mini_data)
    model, dataset = ECMVAE(config), open_split(config, "test")
    before = global_states()
    for workers in (0, 1):
        evaluate(model, dataset, samples=1, workers=workers)
    # beartype, which checks shapes in tests, draws from Python's own
    assert global_states()[1:] == before[1:]


def test_own_generators_are_put_back_after_an_error():
    before = global_states()
    with pytest.raises(Enough), own_generators():
        draw_from_all()
        raise Enough
    assert global_states()[2] == before[2]


# ---- deterministic operations


def test_deterministic_training_gives_the_same_bits_on_a_cpu_and_puts_all_back(mini_data, expected, tmp_path):
    before = torch.get_deterministic_debug_mode(), torch.backends.cudnn.benchmark
    # it also fills fresh memory with NaN: nothing is read that was not written
    assert trained_bytes(configure(mini_data, {"train.deterministic": True}), tmp_path / "run") == expected
    assert (torch.get_deterministic_debug_mode(), torch.backends.cudnn.benchmark) == before
