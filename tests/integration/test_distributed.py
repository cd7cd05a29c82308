"""Several processes: gradients, loss curve and scores of one process with the whole batch; errors raised together."""

import csv
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from avslib.config import load_config
from avslib.core.errors import AvsError
from avslib.data.packed import pack
from avslib.losses import orthogonality_loss
from avslib.models.ecmvae import ECMVAE
from avslib.models.fusion import TPAVI
from avslib.study.records import load_clips, load_records
from avslib.training.distributed import gather_processes, rank, synchronize_batch_norm, together, world_size
from avslib.training.evaluate import Scores, evaluate
from avslib.training.noise import step_noise
from avslib.training.setup import open_packed, open_split
from avslib.training.state import HISTORY, STATE, RunState
from avslib.weights.checkpoints import load_checkpoint
from tests.helpers.processes import in_processes
from tests.helpers.tiny import TINY

# relative; random weights, 64 pixels, Adam: a change in the last digit of float32 grows from step to step
TOLERANCE = {"float64": 1e-9, "float32": 1e-4}


# ---- gradients


class Parts(nn.Module):
    """BatchNorm with and without timm's activation, TPAVI's folded one, and the orthogonality loss."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.norms = nn.Sequential(nn.BatchNorm2d(4), BatchNormAct2d(4))
        self.fusion = TPAVI(4)
        for value in self.parameters():
            nn.init.normal_(value)

    def forward(self, x, audio, weight):
        x = self.norms(x)
        # two groups, as prior and posterior are
        x = sum(self.fusion(torch.cat([x, x.square()]), torch.cat([audio, -audio]), 2, groups=2)[0].chunk(2))
        z = x.mean((2, 3))
        return (x * weight).mean() + orthogonality_loss(z[:, :3], z[:, 1:], gather_processes)


def gradients_and_statistics(device):
    """Of the mean loss over processes, which is what DistributedDataParallel averages to."""
    parts = synchronize_batch_norm(Parts().double().to(device), device)
    torch.manual_seed(1)
    rows = [torch.randn(8, *shape, dtype=torch.float64) for shape in ((4, 3, 3), (4,), (4, 3, 3))]
    x, audio, weight = (r.chunk(world_size())[rank()].to(device).requires_grad_() for r in rows)
    parts(x, audio, weight).backward()
    found = {name: p.grad for name, p in parts.named_parameters()} | dict(parts.named_buffers())
    # the gradient of a row is of the mean over processes as well
    found["x"] = x.grad / world_size()
    return {name: v.double().cpu().reshape(-1).numpy() for name, v in found.items()}


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_gradients_and_statistics_are_those_of_one_process(tmp_path, device):
    expected = gradients_and_statistics("cpu")
    found = in_processes(2, tmp_path / "store", gradients_and_statistics, device)
    rows = [part.pop("x") for part in found]
    torch.testing.assert_close(
        torch.cat([torch.from_numpy(r) for r in rows]), torch.from_numpy(expected.pop("x")), rtol=1e-10, atol=1e-12
    )
    for name, value in expected.items():
        mean = torch.from_numpy(sum(part[name] for part in found) / 2)
        torch.testing.assert_close(mean, torch.from_numpy(value), rtol=1e-10, atol=1e-12, msg=name)


def own_noise(rows):
    """The noise of step 3 for this process's rows."""
    config = load_config("mini", TINY)
    return {name: eps.numpy() for name, eps in step_noise(ECMVAE(config), config, 3, rows, None).items()}


def test_noise_does_not_depend_on_the_number_of_processes(tmp_path):
    first, second = in_processes(2, tmp_path / "store", own_noise, 2)
    for name, eps in own_noise(4).items():
        assert (np.concatenate([first[name], second[name]]) == eps).all()


# ---- training


@pytest.fixture(scope="module")
def values(mini_data):
    return TINY | {"model.backbone": "resnet18", "train.sync_batch": True, "data.root": str(mini_data)}


def curve(values, out, wide=False):
    """The loss terms of every step; `wide`: in float64, and nothing is scored."""
    from avslib.training import loop as module
    from avslib.training import setup

    rows = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "LOG_EVERY", 1)
        if wide:
            first, flatten = setup.first_model, module.flatten_clips
            patch.setattr(setup, "first_model", lambda *a, **k: first(*a, **k).double())
            patch.setattr(
                module,
                "flatten_clips",
                lambda *a: {k: v.double() if k == "audio" else v for k, v in flatten(*a).items()},
            )
            patch.setattr(module, "evaluate", lambda *a, **k: Scores({"J": 0.0, "F": 0.0}, {}))
        module.train(load_config("mini", values), out, progress=False, on_row=rows.append)
    return [row for row in rows if "loss" in row]


@pytest.fixture(scope="module")
def alone(values, tmp_path_factory):
    """The curve of one process, and its folder."""
    out = tmp_path_factory.mktemp("alone") / "run"
    return curve(values | {"train.batch_size": 4}, out), out


