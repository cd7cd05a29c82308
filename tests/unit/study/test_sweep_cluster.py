"""Sweeps with worker processes, here and under a scheduler: serial's digits, whatever is killed on the way."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from avslib.core.errors import AvsError
from avslib.study.sweep import engine
from avslib.study.sweep.engine import run_grid
from avslib.study.sweep.grid import jobs, load_grid
from avslib.study.sweep.start_run import run_job
from tests.unit.study.test_sweep import MICRO


@pytest.fixture(scope="module")
def grid(tmp_path_factory, mini_data):
    """A grid of four runs, a second or two each, with a state saved at every step."""
    path = tmp_path_factory.mktemp("grid") / "micro.yaml"
    overrides = MICRO["overrides"] | {"train": {"epochs": 3, "batch_size": 2, "checkpoint_every": 1, "lr": 3e-3}}
    values = MICRO | {
        "data": str(mini_data),
        "tasks": ["s4", "ms3"],
        "seeds": 2,
        "variants": ["ecmvae"],
        "overrides": overrides,
        "memory_gb": 0.5,
    }
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def serial(grid, tmp_path_factory):
    out = tmp_path_factory.mktemp("serial")
    run_grid(grid, out, executor="serial")
    return digits(out)


def digits(out):
    """All that a sweep's results consist of: scores of records and clips, losses, tables."""
    records = {path.parent.name: json.loads(path.read_text("utf-8")) for path in out.glob("runs/*/run.json")}
    files = [*out.glob("runs/*/*.csv"), *out.glob("table_*.md")]
    scores = {name: (record["metrics"], record["baselines"]) for name, record in records.items()}
    return scores, {str(path.relative_to(out)): path.read_text("utf-8") for path in files}


def test_processes_here_give_the_digits_of_one(grid, serial, tmp_path):
    result = run_grid(grid, tmp_path, executor="local", processes=2)
    assert len(result.records) == 4 and digits(tmp_path) == serial


def _unfinished_states(out):
    """Runs with a saved state and no record; a run that has just ended keeps its state for a moment more."""
    return {p.parent.name for p in out.glob("work/*/state.pt")} - {p.parent.name for p in out.glob("runs/*/run.json")}


def test_killed_sweep_goes_on_to_the_same_table(grid, serial, tmp_path):
    """SIGKILL between two runs' ends, while a third has a saved state."""
    call = f"run_grid({str(grid)!r}, out={str(tmp_path)!r}, processes=1)"
    code = f"from avslib.study.sweep.engine import run_grid\nif __name__ == '__main__':\n    {call}\n"
    (tmp_path / "main.py").write_text(code, encoding="utf-8")
    process = subprocess.Popen([sys.executable, str(tmp_path / "main.py")])
    try:
        _wait(lambda: list(tmp_path.glob("runs/*/run.json")) and _unfinished_states(tmp_path), process)
    finally:
        workers = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait()
    finished = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/run.json")}
    assert 0 < len(finished) < 4 and _unfinished_states(tmp_path)
    run_grid(grid, tmp_path, executor="serial")
    assert digits(tmp_path) == serial
    assert finished == {path: path.stat().st_mtime_ns for path in finished}
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive, "workers outlived the sweep that was killed"


def test_scheduler_with_remote_workers_gives_the_digits_of_one(grid, serial, tmp_path):
    with _cluster(tmp_path, workers=2) as address:
        result = run_grid(grid, tmp_path / "out", executor=f"dask://{address}")
    assert len(result.records) == 4 and digits(tmp_path / "out") == serial
    assert not any("worker" in record.command for record in result.records)


def test_worker_that_dies_is_tried_again_once_and_then_recorded(grid, tmp_path, monkeypatch):
    marker = tmp_path / "died"

    def run(job, **options):
        """Stands for a run: kills its process each time (seed 1, ms3), once (seed 1, s4), or never."""
        again = job.task == "ms3" or not marker.exists()
        if job.seed == 1 and again:
            marker.touch(exist_ok=True)
            os.kill(os.getpid(), signal.SIGKILL)
        raise AvsError("reported")

    monkeypatch.setattr(engine, "run_job", run)
    failed = run_grid(grid, tmp_path / "out", processes=1).failed
    assert sorted(error == "reported" for error in failed.values()) == [False, True, True, True]
    notes = [json.loads(path.read_text("utf-8")) for path in (tmp_path / "out/failed").iterdir()]
    (killed,) = [note for note in notes if note["error"] != "reported"]
    assert killed["config"]["data"]["task"] == "ms3" and "2 different workers" in killed["error"]
    assert all('raise AvsError("reported")' in note["traceback"] for note in notes if note is not killed)


def test_worker_that_does_not_see_the_folders_is_named(grid, tmp_path):
    (job, *_) = jobs(load_grid(grid))
    with pytest.raises(AvsError, match="does not see"):
        run_job(job, None, tmp_path / "out", tmp_path, 1, "")


def test_nobody_answers(grid, tmp_path, monkeypatch):
    monkeypatch.setattr("avslib.study.sweep.workers.PATIENCE", 2.0)
    with pytest.raises(AvsError, match="no answer; start a"):
        run_grid(grid, tmp_path / "out", executor="dask://127.0.0.1:9")
    with _cluster(tmp_path, workers=0) as address, pytest.raises(AvsError, match="no answer; start a"):
        run_grid(grid, tmp_path / "out", executor=f"dask://{address}")


@pytest.mark.long
def test_slurm_jobs_run_the_grid(grid, serial, tmp_path, monkeypatch):
    """A queue in a shell script: sbatch starts the job at once, scancel ends it."""
    commands = {
        # the script is gone when sbatch returns
        "sbatch": 'job=$(cat "$1"); setsid sh -c "$job" > /dev/null 2>&1 &\necho "Submitted batch job $!"',
        "scancel": 'for job in "$@"; do kill -- "-$job"; done',
    }
    for name, line in commands.items():
        (tmp_path / "bin" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{line}\n", encoding="utf-8")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    path = tmp_path / "slurm.yaml"
    values = yaml.safe_load(grid.read_text("utf-8")) | {
        "memory_gb": 2.0,
        "slurm": {"queue": "short", "walltime": "00:30:00", "death_timeout": 600},
    }
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    run_grid(path, tmp_path / "out", executor="slurm", processes=1)
    assert digits(tmp_path / "out") == serial


class _cluster:
    """A scheduler and workers as plain processes: ``with _cluster(folder, 2) as address``."""

    def __init__(self, folder: Path, workers: int):
        self.file, self.workers, self.processes = folder / "scheduler.json", workers, []

    def __enter__(self) -> str:
        self._start(
            "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(self.file)
        )
        _wait(self.file.is_file, self.processes[0])
        for _ in range(self.workers):
            self._start("worker", "--scheduler-file", str(self.file), "--nthreads", "1", "--no-dashboard")
        return json.loads(self.file.read_text("utf-8"))["address"].removeprefix("tcp://")

    def _start(self, *words: str) -> None:
        # another folder than the sweep's, as on another machine
        self.processes.append(
            subprocess.Popen([sys.executable, "-m", "dask", *words], cwd=self.file.parent, stderr=subprocess.DEVNULL)
        )

    def __exit__(self, *error: object) -> None:
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            process.wait(timeout=20)


def _wait(condition, process, seconds=90):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.02)
