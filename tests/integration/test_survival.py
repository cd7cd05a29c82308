"""What a training survives, and what it says where it does not: workers, clips, losses, memory, disk."""

import csv
import multiprocessing
import os
import shutil
import sys
import time
from collections import Counter
from functools import partial

import psutil
import pytest
import torch
from avslib.data.workers import lasting
from avslib.training.faults import FAULTS
from avslib.training.gradients import add_gradients
from torch.utils.data import get_worker_info

from avslib.config import load_config
from avslib.core.errors import (
    BadClipsError,
    ConfigError,
    DiskFullError,
    MemoryLimitError,
    NonFiniteError,
    PictureError,
    WorkerError,
)
from avslib.data import avsbench
from avslib.data.corrupt import corrupt_clips, first_readable
from avslib.data.loading import packed_loader
from avslib.data.pack import pack
from avslib.training import loop as training
from avslib.training import out_of_memory
from avslib.training.loop import train
from avslib.training.setup import open_packed, open_split
from avslib.training.state import HISTORY, STATE, History, RunState
from tests.helpers.processes import in_processes
from tests.helpers.tiny import TINY

SMALL = TINY | {"model.image_size": 32}
SURVIVED = Counter()  # faults by kind


@pytest.fixture(scope="module")
def values(mini_data):
    return SMALL | {"data.root": str(mini_data)}


@pytest.fixture(scope="module")
def small(values):
    return load_config("mini", values)


@pytest.fixture(scope="module")
def clean(small, tmp_path_factory):
    """A run that nothing happened to."""
    out = tmp_path_factory.mktemp("clean") / "run"
    train(small, out, progress=False)
    return out


def rows(out, name=HISTORY):
    with open(out / name, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def weights(out):
    return torch.load(out / STATE, weights_only=True)["model"]


def same(first, second):
    return all(torch.equal(first[k], second[k]) for k in second)


def alike(first, second):
    """Whether two runs ended with the same bits."""
    return same(weights(first), weights(second)) and rows(first) == rows(second)


# ---- data workers


def data_workers():
    """The forked children of this process: servers of other tests were started with a command of their own."""
    own = psutil.Process()
    alive = [child for child in own.children() if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in alive if child.cmdline() == own.cmdline()]


def strike_workers(monkeypatch, times):
    """Kill a data worker in the middle of each of the first `times` steps."""
    gradients, struck = training.add_gradients, []

    def with_a_blow(*args):
        workers = data_workers()
        if len(struck) < times and workers:
            struck.append(workers[-1].pid)
            workers[-1].kill()
            while workers[-1].status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.01)
        return gradients(*args)

    monkeypatch.setattr(training, "add_gradients", with_a_blow)
    return struck


def test_workers_that_die_are_started_again(small, clean, tmp_path, monkeypatch):
    struck = strike_workers(monkeypatch, 2)
    trained = train(small.replace({"data.workers": 2}), tmp_path / "run", progress=False)
    assert len(struck) == 2 and alike(tmp_path / "run", clean)
    faults = rows(tmp_path / "run", FAULTS)
    assert [fault["kind"] for fault in faults] == ["new workers"] * 2 and "SIGKILL" in faults[0]["reason"]
    assert trained.survived == "survived 2 new workers"
    SURVIVED["data workers killed"] += 2


@pytest.mark.skipif(multiprocessing.get_all_start_methods()[0] != "fork", reason="workers would not inherit what hangs")
def test_a_worker_that_hangs_is_ended_and_another_reads_the_clip(small, clean, tmp_path, monkeypatch):
    read, stuck = avsbench.read_item, tmp_path / "stuck"

    def hang_once(*args):
        if get_worker_info() and not stuck.exists():
            stuck.write_text(str(os.getpid()))
            time.sleep(10**6)
        return read(*args)

    monkeypatch.setattr(avsbench, "read_item", hang_once)
    train(small.replace({"data.workers": 1, "data.timeout": 2}), tmp_path / "run", progress=False)
    assert alike(tmp_path / "run", clean) and not psutil.pid_exists(int(stuck.read_text()))
    assert "no data worker gave a batch in 2" in rows(tmp_path / "run", FAULTS)[0]["reason"]
    SURVIVED["data workers stuck"] += 1


def test_workers_that_die_again_and_again_end_the_training_and_nothing_is_lost(small, clean, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "lasting", partial(lasting, restarts=0))
    add = History.add

    def strike_after_the_first_epoch(self, **row):
        add(self, **row)
        if "val_J" in row:
            strike_workers(monkeypatch, 1)

    with monkeypatch.context() as patch, pytest.raises(WorkerError, match=r"killed.*data\.workers.*step 5 is saved"):
        patch.setattr(History, "add", strike_after_the_first_epoch)
        train(small.replace({"data.workers": 1}), tmp_path / "run", progress=False)
    train(small, tmp_path / "run", resume=True, progress=False)
    assert alike(tmp_path / "run", clean)
    SURVIVED["data workers killed"] += 1


