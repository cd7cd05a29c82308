"""SIGKILL at any moment, also in the middle of a save: the run that goes on ends as the undisturbed one, to the bit."""

import os
import random
import signal

import pytest
import torch
from safetensors.torch import load_file

from avslib.config import load_config
from avslib.training.state import HISTORY, STATE
from tests.helpers.processes import METHOD
from tests.helpers.tiny import TINY

pytestmark = pytest.mark.skipif(METHOD != "forkserver", reason="no SIGKILL here")

SMALL = TINY | {"model.image_size": 32, "train.epochs": 4, "train.checkpoint_every": 3}
STEPS = 16
MOMENTS = (
    "in a step",
    "before a row",
    "half a row",
    "half a state",
    "before the rename",
    "after the rename",
    "half a file",
    "in the scoring",
)
LATEST = {"in a step": 5, "half a file": 5}


def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)


def arm(moment, count):
    """Let this process be killed when `moment` comes for the `count`-th time (from 1)."""
    from avslib import metrics
    from avslib.core import files
    from avslib.training import loop as train
    from avslib.training import state as runstate

    def at(owner, name, strike):
        """Call `strike` in place of the `count`-th call."""
        call, calls = getattr(owner, name), []

        def counted(*args, **kwargs):
            calls.append(1)
            return (strike if len(calls) == count else call)(*args, **kwargs)

        setattr(owner, name, counted)
        return call

    def half_written(call, place):
        def strike(*args, **kwargs):
            call(*args, **kwargs)
            target = args[place]
            if hasattr(target, "flush"):
                target.flush()
                target = target.fileno()
            os.truncate(target, os.stat(target).st_size // 2)
            die()

        return strike

    def half_a_row(self, **values):
        with open(self.path, "a", encoding="utf-8") as stream:
            stream.write("7,0,0.00")
        die()

    def renamed(*args):
        replace(*args)
        die()

    replace = os.replace
    {
        "in a step": lambda: at(train, "objective", die),
        "before a row": lambda: at(runstate.History, "add", die),
        "half a row": lambda: at(runstate.History, "add", half_a_row),
        "half a state": lambda: at(runstate.torch, "save", half_written(torch.save, 1)),
        "before the rename": lambda: at(files.os, "replace", die),
        "after the rename": lambda: at(files.os, "replace", renamed),
        "half a file": lambda: at(files, "flush_to_disk", half_written(files.flush_to_disk, 0)),
        "in the scoring": lambda: at(metrics, "frame_scores", die),
    }[moment]()


def run(values, out, kill=None):
    from avslib.training.loop import train

    torch.set_num_threads(1)
    if kill:
        arm(*kill)
    train(load_config("mini", values), out, resume=True, progress=False)


def in_child(*args):
    """The exit code of a process that trains; it is forked from one that has torch imported."""
    import multiprocessing

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["avslib.study.run"])
    process = context.Process(target=run, args=args)
    process.start()
    process.join(120)
    assert not process.is_alive()
    return process.exitcode


def result(out):
    """The bytes of what a run ends with."""
    tensors = {f"state {k}": v for k, v in torch.load(out / STATE, weights_only=True)["model"].items()}
    tensors |= {f"best {k}": v for k, v in load_file(out / "best/model.safetensors").items()}
    return {k: v.numpy().tobytes() for k, v in tensors.items()} | {"history": (out / HISTORY).read_bytes()}


def bytes_lost(found, expected):
    assert found.keys() == expected.keys()
    return sum(sum(a != b for a, b in zip(found[k], v, strict=True)) for k, v in expected.items() if found[k] != v)


@pytest.fixture(scope="module")
def values(mini_data):
    return SMALL | {"data.root": str(mini_data)}


@pytest.fixture(scope="module")
def undisturbed(values, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    assert in_child(values, out) == 0
    return result(out)


def killed_again_and_again(values, out, kills):
    """Train in a process that is killed at each of `kills` in turn, then to the end; those that struck."""
    struck = [kill for kill in kills if in_child(values, out, kill) == -signal.SIGKILL]
    assert in_child(values, out) == 0
    return struck


def test_a_training_killed_in_a_step_in_a_save_and_in_the_scoring_ends_the_same(values, undisturbed, tmp_path):
    kills = [("in a step", 5), ("half a state", 2), ("half a row", 1), ("in the scoring", 1)]
    assert killed_again_and_again(values, tmp_path / "run", kills) == kills
    assert bytes_lost(result(tmp_path / "run"), undisturbed) == 0


@pytest.mark.long
def test_twenty_random_kill_points(values, undisturbed, tmp_path, reliability_record):
    rng, struck, lost = random.Random(7), [], 0
    for number in range(5):
        kills = [(moment, rng.randint(1, LATEST.get(moment, 2))) for moment in rng.sample(MOMENTS, 4)]
        out = tmp_path / f"run{number}"
        struck += killed_again_and_again(values, out, kills)
        lost += bytes_lost(result(out), undisturbed)
    assert len(struck) == 20 and lost == 0
    counts = {f"killed {moment}": sum(m == moment for m, _ in struck) for moment in MOMENTS}
    reliability_record("resume", kill_points=len(struck), runs=5, steps=STEPS, bytes_lost=lost, **counts)
