"""Sweeps: grid files and their mistakes, what is skipped, what fails without stopping the rest, what is shown."""

import io
import json
from types import SimpleNamespace

import pytest
import yaml
from rich.console import Console

from avslib.core.errors import AvsError
from avslib.study.records import load_records
from avslib.study.sweep.engine import run_grid
from avslib.study.sweep.grid import jobs, load_grid
from avslib.study.sweep.workers import check_executor, process_count

MICRO = {
    "preset": "mini",
    "tasks": ["s4"],
    "variants": ["ecmvae", "without_both"],
    "overrides": {
        "model": {
            "backbone": "test_efficientnet",
            "pretrained": False,
            "image_size": 32,
            "channels": 8,
            "image_encoder_channels": [4] * 5,
            "map_encoder_channels": [4] * 5,
        },
        "data": {"frames": 1, "max_clips": 4},
        "train": {"epochs": 1, "batch_size": 2, "warmup_steps": 0},
    },
}


@pytest.fixture
def micro(tmp_path, mini_data):
    """Writes a grid file of runs that take a second; changes are given by field."""

    def write(**changes):
        path = tmp_path / "micro.yaml"
        path.write_text(yaml.safe_dump(MICRO | {"data": str(mini_data)} | changes), encoding="utf-8")
        return path

    return write


def grid_of(tmp_path, **values):
    (tmp_path / "g.yaml").write_text(yaml.safe_dump({"variants": ["ecmvae"]} | values), encoding="utf-8")
    return load_grid(tmp_path / "g.yaml")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"variant": ["ecmvae"]}, "variant: Extra inputs are not permitted"),
        ({"variants": []}, "variants: expected a list of names"),
        ({"variants": ["poe", "poe"]}, "variants: two have the same name"),
        ({"tasks": ["s5"]}, "tasks.0: Input should be 's4' or 'ms3'"),
        ({"seeds": 0}, "seeds: List should have at least 1 item"),
        ({"seeds": 10**90}, "seeds: List should have at most 1000 items"),
        ({"data": {"mini": "tiny"}}, "data.MiniData.mini: Input should be 'small', 'full', .* or 'ambiguous'"),
        ({"data": {"size": "small"}}, "data.MiniData.size: Extra inputs"),
        ({"axes": {"model.latent_dim": 4}}, "model.latent_dim: Input should be a valid list"),
        ({"threads": 0}, "threads: .* greater than or equal to 1"),
        ({"overrides": [1]}, "overrides: Input should be a valid dictionary"),
    ],
)
def test_mistake_in_a_grid_is_one_sentence(tmp_path, values, sentence):
    with pytest.raises(AvsError, match=sentence) as caught:
        grid_of(tmp_path, **values)
    assert "g.yaml" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"variants": ["without_bth"]}, "g, without_bth: .*Did you mean 'without_both'"),
        ({"variants": [{"mine": {}}]}, "unknown variant 'mine'"),
        ({"overrides": {"loss.orthogonalty": 0}}, "g, ecmvae: .*Did you mean 'loss.orthogonality'"),
        ({"fast": {"train.epochs": -1}}, "train.epochs"),
        ({"overrides": {"train.seed": 3}}, "train.seed cannot be overridden: data:, tasks: and seeds: set it"),
        ({"task_overrides": {"s4": {"model": {"chanels": 8}}}}, "Did you mean 'model.channels'"),
        ({"seeds": [1, 1]}, "'ecmvae', seed 1, is listed twice on s4"),
    ],
)
def test_every_configuration_is_checked_before_anything_starts(tmp_path, values, sentence):
    with pytest.raises(AvsError, match=sentence):
        jobs(grid_of(tmp_path, **values), fast=True, root=tmp_path)