def test_workers_that_die_in_the_scoring_are_started_again(small, clean, tmp_path, monkeypatch):
    from avslib.training import evaluate

    score, struck = evaluate.frame_scores, []

    def strike(*args):
        workers = data_workers()
        if not struck and workers:
            struck.append(workers[0].kill())
        return score(*args)

    monkeypatch.setattr(evaluate, "frame_scores", strike)
    train(small.replace({"data.workers": 1, "train.eval_batch_size": 1}), tmp_path / "run", progress=False)
    assert struck and alike(tmp_path / "run", clean)
    SURVIVED["data workers killed"] += 1


# ---- corrupt clips


@pytest.fixture
def damaged(mini_data, tmp_path):
    """A copy of the data, and a function that cuts the first frame of a clip of it short; returns the clip's name."""
    root = shutil.copytree(mini_data, tmp_path / "data")

    def damage(number, split="train", cut=True):
        clip = open_split(load_config("mini", SMALL | {"data.root": str(root)}), split).clips[number]
        path = clip.frame_paths[0]
        path.write_bytes(path.read_bytes()[:40] if cut else (mini_data / path.relative_to(root)).read_bytes())
        return clip.name

    return load_config("mini", SMALL | {"data.root": str(root), "data.max_corrupt": 1}), damage


def test_corrupt_clips_are_named_counted_and_replaced_up_to_a_limit(damaged, clean, tmp_path):
    config, damage = damaged
    first, out = damage(5), tmp_path / "run"
    assert train(config.replace({"data.workers": 1}), out, progress=False).survived == "survived 1 corrupt clip"
    (fault,) = rows(out, FAULTS)
    assert fault["clip"] == first and "truncated" in fault["reason"]
    assert len(rows(out)) == len(rows(clean)) and not same(weights(out), weights(clean))
    for workers in (0, 2):
        second = damage(2)
        with pytest.raises(BadClipsError, match=f"2 of the train clips.*{first}.*{second}") as caught:
            train(config.replace({"data.workers": workers}), tmp_path / f"more{workers}", progress=False)
        damage(2, cut=False)
        train(config, tmp_path / f"more{workers}", resume=True, progress=False)
        assert alike(tmp_path / f"more{workers}", out)  # the clip too many is not in the state
    assert "data.skip" in str(caught.value)
    SURVIVED["corrupt clips"] += 3


def test_without_a_corrupt_clip_nothing_is_told(clean):
    assert not (clean / FAULTS).exists()


def test_clips_that_are_scored_are_never_left_out(damaged, tmp_path):
    config, damage = damaged
    damage(1, "val")
    with pytest.raises(PictureError, match="truncated"):
        train(config, tmp_path / "run", progress=False)


def test_packed_clips_are_replaced_whatever_the_number_of_workers(damaged, tmp_path):
    config, damage = damaged
    corrupt = {damage(0), damage(1)}
    pack(config.data.root, tmp_path / "packed", "s4", ["train"], progress=False)
    config = config.replace({"data.packed": str(tmp_path / "packed"), "train.batch_size": 4, "data.max_corrupt": 2})
    told = []
    for workers in (0, 2):
        clips = open_packed(config)
        batches = list(packed_loader(clips, config.replace({"data.workers": workers}).data, 4, seed=1))
        told.append([(batch["name"], corrupt_clips(batch).keys()) for batch in batches])
    assert told[0] == told[1] and [len(names) for names, _ in told[0]] == [4, 4]
    assert {clip for _, clips in told[0] for clip in clips} == corrupt
    assert not corrupt & {name for names, _ in told[0] for name in names}
    SURVIVED["corrupt clips"] += 2


def test_a_split_of_corrupt_clips_ends():
    def read(key):
        raise PictureError(f"{key}.png: truncated")

    with pytest.raises(BadClipsError, match=r"2 of the train clips.*'a'.*'b'"):
        first_readable(read, ["a", "b"], str, limit=5)


# ---- losses that are not finite


def poison(monkeypatch, clip):
    """Give a train clip a sound that is not finite: it reaches BatchNorm, the loss and all gradients."""
    opened = training._open

    def open_poisoned(*args):
        trainset, valset = opened(*args)
        trainset.audio[clip] = torch.nan
        return trainset, valset

    monkeypatch.setattr(training, "_open", open_poisoned)


