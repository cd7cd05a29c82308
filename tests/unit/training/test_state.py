"""The history, as a file and for TensorBoard: both can be read while they are written."""

import csv
import subprocess
import sys

import pytest

from avslib.core.errors import InstallError
from avslib.training import setup
from avslib.training.loop import train
from avslib.training.state import HISTORY

pytest.importorskip("tensorboard")

# another process polls both logs until it is asked to stop, and counts what it read
READER = """
import csv, pathlib, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

run, polls, most = pathlib.Path(sys.argv[1]), 0, 0
print("ready", flush=True)
while not (run / "stop").exists():
    if (run / "history.csv").exists() and list((run / "tensorboard").glob("events*")):
        events = EventAccumulator(str(run / "tensorboard")).Reload()
        steps = [e.step for e in events.Scalars("train/loss")] if "train/loss" in events.Tags()["scalars"] else []
        rows = list(csv.DictReader(open(run / "history.csv", newline="", encoding="utf-8")))
        assert all(row["step"].isdecimal() and None not in row.values() for row in rows), rows[-1]
        # a row is in the table before TensorBoard gets it
        assert steps == [int(row["step"]) for row in rows if row["loss"]][: len(steps)], (steps, rows)
        polls, most = polls + 1, max(most, len(steps))
print(polls, most)
"""


def scalars(run, tag):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return {event.step: event.value for event in EventAccumulator(str(run / "tensorboard")).Reload().Scalars(tag)}


def history(run):
    with open(run / HISTORY, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_both_logs_are_read_by_another_process_while_training_writes(tiny, tmp_path):
    run, few = tmp_path / "run", {"train.epochs": 10, "data.max_clips": 2, "train.tensorboard": True}
    reader = subprocess.Popen([sys.executable, "-c", READER, str(run)], stdout=subprocess.PIPE, text=True)
    try:
        assert reader.stdout.readline() == "ready\n"
        train(tiny.replace(few), run, progress=False)
        (run / "stop").touch()
        polls, most = map(int, reader.communicate(timeout=60)[0].split())
    finally:
        reader.kill()
    assert reader.returncode == 0 and polls >= 3 and most >= 3
    written = {int(row["step"]): float(row["loss"]) for row in history(run) if row["loss"]}
    assert scalars(run, "train/loss") == pytest.approx(written, rel=1e-5) and len(scalars(run, "val/J")) == 10


def test_a_resumed_run_takes_the_place_of_what_it_repeats(tiny, tmp_path):
    def stop(row):
        if "val_J" in row and row["epoch"] == 1:  # before its state is saved
            raise KeyboardInterrupt

    config = tiny.replace({"train.epochs": 2, "train.tensorboard": True, "train.checkpoint_every": 100})
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run", progress=False, on_row=stop)
    train(config, tmp_path / "run", resume=True, progress=False)
    written = {int(row["step"]): float(row["loss"]) for row in history(tmp_path / "run") if row["loss"]}
    assert list(written) == [4, 8] and scalars(tmp_path / "run", "train/loss") == pytest.approx(written, rel=1e-5)


def test_without_the_package_a_sentence(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(setup, "is_tensorboard_available", lambda: False)
    with pytest.raises(InstallError, match=r"pip install 'avslib\[tensorboard\]'"):
        train(tiny.replace({"train.tensorboard": True}), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