def test_unreadable_and_empty_grid(tmp_path):
    for text, sentence in (
        ("", "the file: Input should be a valid dictionary"),
        ("a: [", "not valid YAML"),
        ("tasks: [s4]", "variants: Field required"),
    ):
        (tmp_path / "bad.yaml").write_text(text, encoding="utf-8")
        with pytest.raises(AvsError, match=sentence):
            load_grid(tmp_path / "bad.yaml")
    with pytest.raises(AvsError, match="No such file"):
        load_grid(tmp_path / "none.yaml")


def test_jobs_go_seed_by_seed_and_later_overrides_win(tmp_path):
    grid = grid_of(
        tmp_path,
        tasks=["s4", "ms3"],
        seeds=2,
        axes={"model.latent_dim": [4, 16]},
        variants=["ecmvae", {"without_mi": {"train.epochs": 7}}, {"mine": {"loss.kl": 0.5}}],
        overrides={"train": {"epochs": 2}, "loss.mi": 0.3},
        task_overrides={"ms3": {"train.epochs": 3}},
        fast={"data.max_clips": 40},
    )
    found = jobs(grid, root=tmp_path)
    assert [job.seed for job in found] == [0] * 12 + [1] * 12 and len({job.id for job in found}) == 24
    named = {(job.method, job.task): job.config for job in found}
    assert named["ecmvae, latent_dim=4", "s4"].train.epochs == 2
    assert named["ecmvae, latent_dim=16", "ms3"].train.epochs == 3
    without = named["without_mi, latent_dim=4", "ms3"]
    assert (without.train.epochs, without.loss.mi, without.model.latent_dim) == (7, 0, 4)
    assert named["mine, latent_dim=4", "s4"].loss.kl == 0.5
    assert {job.config.data.max_clips for job in found} == {None}
    assert {job.config.data.max_clips for job in jobs(grid, [5], fast=True, root=tmp_path)} == {40}
    assert {job.seed for job in jobs(grid, [5], root=tmp_path)} == {5}


def test_sweep_ends_with_intervals_and_says_why_where_runs_cannot_be_compared(micro, tmp_path):
    text = io.StringIO()
    run_grid(micro(), tmp_path / "one", executor="serial", console=Console(file=text, width=200))
    assert "J minus ecmvae" in (tmp_path / "one/table_s4.md").read_text(encoding="utf-8")
    other = micro(variants=["ecmvae", {"faster": {"train.lr": 0.01}}])
    run_grid(other, tmp_path / "two", executor="serial", console=Console(file=text, width=200))
    assert "without intervals: ablation table: train.lr is 0.01 in faster" in text.getvalue()
    assert "| faster " in (tmp_path / "two/table_s4.md").read_text(encoding="utf-8")