def test_a_step_that_is_not_finite_is_skipped_and_changes_nothing(small, tmp_path, monkeypatch):
    poison(monkeypatch, 3)
    states, save, out = {}, RunState.save, tmp_path / "run"

    def keep(self, out, config, *args):
        save(self, out, config, *args)
        states[self.step] = torch.load(out / STATE, weights_only=True)

    monkeypatch.setattr(RunState, "save", keep)
    config = small.replace({"train.nonfinite": "skip", "train.checkpoint_every": 1})
    assert train(config, out, progress=False).survived == "survived 2 skipped step"
    skipped = [int(row["step"]) for row in rows(out, FAULTS)]
    assert len(skipped) == 2 and len(states) == 8
    for step in skipped:
        before, after = states.get(step - 1), states[step]
        if before:  # else it is the first
            assert same(before["model"], after["model"])
            assert before["optimizer"]["state"][0]["step"] == after["optimizer"]["state"][0]["step"]
    assert all(v.isfinite().all() for v in weights(out).values())
    assert all(abs(float(row["loss"])) < 1e6 for row in rows(out) if row["loss"])
    kept = torch.load(out / "nonfinite_0.pt", weights_only=True)
    assert kept["step"] == skipped[0] and open_split(small, "train").clips[3].name in kept["clips"]
    SURVIVED["losses not finite"] += 2


def test_a_training_that_skips_step_after_step_ends(small, tmp_path):
    config = small.replace(
        {
            "train.nonfinite": "skip",
            "train.max_skipped": 2,
            "train.lr": 1e30,
            "train.epochs": 4,
            "train.clip_grad": None,
            "train.checkpoint_every": 1,
        }
    )
    with pytest.raises(NonFiniteError, match=r"3 steps in a row.*train\.max_skipped is 2"):
        train(config, tmp_path / "run", progress=False)


def poisoned_and_damaged(values, out):
    """A run of this process among several: one clip's sound is not finite, another is corrupt."""
    with pytest.MonkeyPatch.context() as patch:
        poison(patch, 3)
        patch.setattr(training, "LOG_EVERY", 1)
        train(load_config("mini", values), out, progress=False)
        return torch.cat([v.flatten().double() for v in weights(out).values()]).isfinite().all().item()


def test_processes_agree_on_what_they_survived(damaged, tmp_path):
    config, damage = damaged
    name = damage(6)
    values = SMALL | {"data.root": config.data.root, "train.nonfinite": "skip", "data.max_corrupt": 1}
    assert in_processes(2, tmp_path / "store", poisoned_and_damaged, values, tmp_path / "run") == [True, True]
    faults = rows(tmp_path / "run", FAULTS)
    assert [f["clip"] for f in faults if f["kind"] == "corrupt clip"] == [name]
    assert [f["kind"] for f in faults].count("skipped step") == 2
    SURVIVED.update({"corrupt clips": 1, "losses not finite": 2})


# ---- memory


