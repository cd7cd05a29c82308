"""What a training survives, and what it says where it does not: workers, clips, memory, disk."""

import csv
import multiprocessing
import shutil
import sys
import time
from collections import Counter

import psutil
import pytest
import torch

from avslib import metrics
from avslib.config import load_config
from avslib.core.errors import BadClipsError, DiskFullError, MemoryLimitError, PictureError, WorkerError
from avslib.data import avsbench
from avslib.data.avsbench import read_skip_list
from avslib.data.loading import corrupt_clips, first_readable, train_loader
from avslib.data.packed import pack
from avslib.training import loop as training
from avslib.training.guards import CORRUPT_CLIPS, plain_errors
from avslib.training.loop import train
from avslib.training.noise import step_noise
from avslib.training.setup import open_packed, open_split
from avslib.training.state import HISTORY, STATE, History
from tests.helpers.processes import in_processes
from tests.helpers.tiny import TINY

SMALL = TINY | {"model.image_size": 32}
INJECTED, SURVIVED = Counter(), Counter()  # faults by kind: where they are made, and where their run ended as it should


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


@pytest.mark.parametrize("where", [training, metrics], ids=["in a step", "in the scoring"])
def test_a_dead_worker_ends_the_training_in_a_sentence_and_resume_continues(small, clean, tmp_path, monkeypatch, where):
    name = "objective" if where is training else "frame_scores"
    call, config = getattr(where, name), small.replace({"data.workers": 1, "train.eval_batch_size": 1})

    def strike(*args, **kwargs):
        if workers := data_workers():
            max(workers, key=psutil.Process.create_time).kill()
            INJECTED["data workers killed"] += 1
            time.sleep(0.5)  # torch hears of it
        return call(*args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(WorkerError, match=r"worker.*killed.*data\.workers.*--resume"):
        patch.setattr(where, name, strike)
        train(config, tmp_path / "run", progress=False)
    train(config, tmp_path / "run", resume=True, progress=False)
    assert alike(tmp_path / "run", clean)
    SURVIVED["data workers killed"] += 1


@pytest.mark.skipif(multiprocessing.get_all_start_methods()[0] != "fork", reason="workers would not inherit what hangs")
def test_a_worker_that_hangs_ends_the_training_in_a_sentence(small, clean, tmp_path, monkeypatch):
    config = small.replace({"data.workers": 1, "data.timeout": 2})
    with monkeypatch.context() as patch, pytest.raises(WorkerError, match=r"timed out after 2.*data\.timeout"):
        patch.setattr(avsbench, "read_item", lambda *_: time.sleep(10**6))
        INJECTED["data workers stuck"] += 1
        train(config, tmp_path / "run", progress=False)
    train(config, tmp_path / "run", resume=True, progress=False)
    assert alike(tmp_path / "run", clean)
    SURVIVED["data workers stuck"] += 1


# ---- corrupt clips


@pytest.fixture
def damaged(mini_data, tmp_path):
    """A copy of the data, and a function that cuts the first frame of a clip of it short; returns the clip's name."""
    root = shutil.copytree(mini_data, tmp_path / "data")

    def damage(number, split="train", cut=True):
        clip = open_split(load_config("mini", SMALL | {"data.root": str(root)}), split).clips[number]
        path = clip.frame_paths[0]
        path.write_bytes(path.read_bytes()[:40] if cut else (mini_data / path.relative_to(root)).read_bytes())
        INJECTED["corrupt clips"] += cut
        return clip.name

    return load_config("mini", SMALL | {"data.root": str(root), "data.max_corrupt": 1}), damage


def test_corrupt_clips_are_named_counted_and_replaced_up_to_a_limit(damaged, clean, tmp_path):
    config, damage = damaged
    first, out = damage(5), tmp_path / "run"
    trained = train(config.replace({"data.workers": 1}), out, progress=False)
    assert trained.survived == "corrupt train clips left out: 1"
    assert read_skip_list(out / CORRUPT_CLIPS) == {first}
    assert "truncated" in (out / CORRUPT_CLIPS).read_text(encoding="utf-8")
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


def test_without_a_corrupt_clip_there_is_no_list(clean):
    assert not (clean / CORRUPT_CLIPS).exists()


def test_clips_that_are_scored_are_never_left_out(damaged, tmp_path):
    config, damage = damaged
    damage(1, "val")
    with pytest.raises(PictureError, match="truncated"):
        train(config, tmp_path / "run", progress=False)
    SURVIVED["corrupt clips"] += 1


def test_packed_clips_are_replaced_whatever_the_number_of_workers(damaged, tmp_path):
    config, damage = damaged
    corrupt = {damage(0), damage(1)}
    pack(config.data.root, tmp_path / "packed", "s4", ["train"], progress=False)
    config = config.replace({"data.packed": str(tmp_path / "packed"), "train.batch_size": 4, "data.max_corrupt": 2})
    seen = []
    for workers in (0, 2):
        clips = open_packed(config)
        batches = list(train_loader(clips, config.replace({"data.workers": workers}).data, 4, seed=1))
        seen.append([(batch["name"], corrupt_clips(batch).keys()) for batch in batches])
    assert seen[0] == seen[1] and [len(names) for names, _ in seen[0]] == [4, 4]
    assert {clip for _, clips in seen[0] for clip in clips} == corrupt
    assert not corrupt & {name for names, _ in seen[0] for name in names}
    SURVIVED["corrupt clips"] += 2


def test_a_split_of_corrupt_clips_ends():
    def read(key):
        raise PictureError(f"{key}.png: truncated")

    with pytest.raises(BadClipsError, match=r"2 of the train clips.*'a'.*'b'"):
        first_readable(read, ["a", "b"], str, limit=5)


def corrupt_in_a_process(values, out):
    """The note of a run of this process among several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "LOG_EVERY", 1)
        return train(load_config("mini", values), out, progress=False).survived


def test_processes_agree_on_corrupt_clips(damaged, tmp_path):
    config, damage = damaged
    name = damage(6)
    values = SMALL | {"data.root": config.data.root, "data.max_corrupt": 1}
    notes = in_processes(2, tmp_path / "store", corrupt_in_a_process, values, tmp_path / "run")
    assert notes == ["corrupt train clips left out: 1"] * 2
    assert read_skip_list(tmp_path / "run" / CORRUPT_CLIPS) == {name}
    SURVIVED["corrupt clips"] += 1


# ---- memory


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        RuntimeError("could not create a primitive"),
    ],
)
def test_want_of_memory_is_one_sentence(error):
    sentence = r"training: out of memory.*batch_size.*accumulate.*checkpointing"
    with pytest.raises(MemoryLimitError, match=sentence), plain_errors("training"):
        raise error
    with pytest.raises(RuntimeError, match="shapes differ"), plain_errors("training"):
        raise RuntimeError("shapes differ")


def short_of_memory(values, out):
    """Train where the system gives 100 MB more than there are in use; the sentence."""
    import resource

    def limited(*args, **kwargs):
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + 100 * 2**20, hard))
        return step_noise(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(MemoryLimitError) as caught:
        patch.setattr(training, "step_noise", limited)
        train(load_config("mini", values), out, progress=False)
    return str(caught.value)


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="limits address space")
def test_want_of_memory_is_known_by_what_libraries_really_say(values, tmp_path):
    values = values | {"model.image_size": 160, "train.batch_size": 8, "train.epochs": 1}
    INJECTED["memory that the system refused"] += 1
    (sentence,) = in_processes(1, tmp_path / "store", short_of_memory, values, tmp_path / "run")
    assert "training: out of memory" in sentence
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
def test_a_full_disk_is_reported_and_leaves_the_last_state_whole(values, clean, tmp_path):
    INJECTED["full disks"] += 1
    (sentence,) = in_processes(1, tmp_path / "store", fill_the_disk, values, tmp_path / "run")
    assert "model.safetensors" in sentence and not list((tmp_path / "run").rglob("*.part"))
    assert torch.load(tmp_path / "run" / STATE, weights_only=True)["run"]["step"] == 3
    train(load_config("mini", values), tmp_path / "run", resume=True, progress=False)
    assert alike(tmp_path / "run", clean)
    SURVIVED["full disks"] += 1


def test_faults_are_counted(reliability_record):
    """Every fault that the tests above injected was survived: its run ended as it should."""
    if INJECTED:  # else only this test was chosen
        reliability_record("faults", faults=INJECTED.total(), survived=SURVIVED.total(), **SURVIVED)
    assert SURVIVED == INJECTED