def distance(rows, expected):
    """The largest relative difference of a loss term."""
    assert len(rows) == len(expected) >= 2
    return max(
        abs(row[k] - other[k]) / abs(other[k])
        for row, other in zip(rows, expected, strict=True)
        for k in other
        if k not in ("step", "epoch", "lr")
    )


def test_two_processes_train_as_one_in_float64(values, tmp_path):
    # this backbone's activations are part of its BatchNorm
    values = values | {"model.backbone": "tf_efficientnet_lite0", "data.task": "ms3", "train.clip_grad": 0.5}
    values |= {"train.epochs": 1}
    expected = curve(values | {"train.batch_size": 4}, tmp_path / "one", wide=True)
    rows = in_processes(2, tmp_path / "store", curve, values | {"train.batch_size": 2}, tmp_path / "two", True)[0]
    assert distance(rows, expected) < TOLERANCE["float64"]


def curve_and_scores(values, out, checkpoint):
    return curve(values, out), scores(values, checkpoint)


def scores(values, checkpoint):
    """By split: fewer clips than four processes, and one for each two."""
    model, config = load_checkpoint(checkpoint), load_config("mini", values)
    found = {}
    for split in ("val", "test_unseen", "train"):
        scored = evaluate(model, open_split(config, split), batch_size=2, shared=True)
        found |= {f"{split} {name}": value for name, value in (scored.metrics | scored.clips).items()}
    return found


def test_four_processes_train_and_score_as_one(values, alone, tmp_path):
    expected, out = alone
    four = values | {"train.batch_size": 1}
    found = in_processes(4, tmp_path / "store", curve_and_scores, four, tmp_path / "run", out / "best")
    assert distance(found[0][0], expected) < TOLERANCE["float32"]
    alone = scores(values, out / "best")
    for _, scored in found:
        assert list(scored) == list(alone) and scored == pytest.approx(alone, rel=1e-12)


def test_accelerate_launch_runs_the_command_line(values, alone, tmp_path):
    options = [f"-o{name}={value}" for name, value in values.items() if name != "data.root"]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command = ["-m", "avslib.cli", "train", "--data", values["data.root"], "--out", str(tmp_path / "run"), "--quiet"]
    with socket.socket() as free:  # older versions of accelerate do not look for a port by themselves
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*launch, "--main_process_port", port, *command, *options],
        env=environment,
        text=True,
        capture_output=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("run record") == 1
    (record,) = load_records(tmp_path)
    assert record.environment["processes"] == 2 and set(record.metrics) == {"val", "test", "test_unseen"}
    assert len([row for row in load_clips(record) if row["split"] == "test" and not row["baseline"]]) == 3
    with open(tmp_path / "run" / HISTORY, newline="", encoding="utf-8") as stream:
        losses = [float(row["loss"]) for row in csv.DictReader(stream) if row["loss"]]
    steps = [row["loss"] for row in alone[0]]
    means = [sum(steps[:2]) / 2, sum(steps[2:]) / 2]
    assert losses == pytest.approx(means, rel=TOLERANCE["float32"])


# ---- each process its own statistics: resuming, errors, packed clips


class Killed(Exception):
    pass


def resumed_and_refused(values, folder, packed):
    """Whether a run that was killed and resumed equals the whole one; what is refused; the clips of a packed split."""
    from avslib.training import loop as module

    config = load_config("mini", values)
    module.train(config, folder / "whole", progress=False)

    def stop(*args):
        raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(module, "broadcast", stop)  # after the steps of the first epoch
        module.train(config, folder / "killed", progress=False)
    module.train(config, folder / "killed", resume=True, progress=False)
    whole, killed = (torch.load(folder / name / STATE, weights_only=True)["model"] for name in ("whole", "killed"))
    histories = [(folder / name / HISTORY).read_bytes() for name in ("whole", "killed")]
    with pytest.raises(AvsError, match="--resume") as refused:
        module.train(config, folder / "whole", progress=False)
    with pytest.raises(AvsError, match="disk full"):
        together(fail_in_the_last)
    names = [item["name"] for item in open_packed(config.replace({"data.packed": str(packed)}))]
    equal = histories[0] == histories[1] and all(torch.equal(whole[k], killed[k]) for k in whole)
    return equal, str(refused.value), names


def fail_in_the_last():
    if rank() == world_size() - 1:
        raise AvsError("disk full")


def test_two_processes_resume_and_stop_together(values, mini_data, tmp_path):
    pack(mini_data, tmp_path / "packed", "s4", progress=False)
    own = values | {"train.batch_size": 1, "train.sync_batch": False, "train.epochs": 1, "train.checkpoint_every": 3}
    found = in_processes(2, tmp_path / "store", resumed_and_refused, own, tmp_path, tmp_path / "packed")
    assert [equal for equal, *_ in found] == [True, True] and found[0][1] == found[1][1]
    names = [set(names) for *_, names in found]
    assert len(names[0]) == len(names[1]) == 4 and not names[0] & names[1]
    with pytest.raises(AvsError, match="2 process"):
        RunState.open(tmp_path / "whole", load_config("mini", own), resume=True)