def test_gradients_of_parts_are_those_of_the_batch(small):
    """In float64, without batch statistics and the orthogonality loss, which see the clips of a part alone."""
    from accelerate import Accelerator

    from avslib.models.ecmvae import ECMVAE

    for task in ("s4", "ms3"):
        config = small.replace({"data.task": task, "loss.orthogonality": 0, "data.workers": 0})
        torch.manual_seed(0)
        model, dataset = ECMVAE(config).double().eval(), open_split(config, "train")
        for value in model.parameters():  # some start at zero
            torch.nn.init.normal_(value, std=0.05)
        items = [dataset[i] for i in range(5)]
        batch = {k: torch.cat([item[k] for item in items]) for k in ("image", "mask", "annotated", "audio")}
        batch |= {"name": [item["name"] for item in items], "audio": batch["audio"].double()}
        found = []
        for size in (5, 2, 1):
            model.zero_grad()
            losses = add_gradients(Accelerator(cpu=True), model, batch, 7, dataset.frames, config, size)
            found.append(losses | {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        assert len(found[0]) > 50 and found[0]["loss"] != 0
        for other in found[1:]:
            for key, value in found[0].items():
                if key != "orthogonality":
                    torch.testing.assert_close(other[key], value, rtol=1e-9, atol=1e-12, msg=f"{task} {key}")


def little_memory(monkeypatch, most, kind=torch.OutOfMemoryError):
    """More than `most` clips at once do not fit; that is found out after their forward and backward pass."""
    gradients = training.add_gradients

    def limited(*args):
        result = gradients(*args)
        if args[-1] > most:
            raise kind("CUDA out of memory. Tried to allocate 2 GiB")
        return result

    monkeypatch.setattr(training, "add_gradients", limited)


def test_auto_finds_the_micro_batch_that_fits_and_goes_on_as_if_it_had_been_given(small, tmp_path, monkeypatch):
    config = small.replace({"train.batch_size": 4, "train.epochs": 1, "train.checkpoint_every": 1})
    train(config.replace({"train.micro_batch": 2}), tmp_path / "given", progress=False)
    with monkeypatch.context() as patch:
        little_memory(patch, 3)
        train(config.replace({"train.micro_batch": "auto"}), tmp_path / "auto", progress=False)
    assert alike(tmp_path / "auto", tmp_path / "given")
    assert "does not hold 4 clips at once, and 2 of them it does" in rows(tmp_path / "auto", FAULTS)[0]["reason"]
    assert RunState.open(tmp_path / "auto", config, resume=True)[0].micro_batch == 2
    SURVIVED["batches too large for memory"] += 1


@pytest.mark.parametrize("kind", [torch.OutOfMemoryError, MemoryError])
def test_a_batch_that_does_not_fit_is_told_with_the_one_that_does(small, tmp_path, monkeypatch, kind):
    config = small.replace({"train.batch_size": 4, "train.epochs": 1})
    little_memory(monkeypatch, 2, kind)
    with pytest.raises(MemoryLimitError, match=r"step 1:.* 4 clips at once, and 2 of .*train\.micro_batch=2"):
        train(config, tmp_path / "run", progress=False)


def test_not_even_a_single_clip_fits():
    def never(size):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")

    with pytest.raises(MemoryLimitError, match=r"scoring val: .* does not hold a single clip .*checkpointing"):
        out_of_memory.halving(never, 4, "scoring val")


def test_scoring_takes_fewer_clips_at_once_where_memory_is_short(small, clean, tmp_path, monkeypatch):
    score, sizes = training.evaluate, []

    def limited(*args, batch_size, **options):
        sizes.append(batch_size)
        if batch_size > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return score(*args, batch_size=batch_size, **options)

    monkeypatch.setattr(training, "evaluate", limited)
    train(small, tmp_path / "run", progress=False)
    assert sizes == [8, 4, 2, 2] and alike(tmp_path / "run", clean)
    SURVIVED["batches too large for memory"] += 1


def refused(values, out):
    with pytest.raises(ConfigError, match="auto is for one process"):
        train(load_config("mini", values), out, progress=False)


def test_auto_is_refused_in_several_processes(values, tmp_path):
    in_processes(2, tmp_path / "store", refused, values | {"train.micro_batch": "auto"}, tmp_path / "run")


def short_of_memory(values, out):
    """Train where the system gives 100 MB more than there are in use; what is said."""
    import resource

    from avslib.training.out_of_memory import MicroBatches

    run = MicroBatches.run

    def limited(self, *args):
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + 100 * 2**20, hard))
        return run(self, *args)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(MemoryLimitError) as caught:
        patch.setattr(MicroBatches, "run", limited)
        train(load_config("mini", values), out, progress=False)
    return str(caught.value)


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="limits address space")
def test_want_of_memory_is_known_by_what_libraries_really_say(values, tmp_path):
    values = values | {"model.image_size": 160, "train.batch_size": 8, "train.epochs": 1}
    (sentence,) = in_processes(1, tmp_path / "store", short_of_memory, values, tmp_path / "run")
    assert "step 1: the machine's memory" in sentence and "does not hold" in sentence
    SURVIVED["memory that the system refused"] += 1


# ---- disk


def fill_the_disk(values, out):
    """Train until the first epoch is done; then no file may grow beyond 100 kB."""
    import resource

    add = History.add

    def then_full(self, **row):
        add(self, **row)
        if "val_J" in row:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    with pytest.MonkeyPatch.context() as patch, pytest.raises(DiskFullError) as caught:
        patch.setattr(History, "add", then_full)
        train(load_config("mini", values), out, progress=False)
    return str(caught.value)


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files")
def test_a_full_disk_is_told_and_leaves_the_last_state_whole(values, clean, tmp_path):
    (sentence,) = in_processes(1, tmp_path / "store", fill_the_disk, values, tmp_path / "run")
    assert "model.safetensors" in sentence and not list((tmp_path / "run").rglob("*.part"))
    assert torch.load(tmp_path / "run" / STATE, weights_only=True)["run"]["step"] == 3
    train(load_config("mini", values), tmp_path / "run", resume=True, progress=False)
    assert alike(tmp_path / "run", clean)
    SURVIVED["full disks"] += 1


def test_faults_are_counted(reliability_record):
    """Those that the tests above injected: each one is counted where its run ended as it should."""
    if SURVIVED:  # else this test was chosen alone
        reliability_record("faults", faults=SURVIVED.total(), survived=SURVIVED.total(), **SURVIVED)
