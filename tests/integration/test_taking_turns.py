"""Processes that write to one folder at the same moment, or are killed there, do each other no harm."""

import errno
import multiprocessing
import os
import signal
import time

import pytest
import torch

from avslib.core.errors import OutputError
from avslib.core.files import LOCK, locked
from avslib.data.avsbench import AVSBench
from avslib.data.embeddings import _kept
from avslib.data.mini import build_mini
from avslib.data.mini.build import damaged_files
from avslib.data.packed import PackedClips, pack
from avslib.training.loop import train
from avslib.video.prediction_files import write_prediction
from avslib.video.prepare import prepare
from tests.helpers.prediction_masks import read_masks
from tests.unit.video.test_prediction_files import predictor, video  # noqa: F401
from tests.unit.video.test_prepare import a_video

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
fork = multiprocessing.get_context("fork") if hasattr(os, "fork") else None


def _one(call, ready, answers):
    ready.wait()
    try:
        call()
        answers.put("done")
    except Exception as error:
        answers.put(f"{type(error).__name__}: {error}")


def at_once(*calls):
    """What each call ends with, all begun at the same moment in processes of their own; in no order."""
    ready, answers = fork.Barrier(len(calls)), fork.Queue()
    processes = [fork.Process(target=_one, args=(call, ready, answers)) for call in calls]
    for process in processes:
        process.start()
    said = [answers.get(timeout=100) for _ in calls]
    for process in processes:
        process.join()
    return sorted(said)


def begun(call, sign):
    """A process that runs `call`, once the file `sign` is there."""
    process = fork.Process(target=call)
    process.start()
    end = time.monotonic() + 60
    while not sign.exists() and time.monotonic() < end:
        time.sleep(0.01)
    return process


def killed(process):
    os.kill(process.pid, signal.SIGKILL)
    process.join()


def times(path):
    """A function that notes each call of it in a file, whatever the process."""

    def note():
        with open(path, "a") as stream:
            stream.write("x")

    return note, lambda: len(path.read_text())


def test_four_processes_compute_a_cache_once(tmp_path, reliability_record):
    note, calls = times(tmp_path / "calls")

    def compute():
        note()
        time.sleep(0.2)
        return torch.arange(40.0).view(2, 5, 4)

    def build():
        found = _kept(["content"], ["a", "b"], tmp_path / "cache", compute)
        assert found["b"].sum() == sum(range(20, 40))

    assert at_once(*[build] * 4) == ["done"] * 4 and calls() == 1
    reliability_record("together_cache", processes=4, computed=calls(), harmed=0)


def test_three_processes_build_data_once(tmp_path, monkeypatch, reliability_record):
    import avslib.data.mini.build as module

    (note, calls), build = times(tmp_path / "calls"), module._build
    monkeypatch.setattr(module, "_build", lambda *given: note() or build(*given))
    counts = {"s4": {"train": 2}}
    given = {"counts": counts, "image_size": 32, "workers": 1, "progress": False}
    assert at_once(*[lambda: build_mini(tmp_path / "mini", **given)] * 3) == ["done"] * 3 and calls() == 1
    assert damaged_files(tmp_path / "mini", verify=True) == [] and not list(tmp_path.glob(".*.part"))
    reliability_record("together_build", processes=3, built=calls(), harmed=0)


def test_one_of_three_packs_and_the_others_get_a_sentence(mini_data, tmp_path, reliability_record):
    said = at_once(*[lambda: pack(mini_data, tmp_path / "packed", "s4", ["val"], progress=False)] * 3)
    assert [s.split(":")[0] for s in said] == ["OutputError", "OutputError", "done"]
    assert len(list(PackedClips(tmp_path / "packed", "val", 32))) == 3
    reliability_record("together_pack", processes=3, packed=1, reported=2, harmed=0)


def test_clips_of_two_processes_are_all_listed(tmp_path):
    for name in ("a", "b"):
        a_video(tmp_path / name / f"{name}.mp4", 5)
    calls = [lambda n=n: prepare(tmp_path / n, tmp_path / "out", workers=1, progress=False) for n in ("a", "b")]
    assert at_once(*calls) == ["done"] * 2
    assert [clip.name for clip in AVSBench(tmp_path / "out", "s4", "test", masks=False).clips] == ["a_0", "b_0"]


def test_one_of_two_predictions_into_a_folder_is_refused(predictor, tmp_path):  # noqa: F811
    clip = video(tmp_path, 2)
    said = at_once(*[lambda: write_prediction(predictor.predict(clip), tmp_path / "out", overlay=False)] * 2)
    assert said[1] == "done" and ("another process" in said[0] or "not an empty folder" in said[0])
    assert len(list(read_masks(tmp_path / "out"))) == 2


def test_a_second_training_is_refused_while_the_first_lives(tiny, tmp_path, monkeypatch, reliability_record):
    monkeypatch.setattr("avslib.training.setup.PATIENCE", 0.5)
    out, config = tmp_path / "run", tiny.replace({"train.epochs": 1, "train.checkpoint_every": 1})
    stop = {"on_row": lambda row: (tmp_path / "running").touch() or time.sleep(100), "progress": False}
    process = begun(lambda: train(config, out, **stop), tmp_path / "running")
    with pytest.raises(OutputError, match="a training is running there in another process"):
        train(config, out, resume=True, progress=False)
    killed(process)
    assert train(config, out, resume=True, progress=False).checkpoint.is_dir()
    reliability_record("together_train", processes=2, reported=1, resumed_after_sigkill=1, harmed=0)


def test_a_killed_process_gives_its_lock_back_though_its_workers_live(tmp_path):
    def hold():
        with locked(tmp_path / "run" / LOCK, "a training"):
            if not os.fork():  # as a data worker, which sees some seconds later that its parent has gone
                time.sleep(3)
                os._exit(0)
            (tmp_path / "held").touch()
            time.sleep(100)

    killed(begun(hold, tmp_path / "held"))
    with locked(tmp_path / "run" / LOCK, "a training", 5) as held:
        assert held


def test_a_disk_without_locks_is_warned_of_and_used(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("avslib.core.files.FileLock.acquire", refuse)
    with pytest.warns(UserWarning, match="cannot lock it"), locked(tmp_path / ".lock", "a test") as held:
        assert not held