def test_failing_run_is_recorded_and_the_others_finish_and_nothing_is_done_twice(micro, tmp_path):
    out, text = tmp_path / "out", io.StringIO()
    # the first one's learning rate makes its loss overflow
    bad = micro(variants=[{"bad": {"train": {"lr": 1e30, "epochs": 3, "clip_grad": None}}}, "without_both"])
    first = run_grid(bad, out, executor="serial", console=Console(file=text, width=200))
    assert [record.method for record in first.records] == ["without_both"]
    ((name, error),) = first.failed.items()
    note = json.loads((out / "failed" / f"{name}.json").read_text(encoding="utf-8"))
    assert "not finite" in error and "not finite" in text.getvalue()
    assert note["error"] == error and "Traceback" in note["traceback"] and note["config"]["train"]["lr"] == 1e30
    assert "| without_both " in (out / "table_s4.md").read_text(encoding="utf-8")

    again = run_grid(bad, out, executor="serial")
    assert list(again.failed) == [name] and again.records == first.records
    good = run_grid(micro(), out, executor="serial", console=Console(file=text, width=200))
    assert not good.failed and good.records[1] == first.records[0] and "2 runs" in text.getvalue()
    everything = {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*") if path.is_file()}
    assert run_grid(micro(), out, executor="local").records == good.records
    assert everything == {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*") if path.is_file()}
    assert not list(out.rglob("state.pt"))


def test_success_takes_back_the_note_of_a_failure(micro, tmp_path, mini_data):
    path, out = micro(variants=["ecmvae"]), tmp_path / "out"
    (out / "work").mkdir(parents=True)
    (job,) = jobs(load_grid(path))
    (out / "work" / job.id).write_text("a file where the folder should be", encoding="utf-8")
    assert run_grid(path, out, executor="serial").failed and (out / "failed" / f"{job.id}.json").is_file()
    (out / "work" / job.id).unlink()
    (record,) = run_grid(path, out, executor="serial").records
    assert record.id == job.id and not list((out / "failed").iterdir())


def test_exit_codes_of_the_command(micro, tmp_path, monkeypatch):
    import typer
    from typer.testing import CliRunner

    from avslib.cli.ablate import ablate_command

    app = typer.Typer()
    app.command()(ablate_command)
    monkeypatch.chdir(tmp_path)
    options = [str(micro(variants=["ecmvae"], fast={"data.max_clips": 2})), "--executor", "serial", "--fast", "-q"]
    ran = CliRunner().invoke(app, options)
    assert ran.exit_code == 0, ran.output
    assert (tmp_path / "build/ablate/micro-fast/table_s4.md").is_file()
    (record,) = load_records(tmp_path / "build/ablate/micro-fast/runs")
    assert record.config["data"]["max_clips"] == 2
    monkeypatch.setattr("avslib.study.sweep.engine.execute", _interrupted)
    ran = CliRunner().invoke(app, [*options, "--seeds", "2"])
    assert ran.exit_code == 130 and "stopped: finished runs are kept" in ran.output


def _interrupted(executor, left, *options):
    yield left[0], lambda: 1 / 0
    raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["dask", "dask://host", "tcp://host:1", "slurm://a:1", "threads"])
def test_unknown_executor(name):
    with pytest.raises(AvsError, match="expected local, serial, dask://HOST:PORT or slurm"):
        check_executor(name)


def test_serial_needs_no_dask(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    check_executor("serial")
    with pytest.raises(AvsError, match="needs distributed; install"):
        check_executor("local")


def test_memory_cores_and_jobs_limit_the_processes(monkeypatch, tmp_path):
    monkeypatch.setattr("dask.system.CPU_COUNT", 8)
    monkeypatch.setattr("distributed.system.MEMORY_LIMIT", 5 * 10**9)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=6 * 10**9))
    asked = ((1, 2.0, 100), (1, 0.1, 100), (4, 0.1, 100), (1, 0.1, 3), (1, 50.0, 3))
    grids = [(grid_of(tmp_path, threads=threads, memory_gb=memory), jobs) for threads, memory, jobs in asked]
    assert [process_count(grid, jobs) for grid, jobs in grids] == [2, 8, 2, 3, 1]


def test_lines_without_a_terminal_and_a_bar_in_one(micro, tmp_path):
    for terminal in (False, True):
        text, out = io.StringIO(), tmp_path / str(terminal)
        run_grid(micro(), out, executor="serial", console=Console(file=text, width=110, force_terminal=terminal))
        assert "2/2 s4, without_both, seed 0: val J" in text.getvalue()
        assert ("100%" in text.getvalue()) == terminal


@pytest.mark.notebook
def test_lesson_as_a_job(micro, tmp_path):
    from avslib.cli.ablate import run_lesson

    path = micro(variants=["without_mi"], axes={"model.latent_dim": [4]}, notebook=12, fast={"train.epochs": 1})
    with pytest.raises(AvsError, match="need `avs ablate`"):
        run_grid(path, tmp_path / "out", executor="serial")
    (record,) = run_grid(path, tmp_path / "out", executor="serial", fast=True, lesson=run_lesson).records
    assert (record.method, record.config["model"]["latent_dim"]) == ("without_mi, latent_dim=4", 4)
    assert (tmp_path / "out/work" / record.id / "12_ablations.ipynb").is_file()
    assert run_grid(path, tmp_path / "out", executor="serial", fast=True, lesson=run_lesson).records == [record]
